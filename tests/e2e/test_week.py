"""`demo --week` on the recorded days: five evenings with equal books (issue 3, proof)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.week_tape import RECORDED_WEEK
from observability.build import repository_root

RUN_TIMEOUT_S = 540.0
DAY = re.compile(
    r"^\w{3} (?P<day>[\d-]+) (?P<begin>[\d:]+)-(?P<end>[\d:]+) UTC: "
    r"ledger equals exchange journal: (?P<orders>\d+) accepted orders, (?P<fills>\d+) fills, "
    r"\d+ fees \| (?P<sessions>[^|]+) \| baseline (?P<baselines>[^|]+)"
)


@pytest.mark.shared
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_week_of_recorded_days_ends_each_day_with_equal_books(tmp_path: Path) -> None:
    """Days, sessions, baselines and the last line; exit code 1 is any problem on any day."""
    data = tmp_path / "week"
    run = subprocess.run(
        [sys.executable, "starter.py", "demo", "--week", "--data", str(data)],
        cwd=repository_root(),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        start_new_session=True,
        check=False,
    )
    text = run.stdout + run.stderr
    assert run.returncode == 0, text
    days = [found for line in run.stdout.splitlines() if (found := DAY.match(line))]
    assert [found["day"] for found in days] == [f"{day}" for day, _ in RECORDED_WEEK], text
    for found in days:
        assert int(found["fills"]) >= 2, found.string
        sessions = found["sessions"].split("; ")
        assert [each.partition(" on ")[0] for each in sessions] == [
            "every_road",
            "mean_reversion",
            "opening_breakout",
        ]
        assert any(" filled, " in each for each in sessions), found.string
    # The half day is played up to its early close, 13:00 New York.
    assert days[-1]["end"] == "18:00"
    # A day begins with what the one before left: baselines roll, and they differ.
    assert len({found["baselines"] for found in days}) == len(days), text
    assert days[0]["baselines"].startswith("demo 100000,")
    last = run.stdout.rstrip().splitlines()[-1]
    assert last.startswith("5 days, 3 sessions: ledger equals exchange journal each day: ")
    assert last.endswith("0 open positions")
    assert len(list((data / "reports").glob("week-*.html"))) == 15


def test_week_of_one_day_is_refused(tmp_path: Path) -> None:
    """Row of bad input: told with its code, nothing is started."""
    tape = tmp_path / "GOOG.csv"
    rows = [f"2015-12-17T14:{minute}:00Z,750.1,750.3" for minute in range(30, 50)]
    tape.write_text("\n".join(["ts_utc,bid,ask", *rows]) + "\n")
    command = ["demo", "--week", "--tape", str(tape), "--data", str(tmp_path / "week")]
    run = subprocess.run(
        [sys.executable, "starter.py", *command],
        cwd=repository_root(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2, run.stdout + run.stderr
    assert "WEEK_DAYS" in run.stdout
    assert not (tmp_path / "week" / "postgres").exists()
