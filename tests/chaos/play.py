"""Plays one cell: a trade with one fault at one failpoint, judged by the exchange's journal."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from activities.services import StreamInput
from deploy.temporal.versions import set_current_version
from domain.ids import Purpose, parse_client_order_id, streams_workflow_id, trade_workflow_id
from domain.messages import TradeInput, TradeResult
from domain.plan import TradePlan
from simulator.config import WireFace
from tests.chaos.director import HANG_S, Director
from tests.chaos.exposure import exposure_of, wall_of, windows_of
from tests.chaos.faults import Cell, Fault
from tests.chaos.grounds import Lane
from tests.chaos.points import Target
from tests.chaos.proxy import Proxy, running_proxy
from tests.chaos.trades import ChaosTrade, Handle, rules_of
from tests.chaos.worker_process import (
    BUILD,
    WORKFLOW_TASK_TIMEOUT,
    WorkerSpec,
)
from tests.rig import Rig, roomy_limits, running_rig
from workflows.streams import StreamsWorkflow
from workflows.trade import TradeWorkflow

CELL_DEADLINE_S = 90.0
KILL_TO_LAST_SEND_S = 0.25
QUIET_S = 5.0
ROLE_PASSWORD = "chaos"


@dataclass(frozen=True)
class CellRow:
    """What came of one cell: a line of the results file.

    `outcome` is ok, violated or never_fired (the failpoint that was asked for was not passed);
    `ended` the trade's own words. Seconds are wall seconds; `naked_*` by protection class.
    """

    cell: str
    trade: str
    broker: str
    fault: str
    failpoint: str
    index: int
    outcome: str
    ended: str
    violations: tuple[str, ...]
    naked_max_s: dict[str, float]
    naked_s: dict[str, float]
    unconfirmed_s: float | None
    downtime_s: float
    took_s: float
    commit: str = ""
    at: str = ""


@dataclass(frozen=True)
class Played:
    """A finished run: its row, the passes of its first worker, and what a person needs to see."""

    row: CellRow
    passes: tuple[str, ...]
    evidence: dict[str, Any]


async def play_cell(
    lane: Lane, trade: ChaosTrade, face: WireFace, cell: Cell | None, *, is_cold: bool = False
) -> Played:
    """Plays the trade to its end, whatever the cell's fault does; None is the run without one."""
    began = time.monotonic()
    account = f"c-{uuid.uuid4().hex[:10]}"
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(_exchange(lane, trade, face, account))
        director = await _director(stack, lane, rig, cell, is_cold)
        await director.start()
        await _make_current(lane)
        run = Run(lane, trade, rig, director, trade.plan(rig))
        await run.play()
        violations = await run.violations()
        exposure = exposure_of(
            rig.journal(),
            rules_of(rig, run.plan),
            await rig.ledger.orders_of_trade(run.plan.trade_id),
            windows_of(director.downtime),
        )
        evidence = await run.evidence() if violations else {}
    fired = cell is None or director.has_fired
    row = CellRow(
        cell=f"{trade.name}/{face.value}" if cell is None else cell.key,
        trade=trade.name,
        broker=face.value,
        fault="none" if cell is None else cell.fault.value,
        failpoint="" if cell is None else cell.failpoint,
        index=-1 if cell is None else cell.index,
        outcome="violated" if violations else "ok" if fired else "never_fired",
        ended=run.ended,
        violations=tuple(violations),
        **asdict(exposure),
        took_s=round(time.monotonic() - began, 2),
    )
    return Played(row, run.passes, evidence)


# --- the parts of a cell ------------------------------------------------------------------------


@asynccontextmanager
async def _exchange(
    lane: Lane, trade: ChaosTrade, face: WireFace, account: str
) -> AsyncIterator[Rig]:
    async with running_rig(
        lane.client,
        lane.ledger,
        account,
        config=trade.config(face),
        limits=roomy_limits(**trade.limits),
        workers=False,
        with_wall_times=True,
    ) as made:
        rig = replace(made, queue=lane.queue, deadline_s=CELL_DEADLINE_S)
        trade.prepare(rig)
        yield rig


async def _director(
    stack: AsyncExitStack,
    lane: Lane,
    rig: Rig,
    cell: Cell | None,
    is_cold: bool,
) -> Director:
    """The worker's specification, with proxies in its way where the fault is in the network."""
    fault = None if cell is None else cell.fault
    trading_url, stream_url = rig.server.url, rig.server.stream_url
    dsn = lane.database.dsn
    broker: Proxy | None = None
    postgres: Proxy | None = None
    role = ""
    if fault is not None and fault.is_of_network:
        broker = await stack.enter_async_context(running_proxy(rig.server.port))
        trading_url = trading_url.replace(str(rig.server.port), str(broker.port))
        stream_url = stream_url.replace(str(rig.server.port), str(broker.port))
    if fault is not None and fault.is_of_postgres:
        postgres = await stack.enter_async_context(running_proxy(lane.database.port))
        role = f"chaos_{uuid.uuid4().hex[:10]}"
        await lane.database.run(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{ROLE_PASSWORD}'")
        dsn = lane.database.through(postgres.port, (role, ROLE_PASSWORD))
    key = rig.exchange.config.keys[0]
    spec = WorkerSpec(
        temporal=lane.temporal.address,
        namespace=lane.client.namespace,
        ledger_dsn=dsn,
        face=rig.services.broker_name,
        account=rig.services.account,
        queue=lane.queue,
        deployment=lane.deployment,
        key_id=key.key,
        secret=key.secret,
        trading_url=trading_url,
        stream_url=stream_url,
        log_file=str(lane.folder / f"{rig.services.account}.log"),
        limits=rig.services.limits,
        is_cold=is_cold if cell is None else cell.fault.is_cold,
        target=None if cell is None else Target(cell.place, cell.nth, cell.fault.strike, HANG_S),
    )
    director = Director(cell, lane, spec, broker=broker, postgres=postgres, role=role)
    stack.push_async_callback(director.aclose)
    return director


async def _make_current(lane: Lane) -> None:
    """Once per lane: its queue's build takes new work."""
    if lane.deployment not in lane.current:
        await set_current_version(lane.client, BUILD, deployment=lane.deployment, timeout_s=60)
        lane.current.add(lane.deployment)


@dataclass
class Run:
    """One trade on its exchange under its director."""

    lane: Lane
    trade: ChaosTrade
    rig: Rig
    director: Director
    plan: TradePlan
    result: TradeResult | None = None
    problem: str = ""
    passes: tuple[str, ...] = ()
    history: str = ""

    @property
    def ended(self) -> str:
        """The trade's own words about its end."""
        if self.result is None:
            return ""
        words = (self.result.outcome, self.result.exit_reason, self.result.code)
        return " ".join(word for word in words if word)

    async def play(self) -> None:
        """Starts streams and trade, moves the market, waits for the end of trade and fault."""
        started: list[Handle] = []
        try:
            async with asyncio.timeout(CELL_DEADLINE_S):
                await self._start(started)
                market = asyncio.create_task(self.trade.market(self.rig, started[-1]))
                try:
                    self.result = await started[-1].result()
                    self.passes = tuple(self.director.workers[0].passes)
                finally:
                    market.cancel()
                    await asyncio.gather(market, return_exceptions=True)
                await self.director.settle()
        except (TimeoutError, WorkflowFailureError, AssertionError) as error:
            text = f"{type(error).__name__} {error} {getattr(error, 'cause', None) or ''}".strip()
            self.problem = f"I11 no end within {CELL_DEADLINE_S:g} s: {text}"
            with contextlib.suppress(RPCError):
                self.history = (await started[-1].fetch_history()).to_json()
        finally:
            for each in started:
                with contextlib.suppress(RPCError):
                    await each.terminate("the cell is over")

    async def _start(self, started: list[Handle]) -> None:
        rig, account = self.rig, self.rig.services.account
        streams = await rig.client.start_workflow(
            StreamsWorkflow.run,
            StreamInput(account=account, compare_interval_s=2.0),
            id=streams_workflow_id(account),
            task_queue=self.lane.queue,
            task_timeout=WORKFLOW_TASK_TIMEOUT,
        )
        started.append(streams)
        trade = TradeInput(plan=self.plan, installation=rig.services.installation, clock=rig.clock)
        handle = await rig.client.start_workflow(
            TradeWorkflow.run,
            trade,
            id=trade_workflow_id(self.plan.trade_id),
            task_queue=self.lane.queue,
            task_timeout=WORKFLOW_TASK_TIMEOUT,
        )
        started.append(handle)
        self.director.trade_id = self.plan.trade_id
        self.director.trade_started.set()

    async def violations(self) -> list[str]:
        """What was broken; what heals within the quiet time behind the end is not."""
        if self.result is None:
            return [self.problem]
        cell = self.director.cell
        is_steered = cell is not None and cell.fault.ends_otherwise
        deadline = time.monotonic() + QUIET_S
        while True:
            broken = await self.trade.check(self.rig, self.plan, self.result, is_steered)
            if not broken or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.3)
        if cell is not None and cell.fault is Fault.KILL_SWITCH and self.director.killed_at:
            broken += self._sent_after_kill()
        return broken

    def _sent_after_kill(self) -> list[str]:
        """I9: no entry is accepted later than 250 ms behind the kill."""
        late = []
        for row in self.rig.journal("accepted"):
            parts = parse_client_order_id(str(row["client_id"]))
            after_s = wall_of(row).timestamp() - self.director.killed_at
            is_entry = parts is not None and parts.purpose is Purpose.ENTRY
            if is_entry and after_s > KILL_TO_LAST_SEND_S:
                late.append(f"I9 entry {after_s:.3f} s after the kill")
        return late

    async def evidence(self) -> dict[str, Any]:
        """What a failed cell leaves behind (faults.md §2.5)."""
        trade_id = self.plan.trade_id
        row = await self.rig.ledger.trade(trade_id)
        return {
            "journal": self.rig.journal(),
            "ledger_trade": str(row),
            "ledger_orders": [str(o) for o in await self.rig.ledger.orders_of_trade(trade_id)],
            "passes": list(self.director.workers[0].passes),
            "downtime": self.director.downtime,
            "workers": [each.told() for each in self.director.workers],
            "history": self.history,
        }
