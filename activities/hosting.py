"""How a long activity lives: it beats, and leaves at once when its worker shuts down."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterable
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
    await run_until_one_ends([work, _beat(), activity.wait_for_worker_shutdown()])


async def run_until_one_ends(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs them side by side until one ends; takes the others back and raises its error.

    No `TaskGroup`: it drops a cancellation that meets an error of a child. A streamer that lost
    its lease in the moment in which it was to stop then led on for ever, and its worker never
    ended.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


async def _beat() -> None:
    """Beats from the event loop itself: a blocked loop is a dead streamer."""
    while True:
        activity.heartbeat()
        await asyncio.sleep(HEARTBEAT_S)
