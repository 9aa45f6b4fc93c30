"""Writes the table of `docs/discrepancies.md` anew: `python -m docs.discrepancy_table`."""

from __future__ import annotations

from pathlib import Path

from domain.discrepancies import CLASSES

DISCREPANCIES = Path(__file__).resolve().parent / "discrepancies.md"
BEGIN = "<!-- generated: discrepancies -->\n"
END = "\n<!-- end: discrepancies -->"


def table() -> str:
    """One line per class."""
    rows = [
        "| class | faults | detection | action | alert | owner | settled in |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in CLASSES:
        alert = "none" if each.alert is None else str(each.alert)
        rows.append(
            f"| `{each.name}` | {each.rows} | {each.detection} | {each.action} | {alert} "
            f"| {each.owner} | {each.settled_in} |"
        )
    return "\n".join(rows)


def refreshed(text: str) -> str:
    """The text with the table written anew.

    Raises:
        ValueError: the pair of markers was not there.
    """
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError("the markers of the table were not in the file")
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    DISCREPANCIES.write_text(refreshed(DISCREPANCIES.read_text()))
