"""Outcomes that do not depend on a venue's words."""

from __future__ import annotations

from brokers.errors import NOT_CONNECTED, Lost, NotSent, safe_text
from brokers.port import NotExecuted, UnknownOutcome


def failed_write(error: NotSent | Lost) -> NotExecuted | UnknownOutcome:
    """The outcome of a write that brought no answer."""
    if isinstance(error, NotSent):
        return NotExecuted(code=NOT_CONNECTED, text=safe_text(error))
    return UnknownOutcome(reason=safe_text(error))
