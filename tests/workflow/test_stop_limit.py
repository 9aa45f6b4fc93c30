"""A gap through a stop-limit on the real stack: triggered, unfilled, out by the ladder."""

from __future__ import annotations

from decimal import Decimal

import pytest

from activities.services import AlertMessage
from domain.plan import PlanPrice, StopPlan, TargetPlan
from tests import trade_scenarios as play
from tests.rig import Rig
from workflows.trade import TradeWorkflow

D = Decimal
PAIRS = (
    TargetPlan(price=PlanPrice(offset=D(1)), fraction=D("0.5")),
    TargetPlan(price=PlanPrice(offset=D(2)), fraction=D("0.5")),
)


@pytest.fixture
def rig(rig: Rig) -> Rig:
    """In the market in which the trades of `trade_scenarios` begin."""
    play.calm_market(rig)
    return rig


@pytest.mark.parametrize("targets", [PAIRS, ()], ids=["pairs", "plain"])
async def test_gap_through_a_stop_limit_ends_in_a_marketable_exit(
    rig: Rig, alerts: list[AlertMessage], targets: tuple[TargetPlan, ...]
) -> None:
    """The pair's dead target tells that it triggered; a plain one the market at its price."""
    stop = StopPlan(price=PlanPrice(offset=D(-2)), limit_offset=D("0.10"))
    plan = play.plan_of(rig, "1", stop=stop, targets=targets, ratchet=())
    handle = await rig.start_trade(plan)
    await play.fill_entry(rig)
    orders = len(targets) or 1
    await rig.until(lambda: play.stops_at(rig, play.STOP) == orders, "all is protected")
    rig.quote(play.SYMBOL, "98.75", "98.95")
    await rig.until(lambda: len(rig.journal("triggered")) == orders, "the stops trigger")
    assert play.position(rig) == 10, "the limit of 99.15 meets nobody"

    async def is_told_naked() -> bool:
        return (await handle.query(TradeWorkflow.status)).naked_since is not None

    await rig.until_async(is_told_naked, "it says that it is naked while it is")
    result = await handle.result()

    assert (result.outcome, result.exit_reason) == ("closed", "stop_unfilled")
    assert result.quantity == D(10)
    assert result.average_exit == D("98.75")
    assert 5 <= result.naked_s < 15
    told = [message.alert.code for message in alerts]
    assert told.count("STOP_LIMIT_UNFILLED") == 1
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)
