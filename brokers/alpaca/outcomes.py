"""Alpaca's HTTP answers as outcomes (brokers/alpaca.md §9). Pure.

The rule: only an answer that the venue itself must have written counts as definite. Everything
that a proxy, a cut or a bug could have written after a send is an unknown outcome.
"""

from __future__ import annotations

import re
from datetime import datetime

from brokers.alpaca.mapping import order_snapshot
from brokers.errors import (
    AUTH_NEEDED,
    BROKER_BAD_BODY,
    BROKER_ERROR,
    BROKER_ID_TYPE,
    RATE_LIMITED,
    BadBody,
    reset_after_s,
    retry_after_s,
    safe_text,
)
from brokers.port import (
    Accepted,
    AuthNeeded,
    CancelOutcome,
    CancelRequested,
    Duplicate,
    NotCancelable,
    NotExecuted,
    OrderNotFound,
    PlaceOutcome,
    Rejected,
    UnknownOutcome,
)
from brokers.transport import Reply
from domain.errors import HoldfastError, Refused, Transient, Uncertain

RATE_RESET = "x-ratelimit-reset"
DUPLICATE_CODE = "40010001"
_MUST_BE_UNIQUE = re.compile(r"client[_ ]order[_ ]id must be unique", re.IGNORECASE)
_EXTRA_FIELDS = ("existing_qty", "held_for_orders", "available", "cost_basis", "buying_power")
_DEFINITE_NO = frozenset({400, 403, 404, 409, 422})


def place_outcome(reply: Reply, client_id: str, now: datetime) -> PlaceOutcome:
    """The outcome of a POST or PATCH of the order with this client id."""
    if reply.is_success:
        return _accepted(reply, client_id)
    if reply.status == 429:
        return _rate_limited(reply, now)
    if reply.status == 401:
        return AuthNeeded(text=_error(reply)[1])
    if reply.status not in _DEFINITE_NO:
        return UnknownOutcome(reason=f"{BROKER_ERROR}: HTTP {reply.status}")
    code, text = _error(reply)
    if code is None and reply.status == 403 and _is_json(reply):
        return AuthNeeded(text=text)
    if code is None:
        # Not the venue's own error body: a proxy may have answered for an order that landed.
        return UnknownOutcome(reason=f"{BROKER_BAD_BODY}: HTTP {reply.status} without a code")
    # The code alone is generic bad input; only with the text is it the duplicate answer.
    if reply.status == 422 and code == DUPLICATE_CODE and _MUST_BE_UNIQUE.search(text):
        return Duplicate(text=text)
    return Rejected(code=code, text=text)


def cancel_outcome(reply: Reply, now: datetime) -> CancelOutcome:
    """The outcome of a DELETE of one order."""
    if reply.is_success:
        return CancelRequested()
    if reply.status == 404:
        return OrderNotFound(text=_error(reply)[1])
    if reply.status == 422:
        return NotCancelable(text=_error(reply)[1])
    if reply.status == 429:
        return _rate_limited(reply, now)
    if reply.status in (401, 403):
        return AuthNeeded(text=_error(reply)[1])
    return UnknownOutcome(reason=f"{BROKER_ERROR}: HTTP {reply.status}")


def refused_read(reply: Reply, now: datetime) -> HoldfastError:
    """The domain error of a read that was not answered with 2xx."""
    code, text = _error(reply)
    if reply.status == 429:
        wait = _wait_s(reply, now)
        return Transient(text, code=RATE_LIMITED, retry_after_s=wait)
    if reply.status == 401 or (reply.status == 403 and code is None):
        return Refused(text, code=AUTH_NEEDED)
    if reply.status in _DEFINITE_NO and code is not None:
        return Refused(text, code=code)
    return Transient(f"HTTP {reply.status} {text}", code=BROKER_ERROR)


def failed_bulk_write(reply: Reply, now: datetime) -> HoldfastError:
    """The domain error of a bulk cancel that was not answered with 2xx."""
    error = refused_read(reply, now)
    if isinstance(error, Transient) and error.code != RATE_LIMITED:
        return Uncertain(error.text, code=error.code)
    return error


def _accepted(reply: Reply, client_id: str) -> Accepted | UnknownOutcome:
    try:
        order = order_snapshot(reply.json())
    except BadBody as error:
        return UnknownOutcome(reason=f"{BROKER_BAD_BODY}: {error}")
    except Uncertain as error:
        return UnknownOutcome(reason=f"{error.code}: {error}")
    if order.client_id != client_id:
        return UnknownOutcome(reason=f"{BROKER_ID_TYPE}: the answer was about another client id")
    return Accepted(order=order)


def _rate_limited(reply: Reply, now: datetime) -> NotExecuted:
    return NotExecuted(code=RATE_LIMITED, text=_error(reply)[1], retry_after_s=_wait_s(reply, now))


def _wait_s(reply: Reply, now: datetime) -> float | None:
    asked = retry_after_s(reply.headers.get("retry-after"), now)
    return asked if asked is not None else reset_after_s(reply.headers.get(RATE_RESET), now)


def _is_json(reply: Reply) -> bool:
    try:
        reply.json()
    except BadBody:
        return False
    return True


def _error(reply: Reply) -> tuple[str | None, str]:
    """The venue's error code (None if the body carries none) and its text with the numbers."""
    try:
        body = reply.json()
    except BadBody:
        return None, f"HTTP {reply.status} with an unreadable body"
    if not isinstance(body, dict):
        return None, f"HTTP {reply.status}"
    code = body.get("code")
    known = code if isinstance(code, int | str) and not isinstance(code, bool) else None
    message = body.get("message")
    parts = [message if isinstance(message, str) else f"HTTP {reply.status}"]
    parts += [f"{name}={body[name]}" for name in _EXTRA_FIELDS if name in body]
    return (safe_text(known) if known is not None else None), safe_text(" ".join(parts))
