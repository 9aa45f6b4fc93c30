"""A virtual-time event loop: sleeping costs nothing, and the same calls give the same order.

Nothing here touches sockets or the wall clock. When nothing is ready, time jumps to the next
timer; when there is none either, the simulation is stuck and says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, copy_context
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from typing import Any, TypeVar

START = datetime(2013, 9, 3, 14, 0, tzinfo=UTC)
"""Wall and market time of the first instant: 10:00 in New York, half an hour after the open."""

RESOLUTION_S = 1e-9
T = TypeVar("T")


class Stuck(RuntimeError):
    """Nothing is ready and no timer is armed: nobody will ever do anything again."""


def _nothing() -> None:
    """What a cancelled handle holds: it may wait in the heap for long."""


class _Soon(asyncio.Handle):
    """A callback of this loop, without the debugging that every other loop asks for.

    The loop fills it in: a constructor of its own would be called 1,500 times a seed.
    """

    __slots__ = ()
    _callback: Callable[..., object]
    _context: Context

    def cancel(self) -> None:
        self._cancelled = True
        self._callback, self._args = _nothing, ()


class _Later(asyncio.TimerHandle):
    """A callback for a later moment."""

    __slots__ = ()
    _callback: Callable[..., object]
    _context: Context
    _when: float

    def cancel(self) -> None:
        self._cancelled = True
        self._callback, self._args = _nothing, ()


_new_soon = partial(_Soon.__new__, _Soon)
_new_later = partial(_Later.__new__, _Later)


class _NoSockets:
    """The selector of a loop that never waits for anything outside."""

    def get_map(self) -> Mapping[Any, Any]:
        return {}

    def close(self) -> None:
        return None


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at zero and moves only by timers.

    asyncio's own round (selector, debug checks, handles that know their loop) was a seventh of a
    simulation. Timers of the same moment run in the order in which they were armed.
    """

    def __init__(self) -> None:
        self._virtual_s = 0.0
        self._now_s, self._now = 0.0, START
        self._timers: list[tuple[float, int, _Later]] = []
        self._armed = 0
        self._ssock = self._csock = None
        super().__init__(_NoSockets())  # type: ignore[arg-type]
        self._waiting: deque[_Soon | _Later] = self._ready  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._virtual_s

    def now(self) -> datetime:
        """The virtual wall clock, aware UTC."""
        if self._now_s != self._virtual_s:
            self._now_s = self._virtual_s
            self._now = START + timedelta(seconds=round(self._virtual_s, 6))
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _new_soon()
        handle._callback = callback
        handle._args = args
        handle._context = copy_context() if context is None else context
        handle._cancelled = False
        self._waiting.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self._arm(self._virtual_s + delay, callback, args, context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self._arm(when, callback, args, context)

    def _arm(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> _Later:
        handle = _new_later()
        handle._when = when
        handle._callback = callback
        handle._args = args
        handle._context = copy_context() if context is None else context
        handle._cancelled = False
        self._armed += 1
        heappush(self._timers, (when, self._armed, handle))
        return handle

    def _run_once(self) -> None:
        """Rounds until somebody stops the loop: what is due, then what waits by now."""
        waiting, timers = self._waiting, self._timers
        while not self._stopping:  # type: ignore[attr-defined]
            if not waiting:
                self._jump()
            due_s = self._virtual_s + RESOLUTION_S
            while timers and timers[0][0] < due_s:
                waiting.append(heappop(timers)[2])
            for _ in range(len(waiting)):
                handle = waiting.popleft()
                if handle._cancelled:
                    continue
                try:
                    handle._context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    text = f"exception in {handle._callback!r}"
                    self.call_exception_handler({"message": text, "exception": error})

    def _jump(self) -> None:
        """To the next timer."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        if not timers:
            raise Stuck("nothing is ready and no timer is armed")
        self._virtual_s = max(self._virtual_s, timers[0][0])

    def _make_self_pipe(self) -> None:
        """No other thread ever wakes this loop."""

    def _close_self_pipe(self) -> None:
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
