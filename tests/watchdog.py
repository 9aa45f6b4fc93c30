"""pytest plugin: a test that hangs tells where, ends its process, and the run goes on without it.

A time-out alone does not end it: it raises once, in whatever task of the event loop runs just then,
and that task may keep it to itself; and it is not asked at all where a loop is being closed.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import pytest
from xdist.scheduler import LoadFileScheduling

TEARDOWN_MAX_S = 180.0
OVERTIME_MAX_S = 60.0
_STDERR = pytest.StashKey[TextIO]()


def pytest_configure(config: pytest.Config) -> None:
    """What the watchdog tells must not end in the file that catches a test's output."""
    config.stash[_STDERR] = os.fdopen(os.dup(2), "w")


def _time_limit_s(item: pytest.Item) -> float:
    """The test's own time-out: its marker, else the one of pyproject.toml."""
    marker = item.get_closest_marker("timeout")
    if marker is not None and marker.args:
        return float(marker.args[0])
    return float(item.config.getini("timeout"))


@contextmanager
def _ends_the_process_after(limit_s: float, item: pytest.Item) -> Iterator[None]:
    timer = threading.Timer(limit_s, _end, (item, limit_s))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(item: pytest.Item, limit_s: float) -> None:
    """Tells the test, every open task and every thread."""
    out = item.config.stash[_STDERR]
    # Whoever holds the interpreter's lock for good lets no Python thread tell anything.
    faulthandler.dump_traceback_later(10.0, exit=True, file=out)
    print(f"\n== HANGS: {item.nodeid} after {limit_s:g} s", file=out, flush=True)
    for task in [each for each in gc.get_objects() if isinstance(each, asyncio.Task)]:
        if not task.done():
            print(task, file=out)
            task.print_stack(file=out)
    faulthandler.dump_traceback(out)
    out.flush()
    os._exit(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with _ends_the_process_after(_time_limit_s(item) + OVERTIME_MAX_S, item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with _ends_the_process_after(_time_limit_s(item) + OVERTIME_MAX_S, item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with _ends_the_process_after(TEARDOWN_MAX_S, item):
        return (yield)


class GoesOnAfterACrash(LoadFileScheduling):
    """File by file, also when a worker died.

    pytest-xdist 3.8 waits for ever then: it deals out files that are done, which nobody answers,
    and single tests, which a worker begins only once it knows the next one. It plays what killed
    the worker again, and breaks when it deals out to a worker that still collects (its issues 1323,
    1327, 1362, 1378). Superfluous once a release has them mended.
    """

    def remove_node(self, node: Any) -> str | None:
        workload = self.assigned_work.pop(node)
        open_tests = [
            (tests, name) for tests in workload.values() for name, done in tests.items() if not done
        ]
        if not open_tests:
            return None
        tests, crashed = open_tests[0]
        tests[crashed] = True
        self.workqueue.update(
            {scope: tests for scope, tests in workload.items() if not all(tests.values())}
        )
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: Any) -> None:
        if node not in self.registered_collections:
            return  # It is still collecting, and asks for work by itself then.
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return GoesOnAfterACrash(config, log) if config.getvalue("dist") == "loadfile" else None
