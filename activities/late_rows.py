"""Rows of order steps that the ledger could not take at once, written when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from temporalio import activity

from activities.hosting import backoff_s
from domain.errors import Broken, HoldfastError

TRIES_MAX = 200
Write = Callable[[], Awaitable[object]]
"""Idempotent, and fenced where another may have the row by then."""


class LateRows:
    """Writes what an order step could not wait for (architecture §5 step 7, H5).

    The step's own answer is durable in history; without the row executions of the order would be
    nobody's, or an order that was never sent would stay without an end. A process that dies before
    leaves the row to the reconciler.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def book(self, name: str, write: Write) -> None:
        """Tries once, and goes on trying behind the caller's back."""
        try:
            await write()
        except HoldfastError as error:
            activity.logger.warning("row of %s is written later: %s", name, error.code)
            self._begin(_try_on(name, write, failures=1))

    async def book_within(self, wait_s: float, name: str, write: Write) -> None:
        """Waits only so long even for the first try: the step has its own end to keep."""
        await asyncio.wait((self._begin(_try_on(name, write, failures=0)),), timeout=wait_s)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _try_on(name: str, write: Write, failures: int) -> None:
    for count in range(failures, TRIES_MAX):
        if count:
            await asyncio.sleep(backoff_s(count - 1))
        try:
            await write()
        except Broken as error:
            activity.logger.warning("row of %s is not there to write: %s", name, error.code)
            return
        except HoldfastError:
            continue
        activity.logger.info("row of %s is written now", name)
        return
    activity.logger.error("row of %s was never written", name)
