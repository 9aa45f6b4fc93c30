"""The days of a session: from its calendar, its stated days, or the one day it was started for."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from domain.errors import BadInput
from domain.session import SessionSpec
from domain.session_day import EntryWindow, SessionDay
from marketdata.calendars import ALWAYS_OPEN, Calendar, calendar_for

DAYS_AHEAD_MAX = 30  # no exchange is closed for longer


def next_day(spec: SessionSpec, now: datetime, after: datetime | None) -> SessionDay | None:
    """The day of the session that runs at `now` or comes next; None if there is no further one.

    Args:
        spec: the session.
        now: market instant; days that have closed by then are left out.
        after: open of the day before, None for the first one.

    Raises:
        BadInput: CALENDAR_UNKNOWN, WINDOW_FORMAT, TIME_OUT_OF_WINDOW.
    """
    if spec.days:
        return next((day for day in spec.days if _is_ahead(day, now, after)), None)
    if not spec.calendar:
        return None if after is not None else _only_day(spec)
    calendar = calendar_for(spec.calendar, now)
    first = max(spec.first_day or date.min, now.astimezone(UTC).date() - timedelta(days=1))
    for offset in range(DAYS_AHEAD_MAX):
        session = first + timedelta(days=offset)
        if spec.last_day is not None and session > spec.last_day:
            return None
        day = _day_of(spec, calendar, session)
        if day is not None and _is_ahead(day, now, after):
            return day
    return None


def check_days(spec: SessionSpec, now: datetime) -> SessionDay:
    """The first day of a session that is about to start.

    Raises:
        BadInput: SESSION_DAYS when there is no day left; else as `next_day`.
    """
    if not spec.calendar and not spec.days:
        _windows(spec, now.astimezone(UTC).date())
    day = next_day(spec, now, None)
    if day is None:
        until = "" if spec.last_day is None else spec.last_day.isoformat()
        raise BadInput("SESSION_DAYS", "last_day", until, f"a trading day after {now.isoformat()}")
    return day


def _is_ahead(day: SessionDay, now: datetime, after: datetime | None) -> bool:
    is_later = after is None or day.opens_at > after
    return is_later and (day.closes_at is None or day.closes_at > now)


def _only_day(spec: SessionSpec) -> SessionDay:
    return SessionDay(
        opens_at=spec.opens_at,
        closes_at=spec.closes_at,
        windows=_windows(spec, spec.opens_at.astimezone(UTC).date()),
    )


def _day_of(spec: SessionSpec, calendar: Calendar, session: date) -> SessionDay | None:
    """The session's hours; a lunch break in between belongs to the day. None on a holiday."""
    hours = calendar.session_hours(session)
    if not hours:
        return None
    closes_at = hours[-1].close
    follows = closes_at if calendar.name == ALWAYS_OPEN else calendar.next_open(closes_at)
    return SessionDay(
        session_date=session,
        opens_at=hours[0].open,
        closes_at=closes_at,
        next_opens_at=follows,
        windows=_windows(spec, session),
    )


def _windows(spec: SessionSpec, session: date) -> tuple[EntryWindow, ...]:
    """The entry windows of one day as instants; local times end here."""
    if not spec.entry_windows:
        return ()
    name = spec.calendar or spec.universe[0].calendar
    at = datetime.combine(session, time(12), tzinfo=UTC)
    zone = calendar_for(name, at).zone
    windows = []
    for text in spec.entry_windows:
        begins, ends = window_times(text)
        windows.append(
            EntryWindow(
                begins_at=datetime.combine(session, begins, tzinfo=zone).astimezone(UTC),
                ends_at=datetime.combine(session, ends, tzinfo=zone).astimezone(UTC),
            )
        )
    return tuple(windows)


def window_times(text: str) -> tuple[time, time]:
    """The two times of "09:45-11:30".

    Raises:
        BadInput: WINDOW_FORMAT.
    """
    begin_text, _, end_text = text.partition("-")
    try:
        begins, ends = time.fromisoformat(begin_text), time.fromisoformat(end_text)
    except ValueError:
        begins = ends = time()
    if ends <= begins or begins.tzinfo is not None or ends.tzinfo is not None:
        raise BadInput("WINDOW_FORMAT", "entry_windows", text, "HH:MM-HH:MM, the end later")
    return begins, ends
