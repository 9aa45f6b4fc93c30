"""Beats of the order lane: the server knows within seconds that a process died in mid-step.

Without them a step of a dead process is waited for until its start-to-close timeout, and what it
bought stands bare meanwhile (faults.md E1, C7). Most steps are over before their first beat.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

BEAT_EVERY_S = 0.5


# Of a timeout: the server may have seen the last beat a little before us.
GIVEN_UP_SHARE = 0.75

OnLate = Callable[[activity.Info], Awaitable[None]]


async def _nobody(_info: activity.Info) -> None:
    return None


class Beating(Interceptor):
    """Beats for every activity that has a heartbeat timeout.

    A step that has begun goes on to its end and tells what came of it, even if the trade takes it
    back or the server has given it up: *cancelled* stays a proof that nothing was sent
    (architecture §4). Only a worker that shuts down ends it.

    Args:
        on_late: told of a step that ended when the server may have given it up: nobody hears its
            answer, and what it booked counts as told by it.
    """

    def __init__(self, on_late: OnLate = _nobody) -> None:
        self._on_late = on_late

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Beater(next, self._on_late)


class _Beater(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, on_late: OnLate) -> None:
        super().__init__(next)
        self._on_late = on_late
        self._telling: set[asyncio.Future[None]] = set()

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        if info.heartbeat_timeout is None:
            return await super().execute_activity(input)
        pulse = _Pulse(info)
        step = asyncio.ensure_future(super().execute_activity(input))
        beats = asyncio.create_task(pulse.beat())
        try:
            return await _to_its_end(step)
        finally:
            beats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beats
            if pulse.may_be_given_up():
                telling = asyncio.ensure_future(self._on_late(info))
                self._telling.add(telling)
                telling.add_done_callback(self._telling.discard)


class _Pulse:
    """The beats of one step, and whether one of them may have come too late."""

    def __init__(self, info: activity.Info) -> None:
        limit, beat = info.start_to_close_timeout, info.heartbeat_timeout
        self._limit_s = limit.total_seconds() if limit is not None else float("inf")
        self._gap_max_s = beat.total_seconds() if beat is not None else float("inf")
        self._began_s = self._last_s = time.monotonic()
        self._longest_s = 0.0

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY_S)
            self._note()
            activity.heartbeat()

    def _note(self) -> None:
        now_s = time.monotonic()
        self._longest_s = max(self._longest_s, now_s - self._last_s)
        self._last_s = now_s

    def may_be_given_up(self) -> bool:
        """True if it ran as long as it may, stood still for as long as its beats may, or was told.

        A process that was stopped ends its step before it hears of anything (faults.md C8).
        """
        self._note()
        told = activity.cancellation_details()
        return (
            self._last_s - self._began_s >= self._limit_s * GIVEN_UP_SHARE
            or self._longest_s >= self._gap_max_s * GIVEN_UP_SHARE
            or (told is not None and (told.not_found or told.timed_out))
        )


async def _to_its_end(step: asyncio.Future[Any]) -> Any:
    while True:
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            if step.done():
                raise
            told = activity.cancellation_details()
            if told is None or told.worker_shutdown:
                step.cancel()
                raise
