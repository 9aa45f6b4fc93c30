"""Beats of the order lane: the server knows within seconds that a process died in mid-step.

Without them a step of a dead process is waited for until its start-to-close timeout, and what it
bought stands bare meanwhile (faults.md E1, C7). Most steps are over before their first beat.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

BEAT_EVERY_S = 0.5


class Beating(Interceptor):
    """Beats for every activity that has a heartbeat timeout.

    A step that has begun goes on to its end and tells what came of it, even if the trade takes it
    back or the server has given it up: *cancelled* stays a proof that nothing was sent
    (architecture §4). Only a worker that shuts down ends it.
    """

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Beater(next)


class _Beater(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if activity.info().heartbeat_timeout is None:
            return await super().execute_activity(input)
        step = asyncio.ensure_future(super().execute_activity(input))
        beats = asyncio.create_task(_beat())
        try:
            return await _to_its_end(step)
        finally:
            beats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beats


async def _beat() -> None:
    while True:
        await asyncio.sleep(BEAT_EVERY_S)
        activity.heartbeat()


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
