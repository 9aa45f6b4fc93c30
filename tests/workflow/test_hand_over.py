"""A new build takes over open trades by continue-as-new (architecture §4, Versions; H12)."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.client import WorkflowHandle

import worker
from deploy.temporal.versions import set_current_version
from domain.messages import OperatorRequest, TradeResult, VersionSignal
from tests.rig import Rig
from tests.workflow.test_trade_thread import plan_of
from workflows.trade import TradeWorkflow

NEXT_BUILD = "next-build"


async def build_of(handle: WorkflowHandle[Any, TradeResult]) -> str:
    """Build id that the newest run of the workflow is pinned to."""
    info = (await handle.describe()).raw_description.workflow_execution_info.versioning_info
    return info.deployment_version.build_id


@pytest.mark.covers("H12")
async def test_open_trade_moves_to_the_new_build_with_its_stop_and_closes_there(rig: Rig) -> None:
    handle = await rig.start_trade(plan_of(rig))
    await rig.until(
        lambda: any(o.stop_price is not None for o in rig.exchange.open_orders), "protected"
    )
    accepted = len(rig.journal("accepted"))
    first_build = await build_of(handle)
    account = rig.services.account
    async with worker.trade_worker(
        rig.client, rig.services, task_queue=rig.queue, deployment_name=account, build=NEXT_BUILD
    ):
        await set_current_version(rig.client, NEXT_BUILD, deployment=account)
        newest = rig.client.get_workflow_handle(handle.id, result_type=TradeResult)
        await newest.signal(TradeWorkflow.version_changed, VersionSignal(build_id=NEXT_BUILD))
        while await build_of(newest) == first_build:
            await rig.breathe()
        assert await build_of(newest) == NEXT_BUILD
        status = await newest.query(TradeWorkflow.status)
        assert status.protection == "resting"
        assert len(rig.journal("accepted")) == accepted, "a hand-over sends nothing"
        await newest.execute_update(
            "move_stop",
            OperatorRequest(command_id="m1", by="ann", price="98.75"),
        )
        await rig.until(
            lambda: any(str(o.stop_price) == "98.75" for o in rig.exchange.open_orders), "moved"
        )
        rig.quote("ESX", "103.50", "103.75")
        result = await newest.result()
    assert result.outcome == "closed"
    assert rig.exchange.open_orders == []
