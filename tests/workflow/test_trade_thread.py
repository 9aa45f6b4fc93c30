"""Whole trades on the real server, ledger and exchange; the exchange's journal is the oracle."""

from __future__ import annotations

from decimal import Decimal

from domain.instrument import Instrument
from domain.order import Side
from domain.plan import (
    FixedSize,
    PlanLeg,
    PlanPrice,
    StopPlan,
    TargetPlan,
    TradePlan,
    WalkPlan,
)
from tests.rig import Rig

D = Decimal


def plan_of(rig: Rig, name: str = "1") -> TradePlan:
    instrument = Instrument(symbol="ESX", tick_size=D("0.01"))
    return TradePlan(
        trade_id=f"{rig.services.account}-{name}",
        session="s",
        account=rig.services.account,
        strategy="test",
        symbol="ESX",
        legs=(PlanLeg(instrument=instrument, side=Side.BUY),),
        side=Side.BUY,
        size=FixedSize(quantity=D(10)),
        walk=WalkPlan(
            step=D("0.25"), interval_s=D("0.4"), steps_max=3, worst_offset=D(1), max_time_s=D(30)
        ),
        stop=StopPlan(price=PlanPrice(offset=D(-2))),
        targets=(TargetPlan(price=PlanPrice(offset=D(3)), fraction=D(1)),),
        signal_id="sig",
        signal_time=rig.clock.market0,
        signal_max_age_s=D(600),
    )


async def test_walk_fills_then_target_closes_flat_and_settles(rig: Rig) -> None:
    handle = await rig.start_trade(plan_of(rig))
    await rig.until(lambda: bool(rig.exchange.open_orders), "the entry works")
    await rig.until(
        lambda: any(o.stop_price is not None for o in rig.exchange.open_orders), "protected"
    )
    rig.quote("ESX", "103.50", "103.75")
    result = await handle.result()
    assert result.outcome == "closed"
    assert result.exit_reason == "target"
    assert rig.exchange.open_orders == []
