"""Numbered failpoints of a chaos worker: every pass is counted, one of them strikes.

The places are those of `observability.failpoints` (entry and exit of each activity body and of
each workflow activation, the durable steps of the order lane) and, from `ChaosTransport`, each
state-changing request to the broker before it is sent and before its reply is believed
(faults.md §2.1, C7, C8, H1). A process tells its driver over a pipe: a SIGKILL cannot take back
what has been written.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import NoReturn

import httpx

from observability.failpoints import Failpoints

WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Strike(StrEnum):
    """What happens inside the worker at its failpoint.

    `ask` waits for the driver, which does its worst meanwhile (servers, network, kill, flatten).
    """

    KILL = "kill"
    STOP = "stop"
    RAISE = "raise"
    HANG = "hang"
    LOSE = "lose"
    ASK = "ask"


@dataclass(frozen=True)
class Target:
    """The n-th pass of a place in one process, what happens there, and for how long it hangs."""

    place: str
    nth: int
    strike: Strike
    hang_s: float


class Injected(Exception):
    """The failpoint's own error; nobody expects it."""


class ChaosPoints(Failpoints):
    """Counts passes over all threads, tells each one, and strikes at the target."""

    def __init__(self, target: Target | None, driver: Connection) -> None:
        super().__init__(())
        self._target = target
        self._driver = driver
        self._counts: Counter[str] = Counter()
        self._telling = threading.Lock()

    def __bool__(self) -> bool:
        return True

    def hit(self, name: str) -> None:
        """A pass on a thread that may be blocked: a hang stops everything on its loop."""
        target = self._count(name)
        if target is None:
            return
        if target.strike is Strike.HANG:
            time.sleep(target.hang_s)
        elif target.strike in (Strike.RAISE, Strike.LOSE):
            raise Injected(f"{target.place}:{target.nth}")
        else:
            self._strike_process(target)

    async def reach(self, name: str) -> None:
        """A pass of one activity: a hang stops this one alone, the zombie of faults.md C8."""
        target = self._count(name)
        if target is None:
            return
        if target.strike is Strike.HANG:
            await asyncio.sleep(target.hang_s)
        elif target.strike in (Strike.RAISE, Strike.LOSE):
            raise Injected(f"{target.place}:{target.nth}")
        else:
            self._strike_process(target)

    async def request(self, name: str) -> Strike | None:
        """A pass of one request: what the transport itself has to do about it."""
        target = self._count(name)
        if target is None:
            return None
        if target.strike is Strike.HANG:
            await asyncio.sleep(target.hang_s)
        elif target.strike not in (Strike.RAISE, Strike.LOSE):
            self._strike_process(target)
        return target.strike

    def tell(self, kind: str, text: str = "") -> None:
        """One message to the driver, whole even if the process dies right behind it."""
        with self._telling:
            self._driver.send((kind, text, time.time()))

    def _count(self, name: str) -> Target | None:
        """Tells the pass; the target if this is it."""
        with self._telling:
            self._counts[name] += 1
            nth = self._counts[name]
            target = self._target
            is_here = target is not None and (target.place, target.nth) == (name, nth)
            kind = "fired" if is_here else "passed"
            self._driver.send((kind, f"{name}:{nth}", time.time()))
        return target if is_here else None

    def _strike_process(self, target: Target) -> None:
        if target.strike is Strike.KILL:
            _die()
        if target.strike is Strike.STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif target.strike is Strike.ASK:
            self._driver.recv()


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process went on")


class ChaosTransport(httpx.AsyncBaseTransport):
    """The network of the adapter with a failpoint before each write and one behind its reply."""

    def __init__(self, inner: httpx.AsyncBaseTransport, points: ChaosPoints) -> None:
        self._inner = inner
        self._points = points

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method not in WRITES:
            return await self._inner.handle_async_request(request)
        if await self._points.request(f"send.{request.method}") in (Strike.RAISE, Strike.LOSE):
            raise httpx.ConnectError("injected: nothing was sent")
        response = await self._inner.handle_async_request(request)
        if await self._points.request(f"reply.{request.method}") in (Strike.RAISE, Strike.LOSE):
            await response.aclose()
            raise httpx.ReadError("injected: the reply was lost")
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()
