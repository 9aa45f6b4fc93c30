"""Rows of reducing orders that went out while the ledger was away, written once it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from temporalio import activity

from activities.hosting import backoff_s
from domain.errors import HoldfastError

TRIES_MAX = 200


class LateRows:
    """Writes what an order step could not wait for (architecture §5 step 7, H5).

    The step's own answer is durable in history; without the row executions of the order would be
    nobody's. A process that dies before leaves the order to the reconciler.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def book(self, name: str, write: Callable[[], Awaitable[object]]) -> None:
        """Tries once, and goes on trying behind the caller's back; `write` is idempotent."""
        try:
            await write()
        except HoldfastError as error:
            activity.logger.warning("row of %s is written later: %s", name, error.code)
            task = asyncio.create_task(_try_on(name, write))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _try_on(name: str, write: Callable[[], Awaitable[object]]) -> None:
    for failures in range(TRIES_MAX):
        await asyncio.sleep(backoff_s(failures))
        try:
            await write()
        except HoldfastError:
            continue
        activity.logger.info("row of %s is written now", name)
        return
    activity.logger.error("row of %s was never written", name)
