"""Trades in an order lane without a burst left: a rate, strict priorities, 0.2 s a step.

One step a second, or one in three: about what 200 (Alpaca) and 60 (Tradier) requests a minute
give. A position must not stand bare because questions take the place of its exit or of its stop
(I4, K3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import (
    Command,
    PlaceOrder,
    ReadBroker,
    ReadQuote,
    ResolveOrder,
    Urgency,
    WalkStep,
)
from domain.facts import Fact, FlattenRequested, OrderAccepted, OrderReported, OrderUnknown
from domain.fold import apply
from domain.order import BrokerOrderStatus, OrderState
from domain.steps import decide, next_deadline
from tests.unit.test_trade_fold import THREE, make_plan, start
from tests.unit.toy_broker import ToyBroker, Trade
from workflows import _lifecycle as life
from workflows._commands import _is_entry

D = Decimal
TICK = timedelta(milliseconds=50)
STEP_TAKES = timedelta(milliseconds=200)
ALPACA_GAP = timedelta(seconds=1)
TRADIER_GAP = timedelta(seconds=1) / 0.3
NOT_IN_THE_LANE = ("alert", "watch_exits", "settle", "book_by_hand")


@dataclass
class Member:
    """One trade of the account, what it waits for, and how long it stood bare."""

    trade: Trade
    broker: ToyBroker
    waiting: list[Command] = field(default_factory=list)
    wake_at: datetime | None = None
    is_woken: bool = True
    bare: timedelta = timedelta()

    @property
    def resting(self) -> Decimal:
        return sum((o.quantity for o in self.broker.orders if o.live and o.stop_price), D(0))

    def flatten(self) -> None:
        fact = FlattenRequested(at=self.trade.now, command_id="f", by="op", reason="enough")
        self.trade.tell(fact)
        self.is_woken = True

    def lose_bid(self) -> None:
        quote = self.trade._quote
        self.trade._quote = lambda: quote().model_copy(  # type: ignore[method-assign]
            update={"bid": None}
        )


class CrowdedLane:
    """Serves one command in each `gap`, the lowest priority key first, then the oldest."""

    def __init__(
        self, members: list[Member], gap: timedelta, wake_each: timedelta | None = None
    ) -> None:
        self.members, self.gap, self.wake_each = members, gap, wake_each
        self.queue: list[tuple[int, int, Member, Command]] = []
        self.sent: list[Command] = []
        self._answers: list[tuple[datetime, Member, Command, list[Fact]]] = []
        self._count = 0
        self._next_at = members[0].broker.now

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        for _ in range(round(seconds / TICK.total_seconds())):
            if until():
                return
            self._answer()
            for number, member in enumerate(self.members):
                self._wake(number, member)
            self._serve()
            for member in self.members:
                member.broker.now += TICK
                if 0 < member.broker.position > member.resting:
                    member.bare += TICK

    def _wake(self, number: int, member: Member) -> None:
        trade, now = member.trade, member.broker.now
        due = member.wake_at is not None and now >= member.wake_at
        if self.wake_each is not None:
            phase = (now - ts_zero(now)) % self.wake_each
            due = due or (phase < TICK * (number + 1) and phase >= TICK * number)
        if not (due or member.is_woken or member.broker.undelivered):
            return
        member.is_woken = False
        trade.deliver()
        trade.state, commands = decide(trade.state, now, [c.key for c in member.waiting])
        for command in commands:
            if command.kind in NOT_IN_THE_LANE:
                if command.kind in ("settle", "book_by_hand"):
                    trade.tell(*trade.answer(command))
                    member.is_woken = True
                continue
            member.waiting.append(command)
            self._count += 1
            self.queue.append((priority_of(command), self._count, member, command))
        member.wake_at = next_deadline(trade.state, now)

    def _serve(self) -> None:
        now = self.members[0].broker.now
        if now < self._next_at or not self.queue:
            return
        self.queue.sort(key=lambda row: row[:2])
        _, _, member, command = self.queue.pop(0)
        self.sent.append(command)
        self._answers.append((now + STEP_TAKES, member, command, member.trade.answer(command)))
        self._next_at = now + self.gap

    def _answer(self) -> None:
        now = self.members[0].broker.now
        for row in [row for row in self._answers if row[0] <= now]:
            self._answers.remove(row)
            _, member, command, facts = row
            member.waiting.remove(command)
            member.trade.tell(*facts)
            member.is_woken = True


def ts_zero(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def priority_of(command: Command) -> int:
    """As `workflows._commands` asks the server for it."""
    key = life.PRIORITY[getattr(command, "urgency", Urgency.PROTECT)].priority_key
    if isinstance(command, ReadQuote):
        key = life.PRIORITY[Urgency.EXIT].priority_key
    first = isinstance(command, PlaceOrder) and not command.intent.increasing
    if first or (isinstance(command, ReadQuote | ReadBroker) and command.is_bare):
        key = life.BARE_PRIORITY.priority_key
    assert key is not None
    return key


def rested(count: int) -> list[Member]:
    """Trades with three OCO pairs that have stood quietly for a minute."""
    members = []
    for _ in range(count):
        trade, broker = start(make_plan(targets=THREE))
        trade.pass_time(85)
        members.append(Member(trade, broker))
    return members


def until_released(lane: CrowdedLane, member: Member) -> None:
    lane.run(60, until=lambda: member.resting < member.broker.position)
    assert member.resting < member.broker.position


@pytest.mark.covers("K3")
def test_exit_of_a_trade_that_rested_is_bare_for_its_cancels_only() -> None:
    lane = CrowdedLane(rested(1), ALPACA_GAP)
    (member,) = lane.members
    member.flatten()
    lane.run(60)
    assert member.broker.position == 0
    assert member.bare <= timedelta(seconds=5)


@pytest.mark.covers("K3")
def test_exit_goes_by_the_quote_that_released_it_also_if_the_entry_had_read_it() -> None:
    """Flattened right behind its entry a trade put two of three stops back up: 40 s bare."""
    lane = CrowdedLane(rested(1), TRADIER_GAP)
    (member,) = lane.members
    trade = member.trade
    trade.tell(*trade.answer(ReadQuote(legs=trade.state.plan.legs)))
    trade.state, _ = decide(trade.state, trade.now, [])
    member.flatten()
    lane.run(60)
    assert member.broker.position == 0
    assert [c.kind for c in lane.sent if isinstance(c, PlaceOrder)] == ["place_order"]
    assert member.bare <= 3 * TRADIER_GAP + timedelta(seconds=1)


@pytest.mark.covers("K3")
def test_account_is_not_read_again_between_the_cancels_of_an_exit_and_its_order() -> None:
    """It was known well enough to release the stop; the read was two more steps bare (I4)."""
    lane = CrowdedLane(rested(1), TRADIER_GAP)
    (member,) = lane.members
    trade = member.trade
    trade.tell(*trade.answer(ReadQuote(legs=trade.state.plan.legs)))
    trade.state, _ = decide(trade.state, trade.now, [])
    trade.state = trade.state.changed(knowledge_at=trade.now - timedelta(seconds=12))
    member.flatten()
    lane.run(60)
    assert member.broker.position == 0
    kinds = [command.kind for command in lane.sent]
    assert kinds[:4] == ["cancel_order", "cancel_order", "cancel_order", "place_order"], kinds
    assert member.bare <= 3 * TRADIER_GAP + timedelta(seconds=1)


def without_its_stops(since_read_s: float) -> Member:
    """A rested trade whose exits somebody else took down, so long after its last read."""
    (member,) = rested(1)
    trade, broker = member.trade, member.broker
    trade.state = trade.state.changed(knowledge_at=trade.now - timedelta(seconds=since_read_s))
    for order in broker.orders:
        if broker.cancel(order):
            for gone in broker.group_of(order):
                trade.tell(OrderReported(at=trade.now, order=broker.snapshot(gone)))
    assert ts.protection(trade.state) is ts.Protection.NAKED
    return member


@pytest.mark.covers("K3")
def test_exit_whose_stop_somebody_else_took_down_looks_at_the_account_first() -> None:
    """I2: who closed it by hand took its exits down too; selling again turned it round."""
    member = without_its_stops(since_read_s=30)
    lane = CrowdedLane([member], TRADIER_GAP)
    trade = member.trade
    trade.tell(*trade.answer(ReadQuote(legs=trade.state.plan.legs)))
    member.flatten()
    lane.run(2)
    assert [command.kind for command in lane.sent] == ["read_broker"]


@pytest.mark.covers("K3")
@pytest.mark.parametrize("count", [2, 6, 12])
def test_many_bare_trades_get_out_with_three_steps_each(count: int) -> None:
    """Each quote had aged when its read was in: of twelve none got out in eight minutes (I4)."""
    members = [without_its_stops(since_read_s=60) for _ in range(count)]
    lane = CrowdedLane(members, timedelta(seconds=4))
    for member in members:
        member.flatten()
    lane.run(3 * 4 * count)
    assert {member.broker.position for member in members} == {D(0)}
    kinds = Counter(command.kind for command in lane.sent)
    assert kinds == {"read_quote": count, "read_broker": count, "place_order": count}


def test_exit_that_waited_in_the_lane_has_its_time_to_fill() -> None:
    """It was cancelled as soon as it stood at the venue: a step for nothing, or its fill lost."""
    (member,) = rested(1)
    broker, lane = member.broker, CrowdedLane([member], timedelta(seconds=4))
    member.flatten()
    lane.run(60, until=lambda: any(isinstance(c, PlaceOrder) for c in lane.sent))
    (place,) = [c for c in lane.sent if isinstance(c, PlaceOrder)]
    order = broker.by_client(place.intent.client_id)
    assert order is not None
    state = member.trade.state.changed(
        exit=member.trade.state.exit.model_copy(update={"sent_at": broker.now})
    )
    assert [o.state for o in state.live(ts.Role.EXIT)] == [OrderState.PENDING_NEW]
    late = broker.now + timedelta(seconds=20)
    assert decide(state, late, [place.key])[1] == ()
    working = broker.snapshot(order).model_copy(
        update={"status": BrokerOrderStatus.WORKING, "filled_quantity": D(0)}
    )
    fact = OrderAccepted(at=late, client_id=place.intent.client_id, order=working)
    state, commands = decide(apply(state, fact, late), late)
    assert commands == ()
    _, commands = decide(state, late + timedelta(seconds=3.1))
    assert "cancel_order" in [command.kind for command in commands]


def test_stop_of_a_bare_position_waits_for_a_read_that_passes_those_of_protected_ones() -> None:
    """At 60 requests a minute it stood behind the proofs and looks of all the others (I4)."""
    trade = without_its_stops(since_read_s=30).trade
    _, commands = decide(trade.state, trade.now, [])
    assert [c.urgency for c in commands if isinstance(c, ReadBroker)] == [Urgency.EXIT]


@pytest.mark.covers("K3")
@pytest.mark.parametrize("count", [1, 4])
def test_exits_get_out_at_sixty_requests_a_minute(count: int) -> None:
    """The quote that released the stop aged beyond use before the first cancel was out."""
    lane = CrowdedLane(rested(count), TRADIER_GAP)
    for member in lane.members:
        member.flatten()
    lane.run(150)
    assert {member.broker.position for member in lane.members} == {D(0)}
    placed = [c for c in lane.sent if isinstance(c, PlaceOrder)]
    assert len(placed) == count, "nothing went back up"
    three_cancels = 3 * TRADIER_GAP
    assert max(member.bare for member in lane.members) <= three_cancels + timedelta(seconds=1)


@pytest.mark.covers("K3")
def test_released_exit_that_loses_its_price_goes_out_or_its_stop_comes_back() -> None:
    """G2: its own questions for a quote stood before its stop, for ever."""
    lane = CrowdedLane(rested(1), ALPACA_GAP)
    (member,) = lane.members
    member.flatten()
    until_released(lane, member)
    member.lose_bid()
    lane.run(30)
    assert member.resting == member.broker.position
    assert member.bare <= timedelta(seconds=12)


def test_bare_trade_without_a_price_lets_the_others_out() -> None:
    lane = CrowdedLane(rested(2), ALPACA_GAP)
    first, second = lane.members
    first.flatten()
    until_released(lane, first)
    first.lose_bid()
    lane.run(10)
    second.flatten()
    lane.run(30)
    assert second.broker.position == 0


def test_exit_without_a_price_does_not_keep_the_first_stop_of_another_trade_out() -> None:
    trade, broker = start()
    trade.pass_time(1)
    fresh = Member(trade, broker)
    (without_bid,) = rested(1)
    lane = CrowdedLane([without_bid, fresh], ALPACA_GAP)
    without_bid.lose_bid()
    without_bid.flatten()
    lane.run(5)
    broker.move(D("99.70"), D("99.90"))
    assert broker.position == 10
    lane.run(20, until=lambda: fresh.resting == 10)
    assert fresh.resting == 10, [c.kind for c in lane.sent]


def test_trades_that_hear_something_each_second_get_out_in_turn() -> None:
    """Quotes were asked anew while the read that each exit needs waited behind them."""
    lane = CrowdedLane(rested(3), ALPACA_GAP, wake_each=timedelta(seconds=1))
    for member in lane.members:
        member.flatten()
    lane.run(90)
    assert [member.broker.position for member in lane.members] == [0, 0, 0]
    assert max(member.bare for member in lane.members) <= timedelta(seconds=6)


def test_many_trades_that_leave_at_once_are_bare_one_after_the_other() -> None:
    lane = CrowdedLane(rested(10), ALPACA_GAP)
    for member in lane.members:
        member.flatten()
    lane.run(150)
    assert {member.broker.position for member in lane.members} == {D(0)}
    assert max(member.bare for member in lane.members) <= timedelta(seconds=8)


def test_bare_position_does_not_wait_for_its_unknown_step_behind_everybodys_work() -> None:
    """I4: neither stop nor exit goes before it is known what became of the lost walk step."""
    trade, broker = start()
    broker.size = D(4)
    trade.pass_time(1)
    broker.now += timedelta(seconds=10)
    trade.state, commands = decide(trade.state, trade.now)
    (step,) = [c for c in commands if isinstance(c, WalkStep)]
    trade.tell(OrderUnknown(at=trade.now, client_id=step.intent.client_id, reason="timeout"))
    broker.move(D("99.80"), D("99.90"))
    trade.deliver()
    assert ts.held_units(trade.state) == 4
    Member(trade, broker).flatten()
    trade.state, commands = decide(trade.state, trade.now)
    assert ts.protection(trade.state) is ts.Protection.NAKED
    asked = [c for c in commands if isinstance(c, ResolveOrder)]
    assert [c.urgency for c in asked] == [Urgency.EXIT]


@pytest.mark.covers("K4")
def test_flatten_takes_back_a_queued_second_post_of_the_entry() -> None:
    """It would buy after the flatten, and the trade would sell that at once."""
    trade, _broker = start()
    trade.look()
    trade.state, commands = decide(trade.state, trade.now)
    (entry,) = [c for c in commands if isinstance(c, PlaceOrder)]
    trade.tell(OrderUnknown(at=trade.now, client_id=entry.intent.client_id, reason="timeout"))
    trade.state, commands = decide(trade.state, trade.now)
    (asked,) = [c for c in commands if isinstance(c, ResolveOrder)]
    assert asked.may_repost
    assert _is_entry(asked)
