"""A change in place: the order lives on with new prices, the intent never becomes an order.

ADR 0017; the venue keeps id, tag and quantity.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from brokers.tradier.mapping import TRADIER_CAPABILITIES
from domain import trade_state as ts
from domain.commands import Command, PlaceOrder, ReplaceOrder, ResolveOrder, WalkStep
from domain.facts import Fact, OrderReported, OrderResolved, OrderUnknown, ReplaceConfirmed
from domain.order import OrderState
from domain.plan import PlanPrice, RatchetKind, RatchetStep, TargetPlan
from domain.trade_state import Role, Stage
from tests.unit.test_trade_fold import make_plan
from tests.unit.toy_broker import ToyBroker, Trade

D = Decimal
TWO_TARGETS = tuple(TargetPlan(price=PlanPrice(offset=D(n)), fraction=D("0.5")) for n in (2, 5))


class AmendingTrade(Trade):
    """The toy broker with changes in place; `lost` loses the answer of each change that many
    times: before it was made, or after."""

    lost_before = 0
    lost_after = 0

    def answer(self, command: Command) -> list[Fact]:
        if isinstance(command, WalkStep | ReplaceOrder):
            return self._amended(command)
        if isinstance(command, ResolveOrder) and command.replaces_broker_id is not None:
            return self._looked_at(command)
        return super().answer(command)

    def _amended(self, command: WalkStep | ReplaceOrder) -> list[Fact]:
        new_id = command.intent.client_id
        unknown = OrderUnknown(at=self.now, client_id=new_id, reason="timeout")
        order = self.broker.by_id(command.old_broker_id)
        assert order is not None
        if self.lost_before > 0:
            self.lost_before -= 1
            return [unknown, OrderReported(at=self.now, order=self.broker.snapshot(order))]
        body = command.intent.body
        order.limit_price = body.limit_price or order.limit_price
        order.stop_price = body.stop_price or order.stop_price
        seen = self.broker.snapshot(order)
        self.broker.match()
        if self.lost_after > 0:
            self.lost_after -= 1
            return [unknown, OrderReported(at=self.now, order=self.broker.snapshot(order))]
        confirmed = ReplaceConfirmed(
            at=self.now,
            old_client_id=command.old_client_id,
            new_client_id=new_id,
            order=seen,
            amended=True,
        )
        return [confirmed, OrderReported(at=self.now, order=self.broker.snapshot(order))]

    def _looked_at(self, command: ResolveOrder) -> list[Fact]:
        """The order itself shows whether the change was made."""
        order = self.broker.by_id(command.replaces_broker_id)
        intent = command.intent
        assert order is not None
        assert intent.replaces is not None
        seen = self.broker.snapshot(order)
        if order.limit_price != intent.body.limit_price:
            gone = OrderResolved(
                at=self.now, client_id=intent.client_id, order=None, evidence="not changed"
            )
            return [gone, OrderReported(at=self.now, order=seen)]
        confirmed = ReplaceConfirmed(
            at=self.now,
            old_client_id=intent.replaces,
            new_client_id=intent.client_id,
            order=seen,
            amended=True,
        )
        return [confirmed, OrderReported(at=self.now, order=seen)]


def start(**plan: object) -> tuple[AmendingTrade, ToyBroker]:
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    made = make_plan(**plan)  # type: ignore[arg-type]
    return AmendingTrade(made, broker, capabilities=TRADIER_CAPABILITIES), broker


def test_walk_is_one_order_at_the_venue_and_one_live_record() -> None:
    trade, broker = start()
    trade.pass_time(15)
    (entry,) = [o for o in broker.orders if o.live]
    (record,) = trade.state.live(Role.ENTRY)
    assert (record.limit_price, record.broker_order_id) == (entry.limit_price, entry.broker_id)
    intents = [o for o in trade.state.orders if o.role is Role.ENTRY and o is not record]
    assert intents
    assert {(o.state, o.reject_code) for o in intents} == {(OrderState.NOT_SENT, "AMENDED")}
    trade.pass_time(15)
    assert broker.position == 10
    assert ts.held_units(trade.state) == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_ratchet_moves_the_stop_in_place_and_never_away() -> None:
    """I8, R9: the old stop is the new stop."""
    trade, broker = start(
        targets=TWO_TARGETS,
        ratchet=(RatchetStep(after_target=1, kind=RatchetKind.BREAK_EVEN),),
    )
    trade.pass_time(30)
    broker.move(D("102.60"), D("102.80"))
    trade.pass_time(5)
    (stop,) = trade.state.live(Role.STOP)
    assert stop.stop_price == ts.average_price(trade.state, Role.ENTRY)
    assert ts.resting_stop_quantity(trade.state) == 5
    assert ts.protection(trade.state) is ts.Protection.RESTING


@pytest.mark.covers("D1")
@pytest.mark.parametrize("when", ["lost_before", "lost_after"])
def test_change_without_an_answer_is_settled_by_the_order_itself(when: str) -> None:
    """D1: nothing is posted again, and the walk goes on from what the venue shows."""
    trade, broker = start()
    setattr(trade, when, 1)
    trade.pass_time(60)
    assert broker.position == 10
    assert len([c for c in trade.commands if isinstance(c, PlaceOrder)]) == 2, "entry and exits"
    assert not [o for o in trade.state.orders if o.state is OrderState.UNKNOWN]
    broker.move(D("105.40"), D("105.60"))
    trade.settle_down()
    assert ts.stage(trade.state) is Stage.CLOSED
