"""Days and instants as a person types them; a day means midnight in a named zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo

from domain.errors import BadInput


def instant_of(text: str, field: str, zone: tzinfo = UTC) -> datetime:
    """A day (its midnight in `zone`) or an ISO instant with its offset.

    Raises:
        BadInput: DATE_INVALID.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput("DATE_INVALID", field, text, _ALLOWED) from None
    if at.tzinfo is not None:
        return at
    if len(text) > len("YYYY-MM-DD"):
        # An instant without its zone is a guess.
        raise BadInput("DATE_INVALID", field, text, _ALLOWED)
    return at.replace(tzinfo=zone)


def day_of(text: str, field: str) -> date:
    """A day as `YYYY-MM-DD`.

    Raises:
        BadInput: DATE_INVALID.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInput("DATE_INVALID", field, text, "YYYY-MM-DD") from None


def month_of(text: str, field: str) -> date:
    """The first day of a month given as `YYYY-MM`.

    Raises:
        BadInput: DATE_INVALID.
    """
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        raise BadInput("DATE_INVALID", field, text, "YYYY-MM") from None


def bounds(first: date, after: date, zone: tzinfo) -> tuple[datetime, datetime]:
    """Midnight of `first` and midnight of `after` in `zone`: what lies between is theirs."""
    at = datetime.min.time()
    return datetime.combine(first, at, zone), datetime.combine(after, at, zone)


def next_month(first: date) -> date:
    """The first day of the month after the one that begins with `first`."""
    return (first + timedelta(days=31)).replace(day=1)


_ALLOWED = "YYYY-MM-DD, or an instant with its offset: 2026-03-02T15:00:00Z"
