"""`verify`: the ledger against the broker's own orders, executions, positions and cash."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import typer

from brokers.port import Broker
from cli.context import EXIT_FAILED, Target, execute, target_of
from cli.feed_report import told_fees
from cli.output import print_json
from cli.start_cash import exchange_cash
from domain.account import AccountSnapshot
from domain.errors import Transient
from domain.ids import parse_client_order_id
from domain.money import ZERO, divide
from domain.order import Fill, OrderSnapshot
from ledger.records import FillRecord, IntentRecord
from ledger.repository import Ledger
from report.records import Book, FeeRow, FillRow, OrderRow
from report.verify import Differences, compare

app = typer.Typer()
LOOK_BACK = timedelta(days=30)
PAGES_MAX = 1000
SUM_PRICE_STEP = Decimal("1e-6")


@app.command()
def verify(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Compares as sets: accepted orders, fills, fees, cash to the cent, positions, audit chain.

    Exit 1 on any difference, each of which is named. Fees that the broker tells later or never
    are none: the last line names what a simulated exchange has taken of them.
    """
    target = target_of(context)
    found, problems = execute(lambda: compared(target))
    if as_json:
        print_json({"equal": found.equal and not problems, "audit": problems, "result": found})
    else:
        for item in found.items:
            typer.echo(item.line())
        for problem in problems:
            typer.echo(f"audit {problem}")
        typer.echo(found.line())
    if not found.equal or problems:
        raise typer.Exit(EXIT_FAILED)


async def compared(target: Target) -> tuple[Differences, list[str]]:
    """Ledger against broker, and what is wrong with the audit chain.

    Raises:
        BadInput: NO_STACK, or the settings. LedgerDown. Transient, Refused: from the broker.
    """
    settings = target.settings()
    account, installation = settings.account.name, settings.account.installation
    async with target.ledger() as ledger, target.broker() as broker:
        account_now = await broker.account()
        market_now = (await broker.market_clock()).market_now
        since, first_order = _first_told(market_now), market_now - LOOK_BACK
        fills, fees = await _executions(broker, since)
        orders = await broker_orders(broker, installation, first_order)
        told = await exchange_cash(target, account)
        # Taken without a row that could be booked: until the evening, or where none ever comes.
        untold = ZERO if told is None else account_now.pending_fees
        if told is not None and not broker.capabilities.tells_account_events:
            untold = told.fees_paid - _total(fee.amount for fee in await ledger.fees(account))
        held = {p.symbol: p.quantity for p in await broker.positions() if p.quantity != 0}
        theirs = Book(
            orders=orders,
            fills=tuple(_fill_row(fill) for fill in fills),
            fees=fees,
            cash={} if told is None else _cash_of(account_now),
            positions=held,
        )
        cash_before = None if told is None else told.start - untold
        ours = await _ledger_book(ledger, account, account_now, cash_before, since, first_order)
        problems = [f"{p.sequence} {p.kind}: {p.text}" for p in await ledger.verify_audit()]
        if not broker.capabilities.executions_have_ids:
            ours = ours.model_copy(update={"fills": _per_order(ours.fills)})
            theirs = theirs.model_copy(update={"fills": _per_order(theirs.fills)})
    found = compare(ours, theirs)
    named = {account_now.currency: untold} if untold else {}
    return found.model_copy(update={"untold_fees": named}), problems


def _per_order(fills: Iterable[FillRow]) -> tuple[FillRow, ...]:
    """One row an order: a venue without executions tells sums, the ledger their parts."""
    found: dict[tuple[str, str, str], list[FillRow]] = {}
    for row in fills:
        order_id = row.fill_key.rpartition(":")[0]
        found.setdefault((order_id, row.symbol, row.side), []).append(row)
    sums: list[FillRow] = []
    for (order_id, symbol, side), rows in found.items():
        quantity = _total(row.quantity for row in rows)
        average = divide(_total(row.quantity * row.price for row in rows), quantity)
        price = average.quantize(SUM_PRICE_STEP)
        sums.append(
            FillRow(fill_key=order_id, symbol=symbol, side=side, quantity=quantity, price=price)
        )
    return tuple(sums)


def _first_told(market_now: datetime) -> datetime:
    """Begin of the venue's UTC day: from here on the broker tells executions without a cursor."""
    return market_now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def _executions(broker: Broker, since: datetime) -> tuple[list[Fill], tuple[FeeRow, ...]]:
    """Every execution and fee from `since` on that the broker tells, each once."""
    fills: dict[str, Fill] = {}
    fees: dict[str, FeeRow] = {}
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        page = await broker.executions_since(cursor)
        fills.update({f.fill_key: f for f in page.fills if f.venue_time >= since})
        told = [fee for fee in page.fees if fee.venue_time >= since]
        fees.update({f.activity_id: FeeRow(key=f.activity_id, amount=f.amount) for f in told})
        cursor = page.cursor
        if not page.has_more:
            return list(fills.values()), tuple(fees.values())
    raise Transient("the executions did not end", code="PAGE_STUCK")


async def broker_orders(broker: Broker, installation: str, first: datetime) -> tuple[OrderRow, ...]:
    """Every order with an id of this installation that the broker shows from `first` on."""
    listed = await broker.orders_since(first)
    # A replaced leg of a group carries our id inside its parent.
    every = {each.broker_order_id: each for order in listed for each in (order, *order.legs)}
    return tuple(_order_row(order) for order in every.values() if _is_ours(order, installation))


def _is_ours(order: OrderSnapshot, installation: str) -> bool:
    parts = parse_client_order_id(order.client_id or "")
    return parts is not None and parts.installation == installation


def _order_row(order: OrderSnapshot) -> OrderRow:
    return OrderRow(
        client_id=order.client_id or order.broker_order_id,
        symbol=order.symbol,
        side="" if order.side is None else order.side.value,
        quantity=order.quantity,
        limit_price=order.limit_price,
        stop_price=order.stop_price,
    )


def _fill_row(fill: Fill) -> FillRow:
    return FillRow(
        fill_key=fill.fill_key,
        symbol=fill.symbol,
        side=fill.side.value,
        quantity=fill.quantity,
        price=fill.price,
    )


def _cash_of(account: AccountSnapshot) -> dict[str, Decimal]:
    return {} if account.cash is None else {account.currency: account.cash}


async def _ledger_book(
    ledger: Ledger,
    account: str,
    told: AccountSnapshot,
    cash_before: Decimal | None,
    since: datetime,
    first_order: datetime,
) -> Book:
    """The ledger's side: executions and fees from `since`, orders from `first_order` on.

    Cash follows from all of them, so it is compared only where the exchange tells its first cash.
    """
    booked = await ledger.fills_of_account(account)
    undone = [row.reverses for row in booked if row.reverses is not None]
    rows = [r for r in booked if not r.is_reversal and r.fill.fill_key not in undone]
    fees = await ledger.fees(account)
    positions: dict[str, Decimal] = {}
    for held in await ledger.positions_by_trade(account):
        positions[held.symbol] = positions.get(held.symbol, ZERO) + held.quantity
    cash: dict[str, Decimal] = {}
    if cash_before is not None and told.cash is not None:
        multipliers = await _multipliers(ledger, account)
        cash = {
            told.currency: cash_before + _flow(rows, multipliers) - _total(f.amount for f in fees)
        }
    return Book(
        orders=await ledger_orders(ledger, account, first_order),
        fills=tuple(_fill_row(row.fill) for row in rows if row.fill.venue_time >= since),
        fees=told_fees(fee for fee in fees if fee.venue_time >= since),
        cash=cash,
        positions={symbol: quantity for symbol, quantity in positions.items() if quantity != 0},
    )


async def ledger_orders(ledger: Ledger, account: str, first: datetime) -> tuple[OrderRow, ...]:
    """Every accepted order of every trade; a price as the broker was asked for it."""
    rows: list[OrderRow] = []
    for trade in await ledger.list_trades(account=account):
        records = await ledger.orders_of_trade(trade.trade_id)
        rows += [_row_of(record) for record in records if _was_taken(record, first)]
    return tuple(rows)


def _was_taken(record: IntentRecord, first: datetime) -> bool:
    """True if the broker lists it among the orders from `first` on: by its own time, not ours.

    A simulated exchange lives at another date, and jumps over weeks.
    """
    told = record.snapshot
    at = record.gate_at if told is None or told.submitted_at is None else told.submitted_at
    return record.broker_order_id is not None and at >= first


def _row_of(record: IntentRecord) -> OrderRow:
    snapshot = record.snapshot
    if snapshot is not None:
        return _order_row(snapshot).model_copy(update={"client_id": record.intent.client_id})
    body = record.intent.body
    return OrderRow(
        client_id=record.intent.client_id,
        symbol=body.symbol,
        side=body.side.value,
        quantity=body.quantity,
        limit_price=body.limit_price,
        stop_price=body.stop_price,
    )


async def _multipliers(ledger: Ledger, account: str) -> dict[str, Decimal]:
    return {
        leg.instrument.symbol: leg.instrument.multiplier
        for trade in await ledger.list_trades(account=account)
        for leg in trade.plan.legs
    }


def _flow(rows: Iterable[FillRecord], multipliers: dict[str, Decimal]) -> Decimal:
    """Cash that the fills moved, fees left out: sold is in, bought is out."""
    flow = ZERO
    for row in rows:
        fill = row.fill
        multiplier = multipliers.get(fill.symbol, Decimal(1))
        flow -= fill.signed_quantity * fill.price * multiplier
    return flow


def _total(amounts: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for amount in amounts:
        total += amount
    return total
