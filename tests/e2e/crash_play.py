"""Plays one scripted trade on a worker process that dies, and on the one that follows it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from temporalio.client import Client

from activities.services import StreamInput
from domain.ids import streams_workflow_id
from domain.messages import OperatorSignal
from ledger.repository import Ledger
from tests import trade_scenarios as play
from tests.conftest import TemporalServer
from tests.e2e.crash_process import WorkerProcess
from tests.e2e.crash_worker import WorkerSpec
from tests.rig import Rig, running_rig
from workflows import _lifecycle as life
from workflows.streams import StreamsWorkflow
from workflows.trade import TradeWorkflow

DEPLOYMENT = "crash"
WALK_INTERVAL_S = "2"
STEP_DEADLINE_S = 60.0
RESULT_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Case:
    """Where the worker dies, in which script, and what the venue does besides."""

    failpoint: str
    script: str = "ratchet"
    fault: tuple[str, str, str] | None = None

    @property
    def name(self) -> str:
        words = (self.script, self.fault[0] if self.fault else "", self.failpoint or "uncrashed")
        return "-".join(word for word in words if word).replace(":", "-")


@dataclass(frozen=True)
class Outcome:
    """What the exchange and the trade say at the end; equal for crashed and uncrashed runs.

    An accepted order is named by leg, purpose and body checksum of its client id. The trade's
    prefix and the sequence are left out: of two orders that go at once either may be the first.
    """

    accepted: tuple[tuple[str, ...], ...]
    fills: tuple[tuple[str, ...], ...]
    exit_reason: str
    realised: str
    left: tuple[str, ...]
    deaths: int = field(compare=False, default=0)


@dataclass(frozen=True)
class Grounds:
    """The parts that all cases share."""

    client: Client
    temporal: TemporalServer
    ledger_dsn: str
    folder: Path
    door: asyncio.Lock = field(default_factory=asyncio.Lock)
    current: asyncio.Event = field(default_factory=asyncio.Event)


# --- scripts --------------------------------------------------------------------------------------


async def flattened(rig: Rig, ask_flatten: Callable[[], Awaitable[object]]) -> None:
    """Protected, then an operator flattens: cancels, a quote, one marketable exit."""
    await play.enter_protected(rig)
    await ask_flatten()


async def partly_filled(rig: Rig) -> None:
    """Four of ten fill: the rest is cancelled, four are protected and stopped out."""
    await play.fill_entry(rig)
    play.calm_market(rig)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 3, "three tranches of four")
    play.fall(rig)


# --- one case -------------------------------------------------------------------------------------


async def play_case(grounds: Grounds, case: Case, number: int) -> Outcome:
    """Runs the script to the end of the trade, whatever dies on the way."""
    account = f"crash-{number}"
    async with AsyncExitStack() as stack:
        async with grounds.door:  # one after the other: the machine has two cores
            ledger = await Ledger.connect(grounds.ledger_dsn)
            stack.push_async_callback(ledger.aclose)
            rig = await stack.enter_async_context(
                running_rig(grounds.client, ledger, account, workers=False)
            )
            rig.deadline_s = STEP_DEADLINE_S
            _set_the_scene(rig, case)
            spec = _spec(grounds, rig, case)
            running = await stack.enter_async_context(_mortal_worker(spec))
            if not grounds.current.is_set():
                await running[-1].make_current(grounds.client)
                grounds.current.set()
        await stack.enter_async_context(_streams(grounds, rig))
        return await _play(rig, case, running)


def _set_the_scene(rig: Rig, case: Case) -> None:
    play.calm_market(rig)
    if case.fault is not None:
        kind, method, ids = case.fault
        play.fault(rig, kind, {"method": method, "client_id": ids})
    if case.script == "partial":
        play.fault(rig, "partial_fill", {"client_id": play.ENTRY_IDS}, quantity="4")


async def _play(rig: Rig, case: Case, running: list[WorkerProcess]) -> Outcome:
    handle = await rig.start_trade(play.plan_of(rig, "1", interval_s=WALK_INTERVAL_S))
    match case.script:
        case "ratchet":
            await play.ratcheted_out(rig)
        case "partial":
            await partly_filled(rig)
        case _:
            request = OperatorSignal(command_id="flatten-1", by="test")
            await flattened(rig, lambda: handle.signal(TradeWorkflow.flatten, request))
    async with asyncio.timeout(RESULT_DEADLINE_S):
        result = await handle.result()
    play.assert_one_order_per_intent(rig)
    return Outcome(
        accepted=tuple(sorted(_order(row) for row in play.own_orders(rig))),
        fills=tuple(
            sorted((row["side"], row["quantity"], row["price"]) for row in rig.journal("fill"))
        ),
        exit_reason=result.exit_reason,
        realised=str(result.realised),
        left=tuple(order.id for order in rig.exchange.open_orders),
        deaths=len(running) - 1,
    )


def _order(row: dict[str, object]) -> tuple[str, ...]:
    shown = ("side", "quantity", "limit_price", "stop_price")
    client_id = str(row["client_id"])
    return (client_id[16:20] + client_id[24:], *(str(row.get(name, "")) for name in shown))


def _spec(grounds: Grounds, rig: Rig, case: Case) -> WorkerSpec:
    key = rig.exchange.config.keys[0]
    return WorkerSpec(
        temporal=grounds.temporal.address,
        namespace=grounds.temporal.namespace,
        ledger_dsn=grounds.ledger_dsn,
        account=rig.services.account,
        queue=rig.queue,
        deployment=DEPLOYMENT,
        key_id=key.key,
        secret=key.secret,
        trading_url=rig.server.url,
        stream_url=rig.server.stream_url,
        log_file=str(grounds.folder / f"{case.name}.log"),
        failpoint=case.failpoint and f"{case.failpoint}:kill",
    )


@asynccontextmanager
async def _streams(grounds: Grounds, rig: Rig) -> AsyncIterator[None]:
    account = rig.services.account
    handle = await grounds.client.start_workflow(
        StreamsWorkflow.run,
        StreamInput(account=account, compare_interval_s=2.0),
        id=streams_workflow_id(account),
        task_queue=rig.queue,
        task_timeout=life.TASK_TIMEOUT,
    )
    try:
        yield
    finally:
        await handle.terminate("the case is over")


@asynccontextmanager
async def _mortal_worker(spec: WorkerSpec) -> AsyncIterator[list[WorkerProcess]]:
    """A worker that dies at its failpoint and is followed by one that does not; the newest last."""
    running = [WorkerProcess.start(spec)]
    following = asyncio.create_task(_follow(running)) if spec.failpoint else None
    try:
        yield running
    finally:
        if following is not None:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
        await running[-1].kill()


async def _follow(running: list[WorkerProcess]) -> None:
    await running[0].killed()
    running.append(WorkerProcess.start(replace(running[0].spec, failpoint="")))
