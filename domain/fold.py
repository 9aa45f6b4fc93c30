"""The fold: every fact turns one state into the next. It only updates knowledge.

Decisions are in `domain.desired` and `domain.steps`. A pair that the order table does not know
raises `IllegalTransition` inside the order update and is turned into a discrepancy here: a trade
must survive every surprise of a broker (faults.md A6, row 57).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from domain import trade_state as ts
from domain.commands import Alert, AlertSeverity
from domain.control import KillMode
from domain.errors import IllegalTransition
from domain.facts import (
    BrokerSnapshot,
    CancelAsked,
    CancelRejected,
    CommandFailed,
    DeadlinePassed,
    DiscrepancyFound,
    ExitTriggered,
    Fact,
    FeeBooked,
    FillBusted,
    FillCorrected,
    FillReported,
    FlattenRequested,
    FundingPaid,
    KillEngaged,
    OperatorCommand,
    OperatorVerb,
    OrderAccepted,
    OrderNotSent,
    OrderRejected,
    OrderReported,
    OrderResolved,
    OrderUnknown,
    PositionAdjusted,
    QuoteRead,
    ReplaceConfirmed,
    ReplaceRejected,
    RiskRefused,
    RiskReserved,
    SessionChanged,
    Settled,
    TradingHalted,
    TradingResumed,
    VersionChanged,
)
from domain.money import ZERO
from domain.order import (
    TERMINAL_STATES,
    BrokerOrderStatus,
    Fill,
    OrderEvent,
    OrderSnapshot,
    OrderState,
    OrderType,
    next_order_state,
)
from domain.protection import ratcheted_stop
from domain.trade_state import OrderRecord, Role, TradeState

SEEN_COMMANDS_MAX = 256
RETRY_DEFAULT_S = 1.0
RETRY_MAX_S = 60.0
PARKING_CODES = frozenset({"INTENT_BODY_DIFFERS"})

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


def apply(state: TradeState, fact: Fact, now: datetime) -> TradeState:
    """State after the fact. `now` is wall UTC.

    Never raises for anything a broker or a person can send; what does not fit becomes an alert.
    """
    handler = _HANDLERS[type(fact)]
    try:
        after = handler(state, fact, now)
    except IllegalTransition as error:
        return alert(state, "ILLEGAL_TRANSITION", f"{fact.kind}: {error.text}")
    if after.unclaimed and after.orders is not state.orders:
        after = _claim_fills(after, now)
    return _refresh_derived(state, after, now)


def apply_all(state: TradeState, facts: Iterable[Fact], now: datetime) -> TradeState:
    """Folds the facts in order."""
    for fact in facts:
        state = apply(state, fact, now)
    return state


def alert(
    state: TradeState,
    code: str,
    text: str,
    severity: AlertSeverity = AlertSeverity.WARNING,
) -> TradeState:
    """State with an alert queued; equal alerts queue once."""
    entry = Alert(code=code, severity=severity, text=text[:500])
    return state if entry in state.alerts else state.changed(alerts=(*state.alerts, entry))


def take_command_id(state: TradeState, command_id: str) -> TradeState | None:
    """State that remembers the id, or None if the command was seen before (I17, A9)."""
    if command_id in state.seen_commands:
        return None
    seen = (*state.seen_commands, command_id)[-SEEN_COMMANDS_MAX:]
    return state.changed(seen_commands=seen)


# --- risk -------------------------------------------------------------------------------------


def _risk_reserved(state: TradeState, fact: RiskReserved, now: datetime) -> TradeState:
    if state.ticket is not None:
        return state
    ticket = fact.ticket
    hours = ts.Hours(
        is_open=ticket.is_open,
        next_close=ticket.next_close,
        halted=(state.plan.symbol,) if ticket.halted else (),
        read_at=fact.at,
    )
    return state.changed(
        ticket=ticket,
        hours=hours,
        quote=ticket.arrival,
        quote_read_at=fact.at,
        knowledge_at=fact.at,
        walk=state.walk.model_copy(update={"started_at": now}),
    )


def _risk_refused(state: TradeState, fact: RiskRefused, now: datetime) -> TradeState:
    if state.ticket is not None:
        return state
    return state.changed(refusal_code=fact.code, refusal_text=fact.text)


# --- orders -----------------------------------------------------------------------------------


def _move(record: OrderRecord, event: OrderEvent, now: datetime, **update: Any) -> OrderRecord:
    """Record after the event of the table; `changed_at` moves only if the state did."""
    after = next_order_state(record.state, event)
    changed_at = now if after is not record.state else record.changed_at
    return record.model_copy(update={"state": after, "changed_at": changed_at, **update})


def _order_accepted(state: TradeState, fact: OrderAccepted, now: datetime) -> TradeState:
    return _see_order(state, fact.order, now, client_id=fact.client_id)


def _order_reported(state: TradeState, fact: OrderReported, now: datetime) -> TradeState:
    return _see_order(state, fact.order, now)


def _order_rejected(state: TradeState, fact: OrderRejected, now: datetime) -> TradeState:
    record = state.order(fact.client_id)
    if record is None:
        return alert(state, "ORDER_UNATTRIBUTED", f"rejection of {fact.client_id}")
    retry_at = now + timedelta(seconds=RETRY_DEFAULT_S)
    after = _move(record, OrderEvent.REJECTED, now, reject_code=fact.code, retry_at=retry_at)
    return _free_predecessor(state.with_order(after), record, now)


def _order_not_sent(state: TradeState, fact: OrderNotSent, now: datetime) -> TradeState:
    record = state.order(fact.client_id)
    if record is None:
        return state
    wait_s = min(max(fact.retry_after_s or RETRY_DEFAULT_S, 0.1), RETRY_MAX_S)
    retry_at = now + timedelta(seconds=wait_s)
    after = _move(record, OrderEvent.NOT_SENT, now, reject_code=fact.code, retry_at=retry_at)
    if fact.code in PARKING_CODES:
        state = alert(state, fact.code, fact.text or record.client_id, AlertSeverity.CRITICAL)
        state = state.changed(needs_operator=f"{fact.code}: {record.client_id}")
    return _free_predecessor(state.with_order(after), record, now, retry_at)


def _free_predecessor(
    state: TradeState, record: OrderRecord, now: datetime, retry_at: datetime | None = None
) -> TradeState:
    """A replacement that never came to be leaves the old order as it was."""
    old = state.order(record.replaces) if record.replaces is not None else None
    if old is None or not old.is_live:
        return state
    after = _move(old, OrderEvent.REPLACE_REJECTED, now)
    return state.with_order(after.model_copy(update={"retry_at": retry_at}))


def _order_unknown(state: TradeState, fact: OrderUnknown, now: datetime) -> TradeState:
    record = state.order(fact.client_id)
    if record is None:
        return state
    retry_at = now + timedelta(seconds=RETRY_DEFAULT_S * min(1 + record.refusals, 10))
    after = _move(record, OrderEvent.UNKNOWN, now, retry_at=retry_at, refusals=record.refusals + 1)
    return state.with_order(after)


def _order_resolved(state: TradeState, fact: OrderResolved, now: datetime) -> TradeState:
    if fact.order is not None:
        return _see_order(state, fact.order, now, client_id=fact.client_id)
    record = state.order(fact.client_id)
    if record is None or record.state in TERMINAL_STATES:
        return state
    after = _move(record, OrderEvent.NOT_SENT, now, reject_code="PROVEN_ABSENT")
    return _free_predecessor(state.with_order(after), record, now)


def _cancel_asked(state: TradeState, fact: CancelAsked, now: datetime) -> TradeState:
    record = state.order(fact.client_id)
    if record is None:
        return state
    return state.with_order(_move(record, OrderEvent.CANCEL_REQUESTED, now))


def _cancel_rejected(state: TradeState, fact: CancelRejected, now: datetime) -> TradeState:
    """A refused cancel is a question, not an answer: read the order, then decide (D5)."""
    record = state.order(fact.client_id)
    if record is None:
        return state
    after = _move(record, OrderEvent.CANCEL_REJECTED, now, refusals=record.refusals + 1)
    after = after.model_copy(update={"retry_at": now + timedelta(seconds=RETRY_DEFAULT_S)})
    return state.with_order(after).changed(read_needed=f"cancel refused: {fact.code}")


def _replace_confirmed(state: TradeState, fact: ReplaceConfirmed, now: datetime) -> TradeState:
    old = state.order(fact.old_client_id)
    if old is not None and old.is_live:
        state = state.with_order(_move(old, OrderEvent.REPLACE_REQUESTED, now))
    return _see_order(state, fact.order, now, client_id=fact.new_client_id)


def _replace_rejected(state: TradeState, fact: ReplaceRejected, now: datetime) -> TradeState:
    old = state.order(fact.old_client_id)
    if old is not None:
        after = _move(old, OrderEvent.REPLACE_REJECTED, now, refusals=old.refusals + 1)
        after = after.model_copy(update={"retry_at": now + timedelta(seconds=RETRY_DEFAULT_S)})
        state = state.with_order(after)
    new = state.order(fact.new_client_id)
    if new is not None and new.is_live:
        state = state.with_order(_move(new, OrderEvent.REJECTED, now, reject_code=fact.code))
    return state.changed(read_needed=f"replace refused: {fact.code}")


def _see_order(
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
            "FILL_INCONSISTENT",
            f"{record.client_id}: filled {seen.filled_quantity} of {seen.quantity}",
            AlertSeverity.CRITICAL,
        )
    update = _told(record, seen)
    if state.plan.is_combo and record.intent is not None:
        record = _with_legs(record, seen.legs)
    state = state.with_order(_move(record, _EVENT_OF_STATUS[seen.status], now, **update))
    if not state.plan.is_combo:
        for number, child in enumerate(seen.legs):
            state = _see_child(state, record, child, number, now)
    return state


def _told(record: OrderRecord, seen: OrderSnapshot) -> dict[str, Any]:
    """What this view of the broker changes on the record; what it leaves out stays."""
    update: dict[str, Any] = {
        "broker_order_id": seen.broker_order_id,
        "reported_filled": max(record.reported_filled, seen.filled_quantity),
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


def _see_child(
    state: TradeState, parent: OrderRecord, child: OrderSnapshot, number: int, now: datetime
) -> TradeState:
    """Children that the broker made belong to the parent by its id (architecture §5.1)."""
    if state.find(child.client_id, child.broker_order_id) is None:
        is_stop = child.order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
        state = state.with_order(
            OrderRecord(
                client_id=f"{parent.client_id}.{number + 1}",
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
        )
    return _see_order(state, child.model_copy(update={"client_id": None}), now)


# --- fills ------------------------------------------------------------------------------------


def _fill_reported(state: TradeState, fact: FillReported, now: datetime) -> TradeState:
    return _book(state, fact.fill, now)


def _book(state: TradeState, fill: Fill, now: datetime) -> TradeState:
    """Books a fill once (I7); a fill proves acceptance and completes the order (F3, D9)."""
    if any(fill.fill_key == known.fill_key for known in (*state.fills, *state.unclaimed)):
        return state
    record = state.find(fill.client_id, fill.broker_order_id)
    if record is None and _awaits_broker_ids(state):
        return state.changed(unclaimed=(*state.unclaimed, fill))
    if record is None:
        # A child that the broker made may fill before we ever saw it: look, then book.
        text = f"{fill.broker_order_id} {fill.quantity} {fill.symbol}"
        state = alert(state, "FILL_UNATTRIBUTED", text, AlertSeverity.CRITICAL)
        return state.changed(read_needed="a fill of an unknown order")
    state = state.changed(
        fills=(*state.fills, fill),
        fees=state.fees + (fill.fee or ZERO),
        first_fill_at=state.first_fill_at or fill.venue_time,
    )
    if record.state in TERMINAL_STATES and _is_unreported(state, record, fill):
        state = alert(
            state,
            "LATE_FILL",
            f"{record.client_id} filled after {record.state}",
            AlertSeverity.CRITICAL,
        )
    complete = ts.filled_quantity(state, record) >= record.quantity
    event = OrderEvent.FILL if complete else OrderEvent.PARTIAL_FILL
    update = {"broker_order_id": record.broker_order_id or fill.broker_order_id}
    state = state.with_order(_move(record, event, now, **update))
    if record.role is Role.ENTRY and state.walk.partial_since is None:
        walk = state.walk.model_copy(update={"partial_since": now})
        state = state.changed(walk=walk)
    return state.changed(proven_closed=False)


def _awaits_broker_ids(state: TradeState) -> bool:
    """True while the answer that names an order's ids, legs included, is on its way.

    The stream is often faster than the answer of the request, and a leg has no id of ours.
    """
    return any(o.intent is not None and o.broker_order_id is None for o in state.live())


def _claim_fills(state: TradeState, now: datetime) -> TradeState:
    """Books the fills whose order is known by now; what stays without one is told."""
    waiting = state.unclaimed
    state = state.changed(unclaimed=())
    for fill in waiting:
        state = _book(state, fill, now)
    return state


def _is_unreported(state: TradeState, record: OrderRecord, fill: Fill) -> bool:
    """True if the order ended without this fill: the broker filled it afterwards (D9)."""
    if record.state is OrderState.FILLED:
        return False
    ratios = {leg.instrument.symbol: leg.ratio for leg in state.plan.legs}
    per_unit = ratios.get(fill.symbol, 1) if record.leg == 0 else 1
    told = max(record.reported_filled * per_unit, record.leg_filled.get(fill.symbol, ZERO))
    booked = sum(f.quantity for f in ts.fills_of(state, record) if f.symbol == fill.symbol)
    return booked > told


def _fill_busted(state: TradeState, fact: FillBusted, now: datetime) -> TradeState:
    """A bust reverses by its own row; the fill stays on record."""
    if fact.fill_key in state.busted:
        return state
    fill = next((f for f in state.fills if f.fill_key == fact.fill_key), None)
    if fill is None:
        return alert(state, "BUST_UNKNOWN", f"bust of {fact.fill_key}")
    record = state.find(fill.client_id, fill.broker_order_id)
    if record is not None:
        state = state.with_order(_move(record, OrderEvent.BUSTED, now))
    state = state.changed(busted=(*state.busted, fact.fill_key), read_needed="fill busted")
    return alert(state, "FILL_BUSTED", fact.fill_key, AlertSeverity.CRITICAL)


def _fill_corrected(state: TradeState, fact: FillCorrected, now: datetime) -> TradeState:
    if fact.fill_key not in state.busted:
        state = state.changed(busted=(*state.busted, fact.fill_key))
    return _book(state, fact.fill, now)


def _broker_snapshot(state: TradeState, fact: BrokerSnapshot, now: datetime) -> TradeState:
    """Orders, executions and positions read from the broker. Missing is not flat (R6)."""
    # What this read itself shows is proven by it: a close needs no second read.
    seen_at = min(now, fact.started_at)
    for order in fact.orders:
        if state.find(order.client_id, order.broker_order_id) is not None:
            state = _see_order(state, order, seen_at)
            state = _proven_since(state, order, seen_at)
        elif order.parent_broker_id is None and not order.is_terminal:
            state = alert(
                state,
                "ORDER_UNATTRIBUTED",
                f"live order {order.broker_order_id} has our prefix",
                AlertSeverity.CRITICAL,
            )
    for fill in fact.fills:
        state = _book(state, fill, now)
    if not fact.complete:
        return state.changed(read_needed="last read was incomplete")
    return state.changed(knowledge_at=fact.started_at, read_needed="")


def _proven_since(state: TradeState, seen: OrderSnapshot, seen_at: datetime) -> TradeState:
    """An end that this read shows too was true when the read began, whoever told it first."""
    record = state.find(seen.client_id, seen.broker_order_id)
    if record is None or not seen.is_terminal or record.state not in TERMINAL_STATES:
        return state
    if record.changed_at <= seen_at:
        return state
    return state.with_order(record.model_copy(update={"changed_at": seen_at}))


# --- market, time, people ---------------------------------------------------------------------


def _quote_read(state: TradeState, fact: QuoteRead, now: datetime) -> TradeState:
    return state.changed(quote=fact.quote, quote_read_at=fact.at)


def _session_changed(state: TradeState, fact: SessionChanged, now: datetime) -> TradeState:
    hours = state.hours.model_copy(
        update={
            "is_open": fact.is_open,
            "next_open": fact.next_open,
            "next_close": fact.next_close,
            "read_at": fact.at,
        }
    )
    return state.changed(hours=hours)


def _halted(state: TradeState, fact: TradingHalted, now: datetime) -> TradeState:
    if fact.symbol in state.hours.halted:
        return state
    halted = (*state.hours.halted, fact.symbol)
    return state.changed(hours=state.hours.model_copy(update={"halted": halted}))


def _resumed(state: TradeState, fact: TradingResumed, now: datetime) -> TradeState:
    halted = tuple(symbol for symbol in state.hours.halted if symbol != fact.symbol)
    return state.changed(hours=state.hours.model_copy(update={"halted": halted}))


def _exit_triggered(state: TradeState, fact: ExitTriggered, now: datetime) -> TradeState:
    """Once per (rule, position epoch): two watchers or a restart give one exit."""
    if fact.position_epoch != state.position_epoch or ts.is_flat(state):
        return state
    return start_exit(state, fact.rule_id, f"{fact.rule_id}/{fact.position_epoch}")


def start_exit(state: TradeState, reason: str, command_id: str = "") -> TradeState:
    """Begins the reducing exit. A stronger reason (kill, flatten) takes the name over."""
    if state.exit.reason and reason not in ("flatten", "kill"):
        return state
    exit_now = state.exit.model_copy(update={"reason": reason, "command_id": command_id})
    walk = state.walk if state.walk.ended else state.walk.model_copy(update={"ended": reason})
    return state.changed(exit=exit_now, walk=walk)


def _flatten_requested(state: TradeState, fact: FlattenRequested, now: datetime) -> TradeState:
    seen = take_command_id(state, fact.command_id)
    return state if seen is None else start_exit(seen, "flatten", fact.command_id)


def _kill_engaged(state: TradeState, fact: KillEngaged, now: datetime) -> TradeState:
    """The gate has already closed; the trade learns of it afterwards."""
    seen = take_command_id(state, fact.command_id)
    if seen is None:
        return state
    state = seen.changed(kill_mode=fact.mode)
    if fact.mode is KillMode.FLATTEN:
        return start_exit(state, "kill", fact.command_id)
    if fact.mode is KillMode.BLOCK and state.live(Role.ENTRY):
        return state  # no new risk; what works already may fill, but does not walk on
    return end_walk(state, "killed")


def end_walk(state: TradeState, reason: str) -> TradeState:
    """No further entry work; the first reason stays."""
    if state.walk.ended:
        return state
    return state.changed(walk=state.walk.model_copy(update={"ended": reason}))


def _operator_command(state: TradeState, fact: OperatorCommand, now: datetime) -> TradeState:
    seen = take_command_id(state, fact.command_id)
    if seen is None:
        return state
    state = seen
    match fact.verb:
        case OperatorVerb.PAUSE:
            return state.changed(paused=True)
        case OperatorVerb.RESUME:
            return state.changed(paused=False, needs_operator="", read_needed="resumed")
        case OperatorVerb.TAKE_OVER:
            return state.changed(taken_over=True)
        case OperatorVerb.HAND_BACK:
            return state.changed(taken_over=False, needs_operator="", read_needed="handed back")
        case OperatorVerb.CANCEL_ENTRY:
            return end_walk(state, "cancelled_by_operator")
        case OperatorVerb.MOVE_STOP:
            return _move_stop(state, fact)
        case OperatorVerb.RESOLVE_ORDER:
            return _resolve_by_hand(state, fact, now)


def _move_stop(state: TradeState, fact: OperatorCommand) -> TradeState:
    """The operator may move a stop both ways; it is the one hand above the ratchet."""
    if fact.price is None or fact.price <= 0 or state.plan.stop is None:
        return alert(state, "MOVE_STOP_REFUSED", f"price was {fact.price}")
    return state.changed(stop_price=ts.protective_tick(state, fact.price))


def _resolve_by_hand(state: TradeState, fact: OperatorCommand, now: datetime) -> TradeState:
    """A person answers for an unknown order, with evidence (I10)."""
    record = state.order(fact.client_id or "")
    if record is None or not fact.evidence or fact.resolution is None:
        return alert(state, "RESOLVE_REFUSED", f"order {fact.client_id}: evidence is required")
    if fact.resolution == "dead":
        state = state.with_order(_move(record, OrderEvent.CANCELED, now, reject_code="BY_HAND"))
    return state.changed(read_needed="order resolved by hand", needs_operator="")


def _position_adjusted(state: TradeState, fact: PositionAdjusted, now: datetime) -> TradeState:
    if any(known.adjustment_id == fact.adjustment_id for known in state.adjustments):
        return state
    state = state.changed(adjustments=(*state.adjustments, fact))
    return alert(
        state,
        "POSITION_ADJUSTED",
        f"{fact.adjustment}: {fact.quantity} {fact.symbol}",
        AlertSeverity.CRITICAL,
    )


def _fee_booked(state: TradeState, fact: FeeBooked | FundingPaid, now: datetime) -> TradeState:
    if fact.activity_id in state.fee_ids:
        return state
    return state.changed(fee_ids=(*state.fee_ids, fact.activity_id), fees=state.fees + fact.amount)


def _discrepancy(state: TradeState, fact: DiscrepancyFound, now: datetime) -> TradeState:
    return alert(state, fact.code, fact.text, AlertSeverity.CRITICAL).changed(
        read_needed=f"discrepancy {fact.code}"
    )


def _version_changed(state: TradeState, fact: VersionChanged, now: datetime) -> TradeState:
    return state.changed(new_build=fact.build_id)


def _deadline(state: TradeState, fact: DeadlinePassed, now: datetime) -> TradeState:
    return state


def _settled(state: TradeState, fact: Settled, now: datetime) -> TradeState:
    return state.changed(settled=True, realised=fact.realised, fees=fact.fees)


def _command_failed(state: TradeState, fact: CommandFailed, now: datetime) -> TradeState:
    return alert(state, "STEP_FAILED", f"{fact.step}: {fact.code} {fact.text}").changed(
        read_needed=state.read_needed or f"{fact.step} failed"
    )


# --- what follows from the new knowledge --------------------------------------------------------


def _refresh_derived(before: TradeState, state: TradeState, now: datetime) -> TradeState:
    """Epoch of the position, stop ratchet, imbalance and naked clock after any change."""
    moved = (state.fills, state.busted, state.adjustments)
    if any(
        new is not old
        for new, old in zip(moved, (before.fills, before.busted, before.adjustments), strict=True)
    ):
        flat_before, flat_now = ts.is_flat(before), ts.is_flat(state)
        if flat_before and not flat_now:
            state = state.changed(position_epoch=state.position_epoch + 1)
        balanced = ts.is_balanced(state)
        since = None if balanced else (state.imbalance_since or now)
        state = state.changed(imbalance_since=since, stop_price=ratcheted_stop(state))
    return state.changed(naked=_naked_clock(state, now))


def _naked_clock(state: TradeState, now: datetime) -> ts.NakedClock:
    naked = ts.protection(state) is ts.Protection.NAKED
    clock = state.naked
    if naked and clock.since is None:
        return clock.model_copy(update={"since": now})
    if not naked and clock.since is not None:
        gap_s = (now - clock.since) / timedelta(seconds=1)
        return ts.NakedClock(
            since=None, total_s=clock.total_s + gap_s, longest_s=max(clock.longest_s, gap_s)
        )
    return clock


_HANDLERS: dict[type[Any], Callable[[TradeState, Any, datetime], TradeState]] = {
    RiskReserved: _risk_reserved,
    RiskRefused: _risk_refused,
    OrderAccepted: _order_accepted,
    OrderRejected: _order_rejected,
    OrderNotSent: _order_not_sent,
    OrderUnknown: _order_unknown,
    OrderResolved: _order_resolved,
    OrderReported: _order_reported,
    FillReported: _fill_reported,
    FillBusted: _fill_busted,
    FillCorrected: _fill_corrected,
    CancelAsked: _cancel_asked,
    CancelRejected: _cancel_rejected,
    ReplaceConfirmed: _replace_confirmed,
    ReplaceRejected: _replace_rejected,
    QuoteRead: _quote_read,
    BrokerSnapshot: _broker_snapshot,
    ExitTriggered: _exit_triggered,
    DeadlinePassed: _deadline,
    FlattenRequested: _flatten_requested,
    KillEngaged: _kill_engaged,
    SessionChanged: _session_changed,
    TradingHalted: _halted,
    TradingResumed: _resumed,
    FeeBooked: _fee_booked,
    FundingPaid: _fee_booked,
    PositionAdjusted: _position_adjusted,
    DiscrepancyFound: _discrepancy,
    OperatorCommand: _operator_command,
    VersionChanged: _version_changed,
    Settled: _settled,
    CommandFailed: _command_failed,
}
