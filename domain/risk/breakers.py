"""Two breakers, never one word (architecture §7).

The *risk breaker* is a latched value with a reason; a named person resets it. The *API breaker*
is a fold over transport outcomes of one broker: five transport failures inside 60 s open it,
after 30 s it is half open, and the next outcome of any call closes or re-opens it. Business
rejects are answers and never count. Both block entries only.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.control import ApiBreakerState, BreakerState, TripReason

FAILURES_TO_OPEN = 5
FAILURE_WINDOW_S = 60
OPEN_S = 30


class CallOutcome(StrEnum):
    """How one broker call ended, as far as the transport is concerned.

    `transport_failure`: timeout, connection refused or cut, 5xx, unreadable body.
    `business_reject`: the venue answered no. `throttled`: 429, the venue is there and working.
    """

    ANSWERED = "answered"
    BUSINESS_REJECT = "business_reject"
    THROTTLED = "throttled"
    TRANSPORT_FAILURE = "transport_failure"


class ApiBreaker(Frozen):
    """State of one broker's API breaker; times are wall UTC.

    `failed_at` holds the transport failures that still count, oldest first, at most five; while
    the breaker is open, those that opened it.
    """

    state: ApiBreakerState = ApiBreakerState.CLOSED
    failed_at: tuple[AwareDatetime, ...] = ()
    opened_at: AwareDatetime | None = None


def at(breaker: ApiBreaker, now: datetime) -> ApiBreaker:
    """The breaker as of `now`: open turns half-open after 30 s, old failures are forgotten."""
    if breaker.state is ApiBreakerState.OPEN:
        assert breaker.opened_at is not None, "an open breaker knows when it opened"
        if now - breaker.opened_at >= timedelta(seconds=OPEN_S):
            return ApiBreaker(state=ApiBreakerState.HALF_OPEN, opened_at=breaker.opened_at)
        return breaker
    if breaker.state is ApiBreakerState.CLOSED:
        recent = _recent(breaker.failed_at, now)
        is_plain = breaker.opened_at is None
        return breaker if is_plain and recent == breaker.failed_at else ApiBreaker(failed_at=recent)
    return breaker


def blocks_entry(breaker: ApiBreaker, now: datetime) -> bool:
    """True while no entry may be sent: five failures, and nothing to say that it is over."""
    return at(breaker, now).state is ApiBreakerState.OPEN


def record(breaker: ApiBreaker, outcome: CallOutcome, now: datetime) -> ApiBreaker:
    """The breaker after a call ended.

    A late success of a call from before the opening does not close an open breaker; only the
    half-open state listens to successes.
    """
    current = at(breaker, now)
    if outcome is not CallOutcome.TRANSPORT_FAILURE:
        # Any answer proves the transport in half-open; a reject is an answer too.
        return ApiBreaker() if current.state is ApiBreakerState.HALF_OPEN else current
    if current.state is ApiBreakerState.OPEN:
        return current
    failed_at = (*current.failed_at, now)[-FAILURES_TO_OPEN:]
    if current.state is ApiBreakerState.HALF_OPEN or len(failed_at) >= FAILURES_TO_OPEN:
        return ApiBreaker(state=ApiBreakerState.OPEN, failed_at=failed_at, opened_at=now)
    return ApiBreaker(failed_at=failed_at)


def _recent(failed_at: tuple[datetime, ...], now: datetime) -> tuple[datetime, ...]:
    return tuple(
        moment for moment in failed_at if now - moment < timedelta(seconds=FAILURE_WINDOW_S)
    )


class RiskBreaker(Frozen):
    """The latched risk breaker of one account."""

    state: BreakerState
    reason: TripReason | None = None


def trip_reason(breaker: RiskBreaker | None) -> TripReason | None:
    """Why entries are blocked, or None. Missing or reasonless state counts as tripped."""
    if breaker is None:
        return TripReason.MISSING
    if breaker.state is BreakerState.NORMAL:
        return None
    return breaker.reason or TripReason.MISSING
