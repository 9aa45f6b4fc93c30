"""`starter.py demo` as a person runs it: whole processes, real servers, an exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.processes import ProcessMark
from deploy.local.runfile import RunInfo, StackState, read_run_file
from marketdata.demo_tape import DEMO_BEGIN, demo_events
from marketdata.events import write_tape
from observability.build import repository_root

RUN_TIMEOUT_S = 240.0
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0


class Run:
    """One demonstration in a process of its own."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        self.data_dir = data_dir
        self.marks: dict[str, ProcessMark] = {}
        self._log = data_dir.parent / "demo.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "starter.py", "demo", "--data", str(data_dir), *options],
                cwd=repository_root(),
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HOLDFAST_BROKER_KEY_ID": "of-another-account"},
                start_new_session=True,
            )

    def until_ready(self) -> RunInfo:
        """Waits for the stack and notes every process of it."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            info = read_run_file(self.data_dir)
            mine = info is not None and info.supervisor.pid == self.process.pid
            if info is not None and mine and info.state is StackState.READY:
                self.marks = {entry.name: entry.mark for entry in info.processes}
                return info
            assert self.process.poll() is None, self.text()
            time.sleep(0.05)
        raise AssertionError(f"not ready in {START_TIMEOUT_S} s\n{self.text()}")

    def text(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def alive(self) -> list[str]:
        return [name for name, mark in self.marks.items() if mark.is_alive()]


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """Every run that a test started; none survives the test."""
    started: list[Run] = []
    yield started
    for run in started:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


@pytest.fixture(scope="module")
def short_tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 75 minutes of the demo day as a user's own file; too short for every outcome,
    and no shorter: the half hour before its end takes no entry, the first signals come at 13:42."""
    path = tmp_path_factory.mktemp("tape") / "ESX.csv"
    until = DEMO_BEGIN + timedelta(minutes=75)
    write_tape(path, (event for event in demo_events() if event.time < until))
    return path


def test_tape_of_the_user_ends_with_equal_books_and_leaves_no_process(
    runs: list[Run], tmp_path: Path, short_tape: Path
) -> None:
    run = Run(tmp_path / "demo", "--tape", str(short_tape))
    runs.append(run)
    info = run.until_ready()
    assert run.process.wait(RUN_TIMEOUT_S) == 0, run.text()
    lines = run.text().rstrip().splitlines()
    assert lines[-1].startswith("ledger equals exchange journal: "), run.text()
    assert any(line.startswith("not shown by this tape: >= 20 signals") for line in lines)
    assert info.web_ui_url in run.text()
    assert run.alive() == []
    assert "</html>" in (run.data_dir / "report.html").read_text(encoding="utf-8")


def test_interrupted_run_stops_all_children_and_the_next_one_starts(
    runs: list[Run], tmp_path: Path, short_tape: Path
) -> None:
    """Ctrl-C in the middle, then the same command right after; SIGKILL leaves nothing either."""
    first = Run(tmp_path / "demo", "--tape", str(short_tape))
    runs.append(first)
    first.until_ready()
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(STOP_TIMEOUT_S) == 130, first.text()
    assert first.alive() == [], first.text()

    second = Run(tmp_path / "demo", "--tape", str(short_tape))
    runs.append(second)
    second.until_ready()
    second.process.kill()
    second.process.wait()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while second.alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert second.alive() == []


def test_directory_of_somebody_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    run = Run(tmp_path)
    assert run.process.wait(START_TIMEOUT_S) == 2
    assert "DATA_DIR_FOREIGN" in run.text()
    assert (tmp_path / "mine.txt").read_text() == "precious"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_recorded_day_shows_every_outcome_and_ends_with_equal_books(
    runs: list[Run], tmp_path: Path
) -> None:
    """Issue 2: what `make run` promises, its exit code and its last line."""
    run = Run(tmp_path / "demo")
    runs.append(run)
    run.until_ready()
    assert run.process.wait(RUN_TIMEOUT_S) == 0, run.text()
    last = run.text().rstrip().splitlines()[-1]
    assert last.startswith("ledger equals exchange journal: ")
    assert last.endswith("0 open positions")
    assert run.alive() == []
