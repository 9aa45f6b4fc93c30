"""A virtual-time event loop: sleeping costs nothing, and the same calls give the same order.

Nothing here touches sockets or the wall clock. When nothing is ready, time jumps to the next
timer; when there is none either, the simulation is stuck and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

START = datetime(2013, 9, 3, 14, 0, tzinfo=UTC)
"""Wall and market time of the first instant: 10:00 in New York, half an hour after the open."""

T = TypeVar("T")


class Stuck(RuntimeError):
    """Nothing is ready and no timer is armed: nobody will ever do anything again."""


class _Jump:
    """The selector of a loop without sockets: `select` moves the clock instead of waiting."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout_s: float | None = None) -> list[Any]:
        if timeout_s is None:
            raise Stuck("nothing is ready and no timer is armed")
        if timeout_s > 0:
            self._loop.jump()
        return []

    def get_map(self) -> Mapping[Any, Any]:
        return {}

    def close(self) -> None:
        return None


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at zero and moves only by timers."""

    def __init__(self) -> None:
        self._virtual_s = 0.0
        self._ssock = self._csock = None
        super().__init__(_Jump(self))  # type: ignore[arg-type]
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._virtual_s

    def now(self) -> datetime:
        """The virtual wall clock, aware UTC."""
        return START + timedelta(seconds=round(self._virtual_s, 6))

    def jump(self) -> None:
        """To the next timer."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        self._virtual_s = max(self._virtual_s, scheduled[0].when())

    def _make_self_pipe(self) -> None:
        """No other thread ever wakes this loop."""

    def _close_self_pipe(self) -> None:
        return None

    def _process_events(self, event_list: object) -> None:
        return None


def run_virtual(work: Coroutine[Any, Any, T], loop: VirtualLoop | None = None) -> T:
    """Runs the coroutine in virtual time and ends everything that it left behind."""
    loop = loop or VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        _end_tasks(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _end_tasks(loop: VirtualLoop) -> None:
    """A killed process leaves tasks; none of them may outlive the run."""
    for _ in range(5):
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        if not left:
            return
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
