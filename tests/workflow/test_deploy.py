"""New builds over open trades (architecture §4, Versions; faults.md H12, H13).

Nothing here waits for a moment of time: a look that was too early is repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

import worker
from activities.kill import engage
from cli.deploy import NOT_IN_TIME, take_over_workflows
from cli.deploy_check import different, replay_open
from deploy.temporal.handover import pin_of, pinned_elsewhere
from deploy.temporal.versions import set_current_version
from domain.control import KillMode
from domain.ids import trade_workflow_id
from domain.messages import OperatorRequest, OperatorSignal, TradeResult
from domain.plan import TradePlan
from ledger.repository import Ledger
from tests import trade_scenarios as play
from tests.conftest import TemporalServer
from tests.rig import Rig, running_rig
from tests.workflow.hasty_trade import HastyTrade
from tests.workflow.test_kill import entries, kill_of, patient, sweeping
from tests.workflow.test_trade_thread import plan_of
from workflows.trade import TradeWorkflow

D = Decimal
OLD_BUILD, NEXT_BUILD = "old-build", "next-build"
# One look at open trades; what is not there yet is seen by the next.
LOOK_S = 2.0


@pytest.fixture
async def bare_rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    """Without any worker."""
    account = f"acct-{unique}"
    async with running_rig(temporal_client, ledger, account, workers=False) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made


@pytest.fixture
async def rig(bare_rig: Rig) -> AsyncIterator[Rig]:
    """With the gateway; each test brings trade workers of its builds."""
    async with worker.gateway_worker(bare_rig.client, bare_rig.services):
        yield bare_rig


def build(rig: Rig, name: str) -> AbstractAsyncContextManager[Worker]:
    """The trade worker of one build."""
    account = rig.services.account
    return worker.trade_worker(
        rig.client, rig.services, task_queue=rig.queue, deployment_name=account, build=name
    )


async def make_current(rig: Rig, name: str) -> None:
    await set_current_version(rig.client, name, deployment=rig.services.account, timeout_s=60)


async def take_over(rig: Rig, *, override: bool = False, wait_s: float = LOOK_S) -> dict[str, Any]:
    """What `deploy` of the next build does with open workflows."""
    return await take_over_workflows(
        rig.client,
        rig.ledger,
        NEXT_BUILD,
        wait_s=wait_s,
        override=override,
        deployment=rig.services.account,
    )


async def take_over_all(rig: Rig, *, override: bool = False) -> None:
    """Repeats the look: on a busy machine one was too early, and the pin is moved already."""

    async def none_left() -> bool:
        return not (await take_over(rig, override=override))["left"]

    await rig.until_async(none_left, "every open workflow has moved")


async def build_of(rig: Rig, plan: TradePlan) -> str:
    """Build that the trade's newest run is pinned to; empty when it has ended."""
    pin = await pin_of(rig.client, trade_workflow_id(plan.trade_id))
    return "" if pin is None else pin.build_id


def stops(rig: Rig) -> int:
    return sum(o.stop_price is not None for o in rig.exchange.open_orders)


async def hold(rig: Rig, name: str = "1") -> TradePlan:
    """A protected trade whose row names the old build."""
    plan, before = plan_of(rig, name), stops(rig)
    await rig.start_trade(plan)
    await rig.until(lambda: stops(rig) > before, "protected")
    await rig.ledger.update_trade(plan.trade_id, build_id=OLD_BUILD)
    return plan


def walking(rig: Rig) -> TradePlan:
    """Works far below the market for as long as a slow machine needs."""
    plan = patient(rig, "walks")
    return plan.model_copy(update={"walk": plan.walk.model_copy(update={"max_time_s": D(900)})})


async def until_it_walks_on(rig: Rig) -> None:
    steps = len(rig.journal("accepted"))
    await rig.until(lambda: len(rig.journal("accepted")) > steps, "it walks on")


def newest(rig: Rig, plan: TradePlan) -> WorkflowHandle[Any, TradeResult]:
    name = trade_workflow_id(plan.trade_id)
    return rig.client.get_workflow_handle(name, result_type=TradeResult)


async def result_of(rig: Rig, plan: TradePlan) -> TradeResult:
    """How the trade ended, with a deadline."""
    async with asyncio.timeout(rig.deadline_s):
        return await newest(rig, plan).result()


async def flattened(rig: Rig, *plans: TradePlan) -> list[str]:
    """Gets each out by hand, for no stream tells of fills here; answers how each ended."""
    for plan in plans:
        await newest(rig, plan).signal("flatten", OperatorSignal(by="test"))
    return [(await result_of(rig, plan)).outcome for plan in plans]


# --- the hand-over --------------------------------------------------------------------------------


async def test_trades_of_every_stage_move_while_the_old_worker_drains_and_leaves(rig: Rig) -> None:
    """Nothing frozen, nothing lost: held, walking and paused trades go on in the next build."""
    old = build(rig, OLD_BUILD)
    leaving = await old.__aenter__()
    try:
        await make_current(rig, OLD_BUILD)
        held, paused = await hold(rig, "held"), await hold(rig, "paused")
        await newest(rig, paused).execute_update(
            "pause", OperatorRequest(command_id="p1", by="ann")
        )
        walks = walking(rig)
        await rig.start_trade(walks)
        await rig.until(lambda: len(entries(rig)) == 1, "the entry walks")
        async with build(rig, NEXT_BUILD):
            await make_current(rig, NEXT_BUILD)
            await take_over_all(rig)
            assert not await pinned_elsewhere(rig.client, NEXT_BUILD, rig.services.account)
            await leaving.shutdown()
            # The old worker is gone. Every trade must still do its work, on the next build alone.
            await until_it_walks_on(rig)
            rig.quote("ESX", "99.75", "99.90")
            await rig.until(lambda: stops(rig) == 3, "the late one is protected too")
            status = await newest(rig, paused).query(TradeWorkflow.status)
            assert status.hand == "paused"
            ends = await flattened(rig, held, paused, walks)
    finally:
        await old.__aexit__(None, None, None)
    assert ends == ["closed"] * 3
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)
    assert rig.exchange.holdings() == []


async def test_trade_of_a_build_that_is_gone_is_named_then_moved_by_force(rig: Rig) -> None:
    async with build(rig, OLD_BUILD):
        await make_current(rig, OLD_BUILD)
        plan = await hold(rig)
    accepted = len(rig.journal("accepted"))
    name = trade_workflow_id(plan.trade_id)
    async with build(rig, NEXT_BUILD):
        await make_current(rig, NEXT_BUILD)
        # Nobody serves the old build, so no wait can be too short.
        left = (await take_over(rig, wait_s=0.1))["left"]
        assert left == [{"workflow": name, "build": OLD_BUILD, "why": NOT_IN_TIME}]
        await take_over_all(rig, override=True)

        async def is_moved() -> bool:
            return await build_of(rig, plan) == NEXT_BUILD

        # A run says whose it is with its first workflow task.
        await rig.until_async(is_moved, "the next run is the next build's")
        described = await rig.client.get_workflow_handle(name).describe()
        pinned = described.raw_description.workflow_execution_info.versioning_info
        assert not pinned.HasField("versioning_override"), "a later hand-over must be free again"
        row = await rig.ledger.trade(plan.trade_id)
        assert row is not None
        assert row.build_id == NEXT_BUILD
        assert len(rig.journal("accepted")) == accepted, "a hand-over sends nothing"
        assert await flattened(rig, plan) == ["closed"]
    assert rig.exchange.holdings() == []


async def test_gateway_deployed_alone_loses_and_doubles_nothing(
    bare_rig: Rig, temporal_server: TemporalServer
) -> None:
    """It is unversioned: the next one takes the lane over, the trades stay where they are."""
    rig, plan = bare_rig, walking(bare_rig)
    plugins = rig.client.config()["plugins"]
    other = await Client.connect(temporal_server.address, plugins=plugins)
    next_services = replace(rig.services, build_id=NEXT_BUILD)
    async with build(rig, OLD_BUILD), AsyncExitStack() as first:
        await first.enter_async_context(worker.gateway_worker(rig.client, rig.services))
        await make_current(rig, OLD_BUILD)
        held = await hold(rig)
        await rig.start_trade(plan)
        await rig.until(lambda: len(entries(rig)) == 1, "the entry walks")
        async with worker.gateway_worker(other, next_services):
            await first.aclose()
            await until_it_walks_on(rig)
            assert await build_of(rig, held) == OLD_BUILD
            assert stops(rig) == 1
            rig.quote("ESX", "99.75", "99.90")
            await rig.until(lambda: stops(rig) == 2, "both are protected")
            assert await flattened(rig, held, plan) == ["closed", "closed"]
    sent_by = [row.build_id for row in await rig.ledger.orders_of_trade(plan.trade_id)]
    assert sent_by[-1] == NEXT_BUILD
    assert sent_by[0] == rig.services.build_id
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)


# --- a build that decides otherwise ---------------------------------------------------------------


@pytest.mark.covers("H12")
async def test_build_that_decides_otherwise_is_caught_before_it_starts(rig: Rig) -> None:
    """H12: the check before a deploy replays what is open; today's code passes it."""
    async with build(rig, OLD_BUILD):
        await make_current(rig, OLD_BUILD)
        plan = await hold(rig)
        account = rig.services.account
        assert different(await replay_open(rig.client, account)) == []
        [row] = different(await replay_open(rig.client, account, [HastyTrade]))
        assert row["workflow"] == trade_workflow_id(plan.trade_id)
        assert (row["build"], row["verdict"]) == (OLD_BUILD, "FAILED")
        assert "ondeterminis" in row["text"]
        assert await flattened(rig, plan) == ["closed"]


@pytest.mark.covers("H12", "K4")
async def test_kill_works_on_a_trade_that_a_forced_build_has_stuck_and_rollback_frees_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H12: it is suspended, not failed. The gateway alone kills its entry; the stop stays."""
    async with build(rig, OLD_BUILD):
        await make_current(rig, OLD_BUILD)
        held, walks = await hold(rig), walking(rig)
        await rig.start_trade(walks)
        await rig.until(lambda: len(entries(rig)) == 1, "the entry walks")
    hasty = [HastyTrade, *(each for each in worker.WORKFLOWS if each is not TradeWorkflow)]
    with monkeypatch.context() as patched:
        patched.setattr(worker, "WORKFLOWS", tuple(hasty))
        # The same build id: as if somebody had edited the code under running trades.
        forced = build(rig, OLD_BUILD)
    async with sweeping(rig) as sweeper:
        async with forced:
            await rig.until_async(lambda: is_stuck(rig, walks), "the walking trade is suspended")
            await engage(rig.ledger, rig.services.account, kill_of(rig, KillMode.CANCEL_ENTRIES))
            await rig.until(lambda: not entries(rig), "the entry is dead without its workflow")
            await rig.until(lambda: "kill-1" in sweeper.receipts, "the receipt is final")
            late = await rig.start_trade(patient(rig, "late"))
            assert (await late.result()).outcome == "refused"
            assert stops(rig) == 1
        async with build(rig, OLD_BUILD):
            assert (await result_of(rig, walks)).outcome == "not_filled"
            await rig.until_async(lambda: is_resting(rig, held), "the other trade answers again")
            assert await flattened(rig, held) == ["closed"]
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)


async def is_resting(rig: Rig, plan: TradePlan) -> bool:
    """True once the trade answers and its stop rests; its failed task is tried again later."""
    try:
        status = await newest(rig, plan).query(TradeWorkflow.status)
    except RPCError:
        return False
    return status.protection == "resting"


async def is_stuck(rig: Rig, plan: TradePlan) -> bool:
    """True if the newest workflow task of the trade failed and is tried again."""
    described = await newest(rig, plan).describe()
    return described.raw_description.pending_workflow_task.attempt > 1
