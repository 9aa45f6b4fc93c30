"""What a session says to one signal before the risk gate: named refusals (faults.md §3)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from activities.judging import Around, judge
from domain.clock import ClockMap
from domain.instrument import Instrument
from domain.order import Side
from domain.plan import FixedSize, PlanPrice, StopPlan, WalkPlan
from domain.session import SessionSpec
from domain.session_day import SessionDay
from domain.signal import PlanDraft, Signal, SignalKind, StrategyContext

D = Decimal
OPEN = datetime(2026, 3, 9, 14, 30, tzinfo=UTC)
NOW = datetime(2026, 3, 9, 16, 0, tzinfo=UTC)
SPY = Instrument(symbol="SPY")
AROUND = Around(
    spec=SessionSpec(
        name="demo",
        account="ACC1",
        strategies=("sample",),
        universe=(SPY,),
        opens_at=OPEN,
        installation="ab12",
        entry_blocked_first_s=600,
    ),
    clock=ClockMap(wall0=NOW, market0=NOW, speed=D(1)),
    market_now=NOW,
    day=SessionDay(opens_at=OPEN, closes_at=OPEN + timedelta(hours=6, minutes=30)),
)


def signal(
    kind: SignalKind = SignalKind.ENTRY, *, age_s: float = 1, symbol: str = "SPY", **changes: Any
) -> Signal:
    context = StrategyContext(
        session="demo",
        strategy="sample",
        instrument=Instrument(symbol=symbol),
        now=NOW - timedelta(seconds=age_s),
        session_open=OPEN,
    )
    draft = PlanDraft(
        size=FixedSize(quantity=D(1)),
        walk=WalkPlan(step=D("0.01"), interval_s=D(5), steps_max=2, max_time_s=D(60)),
        stop=StopPlan(price=PlanPrice(offset=D(-1))),
    )
    made = Signal.derive(
        context, Side.BUY, draft=draft if kind is SignalKind.ENTRY else None, kind=kind
    )
    return made.model_copy(update=changes)


@pytest.mark.covers("A8")
@pytest.mark.parametrize(
    ("given", "around", "word", "code"),
    [
        (signal(symbol="XXXX"), {}, "refused", "SYMBOL_UNKNOWN"),
        (signal(SignalKind.EXIT_FULL, symbol="XXXX"), {}, "refused", "SYMBOL_UNKNOWN"),
        (signal(age_s=-6), {}, "refused", "SIGNAL_FROM_FUTURE"),
        (signal(draft=None), {}, "refused", "PLAN_MISSING"),
        (signal(), {"paused": True}, "not_taken", "SESSION_PAUSED"),
        (signal(), {"disabled": {"sample": "three losses"}}, "not_taken", "STRATEGY_DISABLED"),
        (signal(age_s=61), {}, "late", "SIGNAL_LATE"),
        (signal(age_s=24 * 3600), {}, "late", "SIGNAL_LATE"),
        (signal(), {"market_now": OPEN + timedelta(seconds=599)}, "refused", "ENTRY_WINDOW"),
        (signal(), {"halted": ("SPY",)}, "refused", "HALTED"),
        (signal(SignalKind.WATCH_OPEN), {}, "watched", "MONITOR_ONLY"),
        (signal(SignalKind.WATCH_CLOSE), {"paused": True}, "watched", "MONITOR_ONLY"),
        (signal(SignalKind.EXIT_FULL, age_s=24 * 3600), {}, "late", "SIGNAL_LATE"),
    ],
)
def test_signal_is_refused_by_name(
    given: Signal, around: dict[str, Any], word: str, code: str
) -> None:
    if "market_now" in around:
        given = given.model_copy(update={"bar_time": around["market_now"]})
    judged = judge(replace(AROUND, **around), given)
    assert (judged.word, judged.code) == (word, code)
    assert (judged.plan, judged.fraction) == (None, None)


def test_good_entry_has_its_checked_plan_and_a_bad_one_the_code_of_its_fault() -> None:
    good = judge(AROUND, signal())
    assert (good.word, good.code) == ("received", "")
    assert good.plan is not None
    assert good.plan.account == "ACC1"
    wrong = signal()
    assert wrong.draft is not None
    looser = wrong.draft.model_copy(update={"stop": StopPlan(price=PlanPrice(offset=D(1)))})
    bad = judge(AROUND, wrong.model_copy(update={"draft": looser}))
    assert (bad.word, bad.code) == ("refused", "STOP_WRONG_SIDE")


@pytest.mark.parametrize(
    ("kind", "fraction"), [(SignalKind.EXIT_PARTIAL, "0.5"), (SignalKind.EXIT_FULL, "1")]
)
def test_nothing_that_stops_entries_stops_an_exit(kind: SignalKind, fraction: str) -> None:
    """Requirement 58: half or all; what takes risk away is allowed an hour."""
    around = replace(
        AROUND, paused=True, halted=("SPY",), disabled={"sample": "off"}, market_now=NOW
    )
    judged = judge(around, signal(kind, age_s=3599))
    assert (judged.word, judged.fraction) == ("received", D(fraction))
