"""Attacks on the fold: orderings and faults that once left a position bare or an order loose."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import CancelOrder, Command, PlaceOrder, ResolveOrder
from domain.facts import (
    CancelAsked,
    Fact,
    FlattenRequested,
    OperatorCommand,
    OperatorVerb,
    OrderAccepted,
    OrderRejected,
    OrderReported,
    OrderUnknown,
    PositionAdjusted,
)
from domain.order import OrderIntent
from domain.plan import PlanPrice, TargetPlan
from domain.steps import next_deadline
from domain.trade_state import Stage
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan, start
from tests.unit.toy_broker import ToyBroker, Trade

D = Decimal
TWO = tuple(TargetPlan(price=PlanPrice(offset=D(offset)), fraction=D("0.5")) for offset in (2, 4))


def operator(trade: Trade, verb: OperatorVerb, number: int, **values: object) -> None:
    trade.tell(
        OperatorCommand(
            at=trade.now, command_id=f"op-{number}", by="anna", verb=verb, reason="", **values
        )
    )


def follow_deadlines(trade: Trade, seconds: float) -> None:
    """As the workflow does: looks only at deadlines, never just because time has passed."""
    end = trade.now + timedelta(seconds=seconds)
    for _ in range(500):
        trade.settle_down()
        at = next_deadline(trade.state, trade.now)
        if at is None or at > end:
            return
        trade.broker.now = at


def test_unsent_exit_of_one_tranche_is_tried_again_although_another_came_later() -> None:
    """I4: the retry of the first tranche is a deadline of its own."""
    failed: list[Command] = []

    def mischief(command: Command) -> str:
        if isinstance(command, PlaceOrder) and not command.intent.increasing and not failed:
            failed.append(command)
            return "not_sent"
        return ""

    trade, broker = start(make_plan(targets=TWO), mischief=mischief)
    broker.move(D("99.90"), D("100.00"))
    follow_deadlines(trade, 8)
    assert failed
    assert broker.position == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_entry_that_fills_while_paused_is_protected() -> None:
    """I4: a pause stops new risk, it never leaves a position bare."""
    trade, broker = start()
    trade.pass_time(1)
    operator(trade, OperatorVerb.PAUSE, 1)
    trade.settle_down()
    broker.move(D("99.80"), D("99.90"))
    follow_deadlines(trade, 5)
    assert broker.position == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_partial_fill_while_paused_is_protected() -> None:
    trade, broker = start()
    trade.pass_time(1)
    operator(trade, OperatorVerb.PAUSE, 1)
    trade.settle_down()
    broker.size = D(4)
    broker.move(D("99.80"), D("99.90"))
    broker.size = D(0)
    follow_deadlines(trade, 30)
    assert broker.position == 4
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_paused_walk_still_ends_in_time() -> None:
    """I11: pausing must not keep an entry at the venue for ever."""
    trade, broker = start()
    trade.pass_time(1)
    operator(trade, OperatorVerb.PAUSE, 1)
    follow_deadlines(trade, 90)
    assert not [o for o in broker.orders if o.live]


@pytest.mark.covers("C5")
def test_entry_found_after_parking_is_protected() -> None:
    """C5, I10, I4: unknown for so long that the trade was parked, then it fills."""
    hidden = [True]

    class Hidden(Trade):
        def _resolved(self, command: ResolveOrder) -> list[Fact]:
            if hidden[0]:
                return [
                    OrderUnknown(at=self.now, client_id=command.intent.client_id, reason="not seen")
                ]
            return super()._resolved(command)

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    trade = Hidden(make_plan(), broker, mischief=lambda c: "lost")
    follow_deadlines(trade, 40)
    assert trade.state.needs_operator
    trade.mischief = lambda command: ""
    broker.move(D("99.80"), D("99.90"))
    hidden[0] = False
    follow_deadlines(trade, 20)
    assert broker.position == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING


class DeafToCancels(Trade):
    """The venue takes a cancel and does nothing, a given number of times (D4)."""

    deaf = 1

    def _cancelled(self, command: CancelOrder, fault: str) -> list[Fact]:
        order = self.broker.by_id(command.broker_order_id)
        if self.deaf <= 0 or order is None:
            return super()._cancelled(command, fault)
        self.deaf -= 1
        return [
            CancelAsked(at=self.now, client_id=command.client_id),
            OrderReported(at=self.now, order=self.broker.snapshot(order)),
        ]


@pytest.mark.covers("D4")
def test_cancel_that_the_venue_forgot_is_asked_again() -> None:
    """D4, I11: taken with 204 and lost."""
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))
    trade = DeafToCancels(make_plan(), broker)
    trade.pass_time(1)
    trade.tell(FlattenRequested(at=trade.now, command_id="f1", by="anna", reason=""))
    follow_deadlines(trade, 30)
    assert not [o for o in broker.orders if o.live]
    assert ts.stage(trade.state) is Stage.NOT_FILLED


def test_rejected_order_that_works_at_the_venue_is_not_forgotten() -> None:
    """I3, I10: a terminal record does not outweigh a live order of ours at the broker."""
    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.30"))

    class Liar(Trade):
        def _placed(self, intent: OrderIntent, fault: str) -> list[Fact]:
            super()._placed(intent, fault)
            self.broker.now += timedelta(milliseconds=50)
            return [OrderRejected(at=self.now, client_id=intent.client_id, code="WRONG")]

    trade = Liar(make_plan(), broker)
    follow_deadlines(trade, 30)
    assert not [o for o in broker.orders if o.live], trade.state.orders


def test_stop_that_fills_in_parts_is_left_to_work() -> None:
    """I4: cancelling a triggered stop because a part has filled would bare the position."""
    trade, broker = start()
    broker.move(D("99.90"), D("100.00"))
    trade.pass_time(5)
    asked = len(trade.commands)
    broker.size = D(4)
    broker.bid, broker.ask = D("95.50"), D("95.60")
    broker.match()
    broker.size = D(0)
    trade.settle_down()
    later = [c for c in trade.commands[asked:] if isinstance(c, CancelOrder)]
    assert broker.position == 6
    assert later == []


def test_ratchets_refused_long_ago_do_not_count_against_a_new_stop() -> None:
    """E2: the refusals of a replace are no refusals of protection."""

    def mischief(command: Command) -> str:
        return "reject" if command.kind == "replace_order" else ""

    trade, broker = start(make_plan(targets=THREE, ratchet=RATCHET), mischief=mischief)
    broker.move(D("99.90"), D("100.00"))
    trade.pass_time(5)
    broker.move(D("102.50"), D("102.60"))
    trade.pass_time(20)
    assert broker.position == 7
    assert not trade.state.exit.reason
    # The venue takes one pair away on its own.
    pair = next(o for o in broker.orders if o.live and o.order_type == "limit")
    members = broker.group_of(pair)
    broker.cancel(pair)
    trade.tell(*(OrderReported(at=trade.now, order=trade._flat(o)) for o in members))
    trade.pass_time(5)
    assert not trade.state.exit.reason
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_pair_whose_members_are_not_named_yet_is_read_and_not_taken_down() -> None:
    """I4, C4: a throttled look behind the send named no stop, and good pairs were cancelled."""

    class Unnamed(Trade):
        def _placed(self, intent: OrderIntent, fault: str) -> list[Fact]:
            return [
                fact.model_copy(update={"order": fact.order.model_copy(update={"legs": ()})})
                if isinstance(fact, OrderAccepted)
                else fact
                for fact in super()._placed(intent, fault)
            ]

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    asked: list[str] = []

    def mischief(command: Command) -> str:
        asked.append(command.kind)
        return ""

    trade = Unnamed(make_plan(targets=THREE), broker, mischief=mischief)
    trade.pass_time(30)
    assert "cancel_order" not in asked
    assert sum(o.quantity for o in broker.orders if o.live and o.stop_price) == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_stop_whose_move_was_unknown_for_some_looks_moves_again() -> None:
    """E2, C5: looks for an order are no refusals (chaos: a cut line ended the ratchet for good)."""

    class Cut(Trade):
        looks_in_vain = 0

        def _resolved(self, command: ResolveOrder) -> list[Fact]:
            if self.looks_in_vain:
                self.looks_in_vain -= 1
                client_id = command.intent.client_id
                return [OrderUnknown(at=self.now, client_id=client_id, reason="not seen yet")]
            return super()._resolved(command)

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    lost: list[Command] = []

    def mischief(command: Command) -> str:
        if command.kind != "replace_order" or lost:
            return ""
        lost.append(command)
        return "lost"

    trade = Cut(make_plan(), broker, mischief=mischief)
    trade.pass_time(5)
    trade.looks_in_vain = 4
    operator(trade, OperatorVerb.MOVE_STOP, 1, price=D("98"))
    trade.pass_time(30)
    assert lost
    broker_stop = [o.stop_price for o in broker.orders if o.live and o.stop_price]
    assert broker_stop == [D("98")]
    (stop,) = [o for o in trade.state.live() if o.stop_price is not None]
    assert stop.refusals == 0
    operator(trade, OperatorVerb.MOVE_STOP, 2, price=D("98.50"))
    trade.pass_time(10)
    assert [o.stop_price for o in broker.orders if o.live and o.stop_price] == [D("98.50")]


def test_stop_moved_again_by_the_operator_is_tried_after_refusals() -> None:
    refused = [True]

    def mischief(command: Command) -> str:
        return "reject" if command.kind == "replace_order" and refused[0] else ""

    trade, broker = start(mischief=mischief)
    broker.move(D("99.90"), D("100.00"))
    trade.pass_time(5)
    operator(trade, OperatorVerb.MOVE_STOP, 1, price=D("99.95"))
    trade.pass_time(20)
    refused[0] = False
    operator(trade, OperatorVerb.MOVE_STOP, 2, price=D("98"))
    trade.pass_time(10)
    assert [o.stop_price for o in broker.orders if o.live and o.stop_price] == [D("98")]


def test_lost_exit_is_not_posted_again_once_the_position_is_gone() -> None:
    """I2: a repeated sell without a position would open a short."""

    class Void(Trade):
        void = False

        def _placed(self, intent: OrderIntent, fault: str) -> list[Fact]:
            if self.void:
                return [OrderUnknown(at=self.now, client_id=intent.client_id, reason="lost")]
            return super()._placed(intent, fault)

    broker = ToyBroker(symbol="AAPL", bid=D("99.90"), ask=D("100.00"))
    trade = Void(make_plan(), broker)
    trade.pass_time(5)
    trade.void = True
    trade.tell(FlattenRequested(at=trade.now, command_id="f1", by="anna", reason=""))
    for _ in range(6):
        trade.look()
    assert [o for o in trade.state.live() if o.state == "unknown"]
    trade.tell(
        PositionAdjusted(
            at=trade.now,
            adjustment_id="hand",
            adjustment="external",
            symbol="AAPL",
            quantity=D(-10),
        )
    )
    trade.void = False
    asked = len(trade.commands)
    follow_deadlines(trade, 60)
    resolves = [c for c in trade.commands[asked:] if isinstance(c, ResolveOrder)]
    assert resolves
    assert not any(c.may_repost for c in resolves)
