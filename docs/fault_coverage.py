"""Writes docs/fault-coverage.md, which test shows which fault row: `python -m docs.fault_coverage`.

A test says it by the marker `covers`, with ids of docs/fault_rows.toml. Markers are read from the
syntax tree, so nothing is imported and a test that is generated elsewhere cannot be meant. A test
fails while the document says something else than rows and markers.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "docs" / "fault_rows.toml"
DOCUMENT = ROOT / "docs" / "fault-coverage.md"
TESTS = ROOT / "tests"
OPEN_MAX = 5
"""How many rows may be open at most; one of priority P0 never may (issue 4)."""

GROUPS = {
    "A": "Signals and messages",
    "B": "Risk and reservations",
    "C": "Requests to the broker",
    "D": "Replace, cancel, fill",
    "E": "Protection and exits",
    "F": "Streams and connections",
    "G": "Quotes, sessions, calendars",
    "H": "Processes, servers, clocks",
    "K": "Kill, flatten, people",
    "R": "Reconciliation",
}

_HEAD = """# Fault coverage

Which test shows which row of the fault matrix. Written by `python -m docs.fault_coverage` from
`docs/fault_rows.toml` and the marker `covers` of the tests; do not edit. *Partly* says what no
test shows yet; the marker stands only on tests that fail when the row's fault is not survived.
"""


@dataclass(frozen=True)
class Row:
    """One fault and what must hold under it."""

    id: str
    what: str
    keeps: tuple[str, ...]
    tier: str
    priority: str
    missing: str = ""


@dataclass(frozen=True)
class Cover:
    """One test function and the rows it says it shows."""

    path: str
    name: str
    rows: tuple[str, ...]


def read_rows(path: Path = ROWS) -> tuple[Row, ...]:
    """The rows in the order of the file; unknown keys are an error of the dataclass."""
    given = tomllib.loads(path.read_text())["rows"]
    return tuple(
        Row(id=name, **{**values, "keeps": tuple(values["keeps"])})
        for name, values in given.items()
    )


def read_invariants(path: Path = ROWS) -> dict[str, str]:
    """Each invariant with its one line."""
    invariants: dict[str, str] = tomllib.loads(path.read_text())["invariants"]
    return invariants


def covers_in(text: str, path: str) -> Iterator[Cover]:
    """Every test function of this source that names rows; its class and module may name them too.

    Raises:
        ValueError: a marker has something else than plain ids, so no reader could tell the rows.
    """
    tree = ast.parse(text)
    of_module = tuple(
        row
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(
            isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
        )
        for row in _ids(_parts(node.value), path)
    )
    yield from _covers_of(tree.body, of_module, path)


def _covers_of(body: list[ast.stmt], outer: tuple[str, ...], path: str) -> Iterator[Cover]:
    for node in body:
        if isinstance(node, ast.Assign):
            yield from (Cover(path, name, outer) for name in _tests_made(node) if outer)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        rows = (*outer, *_ids(node.decorator_list, path))
        if isinstance(node, ast.ClassDef):
            yield from _covers_of(node.body, rows, path)
        elif node.name.startswith("test_"):
            yield from [Cover(path, node.name, tuple(dict.fromkeys(rows)))] if rows else []
        elif len(rows) > len(outer):
            raise ValueError(f"{path}: covers stands on {node.name}, which is no test")


def _tests_made(node: ast.Assign) -> list[str]:
    """Names of tests that a function makes: `test_a, test_b = made()`."""
    names = [each for target in node.targets for each in _parts(target)]
    return [each.id for each in names if isinstance(each, ast.Name) and "test_" in each.id[:5]]


def _parts(value: ast.expr) -> list[ast.expr]:
    return list(value.elts) if isinstance(value, ast.List | ast.Tuple) else [value]


def _ids(markers: list[ast.expr], path: str) -> list[str]:
    found = []
    for marker in markers:
        if not (isinstance(marker, ast.Call) and ast.unparse(marker.func) == "pytest.mark.covers"):
            continue
        for argument in marker.args:
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                raise ValueError(f"{path}: covers was {ast.unparse(marker)}, allowed: plain ids")
            found.append(argument.value)
    return found


def all_covers() -> tuple[Cover, ...]:
    """Every marked test of the tree, by file and place in it."""
    return tuple(
        cover
        for path in sorted(TESTS.rglob("test_*.py"))
        for cover in covers_in(path.read_text(), path.relative_to(ROOT).as_posix())
    )


def status(row: Row, covers: tuple[Cover, ...]) -> str:
    """`covered`, `partly` or `open`."""
    if not any(row.id in cover.rows for cover in covers):
        return "open"
    return "partly" if row.missing else "covered"


def document() -> str:
    """The whole of docs/fault-coverage.md."""
    rows, covers = read_rows(), all_covers()
    states = [status(row, covers) for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("covered", "partly", "open"))
    parts = [_HEAD, f"{len(rows)} rows: {counts}.\n"]
    for letter, title in GROUPS.items():
        parts.append(f"## {letter} – {title}\n")
        parts.append("| Row | Fault | Keeps | Pri | Status | Tests |\n|---|---|---|---|---|---|")
        parts += [_line(row, covers) for row in rows if row.id[0] == letter]
        parts.append("")
    parts.append("## Invariants\n\n| Id | What must hold |\n|---|---|")
    parts += [f"| {name} | {text} |" for name, text in read_invariants().items()]
    return "\n".join(parts) + "\n"


def _line(row: Row, covers: tuple[Cover, ...]) -> str:
    state = status(row, covers)
    tests = [_link(cover) for cover in covers if row.id in cover.rows]
    told = f"{state}: {row.missing}" if row.missing else state
    keeps = " ".join(row.keeps)
    return f"| {row.id} | {row.what} | {keeps} | {row.priority} | {told} | {'<br>'.join(tests)} |"


def _link(cover: Cover) -> str:
    words = cover.name.removeprefix("test_").replace("_", " ")
    return f"[{words}](../{cover.path})"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
