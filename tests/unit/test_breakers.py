"""Two breakers: transport failures open one, a person resets the other (architecture §7)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.control import ApiBreakerState, BreakerState, TripReason
from domain.risk.breakers import (
    ApiBreaker,
    CallOutcome,
    RiskBreaker,
    at,
    blocks_entry,
    record,
    trip_reason,
)

START = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
FAIL = CallOutcome.TRANSPORT_FAILURE


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def failed(*seconds: float) -> ApiBreaker:
    breaker = ApiBreaker()
    for second in seconds:
        breaker = record(breaker, FAIL, after(second))
    return breaker


@pytest.mark.parametrize(
    ("seconds", "state"),
    [
        ((0, 1, 2, 3), ApiBreakerState.CLOSED),
        ((0, 1, 2, 3, 4), ApiBreakerState.OPEN),
        ((0, 15, 30, 45, 59.999), ApiBreakerState.OPEN),
        ((0, 15, 30, 45, 60), ApiBreakerState.CLOSED),
        ((0, 15, 30, 45, 60, 61), ApiBreakerState.OPEN),
    ],
)
def test_five_transport_failures_in_sixty_seconds_open(
    seconds: tuple[float, ...], state: ApiBreakerState
) -> None:
    assert failed(*seconds).state is state


@pytest.mark.parametrize("outcome", [CallOutcome.BUSINESS_REJECT, CallOutcome.THROTTLED])
def test_answers_of_the_venue_never_count(outcome: CallOutcome) -> None:
    breaker = ApiBreaker()
    for second in range(100):
        breaker = record(breaker, outcome, after(second))
    assert breaker == ApiBreaker()


@pytest.mark.parametrize(
    ("seconds", "state", "blocked"),
    [
        (29.999, ApiBreakerState.OPEN, True),
        (30, ApiBreakerState.HALF_OPEN, False),
        (31, ApiBreakerState.HALF_OPEN, False),
    ],
)
def test_open_turns_half_open_after_thirty_seconds(
    seconds: float, state: ApiBreakerState, blocked: bool
) -> None:
    breaker = failed(0, 0, 0, 0, 0)
    assert at(breaker, after(seconds)).state is state
    assert blocks_entry(breaker, after(seconds)) is blocked


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (CallOutcome.ANSWERED, ApiBreakerState.CLOSED),
        (CallOutcome.BUSINESS_REJECT, ApiBreakerState.CLOSED),
        (FAIL, ApiBreakerState.OPEN),
    ],
)
def test_the_next_outcome_of_a_half_open_one_decides(
    outcome: CallOutcome, state: ApiBreakerState
) -> None:
    decided = record(failed(0, 0, 0, 0, 0), outcome, after(31))
    assert decided.state is state
    assert decided.failed_at == ((after(31),) if state is ApiBreakerState.OPEN else ())
    if state is ApiBreakerState.OPEN:
        assert blocks_entry(decided, after(60))
        assert not blocks_entry(decided, after(61))


def test_a_late_success_does_not_close_an_open_breaker() -> None:
    breaker = record(failed(0, 0, 0, 0, 0), CallOutcome.ANSWERED, after(5))
    assert breaker.state is ApiBreakerState.OPEN


outcomes = st.lists(
    st.tuples(st.floats(0, 20, allow_nan=False), st.sampled_from(list(CallOutcome))), max_size=40
)


@given(outcomes)
def test_breaker_keeps_its_bounds_and_always_recovers(
    calls: list[tuple[float, CallOutcome]],
) -> None:
    """Open only after five failures of the last minute; a healthy broker always closes it."""
    breaker, second, failures = ApiBreaker(), 0.0, 0
    for wait, outcome in calls:
        second += wait
        failures += outcome is FAIL
        before = at(breaker, after(second)).state
        breaker = record(breaker, outcome, after(second))
        assert len(breaker.failed_at) < 5 or breaker.state is ApiBreakerState.OPEN
        if breaker.state is ApiBreakerState.OPEN:
            assert failures >= 5
            assert 1 <= len(breaker.failed_at) <= 5
            assert breaker.opened_at is not None
        if outcome is not FAIL:
            assert breaker.state is not ApiBreakerState.HALF_OPEN
        if before is ApiBreakerState.CLOSED and outcome is not FAIL:
            assert breaker.state is ApiBreakerState.CLOSED
    healed = record(breaker, CallOutcome.ANSWERED, after(second + 62))
    assert at(healed, after(second + 62)).state is ApiBreakerState.CLOSED


def test_missing_or_reasonless_risk_state_counts_as_tripped() -> None:
    nameless = RiskBreaker(state=BreakerState.TRIPPED)
    assert trip_reason(None) is TripReason.MISSING
    assert trip_reason(nameless) is TripReason.MISSING
