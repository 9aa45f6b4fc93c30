"""Macro and earnings dates: files read whole or not at all, and no entries around a date."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.event_dates import (
    USUAL_BLACKOUTS,
    BlackoutRule,
    DateKind,
    EventDate,
    Importance,
    blackout_of,
)
from marketdata.event_dates import KeptDates, read_blackouts, read_event_dates

ROOT = Path(__file__).resolve().parents[2]
CPI_AT = datetime(2026, 12, 10, 13, 30, tzinfo=UTC)
HEADER = "time,kind,symbol,name,importance,zone\n"
GOOD = "2026-12-10T13:30:00Z,macro,all,CPI,high,\n"
RULE = BlackoutRule(kind=DateKind.MACRO, before_s=600, after_s=300)
SECOND = timedelta(seconds=1)


def cpi(**changes: object) -> EventDate:
    values = {"time": CPI_AT, "kind": "macro", "name": "CPI", **changes}
    return EventDate.model_validate(values)


def written(folder: Path, text: str, name: str = "dates.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_example_file_reads_in_order_of_time() -> None:
    events = read_event_dates([ROOT / "config" / "event_dates.example.csv"])
    assert [event.name[:3] for event in events] == ["Emp", "FOM", "CPI", "Ind", "Ear"]
    assert events[2].time == CPI_AT
    assert events[3].importance is Importance.MEDIUM


def test_toml_and_csv_of_the_same_dates_are_equal(tmp_path: Path) -> None:
    toml = """
        [[event]]
        time = 2026-12-10T08:30:00-05:00
        kind = "macro"
        symbol = "all"
        name = "CPI"

        [[event]]
        time = "2027-01-28T16:30"
        zone = "America/New_York"
        kind = "earnings"
        symbol = "AAPL"
        name = "Q1"
        importance = "low"
    """
    rows = HEADER + GOOD + "2027-01-28T21:30:00Z,earnings,AAPL,Q1,low,\n"
    from_toml = read_event_dates([written(tmp_path, toml, "dates.toml")])
    assert from_toml == read_event_dates([written(tmp_path, rows)])
    assert len(from_toml) == 2


BAD_ROWS = (
    ("2026-12-10T13:30:00,macro,all,CPI,high,", "TIME_NO_ZONE", "time"),
    ("10/12/2026,macro,all,CPI,high,", "CSV_DATE_AMBIGUOUS", "time"),
    ("1765373400,macro,all,CPI,high,", "TIME_UNIT_SUSPECT", "time"),
    ("9999-12-10T13:30:00Z,macro,all,CPI,high,", "TIME_OUT_OF_WINDOW", "time"),
    ("2026-03-08T02:30,macro,all,CPI,high,America/New_York", "TIME_NONEXISTENT", "time"),
    ("2026-12-10T13:30:00Z,macro,all,CPI,high,EST5", "TZ_UNKNOWN", "zone"),
    ("2026-12-10T13:30:00Z,rumour,all,CPI,high,", "EVENT_KIND", "kind"),
    ("2026-12-10T13:30:00Z,macro,all,CPI,huge,", "EVENT_IMPORTANCE", "importance"),
    ("2026-12-10T13:30:00Z,macro,all,,high,", "EVENT_NAME", "name"),
    ("2026-12-10T13:30:00Z,earnings,all,Q1,high,", "EVENT_SYMBOL", "symbol"),
    ("2026-12-10T13:30:00Z,earnings,=CMD(),Q1,high,", "SYMBOL_FORMAT", "symbol"),
    ("2026-12-10T13:30:00Z,macro,all,CPI", "CSV_ROW", ""),
    (GOOD.strip(), "EVENT_DUPLICATE", ""),
)


@pytest.mark.parametrize(("row", "code", "column"), BAD_ROWS, ids=[f"{r[1]}" for r in BAD_ROWS])
def test_bad_row_is_named_by_file_line_and_column_and_nothing_is_read(
    tmp_path: Path, row: str, code: str, column: str
) -> None:
    path = written(tmp_path, f"{HEADER}{GOOD}\n{row}\n")
    with pytest.raises(BadInput) as caught:
        read_event_dates([path])
    assert caught.value.code == code
    assert caught.value.field == f"dates.csv:4 {column}".strip()


def test_bad_table_of_a_toml_file_is_named_by_its_line(tmp_path: Path) -> None:
    good = '[[event]]\ntime = "2026-12-10T13:30:00Z"\nkind = "macro"\nsymbol = "all"\nname = "A"\n'
    path = written(tmp_path, good + good.replace("macro", "rumour"), "dates.toml")
    with pytest.raises(BadInput) as caught:
        read_event_dates([path])
    assert (caught.value.code, caught.value.field) == ("EVENT_KIND", "dates.toml:6 kind")


@pytest.mark.parametrize(
    ("name", "text", "code", "field"),
    [
        ("dates.csv", "", "CSV_ROW", "dates.csv:1"),
        ("dates.csv", "time,kind,symbol\n", "CSV_ROW", "dates.csv:1 name"),
        ("dates.csv", "time,kind,symbol,name,importanse\n", "CSV_ROW", "dates.csv:1 importanse"),
        ("dates.csv", "time,kind,symbol,name,name\n", "CSV_ROW", "dates.csv:1 name"),
        ("dates.csv", HEADER + '"open\n', "CSV_ROW", "dates.csv:2"),
        ("dates.csv", HEADER + "x" * 5000, "CSV_ROW", "dates.csv:2"),
        ("dates.toml", "[[event]]\ntime =\n", "FILE_SYNTAX", "dates.toml:2"),
        ("dates.toml", "[[events]]\n", "FILE_SYNTAX", "dates.toml"),
        ("dates.toml", "event = [1]\n", "FILE_SYNTAX", "dates.toml event 1"),
    ],
)
def test_file_that_is_none_is_refused(
    tmp_path: Path, name: str, text: str, code: str, field: str
) -> None:
    with pytest.raises(BadInput) as caught:
        read_event_dates([written(tmp_path, text, name)])
    assert (caught.value.code, caught.value.field) == (code, field)


RULES = """
[[blackout]]
kind = "macro"
before_minutes = 10
after_minutes = 5
[[event]]
time = "2026-12-10T13:30:00Z"
kind = "macro"
symbol = "all"
name = "CPI"
"""


def test_rules_of_a_file_stand_in_for_the_usual_ones(tmp_path: Path) -> None:
    files = [written(tmp_path, RULES, "dates.toml"), written(tmp_path, HEADER)]
    assert read_blackouts(files) == (RULE,)
    assert [each.name for each in read_event_dates(files)] == ["CPI"]
    assert read_blackouts(files[1:]) == USUAL_BLACKOUTS


@pytest.mark.parametrize(
    ("before", "after", "code", "column"),
    [
        ("10", "-1", "BLACKOUT_MINUTES", "before_minutes"),
        ("10", "1.5", "BLACKOUT_MINUTES", "before_minutes"),
        ("10", "true", "BLACKOUT_MINUTES", "before_minutes"),
        ("10", "10081", "BLACKOUT_MINUTES", "before_minutes"),
        ("before_minutes", "before_hours", "CSV_ROW", "before_hours"),
        ("before_minutes = 10", "", "CSV_ROW", "before_minutes"),
        ('"macro"', '"rumour"', "EVENT_KIND", "kind"),
    ],
)
def test_bad_rule_is_named_by_its_line(
    tmp_path: Path, before: str, after: str, code: str, column: str
) -> None:
    path = written(tmp_path, RULES.replace(before, after, 1), "dates.toml")
    with pytest.raises(BadInput) as caught:
        read_blackouts([path])
    assert (caught.value.code, caught.value.field) == (code, f"dates.toml:2 {column}")


def test_changed_file_is_read_again_and_a_broken_one_rests_all_entries(tmp_path: Path) -> None:
    dates, path = KeptDates(), written(tmp_path, RULES, "dates.toml")
    assert dates.blackout(path, "ACME", CPI_AT).startswith("macro CPI")
    assert not dates.blackout(path, "ACME", CPI_AT + timedelta(hours=1))
    written(tmp_path, RULES.replace("13:30", "14:30"), "dates.toml")
    os.utime(path, ns=(1, 1))
    assert not dates.blackout(path, "ACME", CPI_AT)
    assert dates.blackout(path, "ACME", CPI_AT + timedelta(hours=1))
    written(tmp_path, RULES.replace("macro", "rumour"), "dates.toml")
    os.utime(path, ns=(2, 2))
    assert "EVENT_KIND" in dates.blackout(path, "ACME", CPI_AT + timedelta(hours=9))
    path.unlink()
    assert "FILE_NOT_FOUND" in dates.blackout(path, "ACME", CPI_AT + timedelta(hours=9))
    written(tmp_path, RULES, "dates.toml")
    assert dates.blackout(path, "ACME", CPI_AT).startswith("macro CPI")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_event_dates([tmp_path / "none.csv"])
    assert caught.value.code == "FILE_NOT_FOUND"


@pytest.mark.parametrize(
    ("now", "is_blocked"),
    [
        (CPI_AT - timedelta(seconds=600) - SECOND, False),
        (CPI_AT - timedelta(seconds=600), True),
        (CPI_AT, True),
        (CPI_AT + timedelta(seconds=300) - SECOND, True),
        (CPI_AT + timedelta(seconds=300), False),
    ],
)
def test_blackout_begins_before_and_ends_after_the_event(now: datetime, is_blocked: bool) -> None:
    assert bool(blackout_of([cpi()], "ACME", now, [RULE])) is is_blocked


def test_reason_names_the_event_and_when_it_is_over() -> None:
    assert blackout_of([cpi()], "ACME", CPI_AT, [RULE]) == (
        "macro CPI at 2026-12-10 13:30 UTC, no entries until 2026-12-10 13:35"
    )


def test_event_of_another_symbol_kind_or_lesser_importance_blocks_nothing() -> None:
    assert not blackout_of([cpi(symbol="OTHER")], "ACME", CPI_AT, [RULE])
    assert not blackout_of([cpi(kind="earnings", symbol="ACME")], "ACME", CPI_AT, [RULE])
    assert not blackout_of([cpi(importance="medium")], "ACME", CPI_AT, [RULE])
    assert blackout_of([cpi(symbol="ACME")], "ACME", CPI_AT, [RULE])


def test_usual_rules_keep_a_day_before_earnings_free_of_entries() -> None:
    earnings = cpi(kind="earnings", symbol="ACME", name="Q1", importance="low")
    assert blackout_of([earnings], "ACME", CPI_AT - timedelta(hours=23))
    assert not blackout_of([earnings], "ACME", CPI_AT - timedelta(hours=25))
    assert blackout_of([cpi()], "ACME", CPI_AT - timedelta(minutes=29))
    assert not blackout_of([cpi()], "ACME", CPI_AT - timedelta(minutes=31))


minutes = st.integers(-90, 90)


@given(st.lists(minutes, max_size=8), minutes, st.integers(0, 3600), st.integers(0, 3600))
def test_blackout_is_the_union_of_the_stretches_around_all_events(
    at: list[int], now_minute: int, before_s: int, after_s: int
) -> None:
    events = [cpi(time=CPI_AT + timedelta(minutes=minute)) for minute in at]
    rule = BlackoutRule(kind=DateKind.MACRO, before_s=before_s, after_s=after_s)
    expected = any(
        (minute * 60 - before_s) <= now_minute * 60 < (minute * 60 + after_s) for minute in at
    )
    now = CPI_AT + timedelta(minutes=now_minute)
    assert bool(blackout_of(events, "ACME", now, [rule])) is expected
