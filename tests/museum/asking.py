"""pytest plugin of `make mutants`: tests are collected once, then one forked process per mutant.

mutmut plants all mutants of a function side by side and a name chooses one, so a fork of the
process that has imported everything asks in a tenth of a second what a new pytest asks in one.
The tests that reach a function are found by running each once on mutmut's own counters.
Only for `tests.museum.mutants`, in its copy of the tree.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypedDict

import pytest
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

NAMES, RESULTS, REACHED = (Path("..") / f"{word}.json" for word in ("names", "results", "reached"))
NOT_REACHED, TIMED_OUT = 33, 36
CPU_MIN_S = 3
WALL_MAX_S = 300
# Tests that are not the area's own, those first that reach most of the code. What survives them
# might be killed by one that was not asked, so the score errs to be low.
OTHERS_MAX = 60


class Reach(TypedDict):
    """What one test calls; `mark` is the hash of its file."""

    mark: str
    seconds: float
    functions: list[str]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Asks after every mutant of the names file and writes each answer as it comes.

    Raises:
        UsageError: a file of tests was not collected: what only it would kill would survive.
    """
    if session.testsfailed:
        raise pytest.UsageError("tests were not collected; see mutants.log")
    set_mutant_under_test("")
    gc.freeze()
    if _in_fork(partial(_find_reached, session), wall_max_s=math.inf) != 0:
        raise pytest.UsageError("what the tests reach was not found; see mutants.log")
    reached: dict[str, Reach] = json.loads(REACHED.read_text())
    asked = json.loads(NAMES.read_text())
    for name, mark in asked["mutants"]:
        function = name.partition("__mutmut_")[0]
        items = [item for item in session.items if function in reached[item.nodeid]["functions"]]
        own = [item for item in items if item.nodeid.startswith(tuple(asked["own"]))]
        others = [item for item in items if item not in own]
        others.sort(key=lambda item: -len(reached[item.nodeid]["functions"]))
        items = [*own, *others[:OTHERS_MAX]]
        ask = partial(_ask, session, name, items, reached)
        answer = {"name": name, "hash": mark, "code": _in_fork(ask) if items else NOT_REACHED}
        with RESULTS.open("a") as results:
            results.write(json.dumps(answer) + "\n")
    return True


def _ask(
    session: pytest.Session, name: str, items: list[pytest.Item], reached: dict[str, Reach]
) -> int:
    """1 if a test fails; an endless loop ends the process at a multiple of the test's time."""
    set_mutant_under_test(name)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    for item in items:
        seconds = time.process_time() + CPU_MIN_S + 3 * reached[item.nodeid]["seconds"]
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), hard))
        if _fails(session, item):
            return 1
    return 0


def _fails(session: pytest.Session, item: pytest.Item) -> bool:
    session.testsfailed = 0
    session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    return bool(session.testsfailed)


def _find_reached(session: pytest.Session) -> int:
    """Writes which functions each test calls, and how long it takes; asks changed files only.

    A test that fails without any mutant, twice, is told and asked after none.
    """
    known: dict[str, Reach] = json.loads(REACHED.read_text()) if REACHED.exists() else {}
    set_mutant_under_test("stats")
    for number, item in enumerate(session.items):
        mark = hashlib.sha256(item.path.read_bytes()).hexdigest()
        if item.nodeid in known and known[item.nodeid]["mark"] == mark:
            continue
        state()._stats.clear()
        started = time.process_time()
        if _fails(session, item) and _fails(session, item):
            print(f"fails without any mutant: {item.nodeid}", flush=True)
            state()._stats.clear()
        seconds = time.process_time() - started
        functions = sorted(state()._stats)
        known[item.nodeid] = Reach(mark=mark, seconds=seconds, functions=functions)
        if number % 50 == 0:
            REACHED.write_text(json.dumps(known))
    REACHED.write_text(json.dumps(known))
    return 0


def _in_fork(work: Callable[[], int], wall_max_s: float = WALL_MAX_S) -> int:
    """What `work` returns, from a process of its own; killed ones count as timed out."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(0)
            code = work()
        finally:
            os._exit(code)
    return _awaited(child, wall_max_s)


def _awaited(child: int, wall_max_s: float) -> int:
    deadline = time.monotonic() + wall_max_s
    pause_s = 0.002
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else TIMED_OUT
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMED_OUT
