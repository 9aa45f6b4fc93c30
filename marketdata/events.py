"""Tape events and the tape file: time-ordered quotes, trades and bars of several instruments.

The file is CSV (optionally .gz) with one header and one event a line, oldest first; an empty
cell means "no value", never zero. `quote` rows fill bid, ask and their sizes; `trade` rows fill
price and size; `bar` rows fill open, high, low, close, volume and stand at the instant at which
the bar is complete.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Literal, TextIO, cast

from domain.money import exact

TAPE_HEADER = (
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
_NUMBERS = TAPE_HEADER[3:]


class EventKind(StrEnum):
    QUOTE = "quote"
    TRADE = "trade"
    BAR = "bar"


@dataclass(frozen=True, slots=True)
class TapeEvent:
    """One thing that the market did at `time` (UTC). Unused numbers are None."""

    time: datetime
    symbol: str
    kind: EventKind
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


def write_tape(path: Path, events: Iterable[TapeEvent]) -> int:
    """Writes the events as a tape file and returns how many there were."""
    count = 0
    with open_text(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TAPE_HEADER)
        for event in events:
            writer.writerow(_cells(event))
            count += 1
    return count


def read_tape(path: Path) -> Iterator[TapeEvent]:
    """Reads a file that `write_tape` made; foreign files go through `marketdata.tapes`."""
    with open_text(path, "r") as file:
        for row in csv.DictReader(file):
            numbers = {name: exact(row[name]) for name in _NUMBERS if row[name]}
            yield TapeEvent(
                time=datetime.fromisoformat(row["time_utc"]).astimezone(UTC),
                symbol=row["symbol"],
                kind=EventKind(row["kind"]),
                **numbers,
            )


def open_text(path: Path, mode: Literal["r", "w"]) -> TextIO:
    """Opens a plain or gzipped UTF-8 text file without newline translation."""
    encoding = "utf-8-sig" if mode == "r" else "utf-8"
    if path.suffix == ".gz":
        # The caller closes it: this is an opener, like the built-in one.
        file = gzip.open(path, f"{mode}t", encoding=encoding, newline="")  # noqa: SIM115
        assert isinstance(file, io.TextIOWrapper)
        return file
    return cast(TextIO, path.open(mode, encoding=encoding, newline=""))


def _cells(event: TapeEvent) -> list[str]:
    time = event.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    cells = [time, event.symbol, event.kind.value]
    for name in _NUMBERS:
        value = getattr(event, name)
        cells.append("" if value is None else f"{value:f}")
    return cells
