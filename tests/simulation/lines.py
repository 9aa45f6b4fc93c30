"""A process's line to the ledger: latency, outages, lost commits, and the silence of the dead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ledger.errors import LedgerDown
from tests.simulation.ledger import MemoryLedger
from tests.simulation.processes import Process

QUIET = frozenset({"untold_fills", "renew_lease", "take_lease", "release_lease", "get_cursor"})


class LedgerTrouble:
    """What is wrong with PostgreSQL and the way to it; one for all processes."""

    def __init__(self) -> None:
        self.is_down = False
        self.lose_commit: Callable[[str], bool] = lambda method: False
        self.stall_s: Callable[[str], float] = lambda method: 0.0


class LedgerLine:
    """The ledger as one process has it. Every method of `MemoryLedger`, over a wire."""

    def __init__(self, ledger: MemoryLedger, process: Process, trouble: LedgerTrouble) -> None:
        self._ledger = ledger
        self._process = process
        self._trouble = trouble

    def __getattr__(self, name: str) -> Any:
        """Made once: from then on the instance has it."""
        made = self.__dict__[name] = self._call_of(name)
        return made

    def _call_of(self, name: str) -> Any:
        method = getattr(self._ledger, name)
        if name == "listen":
            return method
        process, trouble = self._process, self._trouble
        is_quiet = name in QUIET

        async def call(*args: Any, **options: Any) -> Any:
            if not process.is_alive:
                raise LedgerDown("the process is dead")
            if trouble.is_down:
                await asyncio.sleep(0.05)
                raise LedgerDown("PostgreSQL is away")
            if not is_quiet:
                await asyncio.sleep(0)
            answer = await method(*args, **options)
            if is_quiet:
                return answer
            if trouble.lose_commit(name):
                raise LedgerDown("the answer to COMMIT was lost")
            stall_s = trouble.stall_s(name)
            if stall_s:
                await asyncio.sleep(stall_s)
            return answer

        return call
