"""Writes the tables of `docs/metrics.md` anew: `python -m docs.metric_table`."""

from __future__ import annotations

from pathlib import Path

from observability.metrics import LEDGER_METRICS, PROCESS_METRICS, MetricSpec

METRICS = Path(__file__).resolve().parent / "metrics.md"
PARTS = {"process metrics": PROCESS_METRICS, "ledger metrics": LEDGER_METRICS}


def table(specs: tuple[MetricSpec, ...]) -> str:
    """One line per metric, with its own labels."""
    rows = ["| metric | kind | labels | what |", "|---|---|---|---|"]
    for spec in specs:
        labels = ", ".join(f"`{label}`" for label in spec.labels) or "–"
        rows.append(f"| `{spec.shown_name}` | {spec.kind} | {labels} | {spec.help} |")
    return "\n".join(rows)


def refreshed(text: str) -> str:
    """The text with both tables written anew.

    Raises:
        ValueError: a table has no pair of markers.
    """
    for name, specs in PARTS.items():
        begin, end = f"<!-- generated: {name} -->\n", f"\n<!-- end: {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the markers of {name!r} were not in the file")
        text = f"{before}{begin}{table(specs)}{end}{after}"
    return text


if __name__ == "__main__":
    METRICS.write_text(refreshed(METRICS.read_text()))
