"""A session's work outside the workflow: bars, strategies, plans, every decision on record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from pydantic import AwareDatetime, JsonValue, ValidationError
from temporalio import activity

from activities.services import Services
from domain.bar import Bar
from domain.base import Frozen
from domain.clock import ClockMap
from domain.entry import is_late
from domain.errors import BadInput, HoldfastError
from domain.ids import check_id
from domain.plan import TradePlan
from domain.session import Candidate, Evaluation, SessionCounts, SessionSpec
from domain.session_day import SessionDay, flat_by_of, window_refusal
from domain.signal import (
    Decision,
    Signal,
    SignalKind,
    StrategyContext,
    plan_of,
    signal_id_of,
)
from domain.validation import PlanContext, check_plan
from ledger.records import SignalRecord
from marketdata.port import MarketDataFeed

BARS_MAX = 20
TEXT_MAX = 2000
RECEIVED = "received"


class StrategyHost(Protocol):
    """A loaded strategy in a process of its own (`strategies.registry.StrategyProcess`)."""

    name: str

    def load(self) -> object: ...

    def decide(self, bars: Sequence[Bar], context: StrategyContext) -> Decision: ...

    def close(self) -> None: ...


class DecideInput(Frozen):
    """Look at all bars after the cursor up to `market_now`.

    Strategies see bars after `history_after`: each day begins anew. `open_trades` are asked after.
    """

    spec: SessionSpec
    clock: ClockMap
    cursor: AwareDatetime | None
    market_now: AwareDatetime
    paused: bool = False
    day: SessionDay | None = None
    history_after: AwareDatetime | None = None
    open_trades: tuple[str, ...] = ()


class AcceptInput(Frozen):
    """A signal from outside as it came: nothing about it is known to be true."""

    spec: SessionSpec
    clock: ClockMap
    market_now: AwareDatetime
    body: JsonValue
    paused: bool = False
    day: SessionDay | None = None


@dataclass(frozen=True)
class Around:
    """What is known around a signal when it is judged. `halted`: symbols in a trading halt."""

    spec: SessionSpec
    clock: ClockMap
    market_now: datetime
    day: SessionDay
    paused: bool = False
    halted: tuple[str, ...] = ()


class NoteSignalInput(Frozen):
    """What became of a candidate."""

    signal_id: str
    decision: str
    code: str = ""
    text: str = ""
    trade_id: str = ""


class NoteSessionInput(Frozen):
    """A person's word to the session, for the audit chain."""

    session: str
    action: str
    by: str
    reason: str = ""


class SessionActivities:
    """Evaluates bars and signals. Feeds and strategy processes are opened once and kept."""

    def __init__(
        self,
        services: Services,
        open_feed: Callable[[SessionSpec], MarketDataFeed],
        open_strategy: Callable[[str], StrategyHost],
    ) -> None:
        self._services = services
        self._open_feed = open_feed
        self._open_strategy = open_strategy
        self._feeds: dict[str, MarketDataFeed] = {}
        self._hosts: dict[tuple[str, str], StrategyHost] = {}
        # A strategy process answers one question at a time.
        self._asking = asyncio.Lock()

    @activity.defn(name="next_decisions")
    async def next_decisions(self, input: DecideInput) -> Evaluation:
        """Asks every strategy about every new bar and records every answer (requirement 19).

        Repeats give the same answer: bars depend on the cursor, ids on the bar.
        """
        spec = input.spec
        feed = await self._feed(spec)
        for name in spec.strategies:
            await self._host(spec, name)
        symbols = [instrument.symbol for instrument in spec.universe]
        page = await feed.bars(symbols, input.cursor, input.market_now)
        bars = _whole_instants(page.bars)
        more = len(bars) < len(page.bars)
        counts, candidates = SessionCounts(bars=len(bars)), []
        around = _around(input)
        for bar in bars:
            history = (await feed.bars((bar.symbol,), input.history_after, bar.end)).bars
            for name in spec.strategies:
                decision = await self._ask(around, name, bar, history)
                counts = counts.plus(decisions=1)
                candidate, counted = await self._take(around, decision)
                counts = counts.plus(**counted)
                if candidate is not None:
                    candidates.append(candidate)
        cursor = bars[-1].end if more else page.cursor
        return Evaluation(
            cursor=cursor,
            more=more,
            candidates=tuple(candidates),
            counts=counts,
            ended_trades=await self._ended(spec, input.open_trades),
        )

    @activity.defn(name="accept_signal")
    async def accept_signal(self, input: AcceptInput) -> Evaluation:
        """Reads a signal from outside and records it; the same `signal_id` counts once (A1)."""
        try:
            signal = Signal.model_validate(input.body)
            check_id(signal.signal_id, "signal_id")
            if signal.session != input.spec.name:
                raise BadInput("SIGNAL_SESSION", "session", signal.session, input.spec.name)
        except (ValidationError, BadInput) as error:
            code = getattr(error, "code", "SIGNAL_UNREADABLE")
            await self._services.ledger.append_audit(
                "session", f"signal.{code}", input.spec.name, {"text": str(error)[:TEXT_MAX]}
            )
            return Evaluation(counts=SessionCounts(refused=1, signals=1))
        known = await self._services.ledger.signal(signal.signal_id)
        if known is not None and known.decision != RECEIVED:
            return Evaluation()
        candidate, counted = await self._take(_around(input), Decision.take(signal))
        candidates = () if candidate is None else (candidate,)
        return Evaluation(candidates=candidates, counts=SessionCounts().plus(**counted))

    @activity.defn(name="note_signal")
    async def note_signal(self, input: NoteSignalInput) -> None:
        """Writes what became of a signal."""
        await self._services.ledger.decide_signal(
            input.signal_id,
            input.decision,
            code=input.code,
            text=input.text,
            trade_id=input.trade_id,
        )

    @activity.defn(name="note_session")
    async def note_session(self, input: NoteSessionInput) -> None:
        """Audits start, end and what people asked of the session."""
        await self._services.ledger.append_audit(
            input.by, f"session.{input.action}", input.session, {"reason": input.reason}
        )

    @activity.defn(name="close_session")
    async def close_session(self, name: str) -> None:
        """Ends the strategy processes of the session that run in this worker."""
        for key in [key for key in self._hosts if key[0] == name]:
            await asyncio.to_thread(self._hosts.pop(key).close)
        self._feeds.pop(name, None)

    async def prepare(self, spec: SessionSpec) -> None:
        """Opens the feed and starts every strategy anew: no state of yesterday reaches today."""
        await self.close_session(spec.name)
        await self._feed(spec)
        for name in spec.strategies:
            await self._host(spec, name)

    async def _ended(self, spec: SessionSpec, trade_ids: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the trades that the ledger has closed; one without a row only just begins."""
        if not trade_ids:
            return ()
        ledger = self._services.ledger
        still_open = {
            t.trade_id for t in await ledger.list_trades(session=spec.name, open_only=True)
        }
        rows = [await ledger.trade(each) for each in trade_ids if each not in still_open]
        return tuple(row.trade_id for row in rows if row is not None and row.closed_at is not None)

    async def _feed(self, spec: SessionSpec) -> MarketDataFeed:
        if spec.name not in self._feeds:
            # A tape takes a second to read; the event loop serves trades meanwhile.
            feed = await asyncio.to_thread(self._open_feed, spec)
            self._feeds.setdefault(spec.name, feed)
        return self._feeds[spec.name]

    async def _host(self, spec: SessionSpec, name: str) -> StrategyHost:
        """The strategy's process, started before its first bar: loading takes a second or two."""
        async with self._asking:
            host = self._hosts.get((spec.name, name))
            if host is None:
                host = self._hosts.setdefault((spec.name, name), self._open_strategy(name))
                await asyncio.to_thread(host.load)
        return host

    async def _ask(self, around: Around, name: str, bar: Bar, history: Sequence[Bar]) -> Decision:
        spec = around.spec
        instrument = next(i for i in spec.universe if i.symbol == bar.symbol)
        host = await self._host(spec, name)
        async with self._asking:
            context = StrategyContext(
                session=spec.name,
                strategy=host.name,
                instrument=instrument,
                now=bar.end,
                session_open=around.day.opens_at,
                session_close=around.day.closes_at,
                parameters=spec.parameters,
            )
            return await asyncio.to_thread(host.decide, history, context)

    async def _take(
        self, around: Around, decision: Decision
    ) -> tuple[Candidate | None, dict[str, int]]:
        """Records the decision; a signal that may trade comes back as a candidate."""
        spec = around.spec
        signal = decision.signal
        if signal is None:
            fault = decision.code != "NO_SIGNAL"
            word = "fault" if fault else "none"
            await self._record(spec, decision, word, decision.code, decision.reason)
            return None, {"strategy_faults": 1} if fault else {}
        if signal.kind is SignalKind.ENTRY and not around.paused:
            around = replace(around, halted=await self._halted(spec.account))
        word, code, text, plan = _judge(around, signal)
        await self._record(spec, decision, word, code, text or decision.reason)
        if plan is None:
            return None, {"signals": 1, word: 1}
        return Candidate(signal_id=signal.signal_id, plan=plan), {"signals": 1}

    async def _halted(self, account: str) -> tuple[str, ...]:
        """Symbols that the venue says are halted. Unreadable: the risk gate reads it again."""
        try:
            return (await self._services.of(account).broker.market_clock()).halted_symbols
        except HoldfastError as error:
            activity.logger.warning("halts were not read: %s", error.code)
            return ()

    async def _record(
        self, spec: SessionSpec, decision: Decision, word: str, code: str, text: str
    ) -> None:
        signal = decision.signal
        signal_id = (
            signal.signal_id
            if signal is not None
            else signal_id_of(
                spec.name, decision.strategy, decision.symbol, SignalKind.ENTRY, decision.bar_time
            )
        )
        await self._services.ledger.record_signal(
            SignalRecord(
                signal_id=signal_id,
                session=spec.name,
                account=spec.account,
                strategy=decision.strategy,
                symbol=decision.symbol,
                side=signal.side if signal is not None else None,
                decision=word,
                code=code,
                text=text[:TEXT_MAX],
                signal_time=decision.bar_time,
                recorded_at=self._services.now(),
            )
        )


def _whole_instants(bars: Sequence[Bar]) -> tuple[Bar, ...]:
    """The first bars, cut between two instants: the cursor is an instant, not a row."""
    if len(bars) <= BARS_MAX:
        return tuple(bars)
    last = bars[BARS_MAX - 1].end
    return tuple(bar for bar in bars if bar.end <= last)


def _around(input: DecideInput | AcceptInput) -> Around:
    spec = input.spec
    only = SessionDay.model_construct(opens_at=spec.opens_at, closes_at=spec.closes_at)
    return Around(spec, input.clock, input.market_now, input.day or only, input.paused)


def _judge(around: Around, signal: Signal) -> tuple[str, str, str, TradePlan | None]:
    """(decision, code, text, plan): what the session does with a signal, before the risk gate."""
    spec, now = around.spec, around.market_now
    if signal.kind is not SignalKind.ENTRY or signal.draft is None:
        return "not_taken", "SIGNAL_KIND", f"{signal.kind} opens no trade", None
    if around.paused:
        return "not_taken", "SESSION_PAUSED", "the session takes no signals now", None
    instrument = next((i for i in spec.universe if i.symbol == signal.symbol), None)
    if instrument is None:
        return "refused", "SYMBOL_UNKNOWN", f"{signal.symbol} is not in the universe", None
    if is_late(signal.bar_time, now, signal.draft.signal_max_age_s):
        return "late", "SIGNAL_LATE", f"older than {signal.draft.signal_max_age_s} s", None
    closed = window_refusal(around.day, now, spec.entry_blocked_first_s, spec.entry_blocked_last_s)
    if closed:
        return "refused", "ENTRY_WINDOW", closed, None
    if signal.symbol in around.halted:
        return "refused", "HALTED", f"{signal.symbol} is halted", None
    try:
        plan = plan_of(
            _flat_in_time(around, signal),
            instrument,
            spec.account,
            config_version=spec.config_version,
        )
        context = PlanContext(market_now=now, session_date=now.date(), clock_map=around.clock)
        return RECEIVED, "", "", check_plan(plan, context)
    except (BadInput, ValueError) as error:
        return "refused", getattr(error, "code", "PLAN_INVALID"), str(error)[:TEXT_MAX], None


def _flat_in_time(around: Around, signal: Signal) -> Signal:
    """The signal with a `flat_by` that the real close of the day allows (faults.md G4)."""
    assert signal.draft is not None
    flat_by = flat_by_of(around.day, signal.draft.flat_by, around.spec.flat_before_close_s)
    draft = signal.draft.model_copy(update={"flat_by": flat_by})
    return signal.model_copy(update={"draft": draft})
