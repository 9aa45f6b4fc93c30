"""The append-only journal: what really happened at the exchange. Tests use it as the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from domain.money import CTX, ZERO

Row = dict[str, Any]


@lru_cache(maxsize=4096)
def time_text(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def plain(value: Any) -> Any:
    """A JSON value: decimals as plain text, times as RFC 3339."""
    if isinstance(value, Decimal):
        return format(value.normalize(CTX) if value else ZERO, "f")
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class Journal:
    """Rows `{seq, time, kind, ...}` in the order in which things happened.

    `time` is market time. `wall` (wall clock, UTC) is added where a wall clock is given; without
    it the same script gives the same journal, byte for byte. With a path each row is flushed to
    the file before anybody hears of it.
    """

    def __init__(
        self, path: Path | None = None, wall: Callable[[], datetime] | None = None
    ) -> None:
        self.rows: list[Row] = []
        self._wall = wall
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def write(self, now: datetime, kind: str, **fields: Any) -> Row:
        """Appends one row; fields that are None are left out."""
        row: Row = {"seq": len(self.rows) + 1, "time": time_text(now), "kind": kind}
        if self._wall is not None:
            row["wall"] = time_text(self._wall())
        row.update({key: plain(value) for key, value in fields.items() if value is not None})
        self.rows.append(row)
        if self._file is not None:
            self._file.write(json.dumps(row, separators=(",", ":")) + "\n")
            self._file.flush()
        return row

    def after(self, seq: int) -> list[Row]:
        """Rows with a higher sequence number."""
        return self.rows[max(0, seq) :]

    def of(self, *kinds: str) -> list[Row]:
        """Rows of these kinds, in order."""
        return [row for row in self.rows if row["kind"] in kinds]

    def text_after(self, seq: int) -> str:
        """The rows after `seq` as NDJSON."""
        return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in self.after(seq))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
