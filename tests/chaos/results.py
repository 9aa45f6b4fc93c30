"""What a run of the driver leaves on disk, so that the next one goes on where it ended."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import Cell, Fault
from tests.chaos.play import CellRow

FOLDER = Path("reports") / "chaos"
DONE = frozenset({"ok", "violated"})
COVERAGE_KEY = "cells played/possible; !n: of these violated; ?n: besides, failpoint never passed"


@dataclass
class Results:
    """The event indexes and the newest row of every cell, each kept in one file of the folder.

    `indexes.json` is `{"trade/broker/warm": ["place:nth", …]}`, `cells.jsonl` one row per line,
    `failures/` what a violated cell left behind.
    """

    folder: Path = FOLDER
    indexes: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Results:
        """Reads what earlier runs left; a last line that was cut off by a kill is left out."""
        made = cls(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if made._indexes_file.exists():
            made.indexes = json.loads(made._indexes_file.read_text())
        if made._rows_file.exists():
            for line in made._rows_file.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                made.rows[row["cell"]] = row
        return made

    @property
    def _indexes_file(self) -> Path:
        return self.folder / "indexes.json"

    @property
    def _rows_file(self) -> Path:
        return self.folder / "cells.jsonl"

    def keep_index(self, name: str, passes: Sequence[str]) -> None:
        """Keeps the event index of one trade, broker and cache."""
        self.indexes[name] = list(passes)
        self._indexes_file.write_text(json.dumps(self.indexes, indent=0))

    def keep(self, row: CellRow, evidence: dict[str, Any]) -> None:
        """Appends the row; it counts from now on."""
        told = asdict(row)
        self.rows[row.cell] = told
        with self._rows_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
        if evidence:
            failures = self.folder / "failures"
            failures.mkdir(exist_ok=True)
            name = row.cell.replace("/", "-").replace(":", "-")
            text = json.dumps({"row": told, **evidence}, indent=1, default=str)
            (failures / f"{name}.json").write_text(text)

    def is_done(self, cell: Cell) -> bool:
        row = self.rows.get(cell.key)
        return row is not None and row["outcome"] in DONE

    def is_violated(self, cell: Cell) -> bool:
        row = self.rows.get(cell.key)
        return row is not None and row["outcome"] == "violated"


def coverage_table(cells: Iterable[Cell], results: Results) -> str:
    """Trade and broker down, faults across: played of possible, and what was tried in vain apart.

    `!` counts what was violated of the played ones, `?` what was not played as it never fired.
    """
    possible: Counter[tuple[str, Fault]] = Counter()
    outcomes: dict[tuple[str, Fault], Counter[str]] = defaultdict(Counter)
    names: list[str] = []
    for cell in cells:
        name = f"{cell.trade}/{cell.broker}"
        names += [] if name in names else [name]
        possible[(name, cell.fault)] += 1
        row = results.rows.get(cell.key)
        if row is not None:
            outcomes[(name, cell.fault)][row["outcome"]] += 1
    faults = [fault for fault in Fault if any((name, fault) in possible for name in names)]
    lines = [["trade/broker", *(fault.value for fault in faults)]]
    for name in names:
        line = [name]
        for fault in faults:
            seen = outcomes[(name, fault)]
            text = f"{seen['ok'] + seen['violated']}/{possible[(name, fault)]}"
            text += f" !{seen['violated']}" if seen["violated"] else ""
            text += f" ?{seen['never_fired']}" if seen["never_fired"] else ""
            line.append(text)
        lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*rows, COVERAGE_KEY])


def exposure_table(cells: Iterable[Cell], results: Results) -> str:
    """Longest bare span of a cell by protection class and fault: median, 99 of 100, worst.

    Beside them the worst seconds that are left out of it, and those that waited for an answer.
    """
    kept = [row for cell in cells if (row := results.rows.get(cell.key)) is not None]
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in kept:
        if row["outcome"] in DONE:
            for name in row["naked_max_s"]:
                found[(name, row["fault"])].append(row)
    lines = ["protection/fault: cells, bare p50 p99 max s; away, orphaned, unconfirmed max s"]
    for (name, fault), rows in sorted(found.items()):
        bare = sorted(float(row["naked_max_s"][name]) for row in rows)
        away, orphaned, unconfirmed = (
            max(float(row.get(field) or 0) for row in rows)
            for field in ("downtime_s", "orphaned_s", "unconfirmed_s")
        )
        middle, high = (bare[min(len(bare) - 1, int(len(bare) * share))] for share in (0.5, 0.99))
        lines.append(
            f"{name}/{fault}: {len(bare)}, {middle:.2f} {high:.2f} {bare[-1]:.2f}; "
            f"{away:.2f}, {orphaned:.2f}, {unconfirmed:.2f}"
        )
    return "\n".join(lines)
