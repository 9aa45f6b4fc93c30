"""What the broker says of orders, folded into records by the transition table."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from domain import trade_state as ts
from domain.changes import CANCEL_REFUSALS_MAX, alert, move
from domain.commands import AlertSeverity
from domain.evidence import FILL_INCONSISTENT
from domain.facts import (
    CancelAsked,
    CancelRejected,
    OrderAccepted,
    OrderNotSent,
    OrderRejected,
    OrderResolved,
    OrderUnknown,
    ReplaceConfirmed,
    ReplaceRejected,
)
from domain.money import ZERO
from domain.order import (
    TERMINAL_STATES,
    BrokerOrderStatus,
    OrderEvent,
    OrderSnapshot,
    OrderState,
    OrderType,
)
from domain.trade_state import ExitProgress, OrderRecord, Role, TradeState

RETRY_DEFAULT_S = 1.0
RETRY_REFUSED_S = 0.8
"""Behind a refusal: what it should have protected is bare (I4), yet the room that it lacked, say
an entry on the other side, needs a moment to go."""
RETRY_SOON_S = 0.2
QUICK_LOOKS = 5
RETRY_MAX_S = 60.0
CANCEL_AGAIN_S = 2.0
BY_HAND = "by-hand"
AS_FLAT = "as-flat"
PROVEN_ABSENT = "PROVEN_ABSENT"
AMENDED = "AMENDED"
PARKING_CODES = frozenset({"INTENT_BODY_DIFFERS", "NOT_REDUCING"})

_EVENT_OF_STATUS = {
    BrokerOrderStatus.PENDING: OrderEvent.ACCEPTED,
    BrokerOrderStatus.WORKING: OrderEvent.ACCEPTED,
    BrokerOrderStatus.HELD: OrderEvent.HELD,
    BrokerOrderStatus.PENDING_CANCEL: OrderEvent.CANCEL_REQUESTED,
    BrokerOrderStatus.PENDING_REPLACE: OrderEvent.REPLACE_REQUESTED,
    BrokerOrderStatus.FILLED: OrderEvent.FILL,
    BrokerOrderStatus.CANCELED: OrderEvent.CANCELED,
    BrokerOrderStatus.EXPIRED: OrderEvent.EXPIRED,
    BrokerOrderStatus.REPLACED: OrderEvent.REPLACED,
    BrokerOrderStatus.REJECTED: OrderEvent.REJECTED,
}
_LEADER_IS_GONE = (OrderState.CANCELED, OrderState.EXPIRED)


def order_accepted(state: TradeState, fact: OrderAccepted, now: datetime) -> TradeState:
    state = _take_over(state, fact.client_id, fact.order, now)
    return see_order(state, fact.order, now, client_id=fact.client_id)


def _take_over(state: TradeState, client_id: str, seen: OrderSnapshot, now: datetime) -> TradeState:
    """A replacement that is there after all has its predecessor replaced; if that lives on, it is
    a second live order (D1, E7)."""
    new = state.order(client_id)
    old = state.order(new.replaces) if new is not None and new.replaces is not None else None
    if old is None or seen.status is BrokerOrderStatus.REJECTED:
        return state
    if old.state not in (OrderState.WORKING, OrderState.HELD):
        return state
    return state.with_order(move(old, OrderEvent.REPLACE_REQUESTED, now))


def order_rejected(state: TradeState, fact: OrderRejected, now: datetime) -> TradeState:
    record = state.order(fact.client_id)
    if record is None:
        return alert(state, "ORDER_UNATTRIBUTED", f"rejection of {fact.client_id}")
    retry_at = now + timedelta(seconds=RETRY_REFUSED_S)
    after = move(record, OrderEvent.REJECTED, now, reject_code=fact.code, retry_at=retry_at)
    return _free_predecessor(state.with_order(after), record, now)


def order_not_sent(state: TradeState, fact: OrderNotSent, now: datetime) -> TradeState:
    record = state.order(fact.client_id)
    if record is None:
        return state
    pause_s = RETRY_DEFAULT_S if record.role is Role.ENTRY else _soon_s(state, record)
    wait_s = min(max(fact.retry_after_s or pause_s, 0.1), RETRY_MAX_S)
    retry_at = now + timedelta(seconds=wait_s)
    after = move(record, OrderEvent.NOT_SENT, now, reject_code=fact.code, retry_at=retry_at)
    if fact.code in PARKING_CODES:
        state = alert(state, fact.code, fact.text or record.client_id, AlertSeverity.CRITICAL)
        state = state.changed(needs_operator=f"{fact.code}: {record.client_id}")
    return _free_predecessor(state.with_order(after), record, now, retry_at)


def _soon_s(state: TradeState, record: OrderRecord) -> float:
    """Seconds until an exit that did not go out is tried again: soon, and then not so soon (I14).

    One blink of the ledger or the line must not leave a position bare for a second (I4).
    """
    others = [o for o in state.orders if o.client_id != record.client_id]
    before = next((o for o in reversed(others) if o.role is record.role), None)
    is_first = before is None or before.state is not OrderState.NOT_SENT
    return RETRY_SOON_S if is_first else RETRY_DEFAULT_S


def _free_predecessor(
    state: TradeState, record: OrderRecord, now: datetime, retry_at: datetime | None = None
) -> TradeState:
    """A replacement that never came to be leaves the old order as it was."""
    old = state.order(record.replaces) if record.replaces is not None else None
    if old is None or not old.is_live:
        return state
    after = move(old, OrderEvent.REPLACE_REJECTED, now)
    return state.with_order(after.model_copy(update={"retry_at": retry_at}))


def order_unknown(state: TradeState, fact: OrderUnknown, now: datetime) -> TradeState:
    record = state.order(fact.client_id)
    if record is None:
        return state
    if record.state in TERMINAL_STATES:
        # News came first, so nobody resolves it. The lost answer may have told fills, of other
        # orders too, and the ledger has them as told by it.
        return state.changed(read_needed=state.read_needed or "an answer was lost")
    # The first look is at once: whoever sent it may be dead for long, and what it bought is bare.
    # Then each second, so that a proof of absence is not slept over; later more and more rarely.
    looks = record.refusals
    pause_s = RETRY_DEFAULT_S * min(max(looks - QUICK_LOOKS, 1), 10) if looks else 0
    retry_at = now + timedelta(seconds=pause_s)
    after = move(record, OrderEvent.UNKNOWN, now, retry_at=retry_at, refusals=record.refusals + 1)
    return state.with_order(after)


def order_resolved(state: TradeState, fact: OrderResolved, now: datetime) -> TradeState:
    if fact.order is not None:
        state = _take_over(state, fact.client_id, fact.order, now)
        return see_order(state, fact.order, now, client_id=fact.client_id)
    record = state.order(fact.client_id)
    if record is None or record.state in TERMINAL_STATES:
        return state
    after = move(record, OrderEvent.NOT_SENT, now, reject_code=PROVEN_ABSENT)
    return _free_predecessor(state.with_order(after), record, now)


def cancel_asked(state: TradeState, fact: CancelAsked, now: datetime) -> TradeState:
    record = state.order(fact.client_id)
    if record is None:
        return state
    after = move(record, OrderEvent.CANCEL_REQUESTED, now)
    if record.state is OrderState.PENDING_CANCEL:
        # The venue forgot the first one; it gets the same time for this one.
        after = after.model_copy(update={"retry_at": now + timedelta(seconds=CANCEL_AGAIN_S)})
    return state.with_order(after)


def cancel_rejected(state: TradeState, fact: CancelRejected, now: datetime) -> TradeState:
    """A refused cancel is a question, not an answer: read the order, then decide (D5)."""
    record = state.order(fact.client_id)
    if record is None:
        return state
    if not record.is_live:
        return state  # The answer itself has shown its end: nothing is left to ask.
    after = move(record, OrderEvent.CANCEL_REJECTED, now, refusals=record.refusals + 1)
    # Beyond the refusals that park the trade a person must act: ask, but ever more rarely.
    doublings = min(max(0, after.refusals - CANCEL_REFUSALS_MAX), 5)
    retry_at = now + timedelta(seconds=RETRY_DEFAULT_S * 2**doublings)
    after = after.model_copy(update={"retry_at": retry_at})
    return state.with_order(after).changed(read_needed=f"cancel refused: {fact.code}")


def replace_confirmed(state: TradeState, fact: ReplaceConfirmed, now: datetime) -> TradeState:
    if fact.amended:
        return _amended(state, fact, now)
    old = state.order(fact.old_client_id)
    if old is not None and old.is_live:
        state = state.with_order(move(old, OrderEvent.REPLACE_REQUESTED, now))
    return see_order(state, fact.order, now, client_id=fact.new_client_id)


def _amended(state: TradeState, fact: ReplaceConfirmed, now: datetime) -> TradeState:
    """The old order lives on with the new prices; the intent never becomes an order of its own.

    Id and quantity stay, so executions and every later read belong to the old record.
    """
    old, new = state.order(fact.old_client_id), state.order(fact.new_client_id)
    if old is not None and old.is_live:
        told = {"limit_price": fact.order.limit_price, "stop_price": fact.order.stop_price}
        prices = {name: price for name, price in told.items() if price is not None}
        state = state.with_order(move(old, OrderEvent.REPLACE_REJECTED, now, **prices))
    if new is not None and new.is_live:
        after = move(new, OrderEvent.NOT_SENT, now, reject_code=AMENDED)
        state = state.with_order(after)
    return state


def replace_rejected(state: TradeState, fact: ReplaceRejected, now: datetime) -> TradeState:
    old = state.order(fact.old_client_id)
    if old is not None:
        after = move(old, OrderEvent.REPLACE_REJECTED, now, refusals=old.refusals + 1)
        after = after.model_copy(update={"retry_at": now + timedelta(seconds=RETRY_DEFAULT_S)})
        state = state.with_order(after)
    new = state.order(fact.new_client_id)
    if new is not None and new.is_live:
        state = state.with_order(move(new, OrderEvent.REJECTED, now, reject_code=fact.code))
    if old is not None and not old.is_live:
        return state  # The answer itself has shown its end: nothing is left to ask.
    return state.changed(read_needed=f"replace refused: {fact.code}")


def see_order(
    state: TradeState, seen: OrderSnapshot, now: datetime, client_id: str | None = None
) -> TradeState:
    """Takes in the broker's view of one of our orders and of its children."""
    record = state.find(client_id or seen.client_id, seen.broker_order_id)
    if record is None:
        return alert(state, "ORDER_UNATTRIBUTED", f"broker order {seen.broker_order_id}")
    if _is_older(record, seen):
        return state
    if seen.broker_order_id in record.leg_broker_ids:
        return state.with_order(_with_legs(record, (seen,)))
    if seen.status is BrokerOrderStatus.UNKNOWN:
        state = alert(
            state,
            "STATUS_UNKNOWN",
            f"{record.client_id}: {seen.raw_status[:60]}",
            AlertSeverity.CRITICAL,
        )
        return state.changed(read_needed="unknown broker status")
    if seen.filled_quantity > max(seen.quantity, record.quantity):
        state = alert(
            state,
            FILL_INCONSISTENT,
            f"{record.client_id}: filled {seen.filled_quantity} of {seen.quantity}",
            AlertSeverity.CRITICAL,
        )
    if record.reject_code == BY_HAND and _speaks_against(record, seen):
        state = take_back(state, record, f"the broker says {seen.raw_status or seen.status}", now)
        record = state.order(record.client_id) or record
    if _is_found_alive(record, seen):
        # The refusal was not this order's: what the broker shows working is live (I3, I10).
        state = alert(state, "ORDER_FOUND_ALIVE", record.client_id, AlertSeverity.CRITICAL)
        record = record.model_copy(update={"state": OrderState.UNKNOWN})
    update = _told(record, seen)
    if state.plan.is_combo and record.intent is not None:
        record = _with_legs(record, seen.legs)
    state = state.with_order(move(record, _EVENT_OF_STATUS[seen.status], now, **update))
    if not state.plan.is_combo:
        for child in seen.legs:
            state = _see_child(state, record, child, now)
    return _ask_for_members(state, record)


def _ask_for_members(state: TradeState, before: OrderRecord) -> TradeState:
    """A group whose end is told before anybody named its members may leave one at work.

    A stop-limit that triggers takes its target down and works on; the answer with its id was lost
    (C2). What it may sell must not be covered a second time (I4).
    """
    after = state.order(before.client_id)
    if after is None or after.state not in _LEADER_IS_GONE or not before.is_live:
        return state
    if not ts.is_untold_group(state, after):
        return state
    return state.changed(read_needed=state.read_needed or "members of a group are untold")


def take_back(state: TradeState, record: OrderRecord, told: str, now: datetime) -> TradeState:
    """What a person entered for this order goes: the broker's own facts win over it (I10)."""
    doubtful = record.model_copy(update={"state": OrderState.UNKNOWN, "reject_code": ""})
    state = state.with_order(doubtful)
    adjustment_id = f"{BY_HAND}/{record.client_id}"
    known = {each.adjustment_id: each for each in state.adjustments}
    back_id = f"{adjustment_id}/back"
    text = f"{record.client_id} was resolved by hand; {told}"
    state = _hold_again(alert(state, "RESOLUTION_CONTRADICTED", text, AlertSeverity.CRITICAL), now)
    if adjustment_id not in known or back_id in known:
        return state
    entered = known[adjustment_id]
    back = entered.model_copy(
        update={"adjustment_id": back_id, "quantity": -entered.quantity, "at": now}
    )
    return state.changed(adjustments=(*state.adjustments, back), booking=(*state.booking, back))


def _hold_again(state: TradeState, now: datetime) -> TradeState:
    """A trade that a person closed as flat holds its position again: an order of it is alive."""
    if state.exit.reason != AS_FLAT:
        return state
    known = {each.adjustment_id for each in state.adjustments}
    back = tuple(
        each.model_copy(
            update={
                "adjustment_id": f"{each.adjustment_id}/back",
                "quantity": -each.quantity,
                "at": now,
            }
        )
        for each in state.adjustments
        if each.adjustment_id.startswith(f"{BY_HAND}/{AS_FLAT}/{state.exit.command_id}/")
        and f"{each.adjustment_id}/back" not in known
        and not each.adjustment_id.endswith("/back")
    )
    return state.changed(
        adjustments=(*state.adjustments, *back),
        booking=(*state.booking, *back),
        exit=ExitProgress(),
    )


def _is_found_alive(record: OrderRecord, seen: OrderSnapshot) -> bool:
    """True if an order that was refused at its sending works at the broker all the same."""
    refused = record.state is OrderState.REJECTED and record.broker_order_id is None
    return refused and not seen.is_terminal


def _speaks_against(record: OrderRecord, seen: OrderSnapshot) -> bool:
    """True if the broker's view is not what the person said of the order."""
    if not seen.is_terminal:
        return True
    return (record.state is OrderState.FILLED) != (seen.filled_quantity > ZERO)


def _told(record: OrderRecord, seen: OrderSnapshot) -> dict[str, Any]:
    """What this view of the broker changes on the record; what it leaves out stays."""
    update: dict[str, Any] = {
        "broker_order_id": seen.broker_order_id,
        "reported_filled": _filled_as_told(record, seen),
        "broker_updated_at": seen.updated_at or record.broker_updated_at,
    }
    if seen.quantity > ZERO:
        update["quantity"] = seen.quantity
    if seen.limit_price is not None:
        update["limit_price"] = seen.limit_price
    if seen.stop_price is not None:
        update["stop_price"] = seen.stop_price
    if seen.reject_code:
        update["reject_code"] = seen.reject_code
    return update


def _filled_as_told(record: OrderRecord, seen: OrderSnapshot) -> Decimal:
    """The quantity only grows, but for a later word on an ended order: what the venue took back
    before anybody booked it would be missing for ever (D9)."""
    told_at, before = seen.updated_at, record.broker_updated_at
    if seen.is_terminal and told_at is not None and before is not None and told_at > before:
        return seen.filled_quantity
    return max(record.reported_filled, seen.filled_quantity)


def _with_legs(record: OrderRecord, legs: tuple[OrderSnapshot, ...]) -> OrderRecord:
    """Record of a combo with what is told of its leg orders; they only count contracts.

    A leg's own state, quantity and id never become the combo's: it speaks for one leg.
    """
    ids, filled = list(record.leg_broker_ids), dict(record.leg_filled)
    for leg in legs:
        if leg.broker_order_id not in ids:
            ids.append(leg.broker_order_id)
        if leg.symbol:
            filled[leg.symbol] = max(filled.get(leg.symbol, ZERO), leg.filled_quantity)
    return record.model_copy(update={"leg_broker_ids": tuple(ids), "leg_filled": filled})


def _is_older(record: OrderRecord, seen: OrderSnapshot) -> bool:
    """True for news from before what we know (F3, F4); a terminal status is never too old."""
    if record.broker_updated_at is None or seen.updated_at is None or seen.is_terminal:
        return False
    return seen.updated_at < record.broker_updated_at


def _name_of_child(state: TradeState, parent: OrderRecord) -> str:
    """The first free number in the group, wherever the broker lists the child.

    A rebuilt trade sees the stop behind what replaced it, and must name it as it was named in
    life: orders of ours are tied to it by that name (D9).
    """
    names = (f"{parent.client_id}.{number}" for number in count(1))
    return next(name for name in names if state.order(name) is None)


def _see_child(
    state: TradeState, parent: OrderRecord, child: OrderSnapshot, now: datetime
) -> TradeState:
    """Children that the broker made belong to the parent by its id (architecture §5.1)."""
    known = state.find(child.client_id, child.broker_order_id)
    if known is None and state.forgotten and child.is_terminal and child.filled_quantity == ZERO:
        # A broker may list every child that a group ever had: the dead ones stay forgotten.
        return state
    if known is None:
        is_stop = child.order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
        known = OrderRecord(
            client_id=_name_of_child(state, parent),
            role=Role.STOP if is_stop else Role.TARGET,
            state=OrderState.PENDING_NEW,
            symbol=child.symbol or parent.symbol,
            side=child.side or parent.side,
            quantity=child.quantity or parent.quantity,
            tranche=parent.tranche if parent.tranche is not None else 0,
            limit_price=child.limit_price,
            stop_price=child.stop_price,
            broker_order_id=child.broker_order_id,
            parent_client_id=parent.client_id,
            changed_at=now,
        )
        state = state.with_order(known)
    # The broker's own id of a child is not ours; our record's id names it for certain, also for a
    # replacement that is seen in its group before its own answer came.
    return see_order(state, child, now, client_id=known.client_id)
