"""A gateway that keeps its broker's rate: a rested lane protects a new position at once (K3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal

import pytest
from temporalio.client import Client

from domain.plan import PlanPrice, TargetPlan, TradePlan, WalkStart
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, WireFace
from tests.rig import Rig, running_rig
from tests.workflow.test_trade_thread import plan_of

D = Decimal
PER_MINUTE = 60
GAP_S = 4.0
"""One more step each four seconds, once the burst of six is used up."""


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    async with running_rig(
        temporal_client,
        ledger,
        f"acct-{unique}",
        config=ExchangeConfig(requests_per_minute=None, face=WireFace.TRADIER),
        requests_per_minute=PER_MINUTE,
        with_wall_times=True,
    ) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made


def three_targets(rig: Rig) -> TradePlan:
    """Filled at once, so that the entry takes two steps of the burst."""
    plan = plan_of(rig)
    targets = tuple(
        TargetPlan(price=PlanPrice(offset=D(offset)), fraction=D(fraction))
        for offset, fraction in ((3, "0.3"), (4, "0.3"), (5, "0.4"))
    )
    walk = plan.walk.model_copy(update={"start": WalkStart.FAR})
    return plan.model_copy(update={"targets": targets, "walk": walk})


def wall(row: dict[str, object]) -> datetime:
    return datetime.fromisoformat(str(row["wall"]))


@pytest.mark.covers("K3")
async def test_three_stops_of_a_new_position_do_not_wait_for_one_another(rig: Rig) -> None:
    """At Tradier's 60 requests a minute they went out 3.3 s apart: 10 s bare after each entry."""
    await rig.start_trade(three_targets(rig))
    await rig.until(
        lambda: sum(o.stop_price is not None for o in rig.exchange.open_orders) == 3, "protected"
    )
    filled = wall(rig.journal("fill")[0])
    sent = [wall(row) for row in rig.journal("request") if row["action"] == "submit"]
    assert len(sent) == 4
    assert (sent[-1] - filled).total_seconds() < GAP_S, "within the burst"


@pytest.mark.covers("F8")
async def test_lane_that_used_up_its_burst_keeps_the_brokers_rate(rig: Rig) -> None:
    """I14: entry and stops take five of six; of the flatten's steps one goes at once."""
    await rig.start_trade(three_targets(rig))
    await rig.until(
        lambda: sum(o.stop_price is not None for o in rig.exchange.open_orders) == 3, "protected"
    )
    before = len(rig.journal("request"))
    handle = rig.client.get_workflow_handle(f"trade/{rig.services.account}-1")
    await handle.signal(
        "flatten", {"command_id": "flat-1", "by": "ada", "reason": "the burst is used up"}
    )
    await handle.result()
    sent = rig.journal("request")[before:]
    assert [row["action"] for row in sent] == ["cancel", "cancel", "cancel", "submit"]
    times = [wall(row) for row in sent]
    assert (times[-1] - times[0]).total_seconds() > 2 * GAP_S
