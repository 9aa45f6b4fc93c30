"""Recordings of a session: ticks of a stream as Parquet files that play as a tape.

One folder per recording, one series of parts per symbol and UTC day:
`<name>/<name>.<day>.<symbol>.<part>.parquet`. Every part is written whole and then named, so that
a crash of the process loses at most what was not yet in a part. The schema carries where the
ticks come from, whether the quotes are a market's own, and the terms of the instrument.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from domain.base import Frozen
from domain.errors import BadInput
from domain.instrument import Instrument
from domain.order import Quote
from domain.tick import TradePrint
from marketdata.events import EventKind, TapeEvent

METADATA_KEY = b"holdfast.recording"
_NUMBERS = ("bid", "ask", "bid_size", "ask_size", "price", "size")
_UNFINISHED = ".unfinished"


class RecordingTerms(Frozen):
    """What a part says about itself. `quotes_are_real` is False for a simulated market."""

    format: int = 1
    recording: str
    source: str
    quotes_are_real: bool
    instrument: Instrument | None = None


def tape_event_of(tick: TradePrint | Quote) -> TapeEvent:
    """The tick as an event of a tape."""
    if isinstance(tick, TradePrint):
        return TapeEvent(
            time=tick.venue_time,
            symbol=tick.symbol,
            kind=EventKind.TRADE,
            price=tick.price,
            size=tick.size,
        )
    return TapeEvent(
        time=tick.venue_time,
        symbol=tick.symbol,
        kind=EventKind.QUOTE,
        bid=tick.bid,
        ask=tick.ask,
        bid_size=tick.bid_size,
        ask_size=tick.ask_size,
    )


class TapeRecorder:
    """Collects ticks and writes them in parts; not thread-safe, `flush` may run in a thread.

    Args:
        folder: of this recording; made if it is not there, parts in it are kept.
        terms: what goes into every part, without the instrument.
        instruments: terms of the symbols that are known.
    """

    def __init__(
        self, folder: Path, terms: RecordingTerms, instruments: Mapping[str, Instrument]
    ) -> None:
        self.folder = folder
        self._terms = terms
        self._instruments = instruments
        self._waiting: list[TapeEvent] = []

    @property
    def waiting(self) -> int:
        """Ticks that no part holds yet."""
        return len(self._waiting)

    def take(self, tick: TradePrint | Quote) -> None:
        """Keeps the tick for the next part."""
        self._waiting.append(tape_event_of(tick))

    def flush(self) -> tuple[int, int]:
        """Writes what waits; returns how many parts and bytes that were.

        Raises:
            OSError: the disk refused; the ticks go on waiting.
        """
        # What arrives while a thread writes stays for the next part.
        count = len(self._waiting)
        groups: dict[tuple[date, str], list[TapeEvent]] = {}
        for event in self._waiting[:count]:
            groups.setdefault((event.time.date(), event.symbol), []).append(event)
        written = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        for (day, symbol), events in sorted(groups.items()):
            events.sort(key=lambda event: event.time)
            written += self._write_part(day, symbol, events)
        del self._waiting[:count]
        return len(groups), written

    def _write_part(self, day: date, symbol: str, events: Sequence[TapeEvent]) -> int:
        terms = self._terms.model_copy(update={"instrument": self._instruments.get(symbol)})
        stem = f"{self._terms.recording}.{day.isoformat()}.{symbol.replace('/', '-')}"
        number = 1 + sum(1 for _ in self.folder.glob(f"{stem}.*.parquet"))
        path = self.folder / f"{stem}.{number:04d}.parquet"
        unfinished = path.with_suffix(_UNFINISHED)
        write_parquet(unfinished, events, terms)
        unfinished.replace(path)
        return path.stat().st_size


def write_parquet(path: Path, events: Iterable[TapeEvent], terms: RecordingTerms) -> None:
    """Quotes and trades as a Parquet table, exact to 12 decimals."""
    import pyarrow
    import pyarrow.parquet

    rows = list(events)
    number = pyarrow.decimal128(38, 12)
    columns: dict[str, Any] = {
        "time_utc": pyarrow.array([row.time for row in rows], pyarrow.timestamp("us", "UTC")),
        "symbol": pyarrow.array([row.symbol for row in rows]),
        "kind": pyarrow.array([row.kind.value for row in rows]),
    }
    for name in _NUMBERS:
        columns[name] = pyarrow.array([getattr(row, name) for row in rows], number)
    # A tape has bars too; a recording never does, and the reader asks for the column.
    columns["open"] = pyarrow.nulls(len(rows), number)
    table = pyarrow.table(columns).replace_schema_metadata(
        {METADATA_KEY: terms.model_dump_json().encode()}
    )
    pyarrow.parquet.write_table(table, path, compression="zstd")


def recording_terms(path: Path) -> RecordingTerms | None:
    """What a part of a recording says about itself; None for any other file."""
    import pyarrow
    import pyarrow.parquet

    if path.suffix != ".parquet":
        return None
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
    except (pyarrow.ArrowInvalid, OSError):
        return None
    told = metadata.get(METADATA_KEY)
    if told is None:
        return None
    try:
        return RecordingTerms.model_validate(json.loads(told))
    except (ValidationError, ValueError) as error:
        text = type(error).__name__
        raise BadInput("CSV_ROW", f"{path.name} metadata", text, "terms of a recording") from None


def series_of(path: Path) -> str:
    """What the parts of one recording, day and symbol have in common; for another file, itself.

    Where a flush cut the stream says nothing about it: parts keep the order of their numbers.
    """
    name = path if recording_terms(path) is None else path.with_suffix("").with_suffix("")
    return str(name)


def tape_files(path: Path) -> tuple[Path, ...]:
    """The file itself, or the parts of a recording's folder in order.

    Raises:
        BadInput: FILE_NOT_FOUND for a folder without parts.
    """
    if not path.is_dir():
        return (path,)
    parts = tuple(sorted(path.glob("*.parquet")))
    if not parts:
        raise BadInput("FILE_NOT_FOUND", "tape", path.name, "a folder with a recording's parts")
    return parts


def drop_unfinished(folder: Path) -> int:
    """Removes parts that a crash left unfinished; returns how many."""
    found = list(folder.glob(f"*{_UNFINISHED}"))
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
