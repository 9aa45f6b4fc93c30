"""JSON Lines of a portfolio: one file per stream, every row with the ids that correlate it.

A projection: rows are made from the ledger, never on the hot path. A row has a key; it is
appended when the key is new, or when its content is not what the file said last, then with the
next `revision`. Writing again after a restart therefore doubles nothing (requirement 18).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

SIGNALS, ORDERS, FILLS, PORTFOLIO, TICKS = "signals", "orders", "fills", "portfolio", "ticks"
STREAMS = (TICKS, SIGNALS, ORDERS, FILLS, PORTFOLIO)

Row = Mapping[str, Any]


class StreamFile:
    """One append-only file. One writer at a time; a half line of a killed writer is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: dict[str, tuple[int, str]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._read()

    def put(self, rows: Iterable[tuple[str, Row]]) -> int:
        """Appends the (key, row) pairs that say something new; returns how many."""
        lines = []
        for key, row in rows:
            plain = to_jsonable_python(row)
            content = json.dumps(plain, sort_keys=True)
            revision, before = self._last.get(key, (0, ""))
            if content == before:
                continue
            self._last[key] = (revision + 1, content)
            shown = {**plain, "key": key, "revision": revision + 1}
            lines.append(json.dumps(shown, separators=(",", ":")) + "\n")
        if lines:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        return len(lines)

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if len(whole) < len(text):
            self.path.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            row = json.loads(line)
            key, revision = str(row.pop("key")), int(row.pop("revision"))
            self._last[key] = (revision, json.dumps(row, sort_keys=True))


class TickFile:
    """The ticks of a feed: too many for keys, so the count of lines says where to go on.

    The feed always gives the same ticks in the same order; one file serves all its portfolios.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            path.write_bytes(whole)
        self.written = whole.count(b"\n")

    def append(self, rows: Iterable[Row]) -> int:
        """Appends rows that come after the `written` ones; returns how many."""
        lines = [
            json.dumps(to_jsonable_python({**row, "sequence": number}), separators=(",", ":"))
            for number, row in enumerate(rows, start=self.written + 1)
        ]
        if lines:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
        self.written += len(lines)
        return len(lines)
