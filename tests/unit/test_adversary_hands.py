"""Attacks on trades in a person's hands: what automation must not do behind their back."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import Command, PlaceOrder, ResolveOrder
from domain.control import KillMode
from domain.facts import (
    AdjustmentKind,
    BrokerSnapshot,
    FillReported,
    FlattenRequested,
    KillEngaged,
    PositionAdjusted,
)
from domain.leaving import QUOTE_HOLD_S
from domain.order import Fill, OrderState, Position, Side
from domain.outcomes import progress_of
from domain.protection import desired_exits
from domain.steps import decide, next_deadline
from domain.trade_state import Role
from tests.unit.test_operator_fold import booked, order, told
from tests.unit.test_part_close import close_fact, entered
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan, start
from tests.unit.toy_broker import ToyBroker, Trade, live_exit_quantity

D = Decimal


def test_exit_signal_leaves_a_trade_in_a_persons_hands_alone() -> None:
    """The strategy is automation; the person has perhaps sold by hand already (I2)."""
    trade, broker = entered()
    order(trade, "take_over")
    trade.tell(close_fact(trade, "e1", fraction="1", exit_name="exit_signal"))
    trade.pass_time(20)
    assert broker.position == 10
    assert live_exit_quantity(broker, Side.SELL) == 10
    assert " ".join(progress_of(trade.state, "e1")).startswith("refused TAKEN_OVER")


def test_person_may_close_all_of_what_they_took_over() -> None:
    trade, broker = entered()
    order(trade, "take_over")
    trade.tell(close_fact(trade, "c", fraction="1"))
    trade.pass_time(20)
    assert broker.position == 0


@pytest.mark.parametrize("verb", ["flatten", "kill"])
def test_flatten_and_kill_count_although_their_id_was_used(verb: str) -> None:
    """A stop that is lost for the sake of an id is worse than one that comes twice (I9)."""
    trade, broker = entered()
    order(trade, "pause", "x")
    values = {"at": trade.now, "command_id": "x", "by": "ann", "reason": "enough"}
    if verb == "flatten":
        trade.tell(FlattenRequested.model_validate(values))
    else:
        trade.tell(KillEngaged.model_validate(values | {"mode": KillMode.BLOCK}))
        trade.tell(KillEngaged.model_validate(values | {"mode": KillMode.FLATTEN}))
    trade.pass_time(20)
    assert broker.position == 0


def test_command_under_the_id_of_a_flatten_is_refused_and_not_swallowed() -> None:
    """Every command has an outcome (I17)."""
    trade, broker = entered()
    broker.open_session = False
    trade.tell(FlattenRequested(at=trade.now, command_id="x", by="ann", reason="r"))
    trade.tell(told(trade, "pause", "x"))
    assert " ".join(progress_of(trade.state, "x")).split()[0] != "unknown"


def lost_first_target() -> tuple[Trade, ToyBroker, str]:
    """Three tranches, of which the first one's order never got an answer and cannot be found."""
    trade, broker = start(make_plan(targets=THREE, ratchet=RATCHET))
    lost: list[Command] = []

    def mischief(command: Command) -> str:
        if isinstance(command, PlaceOrder) and not command.intent.increasing and not lost:
            lost.append(command)
            return "lost"
        return ""

    trade.mischief = mischief
    resolved = trade._resolved
    trade._resolved = lambda command: []  # type: ignore[method-assign]
    broker.move(D("99.75"), D(100))
    for _ in range(12):
        trade.deliver()
        trade.look()
    unknown = [o for o in trade.state.orders if o.state is OrderState.UNKNOWN]
    assert len(unknown) == 1
    trade._resolved = resolved  # type: ignore[method-assign]
    return trade, broker, unknown[0].client_id


def test_tranche_filled_by_a_persons_word_is_gone_and_the_others_keep_their_orders() -> None:
    """I4: what was sold by hand must not be protected once more, beyond the position."""
    trade, _broker, client_id = lost_first_target()
    said = {"resolution": "filled", "quantity": "3", "price": "102", "evidence": "screen"}
    trade.tell(told(trade, "resolve_order", client_id=client_id, **said))
    assert ts.held_units(trade.state) == 7
    assert [(e.tranche, e.quantity) for e in desired_exits(trade.state)] == [(1, D(3)), (2, D(4))]
    assert trade.state.stop_price == 96, "whether target or stop filled it is not known"


def test_exit_filled_by_a_persons_word_comes_off_the_last_tranches() -> None:
    trade, broker = entered(targets=THREE)
    trade.mischief = lambda c: "lost" if "part_close" in getattr(c, "summary", "") else ""
    trade._resolved = lambda command: []  # type: ignore[method-assign]
    trade.tell(close_fact(trade, quantity="4"))
    for _ in range(9):
        trade.broker.now += timedelta(milliseconds=100)
        trade.look()
    exits = [o for o in trade.state.orders if o.role is Role.EXIT]
    assert [o.state for o in exits] == [OrderState.UNKNOWN], broker.journal
    said = {"resolution": "filled", "quantity": "4", "price": "99", "evidence": "screen"}
    trade.tell(told(trade, "resolve_order", client_id=exits[0].client_id, **said))
    assert ts.held_units(trade.state) == 6
    assert [(e.tranche, e.quantity) for e in desired_exits(trade.state)] == [(0, D(3)), (1, D(3))]
    assert ts.rescaled_tranches(trade.state) == (D(3), D(3), D(0))


@pytest.mark.covers("K3")
def test_quote_that_hangs_lets_protection_back_after_three_seconds() -> None:
    """I4, K3: what an exit released must not wait for the next chance to ask."""
    trade, _broker = entered()
    trade.tell(close_fact(trade, fraction="1"))
    while trade.state.live(Role.TARGET, Role.STOP):
        trade.look()
    assert not trade.state.live(Role.EXIT)
    # Its worker is away until no exit may go by the quote; then the read that is asked again hangs.
    trade.broker.now += timedelta(seconds=31)
    trade.state = trade.state.changed(knowledge_at=trade.now)
    trade.state, asked = decide(trade.state, trade.now)
    began, busy = trade.now, [command.key for command in asked]
    assert [command.kind for command in asked] == ["read_quote"]
    placed: list[Command] = []
    while not placed:
        at = next_deadline(trade.state, trade.now)
        assert at is not None
        trade.broker.now = at
        trade.state, commands = decide(trade.state, at, busy)
        placed = [c for c in commands if isinstance(c, PlaceOrder)]
    assert (trade.now - began).total_seconds() <= QUOTE_HOLD_S


def lost_exit(kind: str, **plan: object) -> tuple[Trade, ToyBroker]:
    """A sent exit of which the venue never heard; nothing has been found out about it yet."""
    trade, broker = entered(**plan)
    place = broker.place

    def deaf(command: Command) -> str:
        is_exit = isinstance(command, PlaceOrder) and command.intent.reason == kind
        if is_exit:
            broker.place = lambda intent: broker.snapshot(broker.orders[0])  # type: ignore
        else:
            broker.place = place  # type: ignore[method-assign]
        return "lost" if is_exit else ""

    trade.mischief = deaf
    trade._resolved = lambda command: []  # type: ignore[method-assign]
    return trade, broker


def test_lost_part_close_is_not_posted_again_once_stops_took_the_part() -> None:
    """I2: what shall stay stays, whatever the broker never heard of."""
    trade, _broker = lost_exit("part_close")
    trade.tell(close_fact(trade, quantity="5"))
    for _ in range(9):
        trade.broker.now += timedelta(milliseconds=100)
        trade.look()
    unknown = [o for o in trade.state.orders if o.state is OrderState.UNKNOWN]
    assert [o.quantity for o in unknown] == [D(5)]
    gone = PositionAdjusted(
        at=trade.now,
        adjustment_id="hand",
        adjustment=AdjustmentKind.EXTERNAL,
        symbol="AAPL",
        quantity=D(-5),
    )
    trade.tell(gone)
    trade.broker.now += timedelta(seconds=2)
    _, commands = decide(trade.state, trade.now)
    asked = [c for c in commands if isinstance(c, ResolveOrder)]
    assert [c.may_repost for c in asked] == [False]


def test_lost_exit_of_more_than_is_left_is_not_posted_again() -> None:
    trade, _broker = lost_exit("flatten")
    trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason=""))
    for _ in range(9):
        trade.broker.now += timedelta(milliseconds=100)
        trade.look()
    unknown = [o for o in trade.state.orders if o.state is OrderState.UNKNOWN]
    assert [o.quantity for o in unknown] == [D(10)]
    gone = PositionAdjusted(
        at=trade.now,
        adjustment_id="hand",
        adjustment=AdjustmentKind.EXTERNAL,
        symbol="AAPL",
        quantity=D(-6),
    )
    trade.broker.now += timedelta(seconds=2)
    reposts = []
    for fact in (None, gone):
        if fact is not None:
            trade.tell(fact)
        _, commands = decide(trade.state, trade.now)
        reposts += [c.may_repost for c in commands if isinstance(c, ResolveOrder)]
    assert reposts == [True, False]


def test_lost_entry_is_not_posted_again_in_a_paused_trade() -> None:
    """A pause promises that no new entry goes out."""
    trade, broker = start(mischief=lambda command: "lost")
    broker.place = lambda intent: broker.snapshot(  # type: ignore[method-assign]
        broker._add(intent, intent.body.order_type, intent.body.limit_price, None)
    )
    trade._resolved = lambda command: []  # type: ignore[method-assign]
    for _ in range(3):
        trade.look()
    trade.tell(told(trade, "pause", "p"))
    trade.broker.now += timedelta(seconds=2)
    _, commands = decide(trade.state, trade.now)
    assert [c.may_repost for c in commands if isinstance(c, ResolveOrder)] == [False]


def sold_by_hand(broker: ToyBroker, quantity: str) -> None:
    """At the broker's own screen: no order and no fill of ours."""
    broker.fills.append(
        Fill(
            fill_key="by-hand",
            broker_order_id="by-hand",
            symbol="AAPL",
            side=Side.SELL,
            quantity=D(quantity),
            price=D(100),
            venue_time=broker.now,
        )
    )


def hide_foreign_fills(trade: Trade) -> None:
    """The ledger gives a trade its own executions only."""
    snapshot = trade._snapshot

    def own() -> BrokerSnapshot:
        seen = snapshot()
        return seen.model_copy(
            update={"fills": tuple(f for f in seen.fills if f.fill_key != "by-hand")}
        )

    trade._snapshot = own  # type: ignore[method-assign]


@pytest.mark.parametrize("verb", ["flatten", "close"])
@pytest.mark.parametrize(("sold", "left"), [("10", "0"), ("6", "4")])
def test_exit_of_a_taken_over_trade_never_sells_what_a_person_sold(
    verb: str, sold: str, left: str
) -> None:
    """I2, I4: the trade believes to hold ten; selling ten would open a short position."""
    trade, broker = entered()
    hide_foreign_fills(trade)
    order(trade, "take_over", "t", release_orders=True)
    sold_by_hand(broker, sold)
    assert broker.position == D(left)
    if verb == "flatten":
        trade.tell(FlattenRequested(at=trade.now, command_id="f", by="ann", reason="out"))
    else:
        trade.tell(close_fact(trade, fraction="1"))
    trade.pass_time(30)
    assert broker.position == 0
    assert not [o for o in broker.orders if o.live]
    assert ts.held_units(trade.state) == D(sold)
    assert "POSITION_DIFFERS" in trade.state.needs_operator
    trade.tell(told(trade, "release", "r"))
    for _ in range(10):
        trade.look()
    booked(trade)
    trade.pass_time(30)
    assert ts.stage(trade.state) is ts.Stage.RELEASED


def test_fill_that_comes_after_the_release_is_let_go_under_its_own_id() -> None:
    """D9, I2: under the first id the ledger would not book it, and the books would differ."""
    trade, broker = entered()
    trade.tell(told(trade, "release"))
    for _ in range(20):
        trade.look()
    assert [a.adjustment_id for a in trade.state.booking] == ["release/t-1/AAPL"]
    booked(trade)
    stop = trade.state.orders[-1]
    late = Fill(
        fill_key="late",
        broker_order_id=stop.broker_order_id or "",
        symbol="AAPL",
        side=Side.SELL,
        quantity=D(2),
        price=D(96),
        venue_time=trade.now,
    )
    broker.fills.append(late)
    trade.tell(FillReported(at=trade.now, fill=late))
    for _ in range(20):
        trade.broker.now += timedelta(milliseconds=200)
        trade.look()
    assert [(a.adjustment_id, a.quantity) for a in trade.state.booking] == [
        ("release/t-1/AAPL/1", D(2))
    ]
    booked(trade)
    trade.pass_time(10)
    assert ts.stage(trade.state) is ts.Stage.RELEASED


def test_read_that_began_before_the_resume_gives_nothing_back() -> None:
    """I2: the person sold by hand between the read and their resume."""
    trade, _broker = entered()
    order(trade, "take_over", "t", release_orders=True)
    began = trade.now
    trade.broker.now += timedelta(seconds=1)
    trade.tell(told(trade, "resume", "r"))
    ten = (Position(symbol="AAPL", quantity=D(10)),)
    old = BrokerSnapshot(at=trade.now, started_at=began, orders=(), positions=ten, fills=())
    trade.tell(old)
    assert trade.state.taken_over
    now = trade.now
    trade.tell(old.model_copy(update={"started_at": now, "positions": ()}))
    assert " ".join(progress_of(trade.state, "r")).startswith("refused POSITION_DIFFERS")
