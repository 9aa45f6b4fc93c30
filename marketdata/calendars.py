"""Trading calendars as UTC instants: exchanges, around the clock, and a tape's own hours.

Time zones end here: workflows and the domain only ever see instants (style.md rule 8).
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.errors import BadInput

ALWAYS_OPEN = "24/7"
_ALWAYS_NAMES = frozenset({"24/7", "24x7", "CRYPTO"})


class TradingHours(Frozen):
    """One stretch of trading: `open` <= t < `close`. A lunch break makes two of one session."""

    session: date
    open: AwareDatetime
    close: AwareDatetime


class Calendar:
    """Answers about an ordered list of trading hours. `zone` is that of the exchange's clocks.

    Raises:
        BadInput: TIME_OUT_OF_WINDOW when asked beyond the days that it knows.
    """

    def __init__(
        self,
        name: str,
        hours: Sequence[TradingHours],
        *,
        bounded: bool = True,
        zone: tzinfo = UTC,
    ) -> None:
        self.name = name
        self.zone = zone
        self._hours = tuple(hours)
        self._opens = [stretch.open for stretch in self._hours]
        self._bounded = bounded

    def hours_at(self, at: datetime) -> TradingHours | None:
        """The stretch that contains the instant, or None while closed."""
        index = bisect_right(self._opens, at) - 1
        if index < 0 or at >= self._hours[index].close:
            return None
        return self._hours[index]

    def is_open(self, at: datetime) -> bool:
        return self.hours_at(at) is not None

    def next_open(self, at: datetime) -> datetime | None:
        """The first opening after `at`; None if there is none (a tape that has ended)."""
        index = bisect_right(self._opens, at)
        if index == len(self._hours):
            self._refuse_unknown(at)
            return None
        return self._opens[index]

    def next_close(self, at: datetime) -> datetime | None:
        """The first close after `at`; None if there is none."""
        current = self.hours_at(at)
        if current is not None:
            return current.close
        index = bisect_right(self._opens, at)
        if index == len(self._hours):
            self._refuse_unknown(at)
            return None
        return self._hours[index].close

    def session_of(self, at: datetime) -> date | None:
        """Date of the session that `at` belongs to, or None while closed."""
        current = self.hours_at(at)
        return current.session if current is not None else None

    def session_hours(self, session: date) -> tuple[TradingHours, ...]:
        """All stretches of one session, empty on a holiday."""
        return tuple(stretch for stretch in self._hours if stretch.session == session)

    def in_first_minutes(self, at: datetime, minutes: int) -> bool:
        """True in the first minutes after an opening."""
        current = self.hours_at(at)
        return current is not None and at - current.open < timedelta(minutes=minutes)

    def in_last_minutes(self, at: datetime, minutes: int) -> bool:
        """True in the last minutes before a close, the early close of a half day included."""
        current = self.hours_at(at)
        return current is not None and current.close - at <= timedelta(minutes=minutes)

    def _refuse_unknown(self, at: datetime) -> None:
        if self._bounded:
            last = self._hours[-1].close.isoformat() if self._hours else "nothing"
            raise BadInput("TIME_OUT_OF_WINDOW", "calendar", at.isoformat(), f"until {last}")


class AroundTheClock(Calendar):
    """Never closes: crypto. A session is a UTC day."""

    def __init__(self) -> None:
        super().__init__(ALWAYS_OPEN, ())

    def hours_at(self, at: datetime) -> TradingHours | None:
        day = at.astimezone(UTC).date()
        begin = datetime.combine(day, time(), tzinfo=UTC)
        return TradingHours(session=day, open=begin, close=begin + timedelta(days=1))

    def next_open(self, at: datetime) -> datetime | None:
        del at
        return None

    def next_close(self, at: datetime) -> datetime | None:
        del at
        return None

    def session_hours(self, session: date) -> tuple[TradingHours, ...]:
        begin = datetime.combine(session, time(), tzinfo=UTC)
        return (TradingHours(session=session, open=begin, close=begin + timedelta(days=1)),)

    def in_first_minutes(self, at: datetime, minutes: int) -> bool:
        del at, minutes
        return False

    def in_last_minutes(self, at: datetime, minutes: int) -> bool:
        del at, minutes
        return False


def tape_calendar(name: str, begin: datetime, end: datetime) -> Calendar:
    """The own hours of a tape: open from its first to its last instant, once."""
    hours = TradingHours(session=begin.date(), open=begin, close=end)
    return Calendar(name, (hours,), bounded=False)


def calendar_for(name: str, around: datetime) -> Calendar:
    """The calendar of an exchange (ISO 10383 code such as XNYS) for a year to each side.

    Raises:
        BadInput: CALENDAR_UNKNOWN for a name that exchange-calendars does not have.
    """
    if name in _ALWAYS_NAMES:
        return AroundTheClock()
    day = around.astimezone(UTC).date()
    # Whole years, so that asking day after day hits the cache.
    return _exchange_calendar(name, day.year - 1, day.year + 1)


@lru_cache(maxsize=16)
def _exchange_calendar(name: str, first_year: int, last_year: int) -> Calendar:
    # Imported late: pandas costs a second that most processes never need.
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        with warnings.catch_warnings():
            # exchange-calendars 4.13 still asks pandas 3.1 for values without a zone.
            warnings.simplefilter("ignore", DeprecationWarning)
            source = exchange_calendars.get_calendar(
                name, start=f"{first_year}-01-01", end=f"{last_year}-12-31"
            )
    except InvalidCalendarName:
        raise BadInput("CALENDAR_UNKNOWN", "calendar", name, "ISO 10383 code or 24/7") from None
    hours: list[TradingHours] = []
    for session, row in source.schedule.iterrows():
        opened, closed = _utc(row["open"]), _utc(row["close"])
        pauses = row["break_start"], row["break_end"]
        if pauses[0] == pauses[0]:  # NaT is not equal to itself: no lunch break
            pause_begin, pause_end = (_utc(pause) for pause in pauses)
            hours.append(TradingHours(session=session.date(), open=opened, close=pause_begin))
            opened = pause_end
        hours.append(TradingHours(session=session.date(), open=opened, close=closed))
    return Calendar(name, hours, zone=ZoneInfo(str(source.tz)))


def _utc(moment: Any) -> datetime:
    """The pandas timestamp as a plain datetime in `datetime.UTC`."""
    at: datetime = moment.to_pydatetime()
    return at.astimezone(UTC)
