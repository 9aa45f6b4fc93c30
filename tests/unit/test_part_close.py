"""A part of the position is closed while the rest stays protected (I4, I17, K3)."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import trade_state as ts
from domain.commands import Alert, CancelOrder, PlaceOrder
from domain.facts import CloseRequested, FillReported, FlattenRequested
from domain.order import OrderState
from domain.trade_state import Role, Stage
from tests.unit.test_restore import rebuilt
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan, start
from tests.unit.test_trade_properties import PRICES, Checked, mischief_of
from tests.unit.toy_broker import ToyBroker, Trade, live_exit_quantity

D = Decimal


def entered(**plan: object) -> tuple[Trade, ToyBroker]:
    """A trade that holds its ten units with all exits resting."""
    trade, broker = start(make_plan(**plan))  # type: ignore[arg-type]
    broker.move(D("99.75"), D(100))
    trade.pass_time(1)
    assert broker.position == 10
    return trade, broker


def close_fact(trade: Trade, command_id: str = "c", **size: str) -> CloseRequested:
    return CloseRequested.model_validate(
        {"at": trade.now, "command_id": command_id, "by": "ann", "reason": "test", **size}
    )


def alerts_of(trade: Trade) -> list[str]:
    trade.look()
    return [f"{c.code} {c.text}" for c in trade.commands if isinstance(c, Alert)]


def test_half_is_sold_and_the_rest_keeps_its_stop_and_nearest_targets() -> None:
    trade, broker = entered(targets=THREE, ratchet=RATCHET)
    first = [o for o in broker.orders if o.live][:2]
    trade.tell(close_fact(trade, fraction="0.5"))
    trade.pass_time(1)
    assert broker.position == 5
    assert live_exit_quantity(broker, trade.state.plan.side.opposite) == 5
    assert all(order.live for order in first), "the first tranche was not touched"
    sizes = [o.quantity for o in trade.state.live(Role.TARGET)]
    assert sizes == [3, 2], "last targets first dropped"
    assert ts.stage(trade.state) is Stage.OPEN
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_rescaled_second_target_still_moves_the_stop() -> None:
    trade, broker = entered(targets=THREE, ratchet=RATCHET)
    trade.tell(close_fact(trade, quantity="5"))
    trade.pass_time(1)
    broker.move(D("102.25"), D("102.50"))
    trade.pass_time(1)
    stops = [o for o in trade.state.live(Role.STOP) if o.tranche == 1]
    assert [(o.quantity, o.stop_price) for o in stops] == [(D(2), D(100))]
    broker.move(D("104.25"), D("104.50"))
    trade.pass_time(1)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert ts.exit_reason(trade.state) == "target"


def test_exit_and_smaller_stop_go_out_in_one_look_so_that_nothing_waits() -> None:
    trade, _broker = entered()
    trade.tell(close_fact(trade, quantity="4"))
    before = len(trade.commands)
    trade.pass_time(1)
    asked = [c for c in trade.commands[before:] if isinstance(c, PlaceOrder | CancelOrder)]
    assert [c.kind for c in asked] == ["cancel_order", "place_order", "place_order"]
    sizes = [c.intent.body.quantity for c in asked if isinstance(c, PlaceOrder)]
    assert sizes == [4, 6]


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ({}, "CLOSE_SIZE"),
        ({"quantity": "1", "fraction": "0.5"}, "CLOSE_SIZE"),
        ({"quantity": "0"}, "QTY_NOT_POSITIVE"),
        ({"quantity": "11"}, "QTY_ABOVE_MAX"),
        ({"quantity": "1.5"}, "QTY_NOT_WHOLE"),
        ({"fraction": "0"}, "FRACTION_RANGE"),
        ({"fraction": "1.01"}, "FRACTION_RANGE"),
        ({"fraction": "0.05"}, "QTY_BELOW_LOT"),
    ],
)
def test_impossible_close_is_named_and_changes_nothing(size: dict[str, str], code: str) -> None:
    """faults.md §3 rows 6-8."""
    trade, broker = entered()
    trade.tell(close_fact(trade, **size))
    assert any(f"CLOSE_REFUSED {code} " in told for told in alerts_of(trade))
    trade.pass_time(5)
    assert broker.position == 10
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_same_close_twice_sells_once_and_a_second_one_takes_its_part_of_the_rest() -> None:
    """I17, A9."""
    trade, broker = entered()
    trade.tell(close_fact(trade, "a", fraction="0.5"), close_fact(trade, "a", fraction="0.5"))
    trade.tell(close_fact(trade, "b", fraction="0.5"))
    trade.pass_time(2)
    assert broker.position == 3, "10 - 5, then less half of 5 in whole lots"
    assert live_exit_quantity(broker, trade.state.plan.side.opposite) == 3


def test_full_fraction_ends_the_trade_under_its_own_name() -> None:
    trade, broker = entered()
    fact = close_fact(trade, fraction="1").model_copy(update={"exit_name": "exit_signal"})
    trade.tell(fact)
    trade.pass_time(1)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED
    assert ts.exit_reason(trade.state) == "exit_signal"


def test_full_close_before_the_first_fill_takes_the_entry_back() -> None:
    trade, broker = start()
    trade.pass_time(1)
    trade.tell(close_fact(trade, fraction="1"))
    trade.pass_time(5)
    assert ts.stage(trade.state) is Stage.NOT_FILLED
    assert broker.position == 0


def test_part_close_in_a_closed_session_keeps_the_stop_over_everything() -> None:
    """K3: released only when the exit can trade."""
    trade, broker = entered()
    broker.open_session = False
    trade.tell(close_fact(trade, quantity="5"))
    trade.pass_time(20)
    assert trade.state.exit.pending == "session closed"
    assert live_exit_quantity(broker, trade.state.plan.side.opposite) == 10
    broker.open_session = True
    trade.pass_time(20)
    assert broker.position == 5


@pytest.mark.covers("E8")
def test_stop_that_fires_during_a_part_close_never_oversells() -> None:
    """I4: the position ends flat, not the wrong way round."""
    trade, broker = entered(targets=THREE)
    broker.size = D(1)
    trade.tell(close_fact(trade, quantity="6"))
    for _ in range(4):
        trade.look()
    broker.size = D(1000)
    broker.move(D("95.00"), D("95.25"))
    trade.pass_time(60)
    assert broker.position == 0
    assert ts.stage(trade.state) is Stage.CLOSED


def test_flatten_takes_over_from_a_part_close() -> None:
    trade, broker = entered()
    trade.tell(close_fact(trade, quantity="5"))
    trade.look()
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="enough"))
    trade.pass_time(10)
    assert broker.position == 0
    assert ts.exit_reason(trade.state) == "flatten"


def test_part_close_with_a_lost_answer_sells_its_part_once() -> None:
    """I10: the unknown exit is resolved by evidence, not sent again."""
    lost: list[str] = []

    def mischief(command: object) -> str:
        is_exit = isinstance(command, PlaceOrder) and command.intent.reason == "part_close"
        if is_exit and not lost:
            lost.append("x")
            return "lost"
        return ""

    trade, broker = entered()
    trade.mischief = mischief
    trade.tell(close_fact(trade, quantity="5"))
    trade.pass_time(30)
    assert lost
    assert broker.position == 5
    assert not [o for o in trade.state.orders if o.state is OrderState.UNKNOWN]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    three=st.booleans(),
    rate=st.sampled_from([0.0, 0.1, 0.3]),
    size=st.sampled_from([1, 3, 100]),
    closes=st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from(["0.2", "0.5", "0.9"])), max_size=3
    ),
)
def test_any_life_with_part_closes_keeps_the_invariants_and_ends_flat(
    seed: int, three: bool, rate: float, size: int, closes: list[tuple[int, str]]
) -> None:
    """I1, I4, I11, I15 with closes at any time, faults and stops firing in between."""
    rng = random.Random(seed)
    many = {"targets": THREE, "ratchet": RATCHET} if three else {"targets": THREE[:1]}
    plan = make_plan(time_stop_s=D(300), **many)
    broker = ToyBroker(symbol="AAPL", bid=D("99.75"), ask=D(100), size=D(size))
    trade = Checked(plan, broker, rng=rng, mischief=mischief_of(rng, rate))
    for turn in range(60):
        for number, (at, fraction) in enumerate(closes):
            if turn == at:
                trade.tell(close_fact(trade, f"c{number}", fraction=fraction))
        if rng.random() < 0.4:
            bid = rng.choice(PRICES)
            broker.move(bid, bid + D("0.25"))
            trade.check()
        if rng.random() < 0.5 and broker.undelivered:
            fill = broker.undelivered.pop(rng.randrange(len(broker.undelivered)))
            trade.tell(FillReported(at=trade.now, fill=fill))
        trade.look()
        trade.check()
        broker.now += timedelta(seconds=rng.choice([0, 0.2, 1, 4]))
    trade.comes_to_its_end()


def test_part_as_large_as_what_the_stop_has_taken_already_is_closed() -> None:
    """I11: the venue had made the pair smaller; taken off once more it looked small enough."""
    trade, broker = entered()
    broker.size = D(3)
    broker.move(D("96.00"), D("96.25"))
    broker.size = D(0)
    trade.settle_down()
    broker.size = D(100)
    broker.bid, broker.ask = D("99.75"), D(100)
    assert broker.position == 7
    trade.tell(trade._snapshot())
    trade.tell(close_fact(trade, quantity="3"))
    trade.pass_time(10)
    assert broker.position == 4
    assert live_exit_quantity(broker, trade.state.plan.side.opposite) == 4
    assert ts.protection(trade.state) is ts.Protection.RESTING


def test_rebuilt_trade_ends_a_working_part_close_and_not_the_rest() -> None:
    """A part exit is no decision to get out of everything (lost Temporal store)."""
    trade, broker = entered()
    broker.size = D(0)
    trade.tell(close_fact(trade, quantity="5"))
    for _ in range(6):
        trade.look()
    assert trade.state.live(Role.EXIT)
    trade.state = rebuilt(trade, broker, trade.state.ticket, settled=False)
    broker.size = D(100)
    trade.pass_time(30)
    assert broker.position == 5
    assert live_exit_quantity(broker, trade.state.plan.side.opposite) == 5
    assert ts.stage(trade.state) is Stage.OPEN
