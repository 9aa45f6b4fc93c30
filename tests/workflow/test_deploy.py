"""A build that is gone: its trades are named, and moved by force once they replay clean (H12)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from temporalio.client import Client

import worker
from cli.deploy import NOT_IN_TIME, take_over_workflows
from deploy.temporal.handover import pin_of
from deploy.temporal.versions import set_current_version
from domain.ids import trade_workflow_id
from domain.messages import OperatorSignal
from ledger.repository import Ledger
from tests.rig import Rig, running_rig
from tests.workflow.test_trade_thread import plan_of

OLD_BUILD, NEXT_BUILD = "old-build", "next-build"


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    account = f"acct-{unique}"
    async with running_rig(temporal_client, ledger, account, workers=False) as made:
        made.quote("ESX", "99.75", "100.25")
        async with worker.gateway_worker(temporal_client, made.services):
            yield made


def build(rig: Rig, name: str) -> AbstractAsyncContextManager[Any]:
    """The trade worker of one build."""
    account = rig.services.account
    return worker.trade_worker(
        rig.client, rig.services, task_queue=rig.queue, deployment_name=account, build=name
    )


async def test_trade_of_a_build_that_is_gone_is_named_then_moved_by_force(rig: Rig) -> None:
    account, plan = rig.services.account, plan_of(rig)
    async with build(rig, OLD_BUILD):
        await set_current_version(rig.client, OLD_BUILD, deployment=account)
        handle = await rig.start_trade(plan)
        await rig.until(
            lambda: any(o.stop_price is not None for o in rig.exchange.open_orders), "protected"
        )
    await rig.ledger.update_trade(plan.trade_id, build_id=OLD_BUILD)
    accepted = len(rig.journal("accepted"))
    async with build(rig, NEXT_BUILD):
        await set_current_version(rig.client, NEXT_BUILD, deployment=account)

        async def take_over(wait_s: float, *, override: bool) -> dict[str, Any]:
            return await take_over_workflows(
                rig.client,
                rig.ledger,
                NEXT_BUILD,
                wait_s=wait_s,
                override=override,
                deployment=account,
            )

        left = (await take_over(0.3, override=False))["left"]
        name = trade_workflow_id(plan.trade_id)
        assert left == [{"workflow": name, "build": OLD_BUILD, "why": NOT_IN_TIME}]
        done = await take_over(0.3, override=True)
        while done["left"]:  # one look was too early on a busy machine: the pin is moved already
            done = await take_over(2, override=True)
        pin = await pin_of(rig.client, name)
        assert pin is not None
        assert pin.build_id == NEXT_BUILD
        described = await rig.client.get_workflow_handle(name).describe()
        pinned = described.raw_description.workflow_execution_info.versioning_info
        assert not pinned.HasField("versioning_override"), "a later hand-over must be free again"
        row = await rig.ledger.trade(plan.trade_id)
        assert row is not None
        assert row.build_id == NEXT_BUILD
        assert len(rig.journal("accepted")) == accepted, "a hand-over sends nothing"
        newest = rig.client.get_workflow_handle(handle.id)
        await newest.signal("flatten", OperatorSignal(by="test"))
        await newest.result()
    assert rig.exchange.holdings() == []
