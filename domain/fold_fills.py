"""Executions, busts, adjustments and fees: the only facts that change quantities.

And what is told of an order before the answer that names it (F3): it waits here.
"""

from __future__ import annotations

from datetime import datetime

from domain import trade_state as ts
from domain.changes import alert, move
from domain.commands import AlertSeverity
from domain.facts import (
    AdjustmentKind,
    BrokerSnapshot,
    FeeBooked,
    FillBusted,
    FillCorrected,
    FillReported,
    FundingPaid,
    OrderReported,
    PositionAdjusted,
)
from domain.fold_orders import BY_HAND, see_order, take_back
from domain.forgetting import is_direct_order, recalled, with_direct_order
from domain.money import ZERO
from domain.order import (
    TERMINAL_STATES,
    Fill,
    OrderEvent,
    OrderSnapshot,
    OrderState,
)
from domain.splits import known_splits, scaled_fill, split_trade
from domain.trade_state import OrderRecord, Role, TradeState

_UNKNOWN_FILL = "a fill of an unknown order"


def fill_reported(state: TradeState, fact: FillReported, now: datetime) -> TradeState:
    return book(state, fact.fill, now)


def book(state: TradeState, fill: Fill, now: datetime, *, looked: bool = False) -> TradeState:
    """Books a fill once (I7); a fill proves acceptance and completes the order (F3, D9).

    `looked`: the broker's orders were taken in just before.
    """
    if any(fill.fill_key == known.fill_key for known in (*state.fills, *state.unclaimed)):
        return state
    fill = scaled_fill(fill, known_splits(state))
    record = state.find(fill.client_id, fill.broker_order_id)
    if record is None and awaits_broker_ids(state):
        return state.changed(unclaimed=(*state.unclaimed, fill))
    if record is None:
        record = recalled(state, fill, now, looked=looked)
        state = state if record is None else state.with_order(record)
    if record is None:
        # A child that the broker made may fill before we ever saw it: look, then book. The read
        # brings this fill again, from the ledger; only what it does not explain is told.
        # An order of a direct flatten is met in the same way.
        if looked or not (fill.client_id is None or is_direct_order(state, fill.client_id)):
            text = f"{fill.broker_order_id} {fill.quantity} {fill.symbol}"
            state = alert(state, "FILL_UNATTRIBUTED", text, AlertSeverity.CRITICAL)
        return state.changed(read_needed=_UNKNOWN_FILL)
    if record.reject_code == BY_HAND:
        state = take_back(state, record, f"the broker tells {fill.quantity} @ {fill.price}", now)
        record = state.order(record.client_id) or record
    state = state.changed(
        fills=(*state.fills, fill),
        fees=state.fees + (fill.fee or ZERO),
        first_fill_at=state.first_fill_at or fill.venue_time,
    )
    if record.state in TERMINAL_STATES and _is_late(state, record, fill):
        state = alert(
            state,
            "LATE_FILL",
            f"{record.client_id} filled after {record.state}",
            AlertSeverity.CRITICAL,
        )
    complete = ts.filled_quantity(state, record) >= record.quantity
    event = OrderEvent.FILL if complete else OrderEvent.PARTIAL_FILL
    update = {"broker_order_id": record.broker_order_id or fill.broker_order_id}
    state = state.with_order(move(record, event, now, **update))
    if record.role is Role.ENTRY and state.walk.partial_since is None:
        walk = state.walk.model_copy(update={"partial_since": now})
        state = state.changed(walk=walk)
    return state


def order_reported(state: TradeState, fact: OrderReported, now: datetime) -> TradeState:
    """News of an order; what no order of ours is named by may be a child that was just made."""
    seen = fact.order
    state = with_direct_order(state, seen, now)
    known = state.find(seen.client_id, seen.broker_order_id) is not None
    if known or not awaits_broker_ids(state):
        return see_order(state, seen, now)
    return state.changed(unclaimed_orders=(*state.unclaimed_orders, seen))


def awaits_broker_ids(state: TradeState) -> bool:
    """True while the answer that names an order's ids, legs included, is on its way.

    The stream is often faster than the answer of the request, and a leg has no id of ours.
    """
    return any(o.intent is not None and o.broker_order_id is None for o in state.live())


def claim(state: TradeState, now: datetime) -> TradeState:
    """Takes in what came before the answer that explains it; what stays unknown is told."""
    fills, orders = state.unclaimed, state.unclaimed_orders
    state = state.changed(unclaimed=(), unclaimed_orders=())
    for order in orders:
        state = order_reported(state, OrderReported(at=now, order=order), now)
    for fill in fills:
        state = book(state, fill, now)
    return state


def _is_late(state: TradeState, record: OrderRecord, fill: Fill) -> bool:
    """True if the order ended without this fill: the broker filled it afterwards (D9).

    So it may be with an order that was dead already when we looked for whose fill this was.
    """
    if record.state is OrderState.FILLED:
        return False
    if state.read_needed == _UNKNOWN_FILL:
        return True
    ratios = {leg.instrument.symbol: leg.ratio for leg in state.plan.legs}
    per_unit = ratios.get(fill.symbol, 1) if record.leg == 0 else 1
    told = max(record.reported_filled * per_unit, record.leg_filled.get(fill.symbol, ZERO))
    booked = sum(f.quantity for f in ts.fills_of(state, record) if f.symbol == fill.symbol)
    return booked > told


def fill_busted(state: TradeState, fact: FillBusted, now: datetime) -> TradeState:
    """A bust reverses by its own row; the fill stays on record.

    A bust may overtake its fill (nautilus #4491): it is kept, and the fill will count for nothing.
    """
    if fact.fill_key in state.busted:
        return state
    fill = next((f for f in state.fills if f.fill_key == fact.fill_key), None)
    if fill is None:
        state = state.changed(busted=(*state.busted, fact.fill_key))
        return alert(state, "BUST_UNKNOWN", f"bust of {fact.fill_key}")
    record = state.find(fill.client_id, fill.broker_order_id)
    if record is not None:
        state = state.with_order(move(record, OrderEvent.BUSTED, now))
    state = state.changed(busted=(*state.busted, fact.fill_key), read_needed="fill busted")
    return alert(state, "FILL_BUSTED", fact.fill_key, AlertSeverity.CRITICAL)


def fill_corrected(state: TradeState, fact: FillCorrected, now: datetime) -> TradeState:
    if fact.fill_key not in state.busted:
        state = state.changed(busted=(*state.busted, fact.fill_key))
    return book(state, fact.fill, now)


def broker_snapshot(state: TradeState, fact: BrokerSnapshot, now: datetime) -> TradeState:
    """Orders, executions and positions read from the broker. Missing is not flat (R6)."""
    # What this read itself shows is proven by it: a close needs no second read.
    seen_at = min(now, fact.started_at)
    for order in fact.orders:
        state = with_direct_order(state, order, seen_at)
        if state.find(order.client_id, order.broker_order_id) is not None:
            state = see_order(state, order, seen_at)
            state = proven_since(state, order, seen_at)
        elif order.parent_broker_id is None and not order.is_terminal:
            state = alert(
                state,
                "ORDER_UNATTRIBUTED",
                f"live order {order.broker_order_id} has our prefix",
                AlertSeverity.CRITICAL,
            )
    for fill in fact.fills:
        state = book(state, fill, now, looked=fact.complete)
    if not fact.complete:
        return state.changed(read_needed="last read was incomplete")
    return state.changed(knowledge_at=fact.started_at, read_needed="")


def proven_since(state: TradeState, seen: OrderSnapshot, seen_at: datetime) -> TradeState:
    """An end that this read shows too was true when the read began, whoever told it first."""
    record = state.find(seen.client_id, seen.broker_order_id)
    if record is None or not seen.is_terminal or record.state not in TERMINAL_STATES:
        return state
    if record.changed_at <= seen_at:
        return state
    return state.with_order(record.model_copy(update={"changed_at": seen_at}))


def position_adjusted(state: TradeState, fact: PositionAdjusted, now: datetime) -> TradeState:
    if any(known.adjustment_id == fact.adjustment_id for known in state.adjustments):
        return state
    if fact.adjustment is AdjustmentKind.SPLIT and fact.ratio is not None:
        return split_trade(state, fact, now)
    state = state.changed(adjustments=(*state.adjustments, fact))
    if fact.adjustment is AdjustmentKind.ADOPTED:
        return state.changed(first_fill_at=state.first_fill_at or state.clock.market(fact.at))
    return alert(
        state,
        "POSITION_ADJUSTED",
        f"{fact.adjustment}: {fact.quantity} {fact.symbol}",
        AlertSeverity.CRITICAL,
    )


def fee_booked(state: TradeState, fact: FeeBooked | FundingPaid, now: datetime) -> TradeState:
    if fact.activity_id in state.fee_ids:
        return state
    return state.changed(fee_ids=(*state.fee_ids, fact.activity_id), fees=state.fees + fact.amount)
