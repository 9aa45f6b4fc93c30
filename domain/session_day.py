"""One trading day of a session: real hours, entry windows, the moment to be flat.

Time zones are resolved before (marketdata.calendars): only instants are known here. The close is
the real one, so on a half day windows and `flat_by` move with it (faults.md G4, row 27).
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Self

from pydantic import AwareDatetime, model_validator
from pydantic_core import PydanticCustomError

from domain.base import Frozen

FLAT_MARGIN = timedelta(minutes=5)


class EntryWindow(Frozen):
    """Entries are taken from `begins_at` until before `ends_at`."""

    begins_at: AwareDatetime
    ends_at: AwareDatetime


class SessionDay(Frozen):
    """A day as instants. `closes_at` None: open until the session is stopped.

    `windows` empty: the whole day. `next_opens_at` is the open of the day after, where it is
    known; between the two nothing can trade.
    """

    session_date: date | None = None
    opens_at: AwareDatetime
    closes_at: AwareDatetime | None = None
    next_opens_at: AwareDatetime | None = None
    windows: tuple[EntryWindow, ...] = ()

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.closes_at is not None and self.closes_at <= self.opens_at:
            raise PydanticCustomError("SESSION_HOURS", "closes_at was not after opens_at")
        return self


def window_refusal(day: SessionDay, now: datetime, first_s: int, last_s: int) -> str:
    """Why no entry may be taken at the market instant `now`; empty if one may.

    Args:
        day: the day with its real hours.
        now: market instant.
        first_s: market seconds after the open without entries.
        last_s: market seconds before the close without entries; 0: the risk gate knows the close.
    """
    if now < day.opens_at:
        return f"the session opens at {day.opens_at:%H:%M} UTC"
    if now < day.opens_at + timedelta(seconds=first_s):
        return f"first {first_s} s of the session"
    latest = None if day.closes_at is None else day.closes_at - timedelta(seconds=last_s)
    if last_s > 0 and latest is not None and now >= latest:
        return f"last {last_s} s of the session, which closes at {day.closes_at:%H:%M} UTC"
    if day.windows and not any(each.begins_at <= now < each.ends_at for each in day.windows):
        shown = ", ".join(f"{w.begins_at:%H:%M}-{w.ends_at:%H:%M}" for w in day.windows)
        return f"outside the entry windows {shown} UTC"
    return ""


def flat_by_of(day: SessionDay, wanted: datetime | None, before_close_s: int) -> datetime | None:
    """The instant by which a trade of this day must be flat; None if it may be held on.

    A strategy that counts on the usual close asks for a time at which a half day is over; nothing
    could be sold then until the next open. Such a wish moves before the real close.

    Args:
        day: the day with its real hours.
        wanted: `flat_by` of the strategy's draft.
        before_close_s: market seconds before the close at which every trade of the session is
            flat; 0: trades may be held overnight.
    """
    if day.closes_at is None:
        return wanted
    latest = None
    if before_close_s > 0:
        latest = day.closes_at - timedelta(seconds=before_close_s)
    elif wanted is not None and _while_closed(day, day.closes_at, wanted):
        latest = day.closes_at - FLAT_MARGIN
    if latest is None:
        return wanted
    return latest if wanted is None else min(wanted, latest)


def _while_closed(day: SessionDay, closes_at: datetime, at: datetime) -> bool:
    """True if the instant lies between this close and the next open."""
    if day.next_opens_at is not None:
        return closes_at <= at < day.next_opens_at
    return at >= closes_at and at.date() == closes_at.date()
