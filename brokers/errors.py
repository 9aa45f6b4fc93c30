"""What can go wrong between us and a venue, before any venue's words are read.

Two questions matter after a failed write: was anything sent, and is the answer usable? The two
exceptions here answer them; adapters turn them into outcomes (writes) or domain errors (reads).
"""

from __future__ import annotations

import email.utils
import math
from datetime import UTC, datetime

from domain.errors import HoldfastError, Transient, Uncertain

RETRY_AFTER_S_MAX = 60.0
TEXT_MAX = 500

NOT_CONNECTED = "NOT_CONNECTED"
RATE_LIMITED = "RATE_LIMITED"
NO_ANSWER = "NO_ANSWER"
BROKER_ERROR = "BROKER_ERROR"
BROKER_BAD_BODY = "BROKER_BAD_BODY"
BROKER_ID_TYPE = "BROKER_ID_TYPE"
AUTH_NEEDED = "AUTH_NEEDED"
FEE_INVALID = "FEE_INVALID"
DRY_RUN = "DRY_RUN"


class NotSent(Exception):
    """Provably nothing reached the venue: no connection was made (faults.md C1)."""


class Lost(Exception):
    """Something was sent and no usable answer came back (faults.md C2, C3)."""


class BadBody(ValueError):
    """The answer was not the JSON that it should be (faults.md §3 row 60)."""


def safe_text(text: object) -> str:
    """Foreign text, shortened and free of what no JSON payload or log line can carry."""
    shown = str(text)[:TEXT_MAX]
    if shown.isprintable():
        return shown
    shown = shown.encode("utf-8", "replace").decode()
    return "".join(char if char.isprintable() else " " for char in shown)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds that the venue asks to wait, within 0..60; None when it said nothing usable.

    Accepts seconds and HTTP dates. Negative, infinite and unreadable values count as missing, a
    huge one is capped: a broken proxy must not silence an exit for a day (faults.md C4).
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            asked = email.utils.parsedate_to_datetime(header)
        except (ValueError, TypeError):
            return None
        aware = asked if asked.tzinfo is not None else asked.replace(tzinfo=UTC)
        seconds = max(0.0, (aware - now).total_seconds())
    if math.isnan(seconds) or seconds < 0:
        return None
    return min(seconds, RETRY_AFTER_S_MAX)


def reset_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds until the instant of an `X-RateLimit-Reset` header (epoch), within 0..60."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 12:
        return None
    return min(max(0.0, int(header) - now.timestamp()), RETRY_AFTER_S_MAX)


def read_failure(error: NotSent | Lost | BadBody) -> HoldfastError:
    """The domain error of a read that did not work out. Reads may always be repeated."""
    text = safe_text(error)
    if isinstance(error, NotSent):
        return Transient(text, code=NOT_CONNECTED)
    if isinstance(error, Lost):
        return Transient(text, code=NO_ANSWER)
    return Transient(text, code=BROKER_BAD_BODY)


def write_failure(error: NotSent | Lost | BadBody) -> HoldfastError:
    """The domain error of a write without an outcome type (bulk cancel)."""
    if isinstance(error, NotSent):
        return Transient(safe_text(error), code=NOT_CONNECTED)
    return Uncertain(safe_text(error), code=NO_ANSWER)
