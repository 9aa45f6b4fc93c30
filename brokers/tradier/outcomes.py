"""Tradier's HTTP answers as outcomes (tradier.md §5, §10). Pure.

The rule: only an answer that the venue itself must have written counts as definite. Everything
that a proxy, a cut or a bug could have written after a send is an unknown outcome, and as there is
no key of repetition it stays unknown until the order is found or proven absent.
"""

from __future__ import annotations

import re
from datetime import datetime

from brokers.errors import (
    AUTH_NEEDED,
    BROKER_BAD_BODY,
    BROKER_ERROR,
    RATE_LIMITED,
    RETRY_AFTER_S_MAX,
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
    NotCancelable,
    NotExecuted,
    OrderNotFound,
    PlaceOutcome,
    Rejected,
    UnknownOutcome,
)
from brokers.tradier.mapping import order_row, taken_snapshot
from brokers.tradier.wire import OrderId, cleaned
from brokers.transport import Reply
from brokers.wire import Wire, read_wire
from domain.errors import HoldfastError, Refused, Transient, Uncertain
from domain.order import OrderIntent

RATE_EXPIRY = "x-ratelimit-expiry"
INVALID_PARAMETER = "INVALID_PARAMETER"
_INVALID = re.compile(r"\s*Invalid parameter\b", re.IGNORECASE)
_FINAL = re.compile(r"finalized state|already (?:filled|canceled|expired|rejected)", re.IGNORECASE)
_FOREIGN = re.compile(r"\s*Unauthorized Account\b", re.IGNORECASE)
_CODE = re.compile(r"\b([A-Z][a-z]+(?:[A-Z][A-Za-z0-9]*)+)\b")
_MAYBE_DONE = frozenset({"OmsUnavailable", "OmsInternalError"})
_TEXT_MAX = 400


class WireTaken(Wire):
    id: OrderId
    status: str = ""


def write_outcome(reply: Reply, intent: OrderIntent, now: datetime) -> PlaceOutcome:
    """The outcome of a POST of this order, or of a PUT that gives it these prices."""
    if reply.status == 429 or is_quota(reply):
        return _rate_limited(reply, now)
    if reply.status in (401, 403):
        return AuthNeeded(text=text_of(reply))
    if reply.is_success:
        return _taken(reply, intent)
    if reply.status == 400 and _is_plain(reply):
        code = INVALID_PARAMETER if _INVALID.match(text_of(reply)) else _code(text_of(reply))
        return Rejected(code=code, text=text_of(reply))
    return UnknownOutcome(reason=f"{BROKER_ERROR}: HTTP {reply.status}")


def _taken(reply: Reply, intent: OrderIntent) -> PlaceOutcome:
    try:
        body = reply.json()
        refusals = refusals_in(body)
        if not refusals:
            taken = read_wire(WireTaken, cleaned(order_row(body)))
    except BadBody as error:
        return UnknownOutcome(reason=f"{BROKER_BAD_BODY}: {error}")
    except Uncertain as error:
        return UnknownOutcome(reason=f"{error.code}: {error}")
    if refusals:
        code = _code(refusals)
        if code in _MAYBE_DONE:
            return UnknownOutcome(reason=f"{code}: {refusals}")
        return Rejected(code=code, text=refusals)
    if taken.status != "ok":
        return UnknownOutcome(reason=f"{BROKER_BAD_BODY}: status was {safe_text(taken.status)!r}")
    return Accepted(order=taken_snapshot(taken.id, intent))


def cancel_outcome(reply: Reply, now: datetime) -> CancelOutcome:
    """The outcome of a DELETE of one order."""
    if reply.status == 429 or is_quota(reply):
        return _rate_limited(reply, now)
    if is_foreign(reply):
        return OrderNotFound(text=text_of(reply))
    if reply.status in (401, 403):
        return AuthNeeded(text=text_of(reply))
    if reply.status == 400 and _is_plain(reply) and _FINAL.search(text_of(reply)):
        return NotCancelable(text=text_of(reply))
    if not reply.is_success:
        return UnknownOutcome(reason=f"{BROKER_ERROR}: HTTP {reply.status} {text_of(reply)}")
    try:
        refusals = refusals_in(reply.json())
    except BadBody as error:
        return UnknownOutcome(reason=f"{BROKER_BAD_BODY}: {error}")
    if not refusals:
        return CancelRequested()
    if _FINAL.search(refusals):
        return NotCancelable(text=refusals)
    return UnknownOutcome(reason=refusals)


def refused_read(reply: Reply, now: datetime) -> HoldfastError:
    """The domain error of a read that was not answered with 2xx."""
    text = text_of(reply)
    if reply.status == 429 or is_quota(reply):
        return Transient(text, code=RATE_LIMITED, retry_after_s=_wait_s(reply, now))
    if reply.status in (401, 403):
        return Refused(text, code=AUTH_NEEDED)
    if reply.status == 400 and _is_plain(reply):
        return Refused(text, code=INVALID_PARAMETER if _INVALID.match(text) else _code(text))
    return Transient(f"HTTP {reply.status} {text}", code=BROKER_ERROR)


def is_foreign(reply: Reply) -> bool:
    """True for the answer to an id that is not of this account, or to a wrong account.

    The venue has one answer for both; only the profile tells which it was (tradier.md §5).
    """
    return reply.status == 401 and _FOREIGN.match(text_of(reply)) is not None


def is_quota(reply: Reply) -> bool:
    """True if the gateway in front of the venue has counted too many requests."""
    return "ratelimit" in _fault_code(reply).lower()


def refusals_in(body: object) -> str:
    """The texts of `{"errors": {"error": …}}`, which comes with HTTP 200; empty without any."""
    held = body.get("errors") if isinstance(body, dict) else None
    found = held.get("error") if isinstance(held, dict) else held
    texts = found if isinstance(found, list) else [found] if found else []
    return safe_text("; ".join(str(text) for text in texts))


def text_of(reply: Reply) -> str:
    """The venue's own words: plain text, the fault of its gateway, or the HTTP status."""
    fault = _fault(reply).get("faultstring")
    if isinstance(fault, str):
        return safe_text(fault)
    text = reply.content[:_TEXT_MAX].decode("utf-8", "replace").strip()
    return safe_text(text) if text and _is_plain(reply) else f"HTTP {reply.status}"


def _is_plain(reply: Reply) -> bool:
    """True for a line of text or JSON, False for a page of a proxy or nothing."""
    start = reply.content[:64].lstrip()
    return bool(start) and not start.startswith(b"<")


def _fault(reply: Reply) -> dict[str, object]:
    try:
        body = reply.json()
    except BadBody:
        return {}
    fault = body.get("fault") if isinstance(body, dict) else None
    return fault if isinstance(fault, dict) else {}


def _fault_code(reply: Reply) -> str:
    detail = _fault(reply).get("detail")
    return str(detail.get("errorcode", "")) if isinstance(detail, dict) else ""


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found.group(1) if found is not None else "REJECTED"


def _rate_limited(reply: Reply, now: datetime) -> NotExecuted:
    return NotExecuted(code=RATE_LIMITED, text=text_of(reply), retry_after_s=_wait_s(reply, now))


def _wait_s(reply: Reply, now: datetime) -> float | None:
    """Seconds to wait: `Retry-After`, or the end of the window in epoch milliseconds."""
    asked = retry_after_s(reply.headers.get("retry-after"), now)
    if asked is not None:
        return asked
    expiry = reply.headers.get(RATE_EXPIRY, "")
    wait = reset_after_s(expiry[:-3] if len(expiry) == 13 else expiry, now)
    return None if wait is None else min(wait, RETRY_AFTER_S_MAX)
