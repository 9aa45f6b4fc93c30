"""Days, windows and requests of a session: pure rules and calendars (faults.md G4, row 27)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from activities.judging import Around, judge
from domain.clock import ClockMap
from domain.errors import BadInput
from domain.instrument import Instrument
from domain.order import Side
from domain.plan import FixedSize, PlanPrice, StopPlan, WalkPlan
from domain.session import SessionCounts, SessionRequest, SessionSpec, SessionState
from domain.session_day import EntryWindow, SessionDay, flat_by_of, window_refusal
from domain.session_orders import SessionVerb, obey, request_fault
from domain.signal import PlanDraft, Signal, SignalKind
from marketdata.session_days import check_days, next_day, window_times

OPEN = datetime(2025, 11, 28, 14, 30, tzinfo=UTC)
HALF_DAY = SessionDay(
    session_date=date(2025, 11, 28),
    opens_at=OPEN,
    closes_at=OPEN + timedelta(hours=3, minutes=30),
    next_opens_at=datetime(2025, 12, 1, 14, 30, tzinfo=UTC),
)


def spec_of(**changes: object) -> SessionSpec:
    values: dict[str, object] = {
        "name": "week",
        "account": "demo",
        "strategies": ("s",),
        "universe": (Instrument(symbol="AAPL"),),
        "opens_at": OPEN,
        "installation": "abcd",
    }
    return SessionSpec.model_validate(values | changes)


def days_of(spec: SessionSpec, now: datetime) -> list[SessionDay]:
    """All days that a session asks for, one after the other."""
    found: list[SessionDay] = []
    while (day := next_day(spec, now, found[-1].opens_at if found else None)) is not None:
        found.append(day)
        assert day.closes_at is not None
        now = day.closes_at
    return found


def test_calendar_session_skips_the_holiday_and_ends_the_half_day_at_its_real_close() -> None:
    spec = spec_of(calendar="XNYS", last_day=date(2025, 12, 1))
    days = days_of(spec, datetime(2025, 11, 26, 15, tzinfo=UTC))
    assert [day.session_date for day in days] == [
        date(2025, 11, 26),
        date(2025, 11, 28),
        date(2025, 12, 1),
    ]
    assert days[1].closes_at == datetime(2025, 11, 28, 18, tzinfo=UTC)
    assert days[0].next_opens_at == days[1].opens_at


def test_session_started_in_the_evening_begins_with_the_next_day() -> None:
    day = next_day(spec_of(calendar="XNYS"), datetime(2025, 11, 26, 22, tzinfo=UTC), None)
    assert day is not None
    assert day.session_date == date(2025, 11, 28)


def test_first_day_is_waited_for_and_round_the_clock_days_follow_without_a_gap() -> None:
    now = datetime(2025, 11, 26, 15, tzinfo=UTC)
    later = next_day(spec_of(calendar="XNYS", first_day=date(2025, 12, 3)), now, None)
    assert later is not None
    assert later.session_date == date(2025, 12, 3)
    one, two = days_of(spec_of(calendar="24/7", last_day=date(2025, 11, 27)), now)
    assert one.closes_at == two.opens_at == one.next_opens_at


def test_session_without_calendar_has_one_day_and_stated_days_come_in_order() -> None:
    only = next_day(spec_of(closes_at=OPEN + timedelta(hours=1)), OPEN, None)
    assert only is not None
    assert next_day(spec_of(), OPEN, only.opens_at) is None
    stated = tuple(
        SessionDay(opens_at=at, closes_at=at + timedelta(hours=1))
        for at in (OPEN, OPEN + timedelta(days=1))
    )
    assert days_of(spec_of(days=stated), OPEN) == list(stated)


@pytest.mark.covers("G5")
def test_windows_are_local_times_across_the_change_of_the_clocks() -> None:
    """The US left summer time on 2025-11-02: 09:45 is another instant the day after."""
    spec = spec_of(calendar="XNYS", last_day=date(2025, 11, 3), entry_windows=("09:45-11:30",))
    friday, monday = days_of(spec, datetime(2025, 10, 31, 10, tzinfo=UTC))
    assert friday.windows[0].begins_at == datetime(2025, 10, 31, 13, 45, tzinfo=UTC)
    assert monday.windows[0].begins_at == datetime(2025, 11, 3, 14, 45, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "09:45", "11:30-09:45", "9-10", "09:45-09:45", "a-b"])
def test_window_that_is_no_span_of_a_day_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="WINDOW_FORMAT"):
        window_times(text)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"calendar": "XXXX"}, "CALENDAR_UNKNOWN"),
        ({"calendar": "XNYS", "last_day": date(2020, 1, 1)}, "SESSION_DAYS"),
        ({"calendar": "XNYS", "entry_windows": ("x",)}, "WINDOW_FORMAT"),
        ({"entry_windows": ("10:00",)}, "WINDOW_FORMAT"),
    ],
)
def test_session_that_could_never_run_is_refused_before_it_starts(
    changes: dict[str, object], code: str
) -> None:
    with pytest.raises(BadInput) as raised:
        check_days(spec_of(**changes), OPEN)
    assert raised.value.code == code


def test_day_that_closes_before_it_opens_does_not_exist() -> None:
    with pytest.raises(ValidationError, match="closes_at"):
        SessionDay(opens_at=OPEN, closes_at=OPEN)


@pytest.mark.parametrize(
    ("minute", "refused"),
    [(-1, True), (0, True), (4.99, True), (5, False), (179, False), (180, True), (209, True)],
)
def test_no_entry_in_the_first_and_last_minutes_of_the_real_day(
    minute: float, refused: bool
) -> None:
    at = OPEN + timedelta(minutes=minute)
    assert bool(window_refusal(HALF_DAY, at, 300, 1800)) is refused


def test_entries_are_taken_inside_any_of_several_windows_only() -> None:
    windows = tuple(
        EntryWindow(begins_at=OPEN + timedelta(minutes=a), ends_at=OPEN + timedelta(minutes=b))
        for a, b in ((15, 60), (120, 150))
    )
    day = HALF_DAY.model_copy(update={"windows": windows})
    taken = [
        minute
        for minute in range(0, 200, 5)
        if not window_refusal(day, OPEN + timedelta(minutes=minute), 0, 0)
    ]
    assert taken == [*range(15, 60, 5), *range(120, 150, 5)]


def test_flat_by_after_the_early_close_moves_before_it() -> None:
    """A strategy that counts on 16:00 must not hold over the weekend by accident (G4)."""
    assert HALF_DAY.closes_at is not None
    usual = OPEN + timedelta(hours=6, minutes=26)
    assert flat_by_of(HALF_DAY, usual, 0) == HALF_DAY.closes_at - timedelta(minutes=5)
    next_week = datetime(2025, 12, 2, 15, tzinfo=UTC)
    assert flat_by_of(HALF_DAY, next_week, 0) == next_week
    assert flat_by_of(HALF_DAY, None, 0) is None
    early = OPEN + timedelta(hours=1)
    assert flat_by_of(HALF_DAY, early, 600) == early
    assert flat_by_of(HALF_DAY, None, 600) == HALF_DAY.closes_at - timedelta(minutes=10)
    endless = SessionDay(opens_at=OPEN)
    assert flat_by_of(endless, usual, 600) == usual


def request(command_id: str = "c", **changes: object) -> SessionRequest:
    return SessionRequest.model_validate({"command_id": command_id, "by": "ann"} | changes)


def test_each_change_counts_the_version_and_a_repeat_changes_nothing() -> None:
    state, first = obey(SessionState(), SessionVerb.PAUSE, request("a", reason="news"))
    again, second = obey(state, SessionVerb.PAUSE, request("a"))
    assert (first.changed, first.version, state.paused) == (True, 1, "news")
    assert (second.changed, second.version, again) == (False, 1, state)
    resumed, third = obey(state, SessionVerb.RESUME, request("b"))
    assert (third.version, resumed.paused) == (2, "")
    _, fourth = obey(resumed, SessionVerb.RESUME, request("d"))
    assert (fourth.changed, fourth.text) == (False, "it was not paused")


def test_stopping_session_is_not_paused_and_flatten_may_still_be_asked() -> None:
    state, _ = obey(SessionState(), SessionVerb.STOP, request("a"))
    assert state.stopping == "stopped by ann"
    assert not obey(state, SessionVerb.PAUSE, request("b"))[1].changed
    assert not obey(state, SessionVerb.STOP, request("c"))[1].changed
    flat, receipt = obey(state, SessionVerb.STOP, request("d", flatten=True))
    assert (flat.flatten, receipt.changed) == (True, True)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (request(version=2), "VERSION_CONFLICT"),
        (request(version=3), ""),
        (request("seen", version=1), ""),
        (request(""), "FIELD_REQUIRED"),
        (request(by=""), "FIELD_REQUIRED"),
        (request(reason="x" * 501), "REASON_TOO_LONG"),
    ],
)
def test_stale_or_empty_requests_are_refused_a_repeat_is_not(
    asked: SessionRequest, code: str
) -> None:
    state = SessionState(version=3, seen=("seen",))
    assert request_fault(state, asked).partition(" ")[0] == code


def test_counts_of_a_day_are_the_difference() -> None:
    earlier = SessionCounts(bars=3, taken=1)
    assert SessionCounts(bars=5, taken=1, late=2).minus(earlier) == SessionCounts(bars=2, late=2)


def entry_signal(**changes: object) -> Signal:
    draft = PlanDraft(
        size=FixedSize(quantity=Decimal(10)),
        walk=WalkPlan(
            step=Decimal("0.05"),
            interval_s=Decimal(5),
            steps_max=2,
            worst_offset=Decimal(1),
            max_time_s=Decimal(30),
        ),
        stop=StopPlan(price=PlanPrice(offset=Decimal(-2))),
        flat_by=OPEN + timedelta(hours=6, minutes=26),
    )
    values = {
        "signal_id": "week-1440-1",
        "session": "week",
        "strategy": "s",
        "symbol": "AAPL",
        "side": Side.BUY,
        "bar_time": OPEN + timedelta(minutes=10),
        "draft": draft,
    }
    return Signal.model_validate(values | changes)


def around(minute: float = 10, **changes: Any) -> Around:
    spec = spec_of(entry_blocked_first_s=300, entry_blocked_last_s=1800)
    now = OPEN + timedelta(minutes=minute)
    known = Around(spec, ClockMap(wall0=now, market0=now), now, HALF_DAY)
    return replace(known, **changes)


def test_entry_is_flat_before_the_real_close_of_its_day() -> None:
    judged = judge(around(), entry_signal())
    assert judged.plan is not None
    assert HALF_DAY.closes_at is not None
    assert judged.plan.flat_by == HALF_DAY.closes_at - timedelta(minutes=5)


@pytest.mark.parametrize(
    ("known", "code"),
    [
        (around(2), "ENTRY_WINDOW"),
        (around(halted=("AAPL",)), "HALTED"),
        (around(halted=("MSFT",)), ""),
        (around(blackout="CPI at 14:45 UTC"), "BLACKOUT"),
        (around(paused=True, blackout="CPI"), "SESSION_PAUSED"),
    ],
)
def test_entry_outside_window_in_a_halt_or_in_a_blackout_is_refused_by_name(
    known: Around, code: str
) -> None:
    late = known.market_now - timedelta(seconds=1)
    assert judge(known, entry_signal(bar_time=late)).code == code


@pytest.mark.parametrize(
    "known", [around(2), around(halted=("AAPL",)), around(blackout="CPI"), around(paused=True)]
)
def test_exit_signal_passes_windows_halts_blackouts_and_pause(known: Around) -> None:
    late = known.market_now - timedelta(seconds=1)
    signal = entry_signal(kind=SignalKind.EXIT_FULL, bar_time=late, draft=None)
    assert judge(known, signal).fraction == 1
