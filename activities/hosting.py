"""How a long activity lives: it beats, and leaves at once when its worker shuts down."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any

from temporalio import activity

HEARTBEAT_S = 0.5
BACKOFF_S_MAX = 15.0


def backoff_s(failures: int) -> float:
    """Exponential with jitter, so that a venue that comes back is not stormed."""
    ceiling = min(0.1 * 2 ** min(failures, 10), BACKOFF_S_MAX)
    return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - spread, no secret


async def run_until_shutdown(work: Coroutine[Any, Any, None]) -> None:
    """Runs endless work under heartbeats; returns when the worker drains.

    Returning ends the activity normally, so that its workflow starts it elsewhere without waiting
    for a missed heartbeat. An error of the work is raised.
    """
    tasks = {
        asyncio.create_task(work),
        asyncio.create_task(_beat()),
        asyncio.create_task(activity.wait_for_worker_shutdown()),
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _beat() -> None:
    """Beats from the event loop itself: a blocked loop is a dead streamer."""
    while True:
        activity.heartbeat()
        await asyncio.sleep(HEARTBEAT_S)
