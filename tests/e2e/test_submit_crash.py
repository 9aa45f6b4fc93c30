"""The process that takes a signal is killed around the start of the trade (faults.md A2, I1).

The command line's own way to start a trade, in a process that a SIGKILL ends right before or
right after the server has the start. Whoever sent the signal got no answer and sends it again.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, Literal

import pytest
from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    StartWorkflowInput,
    WorkflowHandle,
)
from temporalio.service import RPCError, RPCStatusCode

from cli import plans
from domain.clock import ClockMap
from domain.errors import Refused
from domain.ids import trade_workflow_id
from domain.messages import TradeResult
from domain.plan import TradePlan
from ledger.repository import Ledger
from observability.build import repository_root
from observability.plugin import holdfast_plugin
from settings import Settings
from settings_file import load_settings
from tests import trade_scenarios as play
from tests.conftest import TemporalServer
from tests.rig import Rig, running_rig
from workflows.trade import TradeWorkflow

pytestmark = pytest.mark.timeout(240)
JOIN_S = 90.0
KILLED, STARTED, REFUSED = -signal.SIGKILL, 0, 3
Death = Literal["before", "after", ""]
_forks = get_context("forkserver")


@dataclass(frozen=True)
class Submission:
    """What `trade submit` knows when its plan is read, and where it dies."""

    temporal: str
    namespace: str
    queue: str
    plan: TradePlan
    settings: Settings
    clock: ClockMap
    death: Death = ""


class Mortal(Interceptor):
    """Dies around the request that starts a workflow."""

    def __init__(self, death: Death) -> None:
        self._death = death

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        return _Dying(next, self._death)


class _Dying(OutboundInterceptor):
    def __init__(self, next: OutboundInterceptor, death: Death) -> None:
        super().__init__(next)
        self._death = death

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        if self._death == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        handle = await super().start_workflow(input)
        if self._death == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return handle


def submit(submission: Submission) -> None:
    """Starts the trade as the command does; the exit code tells what came of it."""
    setattr(plans, "TRADE_QUEUE", submission.queue)  # noqa: B010 - a queue of this test alone
    try:
        asyncio.run(_submit(submission))
    except Refused as refused:
        os._exit(REFUSED if refused.code == "TRADE_EXISTS" else 1)
    os._exit(STARTED)


async def _submit(given: Submission) -> None:
    client = await Client.connect(
        given.temporal,
        namespace=given.namespace,
        plugins=[holdfast_plugin()],
        interceptors=[Mortal(given.death)],
    )
    await plans.start_trade(client, given.plan, given.settings, given.clock)


async def exit_of(submission: Submission) -> int | None:
    """The exit code of a process that submits."""
    process = _forks.Process(target=submit, args=(submission,), daemon=True)
    await asyncio.to_thread(process.start)
    try:
        await asyncio.to_thread(process.join, JOIN_S)
        return process.exitcode
    finally:
        process.kill()


async def is_started(rig: Rig, plan: TradePlan) -> bool:
    handle = rig.client.get_workflow_handle(trade_workflow_id(plan.trade_id))
    try:
        await handle.describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


@pytest.mark.covers("A2")
@pytest.mark.parametrize(("death", "again"), [("before", STARTED), ("after", REFUSED)])
async def test_submission_that_dies_and_comes_again_is_one_trade(
    temporal_server: TemporalServer,
    temporal_client: Client,
    ledger: Ledger,
    unique: str,
    death: Death,
    again: int,
) -> None:
    """A2, I1, I11: dead before the start, nothing happened; after it, the repeat is refused."""
    async with running_rig(temporal_client, ledger, f"acct-{unique}") as rig:
        rig.deadline_s = 60.0
        play.calm_market(rig)
        plan = play.plan_of(rig, "1", targets=(), ratchet=())
        settings = load_settings(repository_root() / "config" / "demo.toml", {})
        account = {"name": plan.account, "installation": rig.services.installation}
        submission = Submission(
            temporal=temporal_server.address,
            namespace=temporal_server.namespace,
            queue=rig.queue,
            plan=plan,
            settings=settings.model_copy(
                update={"account": settings.account.model_copy(update=account)}
            ),
            clock=rig.clock,
            death=death,
        )
        assert await exit_of(submission) == KILLED
        assert await is_started(rig, plan) is (death == "after")
        assert bool(await rig.ledger.trade(plan.trade_id)) <= (death == "after")

        alive = replace(submission, death="")
        assert await exit_of(alive) == again
        assert await exit_of(alive) == REFUSED

        await play.fill_entry(rig)
        await rig.until(lambda: play.stops_at(rig, play.STOP) == 1, "protected")
        play.assert_one_order_per_intent(rig)
        assert play.position(rig) == 10
        assert [each.trade_id for each in await rig.ledger.list_trades()] == [plan.trade_id]
        handle: WorkflowHandle[TradeWorkflow, TradeResult] = rig.client.get_workflow_handle_for(
            TradeWorkflow.run, trade_workflow_id(plan.trade_id)
        )
        play.fall(rig)
        assert (await handle.result()).outcome == "closed"
        play.assert_nothing_left(rig)
