"""A full exit where the order lane gives one step a second (200 requests a minute).

What the exit released must not go back up because its quote aged while the cancels travelled:
each turn is seconds without a stop (I4, K3), and the next one waits in the same lane.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import CancelOrder, Command, PlaceOrder, ReadQuote
from domain.facts import FlattenRequested, SessionChanged
from domain.ids import Purpose
from domain.steps import decide
from domain.trade_state import Stage
from tests.unit.test_trade_fold import THREE, make_plan, start
from tests.unit.toy_broker import ToyBroker, Trade

D = Decimal
STEP = timedelta(milliseconds=250)
LOOKS_PER_TURN = 4


class Lane:
    """One answer a second, the exit's own order first, then in the order of asking."""

    def __init__(self, trade: Trade, broker: ToyBroker, *, deaf_to_quotes: bool = False) -> None:
        self.trade, self.broker = trade, broker
        self.deaf_to_quotes = deaf_to_quotes
        self.sent: list[Command] = []
        self.bare_s = 0.0
        self._waiting: list[Command] = []

    def run(self, seconds: float) -> None:
        for look in range(int(seconds / STEP.total_seconds())):
            self._look()
            if look % LOOKS_PER_TURN == LOOKS_PER_TURN - 1:
                self._answer_one()
            self.broker.now += STEP
            resting = sum(o.quantity for o in self.broker.orders if o.live and o.stop_price)
            if 0 < self.broker.position > resting:
                self.bare_s += STEP.total_seconds()

    def _look(self) -> None:
        trade = self.trade
        trade.deliver()
        trade.state, commands = decide(trade.state, trade.now, [c.key for c in self._waiting])
        self._waiting += [c for c in commands if c.kind not in ("alert", "watch_exits")]

    def _answer_one(self) -> None:
        able = [c for c in self._waiting if not (self.deaf_to_quotes and isinstance(c, ReadQuote))]
        if not able:
            return
        chosen = next((c for c in able if is_exit(c)), able[0])
        self._waiting.remove(chosen)
        self.sent.append(chosen)
        self.trade.tell(*self.trade.answer(chosen))


def is_exit(command: Command) -> bool:
    if not isinstance(command, PlaceOrder):
        return False
    return command.intent.key.purpose in (Purpose.EXIT, Purpose.FLATTEN)


def placed(lane: Lane) -> list[Purpose]:
    return [c.intent.key.purpose for c in lane.sent if isinstance(c, PlaceOrder)]


def with_three_pairs() -> tuple[Trade, ToyBroker]:
    trade, broker = start(make_plan(targets=THREE))
    trade.pass_time(25)
    assert len({o.group for o in broker.orders if o.live and o.stop_price}) == 3
    return trade, broker


def flatten(trade: Trade) -> None:
    trade.tell(FlattenRequested(at=trade.now, command_id="f-1", by="op", reason="enough"))


@pytest.mark.covers("K3")
def test_exit_behind_three_cancels_goes_out_before_anything_goes_back_up() -> None:
    trade, broker = with_three_pairs()
    lane = Lane(trade, broker)
    flatten(trade)
    lane.run(15)
    assert placed(lane) == [Purpose.FLATTEN]
    assert len([c for c in lane.sent if isinstance(c, CancelOrder)]) == 3
    assert broker.position == 0
    assert len([c for c in lane.sent if isinstance(c, ReadQuote)]) <= 2
    assert lane.bare_s <= 4
    assert ts.stage(trade.state) is Stage.CLOSED


def test_exit_that_was_released_goes_by_its_last_quote_when_no_newer_one_comes() -> None:
    """G1, I4: the quote that was good enough to release the stop is good enough to sell by."""
    trade, broker = with_three_pairs()
    lane = Lane(trade, broker)
    flatten(trade)
    lane.run(1.5)
    assert [c.kind for c in lane.sent] == ["read_quote"]
    lane.deaf_to_quotes = True
    lane.run(8)
    assert placed(lane) == [Purpose.FLATTEN]
    assert broker.position == 0


def test_halt_heard_after_the_release_brings_protection_back() -> None:
    """K3: an exit that cannot trade gives its stop back, whatever its quote says."""
    trade, broker = with_three_pairs()
    lane = Lane(trade, broker)
    flatten(trade)
    lane.run(2.5)
    broker.open_session = False
    trade.tell(SessionChanged(at=trade.now, is_open=False))
    lane.run(20)
    assert Purpose.FLATTEN not in placed(lane)
    assert (
        sum(o.quantity for o in broker.orders if o.live and o.stop_price) == broker.position == 10
    )


def test_second_rung_is_priced_by_a_quote_read_after_the_first() -> None:
    """I13: an exit that did not fill says that the market moved; its old quote is no price."""
    trade, broker = with_three_pairs()
    lane = Lane(trade, broker)
    flatten(trade)
    lane.run(4.5)
    broker.bid, broker.ask = D("95.00"), D("95.40")
    lane.run(12)
    exits = [
        o
        for o in broker.orders
        if o.client_id
        in {c.intent.client_id for c in lane.sent if is_exit(c) and isinstance(c, PlaceOrder)}
    ]
    assert len(exits) >= 2
    assert exits[-1].limit_price is not None
    assert exits[-1].limit_price < D("95.00")
    assert broker.position == 0
