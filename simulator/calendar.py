"""Sessions of the exchange: is it open, when does it open and close next."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from simulator.config import CalendarConfig, SessionHours

SEARCH_DAYS_MAX = 400


class SessionCalendar:
    """Answers session questions for market instants (UTC). Open includes the opening instant
    and excludes the closing one."""

    def __init__(self, config: CalendarConfig) -> None:
        self._config = config
        self.zone = ZoneInfo("UTC" if config.always_open else config.zone)
        self._explicit = tuple(sorted(config.sessions, key=lambda session: session.open))
        self._opens = [session.open for session in self._explicit]
        self._cached: SessionHours | None = None
        self._days: dict[date, SessionHours | None] = {}

    def session_at(self, now: datetime) -> SessionHours | None:
        """The session that is open at `now`."""
        cached = self._cached
        if cached is not None and cached.open <= now < cached.close:
            return cached
        if self._explicit:
            place = bisect_right(self._opens, now) - 1
            found = self._explicit[place] if place >= 0 else None
        else:
            found = self._rule(now.astimezone(self.zone).date())
        if found is None or not found.open <= now < found.close:
            return None
        self._cached = found
        return found

    def is_open(self, now: datetime) -> bool:
        return self.session_at(now) is not None

    def next_open(self, after: datetime) -> datetime | None:
        """First opening later than `after`; None when the calendar has no more sessions."""
        return next((s.open for s in self._from(after) if s.open > after), None)

    def next_close(self, after: datetime) -> datetime | None:
        """First closing later than `after`."""
        return next((s.close for s in self._from(after) if s.close > after), None)

    def told_close(self, after: datetime) -> datetime | None:
        """The closing that the venue tells of. One that is always open rolls its day at midnight
        and stays open, so it tells none within a day: nothing there ends entries at 23:30."""
        close = self.next_close(after)
        return self.next_close(close) if close is not None and self._config.always_open else close

    def sessions_between(self, first: date, last: date) -> tuple[SessionHours, ...]:
        """Sessions of the days `first` to `last`, both included."""
        if self._explicit:
            return tuple(s for s in self._explicit if first <= s.day <= last)
        days = ((last - first).days + 1) if last >= first else 0
        found = (self._rule(first + timedelta(days=n)) for n in range(days))
        return tuple(session for session in found if session is not None)

    def _from(self, after: datetime) -> Iterator[SessionHours]:
        if self._explicit:
            yield from self._explicit[max(0, bisect_right(self._opens, after) - 1) :]
            return
        day = after.astimezone(self.zone).date() - timedelta(days=1)
        for offset in range(SEARCH_DAYS_MAX):
            session = self._rule(day + timedelta(days=offset))
            if session is not None:
                yield session

    def _rule(self, day: date) -> SessionHours | None:
        if day not in self._days:
            self._days[day] = self._by_rule(day)
        return self._days[day]

    def _by_rule(self, day: date) -> SessionHours | None:
        config = self._config
        if config.always_open:
            start = datetime.combine(day, time(0), tzinfo=UTC)
            return SessionHours(day, start, start + timedelta(days=1))
        if day.weekday() >= 5 or day in config.holidays:
            return None
        closing = config.half_day_close if day in config.half_days else config.close_time
        return SessionHours(
            day,
            datetime.combine(day, config.open_time, tzinfo=self.zone).astimezone(UTC),
            datetime.combine(day, closing, tzinfo=self.zone).astimezone(UTC),
        )
