"""Executions, busts, fees and reads: what changes a trade's quantities, and what is told (M5)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.commands import AlertSeverity
from domain.facts import (
    AdjustmentKind,
    BrokerSnapshot,
    Fact,
    FeeBooked,
    FillBusted,
    FillCorrected,
    FillReported,
    FundingPaid,
    OrderReported,
    PositionAdjusted,
)
from domain.fold import apply
from domain.order import BrokerOrderStatus, Fill, OrderSnapshot, OrderState, Side
from domain.trade_state import OrderRecord, Role, TradeState
from tests.unit.test_steps_edges import opened, order_of
from tests.unit.test_trade_fold import start
from tests.unit.toy_broker import Trade

D = Decimal
CRITICAL = AlertSeverity.CRITICAL


def entering() -> Trade:
    """The entry of ten shares works at 100.00 and nothing has filled."""
    trade, _ = start()
    trade.pass_time(1)
    assert order_of(trade.state, Role.ENTRY).state is OrderState.WORKING
    return trade


def fill(trade: Trade, record: OrderRecord, key: str, quantity: str, **changes: object) -> Fill:
    fields: dict[str, object] = {
        "fill_key": key,
        "broker_order_id": record.broker_order_id,
        "client_id": record.client_id,
        "symbol": "AAPL",
        "side": record.side,
        "quantity": quantity,
        "price": "100.00",
        "venue_time": trade.now,
    }
    return Fill.model_validate(fields | changes)


def after(trade: Trade, *facts: Fact, state: TradeState | None = None) -> TradeState:
    found = trade.state if state is None else state
    for fact in facts:
        found = apply(found, fact, trade.now)
    return found


def told(state: TradeState) -> list[tuple[str, AlertSeverity, str]]:
    return [(alert.code, alert.severity, alert.text) for alert in state.alerts]


def reported(trade: Trade, *fills: Fill) -> list[FillReported]:
    return [FillReported(at=trade.now, fill=each) for each in fills]


def read(trade: Trade, *, began_s_ago: float = 1.0, **changes: object) -> BrokerSnapshot:
    began = trade.now - timedelta(seconds=began_s_ago)
    fields: dict[str, object] = {"orders": (), "positions": (), "fills": ()}
    return BrokerSnapshot.model_validate({"at": trade.now, "started_at": began} | fields | changes)


# --- fills ------------------------------------------------------------------------------------


def test_fills_add_up_and_the_last_one_completes_the_order() -> None:
    """I5, I7, F3."""
    trade = entering()
    entry = order_of(trade.state, Role.ENTRY)
    first = fill(trade, entry, "f-1", "4", fee="0.30")
    later = trade.now + timedelta(seconds=3)
    second = fill(trade, entry, "f-2", "6", venue_time=later)
    part = after(trade, *reported(trade, first, first))
    assert ts.held_units(part) == 4
    assert order_of(part, Role.ENTRY).state is OrderState.WORKING
    assert (part.fees, part.first_fill_at) == (D("0.30"), trade.now)
    whole = after(trade, *reported(trade, second, first), state=part)
    assert ts.held_units(whole) == 10
    assert order_of(whole, Role.ENTRY).state is OrderState.FILLED
    assert (whole.fees, whole.first_fill_at) == (D("0.30"), trade.now)


def test_walk_remembers_the_first_part_only_and_no_exit_begins_it() -> None:
    trade = entering()
    entry = order_of(trade.state, Role.ENTRY)
    part = after(trade, *reported(trade, fill(trade, entry, "f-1", "1")))
    began = trade.now
    assert part.walk.partial_since == began
    trade.broker.now += timedelta(seconds=1)
    more = after(trade, *reported(trade, fill(trade, entry, "f-2", "1")), state=part)
    assert more.walk.partial_since == began
    exits = opened()
    target = order_of(exits.state, Role.TARGET)
    fresh = exits.state.changed(walk=exits.state.walk.model_copy(update={"partial_since": None}))
    sold = after(exits, *reported(exits, fill(exits, target, "x-1", "1")), state=fresh)
    assert sold.walk.partial_since is None


def test_fill_teaches_the_brokers_id_of_an_order_that_was_never_answered() -> None:
    trade = entering()
    entry = order_of(trade.state, Role.ENTRY)
    nameless = entry.model_copy(update={"broker_order_id": None, "state": OrderState.UNKNOWN})
    state = trade.state.with_order(nameless)
    known = after(
        trade, *reported(trade, fill(trade, entry, "f-1", "1", broker_order_id="b-9")), state=state
    )
    assert order_of(known, Role.ENTRY).broker_order_id == "b-9"
    kept = after(trade, *reported(trade, fill(trade, entry, "f-1", "1", broker_order_id="b-9")))
    assert order_of(kept, Role.ENTRY).broker_order_id == entry.broker_order_id


@pytest.mark.covers("D9")
def test_fill_of_a_dead_order_is_told_as_critical_and_of_a_filled_one_is_not() -> None:
    trade = entering()
    entry = order_of(trade.state, Role.ENTRY)
    dead = trade.state.with_order(entry.model_copy(update={"state": OrderState.CANCELED}))
    late = after(trade, *reported(trade, fill(trade, entry, "f-1", "2")), state=dead)
    words = f"{entry.client_id} filled after canceled"
    assert told(late) == [("LATE_FILL", CRITICAL, words)]
    assert ts.held_units(late) == 2
    done = trade.state.with_order(entry.model_copy(update={"state": OrderState.FILLED}))
    assert told(after(trade, *reported(trade, fill(trade, entry, "f-1", "2")), state=done)) == []


@pytest.mark.parametrize(("known", "late"), [("1", True), ("2", False), ("3", False)])
def test_fill_that_the_end_of_the_order_had_counted_is_not_late(known: str, late: bool) -> None:
    """D9: the broker said so many filled; only more than that came afterwards."""
    trade = entering()
    entry = order_of(trade.state, Role.ENTRY)
    update = {"state": OrderState.CANCELED, "reported_filled": D(known)}
    dead = trade.state.with_order(entry.model_copy(update=update))
    found = after(trade, *reported(trade, fill(trade, entry, "f-1", "2")), state=dead)
    assert ([code for code, _, _ in told(found)] == ["LATE_FILL"]) is late


def test_fill_of_nobodys_order_is_told_and_a_childs_first_asks_the_broker() -> None:
    trade = opened()
    target = order_of(trade.state, Role.TARGET)
    named = {"client_id": "nobody", "broker_order_id": "b-77"}
    stranger = fill(trade, target, "x-1", "3", **named)
    seen = after(trade, *reported(trade, stranger))
    assert told(seen) == [("FILL_UNATTRIBUTED", CRITICAL, "b-77 3 AAPL")]
    child = fill(trade, target, "x-2", "3", client_id=None, broker_order_id="b-78")
    asked = after(trade, *reported(trade, child))
    assert told(asked) == []
    for found in (seen, asked):
        assert found.read_needed == "a fill of an unknown order"
        assert ts.held_units(found) == 10
    looked = after(trade, read(trade, fills=(child,)), state=asked)
    assert told(looked) == [("FILL_UNATTRIBUTED", CRITICAL, "b-78 3 AAPL")]


@pytest.mark.covers("F3")
def test_what_overtakes_the_answer_that_names_it_waits_and_counts_once() -> None:
    """The stream is faster than the reply: nothing is lost, nothing is told as strange."""
    trade = entering()
    entry = order_of(trade.state, Role.ENTRY)
    nameless = entry.model_copy(update={"broker_order_id": None, "client_id": "other"})
    state = trade.state.changed(orders=(nameless,))
    early = fill(trade, entry, "f-1", "4", client_id=None)
    waiting = after(trade, *reported(trade, early, early), state=state)
    assert (waiting.unclaimed, waiting.fills, told(waiting)) == ((early,), (), [])


# --- busts and corrections --------------------------------------------------------------------


def test_busted_fill_counts_for_nothing_and_is_told_once() -> None:
    trade = opened()
    (bought,) = trade.state.fills
    bust = FillBusted(at=trade.now, fill_key=bought.fill_key)
    state = after(trade, bust)
    assert told(state) == [("FILL_BUSTED", CRITICAL, bought.fill_key)]
    assert (ts.held_units(state), state.read_needed) == (D(0), "fill busted")
    record = state.find(bought.client_id, bought.broker_order_id)
    assert record is not None
    assert record.state is OrderState.WORKING
    assert bought in state.fills, "the row stays on record"
    again = after(trade, bust, state=state)
    assert again == state


def test_bust_that_overtakes_its_fill_is_kept_and_the_fill_counts_for_nothing() -> None:
    """nautilus 4491."""
    trade = entering()
    entry = order_of(trade.state, Role.ENTRY)
    state = after(trade, FillBusted(at=trade.now, fill_key="f-1"))
    assert [(code, text) for code, _, text in told(state)] == [("BUST_UNKNOWN", "bust of f-1")]
    found = after(trade, *reported(trade, fill(trade, entry, "f-1", "4")), state=state)
    assert ts.held_units(found) == 0


def test_corrected_fill_counts_with_its_new_numbers_only() -> None:
    trade = opened()
    (bought,) = trade.state.fills
    right = bought.model_copy(update={"fill_key": "f-right", "quantity": D(9)})
    correct = FillCorrected(at=trade.now, fill_key=bought.fill_key, fill=right)
    state = after(trade, correct, correct)
    assert ts.held_units(state) == 9
    assert state.busted == (bought.fill_key,)


def test_correction_that_overtakes_its_fill_is_the_walks_first_part() -> None:
    trade = entering()
    right = fill(trade, order_of(trade.state, Role.ENTRY), "f-right", "3")
    state = after(trade, FillCorrected(at=trade.now, fill_key="f-1", fill=right))
    assert (ts.held_units(state), state.walk.partial_since) == (D(3), trade.now)


# --- reads ------------------------------------------------------------------------------------


def test_complete_read_is_knowledge_from_when_it_began_and_an_incomplete_one_is_none() -> None:
    """R6: missing is not flat."""
    trade = opened()
    doubtful = trade.state.changed(read_needed="a doubt", knowledge_at=None)
    whole = after(trade, read(trade), state=doubtful)
    assert (whole.knowledge_at, whole.read_needed) == (trade.now - timedelta(seconds=1), "")
    part = after(trade, read(trade, complete=False), state=doubtful)
    assert (part.knowledge_at, part.read_needed) == (None, "last read was incomplete")


@pytest.mark.parametrize(
    ("status", "parent", "is_told"),
    [
        (BrokerOrderStatus.WORKING, None, True),
        (BrokerOrderStatus.WORKING, "b-parent", False),
        (BrokerOrderStatus.CANCELED, None, False),
    ],
)
def test_live_order_with_our_prefix_that_nobody_knows_is_told(
    status: BrokerOrderStatus, parent: str | None, is_told: bool
) -> None:
    trade = opened()
    stranger = OrderSnapshot(
        broker_order_id="b-77",
        client_id="abcd-unknown",
        symbol="AAPL",
        side=Side.SELL,
        quantity=D(1),
        status=status,
        parent_broker_id=parent,
    )
    words = ("ORDER_UNATTRIBUTED", CRITICAL, "live order b-77 has our prefix")
    assert (words in told(after(trade, read(trade, orders=(stranger,))))) is is_told


@pytest.mark.parametrize(("changed_s_ago", "proven_s_ago"), [(0.0, 1.0), (1.0, 1.0), (2.0, 2.0)])
def test_end_that_a_read_shows_was_true_when_the_read_began(
    changed_s_ago: float, proven_s_ago: float
) -> None:
    """I3: a close needs no second read."""
    trade = opened()
    target = order_of(trade.state, Role.TARGET)
    update = {
        "state": OrderState.CANCELED,
        "changed_at": trade.now - timedelta(seconds=changed_s_ago),
    }
    state = trade.state.with_order(target.model_copy(update=update))
    shown = OrderSnapshot(
        broker_order_id=target.broker_order_id or "",
        client_id=target.client_id,
        symbol="AAPL",
        side=target.side,
        quantity=target.quantity,
        status=BrokerOrderStatus.CANCELED,
    )
    proven = after(trade, read(trade, orders=(shown,)), state=state)
    wished = trade.now - timedelta(seconds=proven_s_ago)
    assert order_of(proven, Role.TARGET).changed_at == wished
    live = shown.model_copy(update={"status": BrokerOrderStatus.WORKING})
    doubtful = after(trade, read(trade, orders=(live,)), state=state)
    assert order_of(doubtful, Role.TARGET).changed_at == update["changed_at"]


def test_news_of_an_order_that_waits_for_its_id_is_kept_for_the_answer() -> None:
    trade = entering()
    entry = order_of(trade.state, Role.ENTRY)
    nameless = entry.model_copy(update={"broker_order_id": None})
    news = OrderSnapshot(
        broker_order_id="b-leg",
        symbol="AAPL",
        side=Side.SELL,
        quantity=D(1),
        status=BrokerOrderStatus.HELD,
    )
    fact = OrderReported(at=trade.now, order=news)
    waiting = after(trade, fact, state=trade.state.changed(orders=(nameless,)))
    assert waiting.unclaimed_orders == (news,)
    assert after(trade, fact).unclaimed_orders == ()


# --- adjustments and fees ---------------------------------------------------------------------


def test_adjustment_moves_the_position_once_and_is_told() -> None:
    trade = opened()
    fact = PositionAdjusted(
        at=trade.now,
        adjustment_id="a-1",
        adjustment=AdjustmentKind.LIQUIDATION,
        symbol="AAPL",
        quantity=D(-4),
    )
    state = after(trade, fact, fact)
    assert ts.held_units(state) == 6
    assert told(state) == [("POSITION_ADJUSTED", CRITICAL, "liquidation: -4 AAPL")]


def test_adopted_shares_begin_the_trade_in_market_time_and_are_not_told() -> None:
    trade = entering()
    fact = PositionAdjusted(
        at=trade.now,
        adjustment_id="a-1",
        adjustment=AdjustmentKind.ADOPTED,
        symbol="AAPL",
        quantity=D(10),
    )
    state = after(trade, fact)
    assert (state.first_fill_at, told(state)) == (trade.state.clock.market(trade.now), [])
    began = trade.now - timedelta(hours=1)
    older = after(trade, fact, state=trade.state.changed(first_fill_at=began))
    assert older.first_fill_at == began


def test_fee_and_funding_are_booked_once_each() -> None:
    trade = opened()
    fee = FeeBooked(at=trade.now, activity_id="fee-1", amount=D("0.25"))
    funding = FundingPaid(at=trade.now, activity_id="fund-1", amount=D("-0.05"))
    state = after(trade, fee, fee, funding, funding)
    assert state.fees - trade.state.fees == D("0.20")
    assert state.fee_ids == ("fee-1", "fund-1")
