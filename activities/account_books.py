"""Everything that the ledger holds about an account's money, as the statement's fold takes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

from domain.account_book import AccountBook, Charge, Move, OwnerCash
from domain.errors import BadInput
from domain.instrument import Instrument
from domain.money import ZERO
from domain.occ import looks_like_option, option_instrument
from ledger.records import AccountRecord, AdjustmentRecord, FeeRecord, FillRecord
from ledger.repository import Ledger

START_CASH_KEY = "simulated exchange"


async def known_account(ledger: Ledger, name: str) -> AccountRecord:
    """The account's row.

    Raises:
        BadInput: ACCOUNT_UNKNOWN.
    """
    accounts = {each.account: each for each in await ledger.accounts()}
    if name not in accounts:
        raise BadInput("ACCOUNT_UNKNOWN", "account", name, ", ".join(accounts) or "none is known")
    return accounts[name]


async def read_account_book(
    ledger: Ledger, account: AccountRecord, start_cash: Decimal | None = None
) -> AccountBook:
    """All fills, fees, adjustments and owner's cash of the account.

    `start_cash` is what a simulated exchange gave the account; it becomes its first deposit.
    """
    name = account.account
    fills = await ledger.fills_of_account(name)
    fees = await ledger.fees(name)
    adjustments = await ledger.adjustments(name)
    movements = await ledger.cash_movements(name)
    moves = (*map(_move_of_fill, fills), *map(_move_of_adjustment, adjustments))
    filled_at: dict[str, datetime] = {}
    for record in fills:
        order_id, at = record.fill.broker_order_id, record.fill.venue_time
        filled_at[order_id] = max(at, filled_at.get(order_id, at))
    charges = tuple(_charge(fee, filled_at) for fee in fees)
    cash = [
        OwnerCash(key=row.movement_id, time=row.at, amount=row.amount, text=row.text)
        for row in movements
    ]
    if start_cash is not None:
        times = [m.time for m in moves] + [c.time for c in charges] + [m.at for m in movements]
        # Market time of a simulated day may lie long before the account's row was written.
        first = min(times, default=None)
        if first is not None:
            at = first.replace(hour=0, minute=0, second=0, microsecond=0)
            given = OwnerCash(key=START_CASH_KEY, time=at, amount=start_cash, text="start cash")
            cash.insert(0, given)
    return AccountBook(
        currency=account.currency,
        instruments=await _instruments(ledger, name, {move.symbol for move in moves}),
        moves=moves,
        charges=charges,
        owner_cash=tuple(cash),
    )


async def _instruments(ledger: Ledger, account: str, symbols: set[str]) -> dict[str, Instrument]:
    """Terms from the plans of the trades; an option that no trade knows by its own name."""
    found = {
        leg.instrument.symbol: leg.instrument
        for trade in await ledger.list_trades(account=account)
        for leg in trade.plan.legs
    }
    for symbol in sorted(symbols - found.keys()):
        if looks_like_option(symbol):
            found[symbol] = option_instrument(symbol)
    return found


def _move_of_fill(record: FillRecord) -> Move:
    fill = record.fill
    return Move(
        key=fill.fill_key,
        time=fill.venue_time,
        symbol=fill.symbol,
        quantity=fill.signed_quantity,
        price=fill.price,
        fee=fill.fee or ZERO,
        trade_id=record.trade_id or "",
        order_id=fill.broker_order_id,
        reverses=record.reverses or "",
    )


def _move_of_adjustment(record: AdjustmentRecord) -> Move:
    return Move(
        key=record.adjustment_id,
        time=record.at,
        kind=record.kind.value,
        symbol=record.symbol,
        quantity=record.quantity,
        price=record.price,
        trade_id=record.trade_id or "",
        text=record.text,
    )


def _charge(fee: FeeRecord, filled_at: Mapping[str, datetime]) -> Charge:
    """Brokers book fees on rows of their own; some name the order only in the row's text.

    Many date them with a day alone, which reads as midnight UTC and is the evening before in New
    York. The last fill of the order knows better; without one noon is on that day in most zones.
    """
    named = next((word for word in fee.text.split() if word in filled_at), "")
    order_id = fee.broker_order_id or named
    at = fee.venue_time
    if at.astimezone(UTC).time() == time.min:
        at = filled_at.get(order_id, at + timedelta(hours=12))
    return Charge(
        key=fee.activity_id,
        time=at,
        amount=fee.amount,
        symbol=fee.symbol or "",
        trade_id=fee.trade_id or "",
        move_key=fee.fill_key or "",
        order_id=order_id,
        text=fee.text,
    )
