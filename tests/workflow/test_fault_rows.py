"""Fault rows on the whole stack: ended workflows, rewound histories, closing trades, bad clocks.

The exchange's journal is the oracle, as in `test_adversary`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.service import RPCError

import worker
from activities.health_watch import HealthWatch
from deploy.temporal.versions import set_current_version
from domain.messages import OperatorRequest, OperatorSignal, TradeResult
from domain.order import Side
from ledger.repository import Ledger
from observability.build import build_id
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig, running_streams
from workflows.trade import TradeWorkflow

D = Decimal
Handle = WorkflowHandle[TradeWorkflow, TradeResult]
HOUR = timedelta(hours=1)


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    async with running_rig(temporal_client, ledger, f"acct-{unique}") as made:
        made.deadline_s = 60
        play.calm_market(made)
        yield made


async def flatten(handle: Handle) -> None:
    await handle.signal(TradeWorkflow.flatten, OperatorSignal(command_id="f", by="test"))


async def finish(rig: Rig, handle: Handle) -> TradeResult:
    async with asyncio.timeout(60):
        result = await play.newest_run(rig, handle).result()
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)
    return result


async def held_reservations(rig: Rig) -> int:
    book = await rig.ledger.risk_book(rig.services.account, datetime.now(UTC))
    return len(book.reservations)


# --- people in Temporal's own UI ------------------------------------------------------------------


@pytest.mark.covers("K7", "B4")
async def test_terminated_trade_is_brought_back_behind_its_stop_and_keeps_its_reservation(
    rig: Rig,
) -> None:
    """The reservation stays until the broker says flat; the alert names the trade, once."""
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    await handle.terminate("a person, by mistake")
    orders = len(play.own_orders(rig))
    watch = HealthWatch(rig.services, rig.client, task_queue=rig.queue)

    async def is_back() -> bool:
        await watch.look()
        alerts = await rig.ledger.list_alerts(trade_id=play.plan_of(rig, "1").trade_id)
        return "TRADE_RESTORED" in {alert.code for alert in alerts}

    assert await held_reservations(rig) == 1
    await rig.until_async(is_back, "the trade came back")
    await watch.look()
    assert play.stops_at(rig, play.STOP) == 3
    assert await held_reservations(rig) == 1
    play.fall(rig)
    result = await finish(rig, handle)
    assert result.outcome == "closed"
    assert len(play.own_orders(rig)) == orders, "nothing is entered or placed again"
    assert await held_reservations(rig) == 0


@pytest.mark.covers("K7", "B4")
async def test_trade_terminated_while_it_walks_ends_without_an_entry(rig: Rig) -> None:
    """A trade that comes back never walks again; what worked is withdrawn, the limit is free."""
    plan = play.plan_of(rig, "1", walk=play.walk_of(interval_s="20"))
    handle = await rig.start_trade(plan)
    await rig.until(lambda: len(rig.exchange.open_orders) == 1, "it walks")
    await handle.terminate("a person, by mistake")
    watch = HealthWatch(rig.services, rig.client, task_queue=rig.queue)

    async def is_dead() -> bool:
        await watch.look()
        return not rig.exchange.open_orders

    await rig.until_async(is_dead, "the entry is withdrawn")
    result = await finish(rig, handle)
    assert result.outcome == "not_filled"
    assert len(play.own_orders(rig)) == 1
    assert await held_reservations(rig) == 0


@pytest.mark.covers("K7", "H3")
async def test_trade_reset_to_its_beginning_adopts_its_own_orders(rig: Rig) -> None:
    """History rewinds, the ledger does not: the trade is built again from there, nothing leaves."""
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    orders = len(play.own_orders(rig))
    await rig.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=rig.client.namespace,
            workflow_execution=WorkflowExecution(
                workflow_id=handle.id, run_id=handle.first_execution_run_id or ""
            ),
            reason="a person tried the button",
            workflow_task_finish_event_id=4,
            request_id="reset-1",
        )
    )
    await play.wait_for_hand_over(rig, handle)
    newest = play.newest_run(rig, handle)
    watch = HealthWatch(rig.services, rig.client, task_queue=rig.queue)

    async def knows() -> bool:
        await watch.look()
        try:
            return (await newest.query(TradeWorkflow.status)).held == 10
        except RPCError:
            return False

    await rig.until_async(knows, "it knows its position again")
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 3, "still protected")
    play.fall(rig)
    result = await finish(rig, handle)
    assert result.quantity == 10
    bought = [r for r in rig.journal("fill") if r["side"] == Side.BUY]
    assert sum(D(r["quantity"]) for r in bought) == 10
    assert len(play.own_orders(rig)) == orders


# --- messages to a trade that ends ----------------------------------------------------------------


@pytest.mark.covers("A3")
async def test_every_command_to_a_closing_trade_is_answered_or_refused(rig: Rig) -> None:
    """Sent all the while it closes: none is accepted and left without an answer."""
    handle = await rig.start_trade(play.plan_of(rig, "1", targets=()))
    await play.fill_entry(rig)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 1, "protected")
    answers: list[str] = []

    async def move(number: int) -> None:
        request = OperatorRequest(command_id=f"m{number}", by="test", price=D("99.30"))
        try:
            outcome = await handle.execute_update("move_stop", request)
        except (WorkflowUpdateFailedError, RPCError) as error:
            answers.append(type(error).__name__)
        else:
            answers.append(str(outcome))

    play.fall(rig)
    sending = []
    for number in range(60):
        sending.append(asyncio.create_task(move(number)))
        await rig.breathe()
        if number > 10 and "RPCError" in answers:
            break
    async with asyncio.timeout(60):
        await asyncio.gather(*sending)
    assert len(answers) == len(sending), "one answer each"
    await finish(rig, handle)
    with pytest.raises(RPCError):
        await flatten(handle)


# --- clocks ---------------------------------------------------------------------------------------


@pytest.mark.covers("H7")
@pytest.mark.parametrize("jump", [-HOUR, HOUR])
async def test_worker_whose_clock_jumps_still_gets_out(
    temporal_client: Client, ledger: Ledger, unique: str, jump: timedelta
) -> None:
    """Neither stale for ever nor fresh for ever: the workflow dates what it hears."""
    wrong = {"by": timedelta(0)}
    async with running_rig(
        temporal_client,
        ledger,
        f"acct-{unique}",
        now=lambda: datetime.now(UTC) + wrong["by"],
    ) as rig:
        rig.deadline_s = 60
        play.calm_market(rig)
        handle = await rig.start_trade(play.plan_of(rig, "1"))
        await play.enter_protected(rig)
        wrong["by"] = jump
        await flatten(handle)
        result = await finish(rig, handle)
        assert result.exit_reason == "flatten"


# --- workers that stop, and a cache that forgets --------------------------------------------------


@asynccontextmanager
async def serving(rig: Rig, *, cached_workflows: int = 1000) -> AsyncIterator[None]:
    """Trade and gateway worker of the account; leaving it is what SIGTERM does."""
    services, name = rig.services, rig.services.account
    async with worker.trade_worker(
        rig.client,
        services,
        task_queue=rig.queue,
        deployment_name=name,
        cached_workflows=cached_workflows,
        drain_s=1.0,
    ):
        await set_current_version(rig.client, build_id(), deployment=name)
        async with worker.gateway_worker(rig.client, services, drain_s=1.0):
            yield


@pytest.mark.covers("H15")
@pytest.mark.parametrize("point", ["after_intent_row", "after_response"])
async def test_worker_asked_to_stop_in_the_middle_of_a_send_loses_and_doubles_nothing(
    temporal_client: Client, ledger: Ledger, unique: str, point: str
) -> None:
    """It drains what it began; the next one goes on from the ledger's rows."""
    reached = asyncio.Event()
    async with running_rig(
        temporal_client,
        ledger,
        f"acct-{unique}",
        workers=False,
        failpoint=lambda name: reached.set() if name == point else None,
    ) as rig:
        rig.deadline_s = 60
        play.calm_market(rig)
        handle = await rig.start_trade(play.plan_of(rig, "1"))
        async with serving(rig), asyncio.timeout(60):
            await reached.wait()
        async with serving(rig), running_streams(rig.client, rig.services, rig.queue):
            await play.enter_protected(rig)
            play.fall(rig)
            result = await finish(rig, handle)
    assert result.quantity == 10


@pytest.mark.covers("H9")
async def test_trades_that_are_evicted_at_every_step_walk_and_end_all_the_same(
    temporal_client: Client, ledger: Ledger, unique: str
) -> None:
    """A cache of one for ten trades: each activation is a cold replay."""
    async with running_rig(temporal_client, ledger, f"acct-{unique}", workers=False) as rig:
        play.calm_market(rig)
        async with serving(rig, cached_workflows=1):
            walk = play.walk_of(interval_s="0.4", max_time_s="3")
            plans = [play.plan_of(rig, str(number), walk=walk) for number in range(10)]
            handles = [await rig.start_trade(plan) for plan in plans]
            async with asyncio.timeout(60):
                results = [await handle.result() for handle in handles]
    assert {result.outcome for result in results} == {"not_filled"}
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)
