"""`make chaos-report`: runs the proofs one after the other and writes one dated Markdown report.

Every section is a command that a person can run alone. What was not run is named as such: a report
that leaves a goal out would read as if it were met.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from observability.build import build_id, commit, repository_root

REPORTS = Path("reports")
LINES_MAX = 120


@dataclass(frozen=True)
class Section:
    """One proof: what is asked of it, and the arguments of `python -m` by size of the run."""

    name: str
    title: str
    goal: str
    quick: tuple[str, ...]
    full: tuple[str, ...]


SECTIONS = (
    Section(
        "simulate",
        "Whole trades in one thread of virtual time (T0)",
        "0 violations; bare and unconfirmed seconds p99 <= 1 s, max <= 5 s where the broker rests "
        "a stop; at least 2,000 trades a minute on one core",
        ("tests.simulation", "--seeds", "2000"),
        ("tests.simulation", "--seeds", "20000"),
    ),
    Section(
        "placements",
        "Placements with lost replies, zombies and lookup lag",
        "0 duplicate accepted orders in 1,000,000 placements",
        ("tests.simulation.placements", "--count", "50000"),
        ("tests.simulation.placements", "--count", "1000000"),
    ),
    Section(
        "museum",
        "Public bugs, planted again",
        "each of at least 25 is found within 1,000 seeds",
        ("tests.museum",),
        ("tests.museum",),
    ),
    Section(
        "chaos",
        "Golden trades x faults x failpoints on real servers",
        "0 violations; naked and unconfirmed seconds p99 <= 1 s, max <= 5 s simulated",
        ("tests.chaos", "--minutes", "10"),
        ("tests.chaos", "--minutes", "240"),
    ),
    Section(
        "kill",
        "The kill gate",
        "p99 <= 250 ms",
        ("tests.bench", "kill"),
        ("tests.bench", "kill"),
    ),
    Section(
        "scale",
        "A thousand open trades: cancel-entries and restart",
        "entries gone within the broker's rate + 2 s, no protective order cancelled, restart "
        "<= 1.5 x the floor",
        ("tests.bench", "scale"),
        ("tests.bench", "scale"),
    ),
    Section(
        "soak",
        "Memory over a compressed day",
        "growth <= 5 % from minute 30 to the end of 10,000 trades with one fault a second",
        ("tests.soak", "--minutes", "20"),
        ("tests.soak", "--minutes", "240"),
    ),
)


@dataclass(frozen=True)
class Told:
    """What a section said: its exit code, its seconds and its lines."""

    code: int
    seconds: float
    lines: tuple[str, ...]


def run(section: Section, full: bool) -> Told:
    """Runs the section's command in a process of its own and shows its lines as they come."""
    words = section.full if full else section.quick
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=repository_root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    with process:
        for line in process.stdout or ():
            print(f"  {line}", end="", flush=True)
            lines.append(line.rstrip())
    return Told(process.returncode, time.monotonic() - began, tuple(lines))


def page(told: dict[str, Told], full: bool, began: datetime) -> str:
    """The report as Markdown."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    size = "full" if full else "quick"
    out = [
        f"# Proof under faults, {began:%Y-%m-%d %H:%M} UTC",
        "",
        f"Commit {commit()} · build {build_id()} · {size} run · {os.cpu_count()} cores, load at "
        f"the end {load} · {platform.system()} · Python {platform.python_version()}",
        "",
    ]
    for section in SECTIONS:
        words = " ".join(section.full if full else section.quick)
        out += [f"## {section.title}", "", f"Goal: {section.goal}.", ""]
        answer = told.get(section.name)
        if answer is None:
            out += [f"**Not run** for this report (`python -m {words}`).", ""]
            continue
        verdict = "passed" if answer.code == 0 else f"**exit {answer.code}**"
        shown = answer.lines[-LINES_MAX:]
        left_out = len(answer.lines) - len(shown)
        out += [f"`python -m {words}`: {verdict}, {answer.seconds:.0f} s.", "", "```"]
        out += [f"({left_out} lines before)"] if left_out else []
        out += [*shown, "```", ""]
    return "\n".join(out)


def main(arguments: Sequence[str]) -> int:
    """0 if every section that was run passed."""
    parser = argparse.ArgumentParser(prog="make chaos-report")
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--full", action="store_true", help="hours instead of minutes")
    options = parser.parse_args(arguments)
    began, told = datetime.now(UTC), {}
    REPORTS.mkdir(exist_ok=True)
    path = REPORTS / f"chaos-{began:%Y-%m-%d-%H%M}.md"
    for section in SECTIONS:
        if section.name in options.only:
            print(f"== {section.title}", flush=True)
            told[section.name] = run(section, options.full)
            path.write_text(page(told, options.full, began), encoding="utf-8")
    print(f"report: {path}")
    return max((answer.code for answer in told.values()), default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
