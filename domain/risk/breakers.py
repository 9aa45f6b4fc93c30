"""Two breakers, never one word (architecture §7).

The *risk breaker* is a latched value with a reason; a named person resets it. The *API breaker*
is a fold over transport outcomes of one broker: five transport failures inside 60 s open it,
after 30 s one probe may pass, its outcome closes or re-opens. Business rejects are answers and
never count. Both block entries only.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.control import ApiBreakerState, BreakerState, TripReason
from domain.errors import Refused

FAILURES_TO_OPEN = 5
FAILURE_WINDOW_S = 60
OPEN_S = 30
PROBE_ANSWER_S = 30


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
    `probe_at` is when the one probe of the half-open state was let through.
    """

    state: ApiBreakerState = ApiBreakerState.CLOSED
    failed_at: tuple[AwareDatetime, ...] = ()
    opened_at: AwareDatetime | None = None
    probe_at: AwareDatetime | None = None


def at(breaker: ApiBreaker, now: datetime) -> ApiBreaker:
    """The breaker as of `now`: open turns half-open after 30 s, old failures are forgotten."""
    if breaker.state is ApiBreakerState.OPEN:
        assert breaker.opened_at is not None, "an open breaker knows when it opened"
        if now - breaker.opened_at >= timedelta(seconds=OPEN_S):
            return ApiBreaker(state=ApiBreakerState.HALF_OPEN, opened_at=breaker.opened_at)
        return breaker
    if breaker.state is ApiBreakerState.CLOSED:
        recent = _recent(breaker.failed_at, now)
        is_plain = breaker.opened_at is None and breaker.probe_at is None
        return breaker if is_plain and recent == breaker.failed_at else ApiBreaker(failed_at=recent)
    if breaker.probe_at is not None and _probe_lost(breaker.probe_at, now):
        # The probe's owner died: another may try, else the breaker would stay shut for ever.
        return breaker.model_copy(update={"probe_at": None})
    return breaker


def blocks_entry(breaker: ApiBreaker, now: datetime) -> bool:
    """True while no entry may be sent: open, or half-open with the probe already out."""
    current = at(breaker, now)
    if current.state is ApiBreakerState.CLOSED:
        return False
    return current.state is ApiBreakerState.OPEN or current.probe_at is not None


def take_probe(breaker: ApiBreaker, now: datetime) -> ApiBreaker:
    """Marks the one probe of the half-open state as taken; no change when closed.

    Raises:
        Refused: `API_BREAKER_OPEN` when no call may pass.
    """
    current = at(breaker, now)
    if blocks_entry(current, now):
        raise Refused(f"the API breaker was {current.state}", code="API_BREAKER_OPEN")
    if current.state is ApiBreakerState.HALF_OPEN:
        return current.model_copy(update={"probe_at": now})
    return current


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


def _probe_lost(probe_at: datetime, now: datetime) -> bool:
    return now - probe_at >= timedelta(seconds=PROBE_ANSWER_S)


class RiskBreaker(Frozen):
    """The latched risk breaker of one account."""

    state: BreakerState
    reason: TripReason | None = None
    text: str = ""
    changed_at: AwareDatetime
    changed_by: str = ""


def trip(breaker: RiskBreaker | None, reason: TripReason, now: datetime, text: str) -> RiskBreaker:
    """Trips the breaker. The first reason stays: later ones do not hide why it began."""
    if breaker is not None and breaker.state is BreakerState.TRIPPED:
        return breaker
    return RiskBreaker(
        state=BreakerState.TRIPPED, reason=reason, text=text, changed_at=now, changed_by="holdfast"
    )


def reset(breaker: RiskBreaker | None, by: str, now: datetime, text: str) -> RiskBreaker:
    """Back to NORMAL by a named person with a reason.

    Raises:
        Refused: `RESET_NEEDS_PERSON` without a name, `REASON_REQUIRED` without a reason.
    """
    if not by.strip() or by.strip() == "holdfast":
        raise Refused("a breaker is reset by a named person", code="RESET_NEEDS_PERSON")
    if not text.strip():
        raise Refused("the reason was blank", code="REASON_REQUIRED")
    return RiskBreaker(
        state=BreakerState.NORMAL, text=text.strip(), changed_at=now, changed_by=by.strip()
    )


def trip_reason(breaker: RiskBreaker | None) -> TripReason | None:
    """Why entries are blocked, or None. Missing or reasonless state counts as tripped."""
    if breaker is None:
        return TripReason.MISSING
    if breaker.state is BreakerState.NORMAL:
        return None
    return breaker.reason or TripReason.MISSING
