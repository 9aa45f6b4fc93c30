"""Fractions of a share rest simple DAY stops only; their target is watched (alpaca.md §9)."""

from __future__ import annotations

from decimal import Decimal

from domain import trade_state as ts
from domain.commands import WatchExits
from domain.facts import ExitTriggered
from domain.instrument import Instrument
from domain.order import OrderClass, TimeInForce
from domain.plan import PlanLeg, PlanPrice, RuleKind, TargetPlan, TradePlan
from domain.protection import Layout, layout
from domain.trade_state import Stage
from tests.unit.test_trade_fold import THREE, make_plan
from tests.unit.toy_broker import ToyBroker, Trade

D = Decimal
FRACTION = D("0.091")


def fractional_plan(targets: tuple[TargetPlan, ...] = THREE) -> TradePlan:
    plan = make_plan(targets=targets)
    instrument = Instrument(symbol="AAPL", lot_size=D("0.001"), min_quantity=D("0.001"))
    leg = PlanLeg(instrument=instrument, side=plan.side)
    return plan.model_copy(update={"legs": (leg,)})


def opened(plan: TradePlan) -> tuple[Trade, ToyBroker]:
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    trade = Trade(plan, broker, quantity=FRACTION)
    trade.pass_time(25)
    assert broker.position == FRACTION
    return trade, broker


def test_fraction_rests_simple_day_stops_for_all_that_is_held() -> None:
    trade, broker = opened(fractional_plan())
    assert layout(trade.state) is Layout.STOP_PER_TRANCHE
    stops = [o for o in broker.orders if o.live]
    bodies = [o.intent.body for o in stops if o.intent is not None]
    assert {body.order_class for body in bodies} == {OrderClass.SIMPLE}
    assert {body.time_in_force for body in bodies} == {TimeInForce.DAY}
    assert sum((o.rest for o in stops), D(0)) == FRACTION
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_first_target_of_a_fraction_is_watched_and_sells_everything() -> None:
    trade, broker = opened(fractional_plan())
    (watch,) = [c for c in trade.commands if isinstance(c, WatchExits)]
    (rule,) = watch.rules
    assert (rule.rule_id, rule.kind) == ("target", RuleKind.PROFIT_AMOUNT)
    assert rule.threshold == D(2) * FRACTION
    broker.move(D("102.40"), D("102.60"))
    trade.tell(ExitTriggered(at=trade.now, rule_id="target", position_epoch=watch.position_epoch))
    trade.settle_down()
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert not [o for o in broker.orders if o.live]


def test_stop_of_a_fraction_closes_the_trade_without_a_watcher() -> None:
    trade, broker = opened(fractional_plan())
    broker.move(D("95.90"), D("96.10"))
    trade.settle_down()
    assert broker.position == 0
    assert ts.exit_reason(trade.state) == "stop"


def test_whole_lots_still_rest_in_groups() -> None:
    one = (TargetPlan(price=PlanPrice(offset=D(5)), fraction=D(1)),)
    trade = Trade(make_plan(targets=one), ToyBroker(symbol="AAPL", bid=D(99), ask=D(100)))
    trade.pass_time(25)
    assert layout(trade.state) is Layout.OCO_PER_TRANCHE
    assert not [c for c in trade.commands if isinstance(c, WatchExits)]
