"""Exits whose planned price lies at zero or below still rest, one tick above nothing (I4)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import PlaceOrder
from domain.order import OrderBody, Side
from domain.plan import PlanPrice, StopPlan, TargetPlan, TradePlan
from domain.trade_state import Role
from tests.unit.test_trade_fold import make_plan, start

D = Decimal
TICK = D("0.01")


def far(side: Side, stop: StopPlan, target: Decimal) -> TradePlan:
    targets = (TargetPlan(price=PlanPrice(offset=target), fraction=D(1)),)
    return make_plan(side=side, targets=targets).model_copy(update={"stop": stop})


@pytest.mark.parametrize(
    ("plan", "stop", "target"),
    [
        (far(Side.BUY, StopPlan(price=PlanPrice(offset=D(-200))), D(5)), TICK, None),
        (far(Side.SELL, StopPlan(price=PlanPrice(offset=D(4))), D(-200)), None, TICK),
        (
            far(Side.BUY, StopPlan(price=PlanPrice(offset=D(-4)), limit_offset=D(200)), D(5)),
            None,
            None,
        ),
    ],
)
def test_a_fill_so_good_that_an_exit_falls_below_zero_is_protected_all_the_same(
    plan: TradePlan, stop: Decimal | None, target: Decimal | None
) -> None:
    ladder = {} if plan.side is Side.BUY else {"start": D(100), "worst": D(99)}
    trade, broker = start(plan, **ladder)
    broker.move(D("100.10"), D("100.30"))
    trade.pass_time(60)

    for command in trade.commands:
        if isinstance(command, PlaceOrder):
            # What a worker reads back from Temporal; a price below zero fails there, for ever.
            OrderBody.model_validate_json(command.intent.body.model_dump_json())
    assert abs(broker.position) == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING
    assert stop is None or [o.stop_price for o in trade.state.live(Role.STOP)] == [stop]
    assert target is None or [o.limit_price for o in trade.state.live(Role.TARGET)] == [target]
