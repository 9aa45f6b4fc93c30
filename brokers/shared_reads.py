"""Many trades ask a broker the same question at once: they share calls, never a past answer.

After a restart every open trade looks at its orders; fifty trades with four reads each would spend
a minute's whole request budget. Used by `brokers.guarded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

Answer = TypeVar("Answer")


class SharedReads:
    """At most one call per question runs and one waits.

    Everybody gets the answer of a call that began after they had asked: what they conclude from
    it is as fresh as if they had called themselves (R6, R7). A failure is told to all who share
    the call; one who leaves does not end it for the others.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._waiting: dict[Hashable, asyncio.Task[Any]] = {}

    async def ask(self, question: Hashable, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer to `question` from a call that begins from now on."""
        task = self._waiting.get(question)
        if task is None:
            task = asyncio.create_task(self._next(question, call))
            task.add_done_callback(_looked_at)
            self._waiting[question] = task
        return cast(Answer, await asyncio.shield(task))

    async def _next(self, question: Hashable, call: Callable[[], Awaitable[Answer]]) -> Answer:
        before = self._running.get(question)
        if before is not None:
            await asyncio.wait([before])
        mine = self._waiting.pop(question)
        self._running[question] = mine
        try:
            return await call()
        finally:
            if self._running.get(question) is mine:
                del self._running[question]


def _looked_at(task: asyncio.Task[Any]) -> None:
    """An exception that nobody waits for any more is no news."""
    if not task.cancelled():
        task.exception()
