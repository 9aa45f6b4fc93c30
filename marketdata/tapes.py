"""Foreign market data files as tapes: read, check everything, then play (all or nothing).

A file is CSV (plain or .gz) or Parquet with a header. Columns are found by name, in any order:

* time: one of time_utc, ts_utc, time, timestamp (ISO-8601 with zone; local only with `zone`);
  for bars the start of the bar, except in our own tape format
* symbol: one of symbol, occ_symbol; without it the name comes from the file name or `symbol`
* quotes: bid and ask [bid_size, ask_size], empty = no value; one-sided rows are joined
* quote bars: bid_close and ask_close [bid_open, ask_open, bid_size, ask_size]
* trades: price and size (or amount)
* bars: open, high, low, close [volume]

Other columns are ignored. Nothing is played from a file with one bad row (faults.md §3 rows
53-55); `preview` names the bad rows first.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TextIO
from zoneinfo import ZoneInfo

from domain.base import Frozen
from domain.errors import BadInput
from domain.money import CTX
from marketdata.cells import float_text, named_zone, time_cell
from marketdata.events import EventKind, TapeEvent, open_text
from marketdata.recording import series_of
from marketdata.shapes import EVENTS_OF_SHAPE, Sides

PROBLEMS_MAX = 20
LINE_MAX = 65_536
ROWS_MAX = 5_000_000
SYNTHETIC_LABEL = "quotes synthetic: last trade ± 1 tick"
_TIME_COLUMNS = ("time_utc", "ts_utc", "time", "timestamp")
_SYMBOL_COLUMNS = ("symbol", "occ_symbol")
_ID_COLUMNS = ("id", "trade_id", "agg_id", "update_id")
_SHAPES = (
    ("tape", ("kind", "bid", "ask", "price", "open")),
    ("quote_bar", ("bid_close", "ask_close")),
    ("quote", ("bid", "ask")),
    ("bar", ("open", "high", "low", "close")),
    ("trade", ("price", "size")),
    ("trade", ("price", "amount")),
)
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9./_-]{0,31}")
_DAY_S = 86_400


class FilePreview(Frozen):
    """What a file holds and every reason (at most 20) why it would be refused.

    `gaps` counts the places where a bar series misses its regular step within one UTC day;
    sparse minutes are normal in recorded data, so it refuses only above `gaps_max`.
    """

    name: str
    shape: str
    rows: int
    symbols: tuple[str, ...]
    begin: datetime | None = None
    end: datetime | None = None
    interval_s: int = 0
    gaps: int = 0
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class _Table:
    """Growing result of reading one file."""

    name: str
    shape: str = ""
    rows: int = 0
    events: list[TapeEvent] = field(default_factory=list)
    problems: list[BadInput] = field(default_factory=list)
    last_time: dict[tuple[str, EventKind], datetime] = field(default_factory=dict)
    last_bar: dict[str, datetime] = field(default_factory=dict)
    steps: dict[str, Counter[int]] = field(default_factory=dict)
    ids: set[tuple[str, str]] = field(default_factory=set)
    sides: Sides = field(default_factory=dict)


def load_tape(
    paths: Sequence[Path],
    *,
    symbol: str | None = None,
    symbols: Sequence[str] | None = None,
    zone: str | None = None,
    begin: datetime | None = None,
    end: datetime | None = None,
    gaps_max: int | None = None,
) -> tuple[TapeEvent, ...]:
    """Events of all files, interleaved by time.

    At one instant symbols stand in the order of their names, and a symbol's quotes come before
    its trades and bars, unless one file, or the parts of one recording, hold both and say
    otherwise. The order of the arguments does not matter.

    `symbols` keeps only those instruments; `begin` (inclusive) and `end` (exclusive) cut.

    Raises:
        BadInput: with the first problem of the first bad file; nothing is returned then.
    """
    series: dict[str, list[TapeEvent]] = {}
    for path in sorted(paths, key=lambda path: path.name):
        table = _read(path, symbol, zone)
        if table.problems:
            raise table.problems[0]
        gaps = _gaps(table)
        if gaps_max is not None and gaps > gaps_max:
            raise BadInput("CSV_GAP", path.name, gaps, f"<= {gaps_max} missing bars")
        series.setdefault(series_of(path), []).extend(
            event
            for event in table.events
            if (symbols is None or event.symbol in symbols)
            and (begin is None or event.time >= begin)
            and (end is None or event.time < end)
        )
    # Sorting is stable: what is equal here stays in the order of its file, or of a series' parts.
    both = (event for stream in sorted(series.values(), key=_rank) for event in stream)
    events = tuple(sorted(both, key=lambda event: (event.time, event.symbol)))
    if not events:
        raise BadInput("CSV_ROW", "file", ",".join(path.name for path in paths), ">= 1 event")
    return events


def preview(path: Path, *, symbol: str | None = None, zone: str | None = None) -> FilePreview:
    """Reads the whole file and says what it holds and what is wrong; never raises for a row."""
    try:
        table = _read(path, symbol, zone)
    except BadInput as error:
        return FilePreview(name=path.name, shape="", rows=0, symbols=(), problems=(error.text,))
    return FilePreview(
        name=path.name,
        shape=table.shape,
        rows=table.rows,
        symbols=tuple(sorted({event.symbol for event in table.events})),
        begin=table.events[0].time if table.events else None,
        end=table.events[-1].time if table.events else None,
        interval_s=_interval_s(table),
        gaps=_gaps(table),
        problems=tuple(problem.text for problem in table.problems),
    )


def with_synthetic_quotes(
    events: Iterable[TapeEvent], tick_sizes: dict[str, Decimal]
) -> Iterator[TapeEvent]:
    """Adds after every trade (or bar) a quote of its price ± 1 tick, as large as the trade.

    Only for tapes without quotes; reports must then carry `SYNTHETIC_LABEL`.
    """
    for event in events:
        yield event
        price = event.price if event.kind is EventKind.TRADE else event.close
        size = event.size if event.kind is EventKind.TRADE else event.volume
        if price is None:
            continue
        tick = tick_sizes[event.symbol]
        yield TapeEvent(
            time=event.time,
            symbol=event.symbol,
            kind=EventKind.QUOTE,
            bid=price - tick if price > tick else None,
            ask=price + tick,
            bid_size=size,
            ask_size=size,
        )


_KIND_ORDER = {EventKind.QUOTE: 0, EventKind.TRADE: 1, EventKind.BAR: 2}


def _rank(events: Sequence[TapeEvent]) -> int:
    """Series of one kind in the order of kinds; one that mixes kinds keeps its own order."""
    kinds = {event.kind for event in events}
    return _KIND_ORDER[kinds.pop()] if len(kinds) == 1 else 0


def _read(path: Path, symbol: str | None, zone_name: str | None) -> _Table:
    zone = named_zone(zone_name) if zone_name is not None else None
    table = _Table(name=path.name)
    fallback = symbol or _symbol_of_file(path)
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _csv_rows(path)
    header = next(rows, None)
    if header is None:
        raise BadInput("CSV_ROW", "row 1", "", "a header line")
    columns = _columns(header)
    table.shape = next(
        (shape for shape, needed in _SHAPES if all(name in columns for name in needed)), ""
    )
    time_column = next((name for name in _TIME_COLUMNS if name in columns), None)
    if not table.shape or time_column is None:
        allowed = "a header with a time column and quote, trade or bar columns, comma separated"
        raise BadInput("CSV_ROW", "row 1", ",".join(header), allowed)
    row_number = 1
    while len(table.problems) < PROBLEMS_MAX:
        row_number += 1
        where = f"row {row_number}"
        try:
            cells = next(rows, None)
            if cells is None:
                break
            if row_number > ROWS_MAX:
                raise BadInput("CSV_ROW", where, "", _UNREADABLE)
            if not any(cells):
                raise BadInput("CSV_ROW", where, "", "no blank line")
            if len(cells) != len(header):
                raise BadInput("CSV_ROW", where, len(cells), f"{len(header)} cells")
            row = {name: cells[index] for name, index in columns.items()}
            _take(table, row, time_column, fallback, zone, where)
        except BadInput as error:
            table.problems.append(error)
            if error.allowed == _UNREADABLE:
                break
    if table.shape in ("bar", "quote_bar"):
        _close_bars(table)
    # One instrument is in order by now; several in one file may be written one after another.
    table.events.sort(key=lambda event: event.time)
    return table


_UNREADABLE = "at most 5,000,000 readable rows of at most 64 KiB"


def _csv_rows(path: Path) -> Iterator[list[str]]:
    try:
        with open_text(path, "r") as file:
            reader = csv.reader(_bounded_lines(file), strict=True)
            for row in reader:
                if any("\n" in cell or "\r" in cell for cell in row):
                    raise BadInput("CSV_ROW", f"row {reader.line_num}", row[0], _UNREADABLE)
                yield row
    except FileNotFoundError:
        raise BadInput("FILE_NOT_FOUND", "tape", path.name, "an existing file") from None
    except (csv.Error, UnicodeDecodeError, EOFError, OSError) as error:
        raise BadInput("CSV_ROW", "file", str(error), _UNREADABLE) from None


def _bounded_lines(file: TextIO) -> Iterator[str]:
    """Lines of a file that may hold anything: a gigabyte without a line end is never read."""
    number = 0
    while line := file.readline(LINE_MAX):
        number += 1
        if len(line) == LINE_MAX and not line.endswith("\n"):
            raise BadInput("CSV_ROW", f"row {number}", line, _UNREADABLE)
        yield line


def _parquet_rows(path: Path) -> Iterator[list[str]]:
    """Rows of a Parquet file as text, so that one set of checks serves both formats."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise BadInput("FILE_NOT_FOUND", "tape", path.name, "an existing file") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise BadInput("CSV_ROW", "file", str(error), _UNREADABLE) from None
    names = [str(name) for name in file.schema_arrow.names]
    yield names
    for batch in file.iter_batches(batch_size=4096):
        for row in batch.to_pylist():
            yield [_parquet_text(row[name], name) for name in names]


def _parquet_text(value: object, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, Decimal):
        # 100.250000000000 is how a column of 12 decimals says 100.25.
        return f"{value.normalize(CTX):f}"
    if isinstance(value, float):
        return float_text(value, name)
    return str(value)


def _columns(header: Sequence[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    for index, name in enumerate(header):
        plain = name.strip().lower()
        if plain in columns:
            raise BadInput("CSV_ROW", "row 1", name, "every column once")
        columns[plain] = index
    return columns


def _symbol_of_file(path: Path) -> str | None:
    """SPY of SPY.quotes.2013.csv.gz, BTCUSD of coinbase.BTCUSD.trades.2018.csv."""
    for part in path.name.split("."):
        if _SYMBOL.fullmatch(part) and not part.isdigit():
            return part
    return None


def _take(
    table: _Table,
    row: dict[str, str],
    time_column: str,
    fallback: str | None,
    zone: ZoneInfo | None,
    where: str,
) -> None:
    """Checks one row and adds its events."""
    table.rows += 1
    time = time_cell(row[time_column], f"{where} {time_column}", zone)
    symbol = next((row[name] for name in _SYMBOL_COLUMNS if row.get(name)), fallback or "")
    if _SYMBOL.fullmatch(symbol) is None:
        raise BadInput("SYMBOL_FORMAT", f"{where} symbol", symbol, "A-Z 0-9 . / _ -, 1..32")
    for name in _ID_COLUMNS:
        identity = row.get(name)
        if identity:
            if (symbol, identity) in table.ids:
                raise BadInput("CSV_DUPLICATE", f"{where} {name}", identity, "every id once")
            table.ids.add((symbol, identity))
            break
    events = EVENTS_OF_SHAPE[table.shape](table.sides, row, time, symbol, where)
    if table.shape in ("bar", "quote_bar"):
        _note_step(table, symbol, time, where)
    for event in events:
        key = (symbol, event.kind)
        if time < table.last_time.get(key, time):
            raise BadInput("CSV_ROW", f"{where} {time_column}", row[time_column], "not backwards")
        table.last_time[key] = time
        table.events.append(event)


def _note_step(table: _Table, symbol: str, time: datetime, where: str) -> None:
    before = table.last_bar.get(symbol)
    if before is not None:
        if time == before:
            raise BadInput("CSV_DUPLICATE", where, time.isoformat(), "one bar per start")
        if time < before:
            raise BadInput("CSV_ROW", where, time.isoformat(), "bars in order of time")
        step_s = int((time - before).total_seconds())
        table.steps.setdefault(symbol, Counter())[step_s] += 1
    table.last_bar[symbol] = time


def _interval_s(table: _Table) -> int:
    """The step of a bar file in seconds; 0 for other shapes, 60 where one bar says nothing.

    The step that most bars keep; where none does (sparse series) the smallest one seen.
    """
    if table.shape not in ("bar", "quote_bar"):
        return 0
    total: Counter[int] = Counter()
    for steps in table.steps.values():
        total.update(steps)
    if not total:
        return 60
    step, count = total.most_common(1)[0]
    return step if 2 * count > total.total() else min(total)


def _gaps(table: _Table) -> int:
    """How many times the next bar came later than one step, nights and weekends not counted."""
    interval_s = _interval_s(table)
    return sum(
        count
        for steps in table.steps.values()
        for step, count in steps.items()
        if interval_s < step < _DAY_S // 4
    )


def _close_bars(table: _Table) -> None:
    """Moves every bar (and closing quote) to the instant at which it is known: its end."""
    interval = timedelta(seconds=_interval_s(table))
    for symbol, steps in table.steps.items():
        overlap = [step for step in steps if timedelta(seconds=step) < interval]
        if overlap and table.shape == "bar":
            raise BadInput("CSV_DUPLICATE", symbol, min(overlap), f"steps of {interval}")
    for index, event in enumerate(table.events):
        if event.kind is EventKind.BAR:
            table.events[index] = replace(event, time=event.time + interval)
        elif event.volume is not None:
            # A hair before the end, so that the next bar's opening quote comes after it.
            at = event.time + interval - timedelta(milliseconds=1)
            table.events[index] = replace(event, time=at, volume=None)
