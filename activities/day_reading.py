"""Reads an account's evening out of ledger and broker.

The ledger must answer. Every part of the broker is read on its own: what does not answer is named
in the report as not read, and what depends on it is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TypeVar

from activities.account_books import known_account, read_account_book
from activities.reconcile import good_pass_cursor, look_of
from brokers.port import Broker
from domain.account import AccountSnapshot, MarketClock
from domain.account_book import AccountBook
from domain.alerts import TEXT_MAX
from domain.clock import ClockMap
from domain.day_report import (
    GAP_FRACTION,
    Counted,
    DayMoney,
    DayReport,
    HeldPosition,
    NightStop,
    WorkingLine,
    gap_risk,
)
from domain.errors import HoldfastError
from domain.facts import ENDINGS, AdjustmentKind
from domain.ids import Purpose
from domain.instrument import Instrument, InstrumentKind
from domain.lots import fold_lots
from domain.money import divide, total
from domain.money_law import realised_pnl
from domain.order import OrderSnapshot, OrderType, Position, Quote, Side, TimeInForce
from domain.plan import TradePlan
from domain.recon.classify import DiscrepancyKind, classify
from domain.risk.daily_loss import DailyBaseline, judge
from domain.statement import CashKind, statement_of
from ledger.records import (
    EXTERNAL,
    AuditRow,
    ChildOrder,
    IntentRecord,
    IntentState,
    TradePosition,
    TradeRecord,
)
from ledger.repository import Ledger

T = TypeVar("T")
EVENTS_MAX = 200
_STOPS = (Purpose.STOP, Purpose.OCO)
# Beginnings of the audit's actions that a person wants to see in the evening.
_EVENTS = ("kill", "reset", "arm", "disarm", "breaker", "api_breaker", "condition", "operator")
_DIFFERENCES = tuple(f"alert.{kind.upper()}" for kind in DiscrepancyKind)


@dataclass(frozen=True)
class DayWanted:
    """Which evening: market instants of the day, and the map from wall to market time."""

    account: str
    installation: str
    venue: str
    day: date
    begin: datetime
    end: datetime
    clock: ClockMap
    now: datetime
    max_daily_loss_fraction: Decimal
    gap_fraction: Decimal = GAP_FRACTION
    start_cash: Decimal | None = None


@dataclass(frozen=True)
class _Market:
    """What the broker said; None where it did not answer."""

    clock: MarketClock | None
    account: AccountSnapshot | None
    positions: tuple[Position, ...] | None
    orders: tuple[OrderSnapshot, ...] | None
    quotes: Mapping[str, Quote]


@dataclass(frozen=True)
class _Books:
    """What the ledger holds of the account tonight."""

    trades: tuple[TradeRecord, ...]
    owned: tuple[TradePosition, ...]
    intents: tuple[IntentRecord, ...]
    children: tuple[ChildOrder, ...]
    book: AccountBook


async def read_day(ledger: Ledger, broker: Broker, wanted: DayWanted) -> DayReport:
    """The evening of an account.

    Raises:
        HoldfastError: the ledger did not answer.
        BadInput: ACCOUNT_UNKNOWN.
    """
    name, unread = wanted.account, list[str]()
    record = await known_account(ledger, name)
    books = _Books(
        trades=await ledger.list_trades(account=name, open_only=True),
        owned=await ledger.positions_by_trade(name),
        intents=await ledger.open_orders(name),
        children=await ledger.open_children(name),
        book=await read_account_book(ledger, record, wanted.start_cash),
    )
    symbols = sorted({row.symbol for row in books.owned})
    market = _Market(
        clock=await _read(broker.market_clock(), "market clock", unread),
        account=await _read(broker.account(), "broker account", unread),
        positions=await _read(broker.positions(), "positions", unread),
        orders=await _read(broker.open_orders(), "open orders", unread),
        quotes=(await _read(broker.quotes(symbols), "quotes", unread) or {}) if symbols else {},
    )
    unread += [f"price of {s}" for s in symbols if _price(market.quotes.get(s)) is None]
    baseline = await ledger.equity_baseline(name)
    control = await ledger.read_control(name)
    risk, api = await ledger.risk_breaker(name), await ledger.api_breaker(wanted.venue)
    conditions = await ledger.conditions(name)
    reconciled = await ledger.get_cursor(good_pass_cursor(name))
    return DayReport(
        account=name,
        currency=record.currency,
        day=wanted.day,
        begin=wanted.begin,
        end=wanted.end,
        read_at=wanted.now,
        gap_fraction=wanted.gap_fraction,
        stays_open=_stays_open(market),
        held=_held(books, market, wanted),
        working=_working(books, market),
        money=_money(books, market, wanted),
        daily=judge(
            None
            if baseline is None
            else DailyBaseline(
                account_id=name,
                roll_at=baseline.roll,
                equity=baseline.equity,
                read_at=baseline.read_at,
            ),
            None if market.account is None else market.account.equity,
            await ledger.transfers_since(baseline),
            wanted.max_daily_loss_fraction,
        ),
        armed=control.armed,
        kills=tuple(f"{k.mode} {k.scope.text} by {k.by}: {k.reason}" for k in control.kills),
        breakers=(
            f"risk {risk.state} {risk.reason} {risk.text}".strip(),
            f"api {api.broker} {api.state}, {api.failures} failures",
        ),
        conditions=tuple(f"{c.kind} {c.symbol} {c.text}".strip() for c in conditions),
        events=await _audited(ledger, wanted, _EVENTS),
        differences=await _differences(ledger, books, market, wanted),
        reconciled_at=None if reconciled is None else datetime.fromisoformat(reconciled),
        signals=await _signals(ledger, wanted),
        unread=tuple(unread),
    )


async def _read(reading: Awaitable[T], part: str, unread: list[str]) -> T | None:
    try:
        return await reading
    except HoldfastError as error:
        unread.append(f"{part} ({error.code})")
        return None


# --- tonight ------------------------------------------------------------------------------------


def _held(books: _Books, market: _Market, wanted: DayWanted) -> tuple[HeldPosition, ...]:
    trades = {trade.trade_id: trade for trade in books.trades}
    stops = night_stops(books.intents, books.book.instruments, stays_open=_stays_open(market))
    found = []
    for row in books.owned:
        trade = trades.get(row.trade_id)
        instrument = books.book.instrument(row.symbol)
        price = _price(market.quotes.get(row.symbol), row.quantity)
        its = stops.get(row.trade_id, ())
        mine = tuple(stop for stop in its if stop.symbol == row.symbol)
        told = "" if trade is None else trade.protection
        covering = _covering(row.symbol, row.quantity, mine, told)
        if trade is not None:
            told = trade_protection(trade, books.owned, its)
        else:
            told = "none: no trade of ours" if row.trade_id == EXTERNAL else "unknown"
        found.append(
            HeldPosition(
                trade_id=row.trade_id,
                strategy="" if trade is None else trade.strategy,
                symbol=row.symbol,
                quantity=row.quantity,
                stage="" if trade is None else trade.stage,
                protection=told,
                price=price,
                stops=mine,
                risk=gap_risk(instrument, row.quantity, price, covering, wanted.gap_fraction),
                max_loss=None if trade is None else trade.plan.max_loss,
            )
        )
    return tuple(found)


def _stays_open(market: _Market) -> bool:
    return market.clock is not None and market.clock.stays_open


def trade_protection(
    trade: TradeRecord, owned: Iterable[TradePosition], stops: Sequence[NightStop]
) -> str:
    """The protection class of an open trade, as far as the ledger proves it; else `unknown`.

    The trade's row has what was true before its last step with the broker, and often that step
    filled the entry or placed the stops: what the ledger holds of positions and orders is newer.
    Only what no row of the ledger shows is taken from the trade's word: that nothing protects it
    (its fills may not be booked yet, its stop-limit may have triggered), that it is watched, that
    its stop cannot trigger now. `owned` may hold other trades' positions too; `stops` are its own.
    """
    held, told = _held_legs(trade, owned), trade.protection
    if not held:
        return "naked" if told == "naked" else "none"
    if _is_covered(held, stops, told):
        return "dormant" if told == "dormant" else "resting"
    if _is_bounded(trade.plan, held):
        return "defined"
    return told if told in ("naked", "monitored") else "unknown"


def is_bare(trade: TradeRecord, owned: Iterable[TradePosition], stops: Sequence[NightStop]) -> bool:
    """True if by the ledger a part of the position has no stop, is not watched, and not bounded.

    A stop-limit counts: one that triggered in vain is told by its trade (`STOP_LIMIT_UNFILLED`).
    """
    held = _held_legs(trade, owned)
    if trade.protection == "monitored":
        return False
    return bool(held) and not _is_covered(held, stops, "") and not _is_bounded(trade.plan, held)


def _held_legs(trade: TradeRecord, owned: Iterable[TradePosition]) -> dict[str, Decimal]:
    return {
        row.symbol: row.quantity
        for row in owned
        if row.trade_id == trade.trade_id and row.quantity != 0
    }


def _is_covered(held: Mapping[str, Decimal], stops: Sequence[NightStop], told: str) -> bool:
    return all(
        total(stop.quantity for stop in _covering(symbol, quantity, stops, told)) >= abs(quantity)
        for symbol, quantity in held.items()
    )


def _covering(
    symbol: str, quantity: Decimal, stops: Sequence[NightStop], told: str
) -> tuple[NightStop, ...]:
    """Stops that would take this position off; a stop of the other side makes it larger.

    A stop-limit that triggered protects nothing, and only the trade's row says that it did: behind
    a row that says `naked` none counts, though it may have been placed since.
    """
    return tuple(
        stop
        for stop in stops
        if stop.symbol == symbol
        and stop.side.sign * quantity < 0
        and not (stop.is_limit and told == "naked")
    )


def _is_bounded(plan: TradePlan, held: Mapping[str, Decimal]) -> bool:
    """True if exactly the plan's legs are held, in balance, and they bound the loss.

    A single leg with a stop is not meant: it is as safe as that stop. No broker of ours rests a
    stop for a combo.
    """
    if plan.max_loss is None or not (plan.is_combo or plan.stop is None):
        return False
    legs = {leg.instrument.symbol: Decimal(leg.side.sign * leg.ratio) for leg in plan.legs}
    if legs.keys() != held.keys():
        return False
    units = {divide(held[symbol], ratio) for symbol, ratio in legs.items()}
    return len(units) == 1 and min(units) > 0


def night_stops(
    intents: Sequence[IntentRecord],
    instruments: Mapping[str, Instrument],
    *,
    stays_open: bool = False,
) -> dict[str, tuple[NightStop, ...]]:
    """Working stops by trade; `intents` are the oldest first, `stays_open` says their venue.

    A tranche has one stop: the newest that was accepted. The order that it took over from, or the
    pair whose stop it was, may be listed as working too.
    """
    found: dict[str, dict[int | None, NightStop]] = {}
    for record in intents:
        body, told = record.intent.body, record.snapshot
        price = body.stop_price if body.stop_price is not None else body.stop_loss_price
        if record.intent.key.purpose not in _STOPS or price is None:
            continue
        if record.state is not IntentState.ACCEPTED or _has_lost_its_stop(told):
            continue
        instrument = instruments.get(body.symbol) or Instrument(symbol=body.symbol)
        force = (told.time_in_force if told is not None else None) or body.time_in_force
        never_sleeps = instrument.kind is InstrumentKind.CRYPTO
        limited = body.order_type is OrderType.STOP_LIMIT or body.stop_loss_limit_price is not None
        found.setdefault(record.owner.trade_id, {})[record.intent.tranche] = NightStop(
            client_id=record.intent.client_id,
            symbol=body.symbol,
            side=body.side,
            price=price,
            quantity=_left(record),
            time_in_force=force,
            is_limit=limited,
            expires_tonight=force is TimeInForce.DAY and not never_sleeps,
            is_dormant=not (never_sleeps or stays_open),
        )
    return {trade_id: tuple(stops.values()) for trade_id, stops in found.items()}


def _has_lost_its_stop(pair: OrderSnapshot | None) -> bool:
    """True for a pair that works on as a target alone."""
    stops = [leg for leg in pair.legs if leg.stop_price is not None] if pair is not None else []
    return bool(stops) and all(stop.is_terminal for stop in stops)


def _working(books: _Books, market: _Market) -> tuple[WorkingLine, ...]:
    """Our own orders, and those of the broker's list that the ledger does not know."""
    lines = []
    known = {child.broker_order_id for child in books.children}
    for record in books.intents:
        body = record.intent.body
        known |= {record.broker_order_id or "", record.intent.client_id}
        lines.append(
            WorkingLine(
                order_id=record.intent.client_id,
                trade_id=record.owner.trade_id,
                purpose=record.intent.key.purpose.value,
                symbol=body.symbol,
                side=body.side.value,
                quantity=_left(record),
                limit_price=body.limit_price,
                stop_price=body.stop_price or body.stop_loss_price,
                time_in_force=body.time_in_force.value,
                state=(record.status or record.state).value,
            )
        )
    for order in market.orders or ():
        if order.broker_order_id in known or (order.client_id or "?") in known:
            continue
        lines.append(
            WorkingLine(
                order_id=order.broker_order_id,
                trade_id=EXTERNAL,
                symbol=order.symbol,
                side="" if order.side is None else order.side.value,
                quantity=order.quantity - order.filled_quantity,
                limit_price=order.limit_price,
                stop_price=order.stop_price,
                time_in_force="" if order.time_in_force is None else order.time_in_force.value,
                state=order.status.value,
            )
        )
    return tuple(lines)


def _left(record: IntentRecord) -> Decimal:
    whole = record.snapshot.quantity if record.snapshot is not None else Decimal(0)
    return (whole or record.intent.body.quantity) - record.filled_quantity


def _price(quote: Quote | None, quantity: Decimal = Decimal(1)) -> Decimal | None:
    """What one could get out at: the bid for a long, the ask for a short."""
    if quote is None:
        return None
    return quote.bid if quantity > 0 else quote.ask


# --- the day ------------------------------------------------------------------------------------


def _money(books: _Books, market: _Market, wanted: DayWanted) -> DayMoney:
    day = statement_of(books.book, wanted.begin, wanted.end)
    results: list[Decimal | None] = []
    for lot in fold_lots(books.book).open:
        price = _price(market.quotes.get(lot.symbol), lot.quantity)
        if price is None or lot.price is None:
            results.append(None)
            continue
        side = Side.BUY if lot.quantity > 0 else Side.SELL
        instrument = books.book.instrument(lot.symbol)
        results.append(realised_pnl(instrument, side, abs(lot.quantity), lot.price, price))
    known = [result for result in results if result is not None]
    grosses = [lot.gross for lot in day.realised]
    return DayMoney(
        realised=total(gross for gross in grosses if gross is not None),
        realised_unknown=grosses.count(None),
        fees=-day.cash_of(CashKind.FEE),
        unrealised=total(known) if len(known) == len(results) else None,
        fills=sum(1 for move in day.moves if move.is_fill),
    )


async def _audited(ledger: Ledger, wanted: DayWanted, actions: Sequence[str]) -> tuple[str, ...]:
    """Rows of the audit of this day; those of other accounts left out where they name one."""
    begin, end = wanted.clock.wall(wanted.begin), wanted.clock.wall(wanted.end)
    rows: list[AuditRow] = []
    for action in actions:
        rows += await ledger.find_audit(since=begin, action=action, limit=EVENTS_MAX)
    mine = (wanted.account, "*", wanted.venue, "")
    return tuple(
        f"{row.at:%H:%M:%S} {row.action} {row.subject} by {row.actor} {row.details}"[:TEXT_MAX]
        for row in sorted({row.sequence: row for row in rows}.values(), key=lambda r: r.sequence)
        if row.at < end and (row.subject in mine or row.action.startswith("alert."))
    )


async def _differences(
    ledger: Ledger, books: _Books, market: _Market, wanted: DayWanted
) -> tuple[str, ...]:
    """What the passes of the day found and booked, and what one look shows now."""
    told = list(await _audited(ledger, wanted, _DIFFERENCES))
    for row in await ledger.adjustments(wanted.account):
        is_found = row.kind in (AdjustmentKind.EXTERNAL, AdjustmentKind.SPLIT, *ENDINGS)
        if is_found and wanted.begin <= wanted.clock.market(row.at) < wanted.end:
            told.append(f"booked {row.kind}: {row.quantity:+f} {row.symbol} {row.text}".strip())
    if market.orders is None or market.positions is None:
        return tuple(told)
    account = market.account
    look = look_of(
        wanted.installation,
        orders=market.orders,
        positions=market.positions,
        intents=books.intents,
        children=books.children,
        trades=books.trades,
        owned=books.owned,
        account_is_flat=account is not None
        and account.equity is not None
        and account.equity == account.cash,
        now=wanted.now,
    )
    return (*told, *(f"now (one look): {found.kind} {found.text}" for found in classify(look)))


async def _signals(ledger: Ledger, wanted: DayWanted) -> tuple[Counted, ...]:
    rows = await ledger.list_signals(account=wanted.account, since=wanted.begin, until=wanted.end)
    counts = Counter((row.decision, row.code) for row in rows)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Counted(word=word, code=code, count=n) for (word, code), n in ordered)
