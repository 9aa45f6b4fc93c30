"""A stop-limit that triggers and does not fill becomes a marketable exit (peers, FT #12984)."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from domain import trade_state as ts
from domain.commands import Alert, Command, PlaceOrder, ReadBroker, WatchExits
from domain.exits.rules import Triggered, WatchState, evaluate
from domain.facts import ExitTriggered, OrderReported
from domain.order import OrderState, OrderType, Side
from domain.plan import ExitRule, RuleKind, StopPlan, TradePlan
from domain.trade_state import Role, Stage
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan, start
from tests.unit.test_trade_properties import PRICES, Checked, mischief_of
from tests.unit.toy_broker import START, ToyBroker, Trade, live_exit_quantity

D = Decimal


def limited(plan: TradePlan) -> TradePlan:
    """The plan with a limit half a dollar behind its stop."""
    assert plan.stop is not None
    stop = StopPlan(price=plan.stop.price, limit_offset=D("0.50"))
    return plan.model_copy(update={"stop": stop})


def entered(plan: TradePlan) -> tuple[Trade, ToyBroker]:
    """Ten bought at 100; stop 96, limit 95.50."""
    trade, broker = start(limited(plan))
    broker.move(D("99.75"), D(100))
    trade.pass_time(1)
    assert broker.position == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING
    return trade, broker


def tell_orders(trade: Trade) -> None:
    """The stream tells every order as it stands."""
    for order in list(trade.broker.orders):
        trade.tell(OrderReported(at=trade.now, order=trade._flat(order)))


def tell_reached(trade: Trade) -> None:
    """The exit watch tells what its newest rule saw."""
    rule = next(
        rule
        for command in reversed(trade.commands)
        if isinstance(command, WatchExits)
        for rule in command.rules
        if rule.kind is RuleKind.STOP_REACHED
    )
    epoch = trade.state.position_epoch
    trade.tell(
        ExitTriggered(
            at=trade.now, rule_id=rule.rule_id, position_epoch=epoch, mark=trade.broker.bid
        )
    )


def exits_of(trade: Trade) -> list[PlaceOrder]:
    placed = [c for c in trade.commands if isinstance(c, PlaceOrder)]
    return [c for c in placed if c.intent.key.purpose == "exit"]


def alerts_of(trade: Trade) -> list[str]:
    return [c.code for c in trade.commands if isinstance(c, Alert)]


def test_pair_is_placed_with_a_limit_behind_the_stop() -> None:
    _, broker = entered(make_plan(targets=THREE, ratchet=RATCHET))
    stops = [o for o in broker.orders if o.live and o.order_type is OrderType.STOP_LIMIT]
    assert [(o.stop_price, o.limit_price) for o in stops] == [(D(96), D("95.50"))] * 3


def test_gap_through_the_limit_is_told_once_and_ends_in_a_marketable_exit() -> None:
    trade, broker = entered(make_plan(targets=THREE, ratchet=RATCHET))
    broker.move(D("94.00"), D("94.25"))
    tell_orders(trade)
    trade.pass_time(4.9)
    assert broker.position == 10
    assert not exits_of(trade)
    assert ts.protection(trade.state) is ts.Protection.NAKED
    trade.pass_time(10)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert ts.exit_reason(trade.state) == "stop_unfilled"
    assert alerts_of(trade).count("STOP_LIMIT_UNFILLED") == 1
    assert trade.state.naked.total_s >= 5


def test_plain_stop_limit_is_known_to_have_triggered_by_the_market_at_its_price() -> None:
    trade, broker = entered(make_plan(targets=()))
    broker.move(D("94.00"), D("94.25"))
    tell_reached(trade)
    trade.pass_time(4.9)
    assert broker.position == 10
    trade.pass_time(5)
    assert broker.position == 0
    assert ts.exit_reason(trade.state) == "stop_unfilled"


def test_stop_limit_that_triggers_behind_a_lost_answer_is_found_before_more_is_covered() -> None:
    """C2, I4: the frame of the target's end names no stop; a second pair would sell it twice."""
    plan = limited(make_plan(targets=THREE[:1]))
    broker = ToyBroker(symbol="AAPL", bid=D("99.75"), ask=D(100))

    def lose_pair(command: Command) -> str:
        is_pair = isinstance(command, PlaceOrder) and command.intent.key.purpose == "oco"
        return "lost" if is_pair else ""

    trade = Trade(plan, broker, mischief=lose_pair)
    while not trade.state.live(Role.TARGET):
        broker.move(broker.bid, broker.ask)
        trade.deliver()
        assert trade.look()
    broker.move(D("94.00"), D("94.25"))
    tell_orders(trade)
    trade.look()
    assert isinstance(trade.commands[-1], ReadBroker), trade.commands[-1]
    assert [o.state for o in trade.state.live(Role.STOP)] == [OrderState.WORKING]
    trade.pass_time(10)
    assert broker.position == 0
    pairs = {o.group for o in broker.orders if o.group is not None}
    assert len(pairs) == 1
    assert [c.intent.body.quantity for c in exits_of(trade)] == [D(10)]


def test_market_that_comes_back_in_time_fills_the_stop_and_nothing_else_is_sent() -> None:
    trade, broker = entered(make_plan())
    broker.move(D("95.00"), D("95.25"))
    tell_orders(trade)
    trade.pass_time(2)
    broker.move(D("95.75"), D("96.00"))
    trade.pass_time(20)
    assert broker.position == 0
    assert not exits_of(trade)
    assert ts.exit_reason(trade.state) == "stop"
    assert "STOP_LIMIT_UNFILLED" not in alerts_of(trade)


def test_part_that_filled_at_the_limit_is_not_sold_twice() -> None:
    """The first execution tells that it triggered; the rest goes by the ladder (I4)."""
    trade, broker = entered(make_plan(targets=()))
    broker.size = D(4)
    broker.move(D("95.75"), D("96.00"))
    broker.bid, broker.ask = D("94.00"), D("94.25")
    trade.pass_time(1)
    assert broker.position == 6
    broker.size = D(100)
    trade.pass_time(10)
    assert broker.position == 0
    assert [c.intent.body.quantity for c in exits_of(trade)] == [D(6)]


def test_moved_stop_is_watched_at_its_new_price() -> None:
    trade, broker = entered(make_plan(targets=THREE, ratchet=RATCHET))
    broker.move(D("102.40"), D("102.60"))
    trade.settle_down()
    rules = [rule.rule_id for c in trade.commands if isinstance(c, WatchExits) for rule in c.rules]
    assert rules == ["stop-reached@96", "stop-reached@100"]


@pytest.mark.parametrize(
    ("side", "mark", "hit"),
    [("buy", 96, True), ("buy", 97, False), ("sell", 96, True), ("sell", 95, False)],
)
def test_watch_on_a_stop_limit_waits_for_no_grace_and_no_confirmation(
    side: str, mark: int, hit: bool
) -> None:
    """Guards never apply to resting stops (architecture §6)."""
    rule = ExitRule(rule_id="stop-reached@96", kind=RuleKind.STOP_REACHED, threshold=D(96))
    state = WatchState(
        rule_id=rule.rule_id,
        position_epoch=1,
        side=Side(side),
        entry_price=D(100),
        quantity=D(10),
        opened_at=START,
    )
    _, outcome = evaluate(rule, state, D(mark), D(1), START + timedelta(seconds=2))
    assert isinstance(outcome, Triggered) is hit


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    three=st.booleans(),
    rate=st.sampled_from([0.0, 0.1, 0.3]),
    size=st.sampled_from([1, 3, 100]),
)
@example(seed=23017, three=True, rate=0.3, size=3)
@example(seed=659, three=True, rate=0.3, size=3)
@example(seed=857, three=True, rate=0.3, size=3)
def test_any_seeded_life_with_a_stop_limit_keeps_the_invariants_and_ends_flat(
    seed: int, three: bool, rate: float, size: int
) -> None:
    """I1, I4, I11, I15: also when the limit is gapped through and part of it fills."""
    rng = random.Random(seed)
    plan = make_plan(time_stop_s=D(300), targets=THREE if three else ())
    broker = ToyBroker(symbol="AAPL", bid=D("99.75"), ask=D(100), size=D(size))
    trade = Checked(limited(plan), broker, rng=rng, mischief=mischief_of(rng, rate))
    for _turn in range(60):
        if rng.random() < 0.4:
            bid = rng.choice(PRICES)
            broker.move(bid, bid + D("0.25"))
            trade.check()
        if rng.random() < 0.5:
            trade.deliver()
        if rng.random() < 0.3:
            tell_orders(trade)
        trade.look()
        trade.check()
        broker.now += timedelta(seconds=rng.choice([0, 0.2, 1, 4]))
    trade.mischief = lambda command: ""
    broker.size = D(10**6)
    for _ in range(40):
        trade.pass_time(10)
        tell_orders(trade)
        trade.check()
        if ts.is_final(trade.state):
            break
    assert ts.is_final(trade.state), ts.stage(trade.state)
    assert broker.position == 0
    assert live_exit_quantity(broker, Side.SELL) == 0
    assert not trade.state.live(Role.STOP)
