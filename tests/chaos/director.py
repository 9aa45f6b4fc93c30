"""Does to one cell what its fault says, at the moment its worker stands at the failpoint."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from temporalio.service import RPCError

from activities.kill import engage
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from domain.errors import Transient
from domain.ids import trade_workflow_id
from domain.messages import OperatorSignal
from tests.chaos.faults import Cell, Fault
from tests.chaos.grounds import Lane
from tests.chaos.proxy import Proxy
from tests.chaos.worker_process import WorkerSpec, run_worker
from workflows.trade import TradeWorkflow

POSTGRES_DELAY_S = 0.4
BROKER_DELAY_S = 0.7
SERVING_TIMEOUT_S = 90.0
START_POLL_S = 0.02
KILL_REPEAT_S = 0.2
END_TIMEOUT_S = 20.0
LOG_SHOWN = 4_000

_forks = get_context("forkserver")
_forks.set_forkserver_preload(["tests.chaos.worker_process"])

Window = tuple[float, float]


@dataclass
class WorkerUnderTest:
    """One worker process and what it has told."""

    spec: WorkerSpec
    process: BaseProcess
    line: Connection
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    fired: asyncio.Event = field(default_factory=asyncio.Event)
    fired_at: float = 0.0
    passes: list[str] = field(default_factory=list)

    @classmethod
    async def start(cls, spec: WorkerSpec) -> WorkerUnderTest:
        ours, theirs = _forks.Pipe(duplex=True)
        process = _forks.Process(target=run_worker, args=(spec, theirs), daemon=True)
        # The first one waits until the fork server has imported everything.
        await asyncio.to_thread(process.start)
        theirs.close()
        made = cls(spec, process, ours)
        asyncio.get_running_loop().add_reader(ours.fileno(), made._listen)
        return made

    def _listen(self) -> None:
        try:
            while self.line.poll():
                kind, text, at = self.line.recv()
                if kind == "serving":
                    self.serving.set()
                    continue
                self.passes.append(text)
                if kind == "fired":
                    self.fired_at = at
                    self.fired.set()
        except (EOFError, OSError):
            self._hang_up()

    def _hang_up(self) -> None:
        if not self.line.closed:
            asyncio.get_running_loop().remove_reader(self.line.fileno())
            self.line.close()

    def answer(self) -> None:
        """Lets a worker that asked go on."""
        with contextlib.suppress(OSError):
            self.line.send("go on")

    def signal(self, number: int) -> None:
        pid = self.process.pid
        if pid is not None and self.process.exitcode is None:
            os.kill(pid, number)

    async def until_serving(self) -> None:
        """Waits until it polls; one that died first is told with its log."""
        async with asyncio.timeout(SERVING_TIMEOUT_S):
            while not self.serving.is_set():
                assert self.process.exitcode is None, self.told()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.serving.wait(), 0.2)

    async def end(self) -> None:
        """SIGKILL, wherever it stands."""
        self.process.kill()
        await asyncio.to_thread(self.process.join, END_TIMEOUT_S)
        self._hang_up()

    def told(self) -> str:
        """The end of its log, for the message of a failed cell."""
        log = Path(self.spec.log_file)
        text = log.read_text(errors="replace")[-LOG_SHOWN:] if log.exists() else "no log"
        return f"worker exit {self.process.exitcode}:\n{text}"


@dataclass
class Director:
    """The workers of one cell and the hand of fate over them.

    `downtime` are wall-clock windows in which no process could act or the broker was out of
    reach; `settled_at` is when the last effect of the fault is over.
    """

    cell: Cell | None
    lane: Lane
    spec: WorkerSpec
    broker: Proxy | None = None
    postgres: Proxy | None = None
    role: str = ""
    workers: list[WorkerUnderTest] = field(default_factory=list)
    downtime: list[Window] = field(default_factory=list)
    settled_at: float = 0.0
    killed_at: float = 0.0
    trade_ids: Callable[[], list[str]] = list
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts the worker that has the failpoint and watches over it."""
        first = await WorkerUnderTest.start(self.spec)
        self.workers.append(first)
        await first.until_serving()
        if self.cell is not None:
            self._task = asyncio.create_task(self._strike(self.cell.fault, first))

    @property
    def has_fired(self) -> bool:
        return self.workers[0].fired.is_set()

    async def settle(self) -> None:
        """Waits until the fault's last effect is over; its own errors come out here."""
        if self._task is None or not self.has_fired:
            return
        await self._task
        await asyncio.sleep(max(0.0, self.settled_at - time.time()))

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for worker in self.workers:
            await worker.end()

    async def _strike(self, fault: Fault, worker: WorkerUnderTest) -> None:
        await worker.fired.wait()
        act: Callable[[WorkerUnderTest], Awaitable[None]] = {
            Fault.KILL: self._killed,
            Fault.KILL_COLD: self._killed,
            Fault.STOP: self._stopped,
            Fault.HANG: self._hung,
            Fault.TEMPORAL_KILL: self._without_temporal,
            Fault.KILL_SWITCH: self._kill_switch,
            Fault.FLATTEN: self._flatten,
        }.get(fault, self._nothing)
        if fault.is_of_network or fault.is_of_postgres:
            act = self._disturbed
        await act(worker)
        self.settled_at = max(self.settled_at, time.time())

    async def _nothing(self, worker: WorkerUnderTest) -> None:
        """The worker does it all by itself."""

    async def _successor(self, fired_at: float) -> None:
        after = await WorkerUnderTest.start(replace(self.spec, target=None))
        self.workers.append(after)
        await after.until_serving()
        self.downtime.append((fired_at, time.time()))

    async def _killed(self, worker: WorkerUnderTest) -> None:
        await asyncio.to_thread(worker.process.join, END_TIMEOUT_S)
        assert worker.process.exitcode == -signal.SIGKILL, worker.told()
        await self._successor(worker.fired_at)

    async def _stopped(self, worker: WorkerUnderTest) -> None:
        """A successor takes over; then the old one wakes and goes on where it stood (C8)."""
        await self._successor(worker.fired_at)
        await asyncio.sleep(max(0.0, worker.fired_at + self.spec.times.stopped_s - time.time()))
        worker.signal(signal.SIGCONT)
        self.settled_at = time.time() + 1.0

    async def _hung(self, worker: WorkerUnderTest) -> None:
        assert self.cell is not None
        until = worker.fired_at + self.spec.times.hang_s
        if not hangs_alone(self.cell.place):
            self.downtime.append((worker.fired_at, until))
        self.settled_at = until + 1.0

    async def _without_temporal(self, worker: WorkerUnderTest) -> None:
        self.lane.temporal.kill()
        worker.answer()
        await self.lane.temporal.kill_and_restart()
        self.downtime.append((worker.fired_at, time.time()))

    async def _disturbed(self, worker: WorkerUnderTest) -> None:
        assert self.cell is not None
        fault, length_s = self.cell.fault, self.spec.times.away_s
        proxy = self.postgres if fault.is_of_postgres else self.broker
        assert proxy is not None
        if fault in (Fault.POSTGRES_STOP, Fault.BROKER_CUT):
            proxy.cut()
        elif fault is Fault.POSTGRES_READ_ONLY:
            await self.lane.database.run(
                f"ALTER ROLE {self.role} SET default_transaction_read_only = on"
            )
            proxy.end_connections()
        elif fault is Fault.BROKER_TWICE:
            proxy.is_duplicating = True
        else:
            length_s = self.spec.times.slow_s
            proxy.delay_s = POSTGRES_DELAY_S if fault.is_of_postgres else BROKER_DELAY_S
        worker.answer()
        await asyncio.sleep(length_s)
        if fault is Fault.POSTGRES_READ_ONLY:
            await self.lane.database.run(
                f"ALTER ROLE {self.role} RESET default_transaction_read_only"
            )
            proxy.end_connections()
        proxy.heal()
        if fault.is_of_network and fault is not Fault.BROKER_TWICE:
            self.downtime.append((worker.fired_at, time.time()))

    async def _kill_switch(self, worker: WorkerUnderTest) -> None:
        """Cancel-entries for the account, in force before the worker takes its next step.

        The worker may stand still in the middle of a transaction that holds the audit's lock: a
        person's kill goes to the local journal then, here it is repeated until PostgreSQL has
        ended the idle transaction.
        """
        kill = KillSwitch(
            scope=KillScope(kind=KillScopeKind.ACCOUNT, value=self.spec.account),
            mode=KillMode.CANCEL_ENTRIES,
            reason="chaos",
            by="chaos",
            command_id=f"kill-{self.spec.account}",
            engaged_at=datetime.now(UTC),
        )
        while True:
            try:
                await engage(self.lane.ledger, self.spec.account, kill)
                break
            except Transient:
                await asyncio.sleep(KILL_REPEAT_S)
        self.killed_at = time.time()
        worker.answer()

    async def _flatten(self, worker: WorkerUnderTest) -> None:
        """Of every trade that runs; one that has ended needs none."""
        request = OperatorSignal(command_id=f"flatten-{self.spec.account}", by="chaos")
        for trade_id in await self._started_trades():
            handle = self.lane.client.get_workflow_handle(trade_workflow_id(trade_id))
            with contextlib.suppress(RPCError):
                await handle.signal(TradeWorkflow.flatten, request)
        worker.answer()

    async def _started_trades(self) -> list[str]:
        while True:
            found = self.trade_ids()
            if found:
                return found
            await asyncio.sleep(START_POLL_S)


def hangs_alone(place: str) -> bool:
    """True where a hang holds one activity or request; else the whole loop or workflow stands."""
    if place.startswith(("send.", "reply.")):
        return True
    return place.endswith((".enter", ".exit")) and not place.startswith("activation")
