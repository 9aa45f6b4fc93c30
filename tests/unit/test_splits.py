"""A trade over a split: the same money in other shares, protection at the scaled price (R5)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.facts import AdjustmentKind, FactEnvelope, FillReported, PositionAdjusted
from domain.fold import apply
from domain.money import divide
from domain.order import OrderState, Side
from domain.plan import PlanPrice, TargetPlan
from domain.protecting import PROTECTION_REJECTED
from domain.protection import desired_exits
from domain.split_math import split_price, split_quantity
from domain.splits import Split, scaled_fill, splits_of
from domain.trade_state import ExitProgress, Role, TradeState
from tests.unit.test_trade_fold import make_plan, start
from tests.unit.toy_broker import START

D = Decimal


def protected(side: Side = Side.BUY) -> TradeState:
    """Ten at the toy broker with a stop four away and a target five away."""
    target = TargetPlan(price=PlanPrice(offset=D(5) * side.sign), fraction=D(1))
    plan = make_plan(side=side, targets=(target,))
    trade, _ = start(plan, worst=D(100) + side.sign)
    trade.pass_time(25)
    trade.settle_down()
    assert trade.state.stop_price is not None
    return trade.state


def split(state: TradeState, new: int, old: int = 1) -> PositionAdjusted:
    held = ts.position_of(state, state.plan.symbol)
    after = split_quantity(held, D(new) / D(old))
    return PositionAdjusted(
        at=START,
        adjustment_id="event/1/t/x",
        symbol=state.plan.symbol,
        quantity=after - held,
        adjustment=AdjustmentKind.SPLIT,
        split_from=held,
        split_to=after,
        effective_at=START + timedelta(days=1),
    )


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize(("new", "old"), [(2, 1), (20, 1), (1, 10), (3, 2)])
def test_money_and_protection_are_the_same_in_new_shares(side: Side, new: int, old: int) -> None:
    before = protected(side)
    ratio = D(new) / D(old)
    after = apply(before, split(before, new, old), START)
    held, now_held = (ts.position_of(state, "AAPL") for state in (before, after))
    assert now_held == held * ratio
    assert ts.entry_quantity(after) == abs(now_held)
    old_price, new_price = ts.average_price(before, Role.ENTRY), ts.average_price(after, Role.ENTRY)
    assert old_price is not None
    assert new_price == split_price(old_price, ratio)
    (was,), (wanted,) = desired_exits(before), desired_exits(after)
    assert wanted.quantity == abs(now_held)
    for price, scaled in (
        (was.stop_price, wanted.stop_price),
        (was.target_price, wanted.target_price),
    ):
        assert price is not None
        assert scaled is not None
        assert abs(scaled - price / ratio) <= D("0.01")
    assert after.read_needed == "split"
    # The fact travels in a signal, the state over continue-as-new: both must be readable again.
    fact = split(before, new, old)
    assert FactEnvelope.of(fact).as_facts(START) == (fact,)
    assert TradeState.model_validate_json(after.model_dump_json()) == after


def test_same_split_counts_once_and_an_old_fill_told_late_is_scaled() -> None:
    before = protected()
    fact = split(before, 2)
    after = apply(before, fact, START)
    assert apply(after, fact, START) == after
    (entry,) = [o for o in after.orders if o.role is Role.ENTRY and o.state is OrderState.FILLED]
    late = before.fills[0].model_copy(update={"fill_key": "late", "quantity": D(3)})
    told = apply(after, FillReported(at=START, fill=late), START)
    assert ts.filled_quantity(told, entry) == ts.filled_quantity(after, entry) + 6


def test_what_was_refused_at_the_old_price_is_forgiven() -> None:
    """The venue took the stop away for the split before anybody told of it."""
    before = protected()
    refused = tuple(
        o.model_copy(update={"state": OrderState.REJECTED, "refusals": 2})
        if o.role in (Role.STOP, Role.TARGET)
        else o
        for o in before.orders
    )
    given_up = before.changed(orders=refused, exit=ExitProgress(reason=PROTECTION_REJECTED))
    after = apply(given_up, split(before, 2), START)
    assert not ts.wants_exit(after)
    assert all(o.state is not OrderState.REJECTED and not o.refusals for o in after.orders)


def test_ratio_is_read_from_what_was_held_before() -> None:
    day = timedelta(days=1)
    moves = [(START, D(10)), (START + 3 * day, D(-5))]
    rows = [(START + 2 * day, D(10)), (START + 4 * day, D(-10))]
    assert [each.ratio for each in splits_of(moves, rows)] == [D(2), divide(D(5), D(15))]


def test_fill_after_the_split_stays_as_it_is() -> None:
    fill = protected().fills[0]
    at = fill.venue_time
    assert scaled_fill(fill, [Split(at=at, old=D(1), new=D(2))]) == fill
    scaled = scaled_fill(fill, [Split(at=at + timedelta(seconds=1), old=D(5), new=D(20))])
    assert scaled.quantity * scaled.price == fill.quantity * fill.price
