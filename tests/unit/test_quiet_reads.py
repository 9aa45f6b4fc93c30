"""How often a trade asks a broker that has nothing new to tell: one budget for all trades (R1)."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import CancelOrder, ReadBroker
from domain.facts import (
    BrokerSnapshot,
    DiscrepancyFound,
    Fact,
    FlattenRequested,
    OrderReported,
)
from domain.moves import READ_AGAIN_MAX_S
from domain.order import OrderType
from domain.trade_state import Role
from tests.unit.test_operator_fold import told
from tests.unit.test_part_close import entered
from tests.unit.toy_broker import Trade

MINUTES_S = 300
# 1 s doubling to 32 s is about 14 asks in five minutes; once a second would be 300.
ASKS_MAX = 25


def kinds(trade: Trade, since: int) -> Counter[str]:
    return Counter(command.kind for command in trade.commands[since:])


def flattened_at_a_new_exchange() -> Trade:
    """An open trade whose exchange started anew: no order, no position, cancels are refused."""
    trade, broker = entered()
    broker.orders.clear()
    broker.fills.clear()
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="enough"))
    trade.pass_time(60)
    assert "is refused" in trade.state.needs_operator
    return trade


def cut_off(trade: Trade) -> None:
    """Every read is refused, as by a spent request budget."""
    whole = trade._snapshot

    def partial() -> BrokerSnapshot:
        return whole().model_copy(update={"complete": False, "orders": (), "positions": ()})

    trade._snapshot = partial  # type: ignore[method-assign]


def pass_long(trade: Trade, seconds: float) -> Counter[str]:
    """What was asked meanwhile, by kind."""
    since = len(trade.commands)
    trade.pass_time(seconds)
    return kinds(trade, since)


@pytest.mark.covers("F8")
@pytest.mark.parametrize("complete", [True, False])
def test_parked_trade_that_the_broker_forgot_asks_ever_more_rarely(complete: bool) -> None:
    """I10: it stays with a person and leaves the request budget to the other trades."""
    trade = flattened_at_a_new_exchange()
    if not complete:
        cut_off(trade)
    asked = pass_long(trade, MINUTES_S)
    assert 0 < asked["read_broker"] <= ASKS_MAX, asked
    assert asked["read_quote"] <= ASKS_MAX, asked
    assert asked["cancel_order"] <= 2 * ASKS_MAX, asked


def test_word_of_a_person_ends_the_pause_of_a_parked_trade() -> None:
    trade = flattened_at_a_new_exchange()
    trade.pass_time(MINUTES_S)
    assert trade.state.reads_in_vain > 4, "the pause has grown"
    since = len(trade.commands)
    trade.tell(told(trade, "resume", "r"))
    trade.pass_time(2)
    assert any(isinstance(c, ReadBroker) for c in trade.commands[since:])
    trade.tell(FlattenRequested(at=trade.now, command_id="g", by="ann", reason="again"))
    trade.pass_time(5)
    assert any(isinstance(c, CancelOrder) for c in trade.commands[since:])


def test_word_that_comes_twice_does_not_end_the_pause() -> None:
    """I17."""
    trade = flattened_at_a_new_exchange()
    word = told(trade, "resume", "r")
    trade.tell(word)
    trade.pass_time(MINUTES_S)
    before = trade.state
    trade.tell(word)
    assert (trade.state.reads_in_vain, trade.state.read_after) == (
        before.reads_in_vain,
        before.read_after,
    )


def test_open_trade_with_its_stop_asks_more_rarely_while_reads_are_incomplete() -> None:
    trade, _broker = entered()
    cut_off(trade)
    trade.tell(*discrepancy(trade))
    asked = pass_long(trade, MINUTES_S)
    assert 0 < asked["read_broker"] <= ASKS_MAX, asked


def test_trade_learns_of_the_broker_again_within_the_longest_pause() -> None:
    trade, _broker = entered()
    whole = trade._snapshot
    cut_off(trade)
    trade.tell(*discrepancy(trade))
    trade.pass_time(MINUTES_S)
    assert trade.state.read_needed
    trade._snapshot = whole  # type: ignore[method-assign]
    trade.pass_time(READ_AGAIN_MAX_S)
    assert (trade.state.read_needed, trade.state.reads_in_vain) == ("", 0)


def test_exit_under_way_keeps_asking_quickly_while_reads_are_incomplete() -> None:
    """The pause is for trades that can wait; an exit gets out as soon as the broker answers."""
    trade, broker = entered()
    whole = trade._snapshot
    cut_off(trade)
    trade.tell(*discrepancy(trade))
    trade.pass_time(MINUTES_S)
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="enough"))
    asked = pass_long(trade, 20)
    assert asked["read_broker"] >= 15, asked
    trade._snapshot = whole  # type: ignore[method-assign]
    trade.pass_time(10)
    assert broker.position == Decimal(0)
    assert not trade.state.live(Role.STOP, Role.TARGET)


def test_exit_that_has_sold_all_asks_more_rarely_for_what_the_broker_still_owes() -> None:
    """I14: one such trade asked each second and used up 200 requests a minute (seed 88717)."""
    trade, broker = entered()
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="enough"))
    while not ts.is_flat(trade.state):
        trade.look()
        trade.deliver()
    stop = next(o for o in broker.orders if o.order_type is OrderType.STOP)
    stop.filled = Decimal(1)
    trade.tell(OrderReported(at=trade.now, order=broker.snapshot(stop)))
    assert ts.missing_fills(trade.state)
    asked = pass_long(trade, MINUTES_S)
    assert 0 < asked["read_broker"] <= ASKS_MAX, asked


def discrepancy(trade: Trade) -> tuple[Fact, ...]:
    return (DiscrepancyFound(at=trade.now, code="POSITION_VANISHED", text="nothing there"),)
