"""Any session's report out of the ledger: what it did, at which prices, and what is not known."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from temporalio.service import RPCError

from activities.risk import last_roll
from cli.contest_books import PortfolioBook
from cli.contest_files import Portfolio
from cli.context import Target, line_of
from cli.feed_report import read_trade_rows
from cli.open_trades import live_statuses
from cli.session_calls import BAR_INTERVAL_S, is_running, session_handle, started_with
from cli.session_facts import SessionMarket, read_session_book, session_facts
from cli.start_cash import start_cash
from cli.verify import compared
from domain.bar import Bar
from domain.clock import ClockMap, real_time
from domain.errors import BadInput, HoldfastError, Refused, Transient
from domain.money import ZERO
from domain.session import SessionInput
from ledger.records import SessionSeen, SignalRecord, TradeRecord
from ledger.repository import Ledger
from marketdata.feed import TapeFeed
from report.charts import Level, SymbolChart
from report.records import SessionFacts, TradeRow, VerdictCount
from report.verify import Differences

COMPARE_TIMEOUT_S = 30.0
KNOWN_SHOWN_MAX = 20
NO_PRICES = (
    "No price chart: the session had no tape that is still there, the ledger has no bars of its "
    "time, and nothing was filled."
)
AT_FILLS = (
    "Prices: the mid at sizing and the fills, nothing between them; no tape of the session is "
    "there and the ledger has no bars of its time."
)


@dataclass(frozen=True)
class Start:
    """What the session's equity line begins with, and how a reader is told."""

    cash: Decimal
    text: str


@dataclass(frozen=True)
class Begun:
    """What the newest run of the session was started with, when, and whether it is over.

    None where nobody knows.
    """

    given: SessionInput | None = None
    at: datetime | None = None
    is_over: bool | None = None


@dataclass(frozen=True)
class Prices:
    """Bars of the session's time, and where they come from."""

    bars: Sequence[Bar] = ()
    text: str = ""


async def known_session(ledger: Ledger, name: str) -> SessionSeen:
    """The session's trace in the ledger.

    Raises:
        BadInput: SESSION_UNKNOWN with the names that are known.
    """
    for seen in await ledger.sessions(name):
        return seen
    known = [each.name for each in await ledger.sessions()]
    more = f" and {len(known) - KNOWN_SHOWN_MAX} more" if len(known) > KNOWN_SHOWN_MAX else ""
    shown = ", ".join(known[:KNOWN_SHOWN_MAX]) or "none has decided or traded anything yet"
    raise BadInput("SESSION_UNKNOWN", "name", name, shown + more)


async def read_session(target: Target, name: str) -> tuple[SessionFacts, Differences | None]:
    """The session's facts, and the account compared with its broker; None: it could not be.

    Raises:
        BadInput: NO_STACK, SESSION_UNKNOWN. LedgerDown.
    """
    async with target.ledger() as ledger:
        seen = await known_session(ledger, name)
        begun = await _begun(target, name)
        given = begun.given
        clock = given.clock if given is not None else await _clock(target)
        facts = await _facts(target, ledger, seen, begun, clock)
        trades = await ledger.list_trades(session=name, open_only=True)
    rows = await _as_they_are_now(target, facts.trades, trades)
    differences, why = await _compared(target, seen.account)
    notes = _state(begun.is_over, len(trades))
    if differences is not None:
        told = f"the whole account as of {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        notes = (*notes, ("compared", told))
    return facts.model_copy(
        update={"trades": rows, "not_compared": why, "notes": notes}
    ), differences


async def _facts(
    target: Target,
    ledger: Ledger,
    seen: SessionSeen,
    begun: Begun,
    clock: ClockMap,
) -> SessionFacts:
    name, account, given = seen.name, seen.account, begun.given
    signals = await ledger.list_signals(session=name)
    rows = await read_trade_rows(ledger, name)
    strategies = dict.fromkeys([s.strategy for s in signals] + [row.strategy for row in rows])
    portfolio = Portfolio(account=account, strategy=", ".join(strategies), session=name, cash=ZERO)
    book = await read_session_book(
        ledger,
        portfolio,
        None if given is None else given.spec.universe,
        signals_taken=seen.taken,
    )
    begin, end = _hours(begun, clock, signals, book)
    symbols = _symbols(given, signals, book)
    found = await _prices(ledger, given, account, symbols, begin, end)
    start = await _start(target, ledger, account, begin)
    drawn = replace(book, portfolio=portfolio.model_copy(update={"cash": start.cash}))
    market = SessionMarket(begin, end, clock, symbols, found.bars)
    accounts = {each.account: each for each in await ledger.accounts()}
    currency = accounts[account].currency if account in accounts else "USD"
    facts = session_facts(drawn, market, rows, currency=currency)
    settings = target.settings()
    mode = settings.broker.mode.value if settings.account.name == account else "mode unknown"
    marked = "at the close of each bar" if found.bars else "at fills only"
    return facts.model_copy(
        update={
            "mode": mode if given is None else given.spec.mode,
            "charts": facts.charts if found.bars else _at_fills(facts.charts, rows),
            "verdicts": _verdicts(signals),
            "prices_from": found.text or (AT_FILLS if book.fills else NO_PRICES),
            "equity_from": f"{start.text} Trades of this session only, marked {marked}.",
            "commit": ", ".join(sorted({t.build_id for t in book.trades if t.build_id})),
            "config_hash": ", ".join(sorted({t.config_hash for t in book.trades if t.config_hash})),
        }
    )


async def _begun(target: Target, name: str) -> Begun:
    try:
        client = await target.temporal()
        handle = session_handle(client, name)
        is_over = not await is_running(handle, name)
        given, at = await started_with(client, name), (await handle.describe()).start_time
    except (Transient, Refused, RPCError):
        return Begun()
    return Begun(given, at, is_over)


async def _as_they_are_now(
    target: Target, rows: Sequence[TradeRow], trades: Sequence[TradeRecord]
) -> tuple[TradeRow, ...]:
    """The rows with how long open trades have been naked, which only their workflows know."""
    now = await live_statuses(target, trades, {})
    made = []
    for row in rows:
        status = now.get(row.trade_id)
        if status is not None and "naked_s" in status:
            seconds = Decimal(str(round(float(str(status["naked_s"])), 3)))
            row = row.model_copy(update={"naked_s": seconds})
        elif status is not None:
            row = row.model_copy(update={"note": f"{row.note} naked time unknown".strip()})
        made.append(row)
    return tuple(made)


async def _clock(target: Target) -> ClockMap:
    try:
        return await target.clock_map()
    except Transient:
        return real_time(datetime.now(UTC))


def _state(is_over: bool | None, open_trades: int) -> tuple[tuple[str, str], ...]:
    words = {
        True: "the session is over",
        False: "the session runs: this is the report so far",
        None: "unknown whether it runs: Temporal does not know it or is away",
    }
    still = f"; {open_trades} of its trades are open" if open_trades else ""
    return (("state", words[is_over] + still),)


def _hours(
    begun: Begun, clock: ClockMap, signals: Sequence[SignalRecord], book: PortfolioBook
) -> tuple[datetime, datetime]:
    """From the first to the last thing that is known of the session, in market time.

    The market may have been open for hours when it was started.
    """
    times = [signal.signal_time for signal in signals]
    times += [trade.plan.signal_time for trade in book.trades]
    times += [record.fill.venue_time for record in book.fills]
    told = (order.snapshot for order in book.orders)
    times += [each.updated_at for each in told if each is not None and each.updated_at is not None]
    if begun.given is not None and begun.at is not None:
        times.append(max(begun.given.spec.opens_at, clock.market(begun.at)))
    return min(times), max(times)


def _symbols(
    given: SessionInput | None, signals: Iterable[SignalRecord], book: PortfolioBook
) -> tuple[str, ...]:
    found = [] if given is None else [item.symbol for item in given.spec.universe]
    found += [signal.symbol for signal in signals]
    found += book.instruments
    return tuple(dict.fromkeys(found))


async def _prices(
    ledger: Ledger,
    given: SessionInput | None,
    account: str,
    symbols: tuple[str, ...],
    begin: datetime,
    end: datetime,
) -> Prices:
    """Bars of the session's tape, else those that the market stream stored."""
    interval_s = BAR_INTERVAL_S if given is None else given.spec.bar_interval_s
    path = None if given is None or not given.spec.tape else Path(given.spec.tape)
    bars: tuple[Bar, ...] = ()
    if path is not None and path.is_file():
        bars = await asyncio.to_thread(_tape_bars, path, interval_s, symbols, begin, end)
        if bars:
            return Prices(bars, f"Prices: the tape of the session, {path.name}.")
    bars = await ledger.market_bars(account, interval_s, symbols, begin, end)
    if not bars:
        return Prices()
    text = (
        f"Prices: {len(bars)} bars of {interval_s} s that the ledger keeps of the market stream, "
        f"the first ends {bars[0].end:%Y-%m-%d %H:%M} UTC; they are kept for a week."
    )
    return Prices(bars, text)


def _tape_bars(
    path: Path, interval_s: int, symbols: Sequence[str], begin: datetime, end: datetime
) -> tuple[Bar, ...]:
    feed = TapeFeed.open(path, interval_s=interval_s)
    return tuple(feed.completed(symbols, begin, end).bars)


async def _start(target: Target, ledger: Ledger, account: str, begin: datetime) -> Start:
    """The account's equity at the roll before the session, else its first cash, else nothing."""
    roll = last_roll(begin)
    baseline = await ledger.equity_baseline(account, roll)
    if baseline is not None:
        text = f"Begins with the account's equity at its roll, {roll:%Y-%m-%d %H:%M} UTC."
        return Start(baseline.equity, text)
    fills = await ledger.fills_of_account(account)
    if all(record.fill.venue_time >= begin for record in fills):
        cash = await start_cash(target, account)
        if cash is not None:
            return Start(cash, "Begins with the cash that the simulated account was given.")
    return Start(ZERO, "The equity before the session is unknown: the line shows the change.")


def _at_fills(charts: Iterable[SymbolChart], rows: Iterable[TradeRow]) -> tuple[SymbolChart, ...]:
    """The charts with the few prices that the trades themselves saw."""
    mids: dict[str, list[Level]] = {}
    for row in rows:
        if row.arrival_mid is not None:
            level = Level(time=row.signal_time, value=row.arrival_mid)
            mids.setdefault(row.symbol, []).append(level)
    made = []
    for chart in charts:
        seen = [Level(time=mark.time, value=mark.price) for mark in chart.fills]
        known = sorted([*mids.get(chart.symbol, []), *seen], key=lambda level: level.time)
        made.append(chart.model_copy(update={"prices": tuple(known), "sparse": True}))
    return tuple(made)


def _verdicts(signals: Iterable[SignalRecord]) -> tuple[VerdictCount, ...]:
    counts = Counter((signal.decision, signal.code) for signal in signals)
    return tuple(
        VerdictCount(word=word, code=code, count=count)
        for (word, code), count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    )


async def _compared(target: Target, account: str) -> tuple[Differences | None, str]:
    """The account against its broker, or in words why not."""
    settings = target.settings()
    if settings.account.name != account:
        own = settings.account.name
        return None, f"the settings are for account {own}; name those of {account} by --config"
    try:
        async with asyncio.timeout(COMPARE_TIMEOUT_S):
            differences, _ = await compared(target)
    except HoldfastError as error:
        return None, f"the broker was not read: {line_of(error)}"
    except TimeoutError:
        return None, f"the broker did not answer within {COMPARE_TIMEOUT_S:.0f} s"
    return differences.model_copy(update={"against": "broker"}), ""
