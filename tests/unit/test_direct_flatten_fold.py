"""A trade meets the orders that a flatten sent while its workflow could not be asked (K8)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import Alert
from domain.ids import DIRECT_SEQUENCE_FIRST, Purpose, client_id_of_prefix, trade_prefix
from domain.order import BrokerOrderStatus, OrderType, Side
from domain.trade_state import Role, Stage
from tests.unit.test_trade_fold import start
from tests.unit.toy_broker import ToyBroker, ToyOrder, Trade, live_exit_quantity

D = Decimal


def held_trade() -> tuple[Trade, ToyBroker]:
    trade, broker = start()
    trade.pass_time(25)
    assert ts.held_units(trade.state) == broker.position == 10
    return trade, broker


def sent_past_it(trade: Trade, broker: ToyBroker, purpose: Purpose, quantity: Decimal) -> ToyOrder:
    """The order of a direct flatten; the exits before it are dead, as it proves first."""
    for order in broker.orders:
        if order.live:
            broker.cancel(order)
    prefix = trade_prefix(trade.state.installation, trade.state.plan.trade_id)
    order = ToyOrder(
        broker_id=f"direct-{purpose}",
        client_id=client_id_of_prefix(prefix, 0, purpose, DIRECT_SEQUENCE_FIRST, "0" * 8),
        intent=None,
        side=Side.SELL,
        quantity=quantity,
        status=BrokerOrderStatus.WORKING,
        order_type=OrderType.STOP if purpose is Purpose.STOP else OrderType.LIMIT,
        stop_price=D("95") if purpose is Purpose.STOP else None,
        limit_price=None if purpose is Purpose.STOP else D("98"),
    )
    broker.orders.append(order)
    return order


@pytest.mark.covers("K8")
def test_trade_that_was_flattened_past_its_workflow_closes_with_those_fills() -> None:
    trade, broker = held_trade()
    exit_order = sent_past_it(trade, broker, Purpose.FLATTEN, D(10))
    for quantity in (D(2), D(5), D(3)):
        broker._fill(exit_order, quantity)
    trade.pass_time(30)
    assert broker.position == 0
    assert ts.held_units(trade.state) == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    codes = {c.code for c in trade.commands if isinstance(c, Alert)}
    assert not codes & {"FILL_UNATTRIBUTED", "ORDER_UNATTRIBUTED", "FILL_INCONSISTENT"}, codes
    assert "LATE_FILL" not in codes


@pytest.mark.covers("K8")
def test_stop_that_a_direct_flatten_put_back_is_the_trades_stop() -> None:
    trade, broker = held_trade()
    stop = sent_past_it(trade, broker, Purpose.STOP, D(10))
    trade.state = trade.state.changed(read_needed="it was away")
    for _ in range(30):
        trade.pass_time(1)
        assert live_exit_quantity(broker, Side.SELL) <= broker.position
    known = trade.state.order(stop.client_id or "")
    assert known is not None
    assert known.role is Role.STOP
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_rest_of_a_direct_flatten_that_filled_in_part_is_protected_again() -> None:
    trade, broker = held_trade()
    exit_order = sent_past_it(trade, broker, Purpose.FLATTEN, D(10))
    broker._fill(exit_order, D(4))
    broker.cancel(exit_order)
    trade.pass_time(30)
    assert ts.held_units(trade.state) == broker.position == 6
    assert live_exit_quantity(broker, Side.SELL) == 6
