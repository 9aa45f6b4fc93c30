"""Processes of the simulation: what dies together, and what a frozen one does not do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Body = Callable[[Any], Coroutine[Any, Any, Any]]


class Process:
    """One incarnation of a worker process.

    `bodies` are its activities by name. Killed, its tasks end where they are; `is_alive` is asked
    by the ledger and the network before they do anything for it, so that no `finally` of a dead
    process still acts.
    """

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.is_alive = True
        self.bodies: dict[str, Body] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failpoint: Callable[[str], None] = lambda name: None
        self.stall_s: Callable[[], float] = lambda: 0.0
        self.on_error: Callable[[BaseException], None] = lambda error: None

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that dies with the process."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self.is_alive:
            self.on_error(error)

    def kill(self) -> None:
        """SIGKILL: nothing of it runs on."""
        self.is_alive = False
        for task in list(self._tasks):
            task.cancel()
