"""Plays one cell: a trade with one fault at one failpoint, judged by the exchange's journal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from activities.services import StreamInput
from deploy.temporal.versions import set_current_version
from domain.ids import Purpose, parse_client_order_id, streams_workflow_id
from domain.messages import TradeResult
from simulator.config import WireFace
from tests.chaos.director import Director
from tests.chaos.exposure import exposure_of, orphaned_windows, wall_of, windows_of
from tests.chaos.faults import Cell, Fault
from tests.chaos.grounds import Lane
from tests.chaos.points import Target
from tests.chaos.proxy import Proxy, running_proxy
from tests.chaos.times import Times
from tests.chaos.worker_process import BUILD, WorkerSpec
from tests.golden.catalogue import Golden, judge, perform
from tests.golden.playing import Play
from tests.rig import Rig, running_rig
from workflows import _lifecycle as life
from workflows.streams import StreamsWorkflow

KILL_TO_LAST_SEND_S = 0.25
QUIET_S = 5.0
ROLE_PASSWORD = "chaos"


@dataclass(frozen=True)
class CellRow:
    """What came of one cell: a line of the results file.

    `outcome` is ok, violated or never_fired (the failpoint that was asked for was not passed);
    `ended` the trade's own words. Seconds are wall seconds; `naked_*` by protection class, without
    `downtime_s` and `orphaned_s`.
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
    orphaned_s: float
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
    lane: Lane,
    golden: Golden,
    face: WireFace,
    cell: Cell | None,
    times: Times,
    *,
    is_cold: bool = False,
) -> Played:
    """Plays the trade to its end, whatever the cell's fault does; None is the run without one."""
    began = time.monotonic()
    account = f"c-{uuid.uuid4().hex[:10]}"
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(_exchange(lane, golden, face, account))
        rig.deadline_s = times.cell_s
        director = await _director(stack, lane, rig, cell, times, is_cold)
        await director.start()
        await _make_current(lane)
        play = Play(rig, interval_s=times.walk_interval_s)
        director.trade_ids = lambda: [plan.trade_id for plan in play.plans]
        run = Run(golden, play, director)
        await run.perform()
        violations = await run.violations()
        downtime = windows_of(director.downtime)
        exposure = exposure_of(
            rig.journal(),
            play.rules(),
            await rig.ledger.orders_of_account(account),
            downtime,
            orphaned_windows(await run.events(), downtime),
        )
        evidence = await run.evidence() if violations else {}
    fired = cell is None or director.has_fired
    row = CellRow(
        cell=f"{golden.name}/{face.value}" if cell is None else cell.key,
        trade=golden.name,
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
async def _exchange(lane: Lane, golden: Golden, face: WireFace, account: str) -> AsyncIterator[Rig]:
    async with running_rig(
        lane.client,
        lane.ledger,
        account,
        config=golden.config(face),
        limits=golden.limits,
        workers=False,
        with_wall_times=True,
    ) as made:
        rig = replace(made, queue=lane.queue)
        golden.prepare(rig)
        yield rig


async def _director(
    stack: AsyncExitStack,
    lane: Lane,
    rig: Rig,
    cell: Cell | None,
    times: Times,
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
        times=times,
        is_cold=is_cold if cell is None else cell.fault.is_cold,
        target=_target(cell, times),
    )
    director = Director(cell, lane, spec, broker=broker, postgres=postgres, role=role)
    stack.push_async_callback(director.aclose)
    return director


def _target(cell: Cell | None, times: Times) -> Target | None:
    if cell is None:
        return None
    return Target(cell.place, cell.nth, cell.fault.strike, times.hang_s)


async def _make_current(lane: Lane) -> None:
    """Once per lane: its queue's build takes new work."""
    if lane.deployment not in lane.current:
        await set_current_version(lane.client, BUILD, deployment=lane.deployment, timeout_s=60)
        lane.current.add(lane.deployment)


@dataclass
class Run:
    """One golden trade on its exchange under its director."""

    golden: Golden
    play: Play
    director: Director
    results: tuple[TradeResult, ...] = ()
    problem: str = ""
    passes: tuple[str, ...] = ()
    history: str = ""

    @property
    def ended(self) -> str:
        """The trades' own words about their end."""
        return "; ".join(
            " ".join(str(word) for word in (r.outcome, r.exit_reason, r.code, r.realised) if word)
            for r in self.results
        )

    async def perform(self) -> None:
        """Starts the streams, plays the script, waits for the end of trades and fault."""
        rig = self.play.rig
        account = rig.services.account
        streams = await rig.client.start_workflow(
            StreamsWorkflow.run,
            StreamInput(account=account, compare_interval_s=2.0),
            id=streams_workflow_id(account),
            task_queue=rig.queue,
            task_timeout=life.TASK_TIMEOUT,
        )
        try:
            async with asyncio.timeout(self.director.spec.times.cell_s):
                self.results = await perform(self.golden, self.play)
                self.passes = tuple(self.director.workers[0].passes)
                await self.director.settle()
        except (TimeoutError, WorkflowFailureError, AssertionError) as error:
            text = f"{type(error).__name__} {error} {getattr(error, 'cause', None) or ''}".strip()
            self.problem = f"I11 no end: {text}"
            self.history = await self._history()
        finally:
            names = [streams.id, *(self.play.handle(plan).id for plan in self.play.plans)]
            for name in names:
                with contextlib.suppress(RPCError):
                    await rig.client.get_workflow_handle(name).terminate("the cell is over")

    async def violations(self) -> list[str]:
        """What was broken; what heals within the quiet time behind the end is not."""
        if self.problem:
            return [self.problem]
        cell = self.director.cell
        deadline = time.monotonic() + QUIET_S
        while True:
            broken = await judge(
                self.golden,
                self.play,
                self.results,
                is_disturbed=cell is not None,
                is_ledger_disturbed=cell is not None and cell.fault.is_of_postgres,
            )
            if not broken or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.3)
        if cell is not None and cell.fault is Fault.KILL_SWITCH and self.director.killed_at:
            broken += self._sent_after_kill()
        return broken

    def _sent_after_kill(self) -> list[str]:
        """I9: no entry is accepted later than 250 ms behind the kill."""
        late = []
        for row in self.play.rig.journal("accepted"):
            parts = parse_client_order_id(str(row["client_id"]))
            after_s = wall_of(row).timestamp() - self.director.killed_at
            is_entry = parts is not None and parts.purpose is Purpose.ENTRY
            if is_entry and after_s > KILL_TO_LAST_SEND_S:
                late.append(f"I9 entry {after_s:.3f} s after the kill")
        return late

    async def evidence(self) -> dict[str, Any]:
        """What a failed cell leaves behind (faults.md §2.5)."""
        rig = self.play.rig
        account = rig.services.account
        return {
            "journal": rig.journal(),
            "ledger_trades": [str(t) for t in await rig.ledger.list_trades(account=account)],
            "ledger_orders": [str(o) for o in await rig.ledger.orders_of_account(account)],
            "passes": list(self.director.workers[0].passes),
            "downtime": self.director.downtime,
            "workers": [each.told() for each in self.director.workers],
            "cut_short": self.play.cut_short,
            "history": json.loads(self.history or await self._history() or "{}"),
        }

    async def events(self) -> list[HistoryEvent]:
        """What the newest runs of all trades have in their histories."""
        found: list[HistoryEvent] = []
        for plan in self.play.plans:
            with contextlib.suppress(RPCError):
                found += (await self.play.handle(plan).fetch_history()).events
        return found

    async def _history(self) -> str:
        """The newest run of the first trade."""
        with contextlib.suppress(RPCError, IndexError):
            handle = self.play.handle(self.play.plans[0])
            return (await handle.fetch_history()).to_json()
        return ""
