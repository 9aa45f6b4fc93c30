"""What a session does with one signal, before the risk gate. Pure but for what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from domain.clock import ClockMap
from domain.entry import is_late
from domain.errors import BadInput
from domain.instrument import Instrument
from domain.money import ONE
from domain.plan import TradePlan
from domain.session import SessionSpec
from domain.session_day import SessionDay, flat_by_of, window_refusal
from domain.signal import Signal, SignalKind, plan_of
from domain.validation import PlanContext, check_plan

TEXT_MAX = 2000
RECEIVED = "received"
PARTIAL_EXIT_FRACTION = Decimal("0.5")
# An exit takes risk away, so it may be older than an entry; yesterday's is refused all the same.
EXIT_AGE_S_MAX = Decimal(3600)
AHEAD_WALL_S_MAX = 5.0


@dataclass(frozen=True)
class Around:
    """What is known around a signal when it is judged.

    `halted`: symbols in a trading halt; `disabled`: strategies that may not enter, with why;
    `blackout`: why entries rest around a macro or earnings date, empty if they do not.
    """

    spec: SessionSpec
    clock: ClockMap
    market_now: datetime
    day: SessionDay
    paused: bool = False
    halted: tuple[str, ...] = ()
    disabled: Mapping[str, str] = field(default_factory=dict)
    blackout: str = ""


@dataclass(frozen=True)
class Judged:
    """The decision in the words of the ledger; `received`: it may become what it wants to be.

    Then an entry has its `plan`, an exit the `fraction` of its open trade that it closes.
    """

    word: str
    code: str = ""
    text: str = ""
    plan: TradePlan | None = None
    fraction: Decimal | None = None


def judge(around: Around, signal: Signal) -> Judged:
    """Named refusals of faults.md §3 first, then what the kind of the signal asks for."""
    instrument = next((i for i in around.spec.universe if i.symbol == signal.symbol), None)
    ahead_s = (signal.bar_time - around.market_now) / timedelta(seconds=1)
    if instrument is None:
        return Judged("refused", "SYMBOL_UNKNOWN", f"{signal.symbol} is not in the universe")
    if around.clock.wall_duration_s(max(ahead_s, 0.0)) > AHEAD_WALL_S_MAX:
        return Judged("refused", "SIGNAL_FROM_FUTURE", f"its bar ends in {ahead_s:.0f} s")
    match signal.kind:
        case SignalKind.WATCH_OPEN | SignalKind.WATCH_CLOSE:
            return Judged("watched", "MONITOR_ONLY", signal.reason)
        case SignalKind.EXIT_PARTIAL | SignalKind.EXIT_FULL:
            return _judge_exit(around, signal)
        case SignalKind.ENTRY:
            return _judge_entry(around, signal, instrument)


def _judge_exit(around: Around, signal: Signal) -> Judged:
    """Exits take risk away: neither a pause nor a window nor a disabled strategy stops them."""
    if is_late(signal.bar_time, around.market_now, EXIT_AGE_S_MAX):
        return Judged("late", "SIGNAL_LATE", f"older than {EXIT_AGE_S_MAX} s")
    partial = signal.kind is SignalKind.EXIT_PARTIAL
    return Judged(RECEIVED, fraction=PARTIAL_EXIT_FRACTION if partial else ONE)


def _judge_entry(around: Around, signal: Signal, instrument: Instrument) -> Judged:
    spec, now, draft = around.spec, around.market_now, signal.draft
    if draft is None:
        return Judged("refused", "PLAN_MISSING", "an entry needs the draft of a plan")
    if around.paused:
        return Judged("not_taken", "SESSION_PAUSED", "the session takes no signals now")
    if signal.strategy in around.disabled:
        return Judged("not_taken", "STRATEGY_DISABLED", around.disabled[signal.strategy])
    if is_late(signal.bar_time, now, draft.signal_max_age_s):
        return Judged("late", "SIGNAL_LATE", f"older than {draft.signal_max_age_s} s")
    closed = window_refusal(around.day, now, spec.entry_blocked_first_s, spec.entry_blocked_last_s)
    if closed:
        return Judged("refused", "ENTRY_WINDOW", closed)
    if signal.symbol in around.halted:
        return Judged("refused", "HALTED", f"{signal.symbol} is halted")
    if around.blackout:
        return Judged("refused", "BLACKOUT", around.blackout)
    # The real close of the day, not the one the strategy counts on (faults.md G4).
    flat_by = flat_by_of(around.day, draft.flat_by, spec.flat_before_close_s)
    in_time = signal.model_copy(update={"draft": draft.model_copy(update={"flat_by": flat_by})})
    try:
        plan = plan_of(in_time, instrument, spec.account, config_version=spec.config_version)
        context = PlanContext(market_now=now, session_date=now.date(), clock_map=around.clock)
        return Judged(RECEIVED, plan=check_plan(plan, context))
    except (BadInput, ValueError) as error:
        code = getattr(error, "code", "PLAN_INVALID")
        return Judged("refused", code, str(error)[:TEXT_MAX])
