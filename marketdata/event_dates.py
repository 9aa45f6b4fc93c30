"""Files of macro and earnings dates: read, check every row, then hand out (all or nothing).

CSV with a header: `time, kind, symbol, name, importance` and, if times are local, `zone`; columns
in any order, others are refused, because a misspelt one would be a date that nobody keeps. TOML:
one `[[event]]` table with the same keys per date; `time` may be TOML's own date-time. A TOML file
may also hold the rules: `[[blackout]]` with kind, importance, before_minutes and after_minutes.

* time: ISO-8601 with Z or an offset, or local with `zone` (America/New_York)
* kind: macro or earnings; earnings name their symbol
* symbol: the symbol, or `all`
* importance: low, medium or high; high where it is left out
"""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from domain.errors import BadInput, file_to
from domain.event_dates import (
    ALL_SYMBOLS,
    BLACKOUT_S_MAX,
    USUAL_BLACKOUTS,
    BlackoutRule,
    DateKind,
    EventDate,
    Importance,
    blackout_of,
)
from domain.symbols import check_symbol
from marketdata.cells import named_zone, time_cell

ROWS_MAX = 20_000
LINE_MAX = 4_096
NAME_MAX = 80
_NEEDED = ("time", "kind", "symbol", "name")
_COLUMNS = (*_NEEDED, "importance", "zone")
_TABLES = ("event", "blackout")
_RULE_KEYS = ("kind", "before_minutes", "after_minutes", "importance")
_Word = TypeVar("_Word", bound=StrEnum)


def read_event_dates(paths: Sequence[Path]) -> tuple[EventDate, ...]:
    """All dates of the files, oldest first.

    A file with one bad row gives nothing: a date that was skipped is an entry in the middle of
    the release (faults.md §3 rows 53-55).

    Raises:
        BadInput: with `file:line` and the column in its field. FILE_NOT_FOUND, FILE_SYNTAX;
            CSV_ROW for a row of the wrong shape; EVENT_KIND, EVENT_IMPORTANCE, EVENT_NAME,
            EVENT_SYMBOL; SYMBOL_FORMAT; the TIME_* and TZ_UNKNOWN of `marketdata.cells`;
            EVENT_DUPLICATE for the same date twice.
    """
    events: list[EventDate] = []
    seen: dict[tuple[object, ...], str] = {}
    for path in paths:
        for where, row in _rows(path):
            event = _event_of(row, where)
            identity = (event.time, event.kind, event.symbol, event.name)
            if identity in seen:
                allowed = f"once, stands in {seen[identity]}"
                raise BadInput("EVENT_DUPLICATE", where, event.name, allowed)
            seen[identity] = where
            events.append(event)
    return tuple(sorted(events, key=lambda each: (each.time, each.symbol, each.name)))


def read_blackouts(paths: Sequence[Path]) -> tuple[BlackoutRule, ...]:
    """The `[[blackout]]` rules of the TOML files among these; the usual ones where none has any.

    Raises:
        BadInput: as `read_event_dates`; BLACKOUT_MINUTES for minutes that are no whole number
            from 0 to a week.
    """
    rules = [
        BlackoutRule(
            kind=_word(DateKind, row["kind"], "EVENT_KIND", f"{where} kind"),
            importance=_importance(row, where),
            before_s=60 * _minutes(row, "before_minutes", where),
            after_s=60 * _minutes(row, "after_minutes", where),
        )
        for path in paths
        if path.suffix == ".toml"
        for where, row in _tables(path.name, _text(path), "blackout")
        if _check_columns(list(row), where, _RULE_KEYS, _RULE_KEYS[:3])
    ]
    return tuple(rules) or USUAL_BLACKOUTS


class KeptDates:
    """Files of dates as they are now: read again when one changes, kept between.

    A file that cannot be read rests all entries, because nobody knows what it would say; the
    answer tells why (ADR 0011: entries fail closed, exits fail open).
    """

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[int, tuple[EventDate, ...], tuple[BlackoutRule, ...]]] = {}

    def blackout(self, path: Path, symbol: str, now: datetime) -> str:
        """As `domain.event_dates.blackout_of` with the dates and rules of the file."""
        try:
            events, rules = self._read(path)
        except BadInput as error:
            return f"the dates were not readable: {error.text}"
        return blackout_of(events, symbol, now, rules)

    def _read(self, path: Path) -> tuple[tuple[EventDate, ...], tuple[BlackoutRule, ...]]:
        try:
            changed_ns = path.stat().st_mtime_ns
        except OSError:
            changed_ns = -1  # the reader tells what is wrong with it
        kept = self._kept.get(path)
        if kept is None or kept[0] != changed_ns:
            kept = (changed_ns, read_event_dates([path]), read_blackouts([path]))
            self._kept[path] = kept
        return kept[1:]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(file:line, cells) of every row, from either format."""
    text = _text(path)
    rows = _toml_rows if path.suffix == ".toml" else _csv_rows
    for count, row in enumerate(rows(path.name, text), start=1):
        if count > ROWS_MAX:
            raise BadInput("FILE_SYNTAX", path.name, count, f"<= {ROWS_MAX} dates")
        yield row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        allowed = file_to("read", error)
        raise BadInput("FILE_NOT_FOUND", "event_dates", path.name, allowed) from None
    except UnicodeDecodeError as error:
        raise BadInput("FILE_SYNTAX", path.name, error.reason, "UTF-8") from None


def _csv_rows(name: str, text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    lines = text.splitlines()
    long = next((number for number, line in enumerate(lines, 1) if len(line) > LINE_MAX), None)
    if long is not None:
        raise BadInput("CSV_ROW", f"{name}:{long}", "", f"<= {LINE_MAX} characters")
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            where = f"{name}:{reader.line_num}"
            if not cells or cells[0].startswith("#"):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _check_columns(header, where)
                continue
            if len(cells) != len(header):
                raise BadInput("CSV_ROW", where, len(cells), f"{len(header)} cells")
            yield where, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise BadInput("CSV_ROW", f"{name}:{reader.line_num}", str(error), "plain CSV") from None
    if not header:
        raise BadInput("CSV_ROW", f"{name}:1", "", f"a header: {','.join(_COLUMNS)}")


def _toml_rows(name: str, text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    for where, table in _tables(name, text, "event"):
        _check_columns(list(table), where)
        yield where, table


def _tables(name: str, text: str, key: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(file:line, table) of every `[[key]]` of the document."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{name}:{line.group(1)}" if line else name
        raise BadInput("FILE_SYNTAX", where, str(error), "TOML") from None
    foreign = [each for each in document if each not in _TABLES]
    tables = document.get(key, [])
    if foreign or not isinstance(tables, list):
        allowed = "[[event]] and [[blackout]] tables only"
        raise BadInput("FILE_SYNTAX", name, ",".join(foreign) or key, allowed)
    header = re.compile(rf"\s*\[\[\s*{key}\s*\]\]")
    numbers = [n for n, line in enumerate(text.splitlines(), 1) if header.match(line)]
    for index, table in enumerate(tables):
        # The parser does not tell lines; where a text hides a header, the count does.
        known = len(numbers) == len(tables)
        where = f"{name}:{numbers[index]}" if known else f"{name} {key} {index + 1}"
        if not isinstance(table, dict):
            raise BadInput("FILE_SYNTAX", where, table, "a table")
        yield where, table


def _check_columns(
    names: Sequence[str],
    where: str,
    known: Sequence[str] = _COLUMNS,
    needed: Sequence[str] = _NEEDED,
) -> bool:
    """True, or BadInput with the column that is missing, doubled or unknown."""
    for name in names:
        if name not in known or names.count(name) > 1:
            raise BadInput("CSV_ROW", f"{where} {name}", name, f"each once of {','.join(known)}")
    missing = [name for name in needed if name not in names]
    if missing:
        raise BadInput("CSV_ROW", f"{where} {missing[0]}", "", f"needs {','.join(needed)}")
    return True


def _event_of(row: Mapping[str, object], where: str) -> EventDate:
    kind = _word(DateKind, row["kind"], "EVENT_KIND", f"{where} kind")
    symbol = row["symbol"]
    if symbol != ALL_SYMBOLS:
        symbol = check_symbol(symbol, f"{where} symbol")
    elif kind is DateKind.EARNINGS:
        raise BadInput("EVENT_SYMBOL", f"{where} symbol", symbol, "earnings name their symbol")
    name = row["name"]
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_MAX or not name.isprintable():
        allowed = f"1..{NAME_MAX} printable characters"
        raise BadInput("EVENT_NAME", f"{where} name", name, allowed)
    return EventDate(
        time=_time(row, where),
        kind=kind,
        symbol=ALL_SYMBOLS if symbol == ALL_SYMBOLS else str(symbol),
        name=name,
        importance=_importance(row, where),
    )


def _importance(row: Mapping[str, object], where: str) -> Importance:
    value = row.get("importance") or Importance.HIGH
    return _word(Importance, value, "EVENT_IMPORTANCE", f"{where} importance")


def _minutes(row: Mapping[str, object], name: str, where: str) -> int:
    value, most = row[name], BLACKOUT_S_MAX // 60
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise BadInput("BLACKOUT_MINUTES", f"{where} {name}", value, f"whole, 0..{most}")
    return value


def _time(row: Mapping[str, object], where: str) -> datetime:
    value, zone_name = row["time"], row.get("zone") or ""
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    try:
        zone = named_zone(str(zone_name)) if zone_name else None
    except BadInput as error:
        raise BadInput(error.code, f"{where} zone", zone_name, error.allowed) from None
    return time_cell(text, f"{where} time", zone)


def _word(words: type[_Word], value: object, code: str, field: str) -> _Word:
    allowed = ", ".join(words)
    if not isinstance(value, str) or value not in tuple(words):
        raise BadInput(code, field, value, allowed)
    return words(value)
