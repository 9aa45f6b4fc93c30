"""The test run itself: a test that hangs or dies is named, and every other one is played."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DIES = """
import os
def test_before(): pass
def test_dies(): os._exit(1)
def test_after(): pass
"""
HANGS = """
import asyncio, pytest, tests.watchdog
tests.watchdog.TEARDOWN_MAX_S = 1.0

async def deaf():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def test_hangs():
    asyncio.get_running_loop().deaf = asyncio.create_task(deaf())
    await asyncio.sleep(0)

def test_after(): pass
"""
PASSES = "def test_one(): pass\n"
ALONE = "import os\ndef test_dies(): os._exit(1)\n"


def run_of(folder: Path, **files: str) -> tuple[int, str]:
    """Exit code and output of a run of two processes over these files."""
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\ntimeout = 60\nasyncio_mode = auto\n")
    flags = ["-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, "-p", "tests.watchdog", str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_test_that_hangs_in_its_teardown_is_named_with_its_task_and_the_run_goes_on(
    tmp_path: Path,
) -> None:
    code, told = run_of(tmp_path, a_hangs=HANGS, b=PASSES, c=PASSES, d=PASSES)
    assert code == 1
    assert "== HANGS: test_a_hangs.py::test_hangs after 1 s" in told
    assert "coro=<deaf()" in told
    assert "1 failed, 5 passed" in told


@pytest.mark.parametrize(
    ("files", "ending"),
    [
        ({"a": PASSES, "b": PASSES, "c_dies": DIES, "d": PASSES}, "1 failed, 5 passed"),
        ({"a_dies": ALONE, "b_dies": ALONE, "c_dies": ALONE, "d": PASSES}, "3 failed, 1 passed"),
        ({"a_dies": DIES, "b_dies": DIES}, "2 failed, 4 passed"),
    ],
    ids=["the last but one", "each alone in its file", "all files at once"],
)
def test_what_kills_its_process_is_played_once_and_every_other_test_is_played(
    files: dict[str, str], ending: str, tmp_path: Path
) -> None:
    code, told = run_of(tmp_path, **files)
    assert code == 1
    assert ending in told
