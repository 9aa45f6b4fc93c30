"""Trading hours as UTC instants: clock changes, half days, lunch breaks, tapes (G4, G5)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from domain.errors import BadInput
from marketdata.calendars import Calendar, calendar_for, tape_calendar

SECOND = timedelta(seconds=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def exchange(name: str, year: int = 2026) -> Calendar:
    return calendar_for(name, datetime(year, 6, 1, tzinfo=UTC))


@pytest.mark.covers("G5")
@pytest.mark.parametrize(
    ("name", "session", "opened", "closed"),
    [
        # The US changes its clocks on 2026-03-08 and 2026-11-01, Europe on 03-29 and 10-25.
        ("XNYS", "2026-03-06", "2026-03-06T14:30", "2026-03-06T21:00"),
        ("XNYS", "2026-03-09", "2026-03-09T13:30", "2026-03-09T20:00"),
        ("XNYS", "2026-10-30", "2026-10-30T13:30", "2026-10-30T20:00"),
        ("XNYS", "2026-11-02", "2026-11-02T14:30", "2026-11-02T21:00"),
        ("XETR", "2026-03-27", "2026-03-27T08:00", "2026-03-27T16:30"),
        ("XETR", "2026-03-30", "2026-03-30T07:00", "2026-03-30T15:30"),
        ("XLON", "2026-10-23", "2026-10-23T07:00", "2026-10-23T15:30"),
        ("XLON", "2026-10-26", "2026-10-26T08:00", "2026-10-26T16:30"),
    ],
)
def test_clock_changes_of_2026_move_the_utc_hours(
    name: str, session: str, opened: str, closed: str
) -> None:
    (hours,) = exchange(name).session_hours(date.fromisoformat(session))
    assert (hours.open, hours.close) == (at(opened), at(closed))


@pytest.mark.covers("G4")
def test_half_day_2015_12_24_closes_at_one_in_new_york() -> None:
    calendar = exchange("XNYS", 2015)
    noon = at("2015-12-24T17:00")

    assert calendar.next_close(noon) == at("2015-12-24T18:00")
    assert calendar.in_last_minutes(at("2015-12-24T17:30"), 30)
    assert not calendar.in_last_minutes(at("2015-12-24T17:29"), 30)
    assert calendar.next_open(noon) == at("2015-12-28T14:30")


@pytest.mark.covers("G4")
def test_every_boundary_of_three_years_is_open_at_the_open_and_closed_at_the_close() -> None:
    for year in (2025, 2026, 2027):
        calendar = exchange("XNYS", year)
        instant = at(f"{year}-01-01T00:00")
        sessions = 0
        while True:
            opened = calendar.next_open(instant)
            assert opened is not None
            if opened.year > year:
                break
            closed = calendar.next_close(opened)
            assert closed is not None
            assert not calendar.is_open(opened - SECOND)
            assert calendar.is_open(opened)
            assert calendar.is_open(closed - SECOND)
            assert not calendar.is_open(closed)
            assert calendar.session_of(opened) == opened.date()
            instant, sessions = closed, sessions + 1
        assert 248 <= sessions <= 253


def test_weekend_and_holiday_belong_to_no_session() -> None:
    calendar = exchange("XNYS")
    saturday, christmas = at("2026-03-07T15:00"), at("2026-12-25T15:00")

    assert calendar.session_of(saturday) is None
    assert calendar.next_open(saturday) == at("2026-03-09T13:30")
    assert calendar.session_hours(date(2026, 12, 25)) == ()
    assert not calendar.is_open(christmas)


def test_first_minutes_end_exactly_on_time() -> None:
    calendar = exchange("XNYS")
    opened = at("2026-03-09T13:30")
    assert calendar.in_first_minutes(opened, 5)
    assert calendar.in_first_minutes(opened + timedelta(minutes=5) - SECOND, 5)
    assert not calendar.in_first_minutes(opened + timedelta(minutes=5), 5)
    assert not calendar.in_first_minutes(opened - SECOND, 5)


def test_lunch_break_splits_the_session() -> None:
    calendar = exchange("XHKG")
    morning, afternoon = calendar.session_hours(date(2026, 3, 9))

    assert not calendar.is_open(morning.close)
    assert calendar.next_open(morning.close) == afternoon.open
    assert morning.session == afternoon.session


@pytest.mark.parametrize("name", ["24/7", "24x7", "CRYPTO"])
def test_crypto_never_closes(name: str) -> None:
    calendar = calendar_for(name, at("2026-03-08T02:30"))

    assert calendar.is_open(at("2026-03-08T02:30"))
    assert calendar.next_close(at("2026-12-25T23:59")) is None
    assert not calendar.in_last_minutes(at("2026-03-08T23:59"), 30)
    assert calendar.session_of(at("2026-03-08T23:59")) == date(2026, 3, 8)


def test_tape_is_open_from_its_first_to_its_last_instant_and_never_again() -> None:
    begin, end = at("2013-09-03T13:30"), at("2013-09-03T18:51")
    calendar = tape_calendar("ESX", begin, end)

    assert calendar.next_open(begin - SECOND) == begin
    assert calendar.is_open(begin)
    assert calendar.next_close(begin) == end
    assert not calendar.is_open(end)
    assert calendar.next_open(end) is None
    assert calendar.next_close(end) is None


def test_unknown_calendar_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="CALENDAR_UNKNOWN"):
        exchange("MARS")


def test_asking_beyond_the_known_days_is_refused_instead_of_guessed() -> None:
    with pytest.raises(BadInput, match="TIME_OUT_OF_WINDOW"):
        exchange("XNYS").next_open(at("2035-01-01T00:00"))
