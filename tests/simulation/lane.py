"""The order lane as gateway and server serve it: a rate with a burst, strict priorities.

A gateway asks for a step only when it may go (`deploy/temporal/lane_pace.py`): at 60 requests a
minute six at once and then one in four seconds. A plan that is sound when every step runs at once
may still stand bare behind its own questions here (K3, I4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

from tests.simulation.clock import VirtualLoop

DEFAULT_PRIORITY = 3
"""What Temporal takes a step for that names none."""


class RatedQueue:
    """Lets a burst go at once and then a step in each `gap_s`, as long as somebody polls.

    Args:
        loop: gives the time.
        gap_s: seconds in which one more step may go.
        burst: steps that may go at once after a rest.
        is_polled: whether a worker asks for steps.
    """

    def __init__(
        self, loop: VirtualLoop, gap_s: float, burst: int, is_polled: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._gap_s = gap_s
        self._burst = burst
        self._is_polled = is_polled
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._full_at_s = 0.0
        self._is_armed = False

    async def turn(self, priority: int) -> None:
        """Returns when this step may go; cancelled, it leaves the queue."""
        self._count += 1
        future: asyncio.Future[None] = self._loop.create_future()
        heappush(self._waiting, (priority or DEFAULT_PRIORITY, self._count, future))
        self.wake()
        await future

    def wake(self) -> None:
        """Somebody came: a step, or a worker."""
        if not self._is_armed:
            self._is_armed = True
            next_s = self._full_at_s - (self._burst - 1) * self._gap_s
            self._loop.call_later(max(0.0, next_s - self._loop.time()), self._serve)

    def _serve(self) -> None:
        self._is_armed = False
        while self._waiting and self._waiting[0][2].done():
            heappop(self._waiting)
        if not self._waiting or not self._is_polled():
            return
        heappop(self._waiting)[2].set_result(None)
        self._full_at_s = max(self._full_at_s, self._loop.time()) + self._gap_s
        self.wake()
