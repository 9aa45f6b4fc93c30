"""A venue that is always open tells no closing that would end entries at 23:30 every night."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from simulator.calendar import SessionCalendar
from simulator.config import CalendarConfig

LATE = datetime(2026, 11, 21, 23, 45, tzinfo=UTC)


def test_always_open_venue_tells_no_closing_within_a_day() -> None:
    calendar = SessionCalendar(CalendarConfig(always_open=True))
    told = calendar.told_close(LATE)
    assert told is not None
    assert told - LATE > timedelta(days=1)
    assert calendar.next_close(LATE) == datetime(2026, 11, 22, tzinfo=UTC)


def test_venue_with_hours_tells_its_closing() -> None:
    calendar = SessionCalendar(CalendarConfig())
    noon = datetime(2026, 11, 20, 17, tzinfo=UTC)
    assert calendar.told_close(noon) == calendar.next_close(noon)
