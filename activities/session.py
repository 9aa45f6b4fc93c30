"""A session's work outside the workflow: bars, strategies, plans, every decision on record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, JsonValue, ValidationError
from temporalio import activity

from activities.judging import RECEIVED, TEXT_MAX, Around, Judged, judge
from activities.services import Services
from activities.strategy_hosts import (
    Configured,
    StrategyHost,
    StrategyHosts,
    configured,
    context_of,
)
from domain.bar import Bar
from domain.base import Frozen
from domain.clock import ClockMap
from domain.errors import BadInput, HoldfastError
from domain.ids import check_id
from domain.money import Number
from domain.session import Candidate, Evaluation, ExitWish, SessionCounts, SessionSpec
from domain.session_day import SessionDay
from domain.signal import Decision, Signal, SignalKind, signal_id_of
from ledger.records import SignalRecord
from marketdata.port import MarketDataFeed

BARS_MAX = 20
# What is no fault of the strategy: it had nothing to say, or was not asked.
_QUIET = ("NO_SIGNAL", "STRATEGY_DISABLED")


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


@dataclass
class _Found:
    """What one look has come to so far, in order."""

    counts: SessionCounts
    candidates: list[Candidate] = field(default_factory=list)
    exits: list[ExitWish] = field(default_factory=list)

    def count(self, **more: int) -> None:
        self.counts = self.counts.plus(**more)


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
        blackout: Callable[[Path, str, datetime], str] = lambda _path, _symbol, _now: "",
    ) -> None:
        self._services = services
        self._open_feed = open_feed
        # `marketdata.event_dates.KeptDates.blackout`: why entries rest around a date of the file.
        self._blackout = blackout
        self._feeds: dict[str, MarketDataFeed] = {}
        self._hosts = StrategyHosts(open_strategy)

    @activity.defn(name="next_decisions")
    async def next_decisions(self, input: DecideInput) -> Evaluation:
        """Asks every strategy about every new bar and records every answer (requirement 19).

        Repeats give the same answer: bars depend on the cursor, ids on the bar.
        """
        spec = input.spec
        feed = await self._feed(spec)
        strategies = await configured(self._services.ledger, spec)
        asked = await self._asked(spec, strategies)
        for strategy in strategies:
            if strategy.name in asked:
                await self._hosts.host(spec.name, strategy)
        symbols = [instrument.symbol for instrument in spec.universe]
        page = await feed.bars(symbols, input.cursor, _bars_until(input))
        bars = _whole_instants(page.bars)
        more = len(bars) < len(page.bars)
        found = _Found(SessionCounts(bars=len(bars)))
        around = _around(input, strategies)
        for bar in bars:
            history = (await feed.bars((bar.symbol,), input.history_after, bar.end)).bars
            decisions = await asyncio.gather(
                *(self._decide(around, asked, each, bar, history) for each in strategies)
            )
            for decision in decisions:
                found.count(decisions=1)
                await self._take(around, decision, found)
        return Evaluation(
            cursor=bars[-1].end if more else page.cursor,
            more=more,
            candidates=tuple(found.candidates),
            exits=tuple(found.exits),
            counts=found.counts,
            ended_trades=await self._ended(spec, input.open_trades),
        )

    async def _asked(self, spec: SessionSpec, strategies: Sequence[Configured]) -> set[str]:
        """Names of those that are asked: a disabled one only while it may have to exit."""
        if not any(each.disabled for each in strategies):
            return {each.name for each in strategies}
        rows = await self._services.ledger.list_trades(session=spec.name, open_only=True)
        holding = {row.strategy for row in rows}
        return {each.name for each in strategies if not each.disabled or each.name in holding}

    async def _decide(
        self,
        around: Around,
        asked: set[str],
        strategy: Configured,
        bar: Bar,
        history: Sequence[Bar],
    ) -> Decision:
        if strategy.name in asked:
            return await self._hosts.ask(around.spec, around.day, strategy, bar, history)
        context = context_of(around.spec, around.day, strategy, bar)
        return Decision.none(context, strategy.disabled, "STRATEGY_DISABLED")

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
            repeated = {"session": signal.session, "decision": known.decision}
            await self._services.ledger.append_audit(
                "session", "signal.SIGNAL_REPEATED", signal.signal_id, repeated
            )
            return Evaluation()
        found = _Found(SessionCounts())
        strategies = await configured(self._services.ledger, input.spec)
        await self._take(_around(input, strategies), Decision.take(signal), found)
        return Evaluation(
            candidates=tuple(found.candidates), exits=tuple(found.exits), counts=found.counts
        )

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
        if input.action == "end":
            command = f"python starter.py report session {input.session}"
            activity.logger.info("session %s is over; its report: %s", input.session, command)

    @activity.defn(name="close_session")
    async def close_session(self, name: str) -> None:
        """Ends the strategy processes of the session that run in this worker."""
        await self._hosts.close(name)
        self._feeds.pop(name, None)

    async def prepare(self, spec: SessionSpec) -> None:
        """Opens the feed and starts every strategy anew: no state of yesterday reaches today."""
        await self.close_session(spec.name)
        await self._feed(spec)
        for strategy in await configured(self._services.ledger, spec):
            if not strategy.disabled:
                await self._hosts.host(spec.name, strategy)

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

    async def _take(self, around: Around, decision: Decision, found: _Found) -> None:
        """Records the decision; a signal that may act goes into what was found."""
        spec, signal = around.spec, decision.signal
        if signal is None:
            fault = decision.code not in _QUIET
            word = "fault" if fault else "none"
            await self._record(spec, decision, Judged(word, decision.code, decision.reason))
            found.count(strategy_faults=int(fault))
            return
        if signal.kind is SignalKind.ENTRY and not around.paused:
            around = replace(
                around,
                halted=await self._halted(spec.account),
                blackout=await self._resting(around, signal.symbol),
            )
        judged = judge(around, signal)
        wish = None
        if judged.fraction is not None:
            wish = await self._exit_wish(spec.account, signal, judged.fraction, found)
            if wish is None:
                text = "no trade of this strategy in this symbol is open"
                judged = Judged("not_taken", "NO_OPEN_TRADE", text)
        await self._record(spec, decision, judged)
        counted = {} if judged.word == RECEIVED else {judged.word: 1}
        found.count(signals=1, **counted)
        if judged.plan is not None:
            found.candidates.append(Candidate(signal_id=signal.signal_id, plan=judged.plan))
        if wish is not None:
            found.exits.append(wish)

    async def _exit_wish(
        self, account: str, signal: Signal, fraction: Number, found: _Found
    ) -> ExitWish | None:
        """The exit for the trades that the strategy has open in the symbol; None without one.

        A trade that began after the signal's bar is not meant by it, nor one of another account
        that a session of the same name began on another day.
        """
        rows = await self._services.ledger.list_trades(
            account=account,
            session=signal.session,
            strategy=signal.strategy,
            symbol=signal.symbol,
            open_only=True,
        )
        begun = [row.plan for row in rows] + [each.plan for each in found.candidates]
        meant = [
            plan.trade_id
            for plan in begun
            if (plan.strategy, plan.symbol) == (signal.strategy, signal.symbol)
            and plan.signal_time < signal.bar_time
        ]
        if not meant:
            return None
        return ExitWish(
            signal_id=signal.signal_id,
            trade_ids=tuple(dict.fromkeys(meant)),
            by=signal.strategy,
            fraction=fraction,
            reason=signal.reason,
            after=len(found.candidates),
        )

    async def _resting(self, around: Around, symbol: str) -> str:
        """Why the session's file of dates lets entries rest now; empty if it does not."""
        path, now = around.spec.events_file, around.market_now
        return await asyncio.to_thread(self._blackout, Path(path), symbol, now) if path else ""

    async def _halted(self, account: str) -> tuple[str, ...]:
        """Symbols in a halt, by the venue's clock and by its stream. Unreadable: the gate decides.

        Alpaca tells halts in its market-data stream only (ADR 0007).
        """
        services = self._services.of(account)
        try:
            told = (await services.broker.market_clock()).halted_symbols
            streamed = await services.ledger.halts(account)
        except HoldfastError as error:
            activity.logger.warning("halts were not read: %s", error.code)
            return ()
        return (*told, *(each.symbol for each in streamed))

    async def _record(self, spec: SessionSpec, decision: Decision, judged: Judged) -> None:
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
                decision=judged.word,
                code=judged.code,
                text=(judged.text or decision.reason)[:TEXT_MAX],
                signal_time=decision.bar_time,
                recorded_at=self._services.now(),
            )
        )


def _bars_until(input: DecideInput) -> datetime:
    """Now, but never past the day's close: a session that is late asks nobody about the night."""
    closes_at = None if input.day is None else input.day.closes_at
    return input.market_now if closes_at is None else min(input.market_now, closes_at)


def _whole_instants(bars: Sequence[Bar]) -> tuple[Bar, ...]:
    """The first bars, cut between two instants: the cursor is an instant, not a row."""
    if len(bars) <= BARS_MAX:
        return tuple(bars)
    last = bars[BARS_MAX - 1].end
    return tuple(bar for bar in bars if bar.end <= last)


def _around(input: DecideInput | AcceptInput, strategies: Sequence[Configured]) -> Around:
    spec = input.spec
    only = SessionDay.model_construct(opens_at=spec.opens_at, closes_at=spec.closes_at)
    return Around(
        spec=spec,
        clock=input.clock,
        market_now=input.market_now,
        day=input.day or only,
        paused=input.paused,
        disabled={each.name: each.disabled for each in strategies if each.disabled},
    )
