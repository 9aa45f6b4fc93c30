"""The tape: recorded market events that the exchange plays, and its one file format.

A tape file is CSV with a header (a `.gz` ending means gzip), one event per row, rows in time
order, symbols interleaved:

    time_utc,symbol,kind,bid,ask,bid_size,ask_size,price,size,open,high,low,close,volume

- `time_utc`: ISO 8601 with offset or `Z`, UTC (`2013-09-03T13:30:00.123Z`); a time without an
  offset is refused.
- `kind`: `quote` (fills bid, ask, bid_size, ask_size; an empty price means no such side, an
  empty size is the listing's `synthetic_size`), `trade` (fills price, size) or `bar` (fills open,
  high, low, close, volume; `time_utc` is the time at which the bar is complete).
- Numbers are plain decimal text; cells that do not belong to the kind stay empty. Columns may
  come in any order, unknown columns are ignored, columns that no row uses may be missing.

Prices that must be on the tick of the instrument are the writer's care; the exchange plays what
stands there. `write_tape` writes the same format.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TextIO

from domain.money import exact

COLUMNS = (
    "time_utc",
    "symbol",
    "kind",
    "bid",
    "ask",
    "bid_size",
    "ask_size",
    "price",
    "size",
    "open",
    "high",
    "low",
    "close",
    "volume",
)


class TapeKind(StrEnum):
    QUOTE = "quote"
    TRADE = "trade"
    BAR = "bar"


@dataclass(frozen=True, slots=True)
class TapeEvent:
    """One market event; only the fields of its kind are set."""

    time: datetime
    symbol: str
    kind: TapeKind
    bid: Decimal | None = None
    ask: Decimal | None = None
    bid_size: Decimal | None = None
    ask_size: Decimal | None = None
    price: Decimal | None = None
    size: Decimal | None = None
    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None
    close: Decimal | None = None
    volume: Decimal | None = None


class TapeError(ValueError):
    """A row of the tape could not be read; the text names file line and reason."""


def read_tape(path: Path | str) -> Iterator[TapeEvent]:
    """Yields the events of a tape file in file order, reading as it goes.

    Raises:
        TapeError: missing column, unreadable value, or time going backwards.
    """
    with _open_text(Path(path), "rt") as file:
        rows = csv.DictReader(file)
        missing = {"time_utc", "symbol", "kind"} - set(rows.fieldnames or ())
        if missing:
            raise TapeError(f"columns were missing: {', '.join(sorted(missing))}")
        previous: datetime | None = None
        for row in rows:
            try:
                event = _event_of(row)
            except (ValueError, KeyError, TypeError) as problem:
                raise TapeError(f"line {rows.line_num}: {problem}") from problem
            if previous is not None and event.time < previous:
                raise TapeError(f"line {rows.line_num}: time was before the previous row")
            previous = event.time
            yield event


def write_tape(path: Path | str, events: Iterable[TapeEvent]) -> int:
    """Writes events in the tape format and returns how many there were."""
    count = 0
    with _open_text(Path(path), "wt") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for event in events:
            time_text = event.time.astimezone(UTC).isoformat().replace("+00:00", "Z")
            numbers = (_text(getattr(event, column)) for column in COLUMNS[3:])
            writer.writerow((time_text, event.symbol, event.kind.value, *numbers))
            count += 1
    return count


def _open_text(path: Path, mode: str) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8", newline="")  # type: ignore[return-value]
    return open(path, mode, encoding="utf-8", newline="")  # type: ignore[return-value]


def _event_of(row: dict[str, str]) -> TapeEvent:
    time = datetime.fromisoformat(row["time_utc"])
    if time.utcoffset() != timedelta(0):
        raise ValueError(f"time_utc was {row['time_utc']}, allowed: UTC with offset")
    symbol = row["symbol"]
    if not symbol:
        raise ValueError("symbol was empty")
    kind = TapeKind(row["kind"])
    if kind is TapeKind.QUOTE:
        return TapeEvent(
            time,
            symbol,
            kind,
            bid=_number(row, "bid"),
            ask=_number(row, "ask"),
            bid_size=_number(row, "bid_size"),
            ask_size=_number(row, "ask_size"),
        )
    if kind is TapeKind.TRADE:
        return TapeEvent(time, symbol, kind, price=_needed(row, "price"), size=_needed(row, "size"))
    return TapeEvent(
        time,
        symbol,
        kind,
        open=_needed(row, "open"),
        high=_needed(row, "high"),
        low=_needed(row, "low"),
        close=_needed(row, "close"),
        volume=_number(row, "volume"),
    )


def _number(row: dict[str, str], column: str) -> Decimal | None:
    text = row.get(column)
    return exact(text) if text else None


def _needed(row: dict[str, str], column: str) -> Decimal:
    number = _number(row, column)
    if number is None:
        raise ValueError(f"{column} was empty")
    return number


def _text(number: Decimal | None) -> str:
    return "" if number is None else format(number, "f")
