"""The walking-limit entry: start, step, interval, worst price, time (architecture §6).

Replaces only from a plainly working order, never widens past the worst price, and ends for a
named reason. No stop is placed beside a working entry, so the first partial fill ends the walk
after `partial_wait_s` (wall seconds, counted as naked).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from decimal import Decimal

from domain import trade_state as ts
from domain.changes import end_walk
from domain.commands import Command, PlaceOrder, Urgency, WalkStep
from domain.entry import EntryTicket, RiskApproved, is_late, ladder_price
from domain.ids import Purpose
from domain.intents import is_due, new_intent, place
from domain.money import ZERO, total
from domain.order import (
    OrderBody,
    OrderClass,
    OrderState,
    OrderType,
    Side,
)
from domain.plan import EntryStyle
from domain.protection import entry_legs, stop_limit_price
from domain.trade_state import OrderRecord, Role, TradeState

ENTRY_ATTEMPTS_MAX = 3
RETRYABLE_CODES = frozenset(
    {
        "NOT_CONNECTED",
        "RATE_LIMITED",
        "STALE_GATE",
        "CONTROL_LOCKED",
        "INTENT_LOCKED",
        "LEDGER_DOWN",
        "QUEUE_TIMEOUT",
        # Another worker of the lane may be the one that was deployed (H13).
        "WORKER_STALE",
    }
)
"""Definitely not sent, and the reason may be gone in a second."""

_ENDS = frozenset(
    {OrderState.CANCELED, OrderState.EXPIRED, OrderState.REJECTED, OrderState.REPLACED}
)

_Result = tuple[TradeState, tuple[Command, ...]]


def entry_step(state: TradeState, now: datetime, busy: Collection[str]) -> _Result:
    """What the entry does next: first order, walk step, or the end of the walk."""
    assert state.ticket is not None
    reason = _why_over(state, now)
    if reason:
        return end_walk(state, reason), ()
    order = _current_entry(state)
    if order is None:
        return _first_order(state, state.ticket, now)
    if order.state is OrderState.NOT_SENT:
        return _again(state, state.ticket, order, now)
    working = [o for o in state.live(Role.ENTRY) if o.state is OrderState.WORKING]
    if len(working) != 1 or len(state.live(Role.ENTRY)) != 1:
        return state, ()
    return _walk(state, state.ticket, working[0], now, busy)


def end_if_over(state: TradeState, now: datetime) -> TradeState:
    """State whose walk has ended if there is a reason for it."""
    reason = _why_over(state, now)
    return end_walk(state, reason) if reason else state


def _current_entry(state: TradeState) -> OrderRecord | None:
    """The entry order that counts: replacements that never came to be are passed over."""
    for record in reversed(state.orders):
        failed = record.state in (OrderState.NOT_SENT, OrderState.REJECTED)
        if record.role is Role.ENTRY and not (failed and record.replaces is not None):
            return record
    return None


def _why_over(state: TradeState, now: datetime) -> str:
    """The reason why no further entry work is wanted, empty to go on."""
    assert state.ticket is not None
    order = _current_entry(state)
    filled = ts.entry_quantity(state)
    if filled >= state.ticket.approved.quantity:
        return "filled"
    if order is not None and order.state in _ENDS:
        return str(order.state)
    if overfill_possible(state):
        return "overfill_guard"
    if filled > 0 and _partial_is_over(state, now):
        return "partial"
    end = _walk_end(state)
    if end is not None and now >= end:
        return "time"
    if order is None:
        market_now = state.clock.market(now)
        if is_late(state.plan.signal_time, market_now, state.plan.signal_max_age_s):
            return "signal_expired"
        if not state.hours.is_open or state.hours.halted:
            return "session_closed"
    if _is_invalidated(state):
        return "invalidated"
    return ""


def _partial_is_over(state: TradeState, now: datetime) -> bool:
    """True when a partial fill may not wait for its rest any longer."""
    since = state.walk.partial_since
    if since is None:
        return False
    return (now - since).total_seconds() >= float(state.plan.walk.partial_wait_s)


def overfill_possible(state: TradeState) -> bool:
    """True if fills plus everything that still works could exceed the approved size (D2, D8).

    An order and its replacement count once while the broker carries out the replace.
    """
    assert state.ticket is not None
    open_rest = [
        ts.open_rest(state, o)
        for o in state.live(Role.ENTRY)
        if o.state is not OrderState.PENDING_NEW
        and not any(new.replaces == o.client_id for new in state.live(Role.ENTRY))
    ]
    return ts.entry_quantity(state) + total(open_rest) > state.ticket.approved.quantity


def _is_invalidated(state: TradeState) -> bool:
    """True if the market has traded through stop or first target before anything filled."""
    if state.quote is None or ts.entry_quantity(state) > 0:
        return False
    below, above = invalid_bounds(state)
    mid = state.quote.mid
    if mid is None:
        return False
    return (below is not None and mid <= below) or (above is not None and mid >= above)


def invalid_bounds(state: TradeState) -> tuple[Decimal | None, Decimal | None]:
    """(at or below, at or above) mids at which the entry makes no sense; combos have none."""
    if state.ticket is None or state.plan.is_combo:
        return None, None
    reference = state.ticket.start_price
    if state.plan.entry_style is EntryStyle.TWAP:
        # Slices go on for long: what is held has its stop and targets by its own average.
        reference = ts.average_price(state, Role.ENTRY) or reference
    stop = state.plan.stop.price.at(reference) if state.plan.stop is not None else None
    target = None
    if state.plan.targets and state.plan.targets[0].price is not None:
        target = state.plan.targets[0].price.at(reference)
    return (stop, target) if state.plan.side is Side.BUY else (target, stop)


def _first_order(state: TradeState, ticket: EntryTicket, now: datetime) -> _Result:
    state, command = _entry_order(state, ticket.approved, now)
    return state, (command,)


def _again(state: TradeState, ticket: EntryTicket, order: OrderRecord, now: datetime) -> _Result:
    """An entry that was definitely not sent may be tried again under a new sequence."""
    attempts = sum(
        o.role is Role.ENTRY and o.state is OrderState.NOT_SENT and o.replaces is None
        for o in state.orders
    )
    if order.reject_code not in RETRYABLE_CODES or attempts >= ENTRY_ATTEMPTS_MAX:
        return end_walk(state, f"not_sent:{order.reject_code}"), ()
    if not is_due(order.retry_at, now):
        return state, ()
    return _first_order(state, ticket, now)


def _entry_order(
    state: TradeState, approved: RiskApproved, now: datetime
) -> tuple[TradeState, PlaceOrder]:
    """The first order of the walk. Only a `RiskApproved` can become an entry (style rule 17)."""
    assert state.ticket is not None
    price = _price_at(state, 0)
    body = entry_body(state, approved, price, now)
    end = _walk_end(state)
    state, command = place(
        state,
        Purpose.ENTRY,
        Role.ENTRY,
        body,
        now,
        urgency=Urgency.ENTRY,
        increasing=True,
        not_after=end,
        reason="entry",
    )
    interval = timedelta(seconds=_wall_s(state, state.plan.walk.interval_s))
    walk = state.walk.model_copy(update={"step": 0, "next_step_at": now + interval})
    return state.changed(walk=walk), command


def entry_body(
    state: TradeState,
    approved: RiskApproved,
    price: Decimal,
    now: datetime,
    quantity: Decimal | None = None,
) -> OrderBody:
    """Body of an entry order: all that was approved, or a smaller `quantity` of it (a slice)."""
    plan = state.plan
    body = OrderBody(
        symbol=plan.symbol,
        order_class=OrderClass.COMBO if plan.is_combo else OrderClass.SIMPLE,
        side=plan.side,
        quantity=approved.quantity if quantity is None else min(quantity, approved.quantity),
        order_type=OrderType.LIMIT,
        time_in_force=plan.walk.time_in_force,
        limit_price=price,
        legs=entry_legs(plan.legs) if plan.is_combo else (),
        intent_date=now.date(),
    )
    if plan.entry_style is not EntryStyle.ONCE or plan.is_combo:
        return body
    return _with_native_exits(state, body, price)


def _with_native_exits(state: TradeState, body: OrderBody, price: Decimal) -> OrderBody:
    """Bracket or OTO sent with the entry: prices from the limit, one tranche only."""
    assert state.ticket is not None
    plan, capabilities = state.plan, state.ticket.capabilities
    if plan.stop is None or len(plan.targets) > 1 or capabilities.bracket_children == "none":
        return body
    stop = ts.protective_tick(state, plan.stop.price.at(price))
    update: dict[str, object] = {
        "stop_loss_price": stop,
        "stop_loss_limit_price": stop_limit_price(state, stop),
        "order_class": OrderClass.OTO,
    }
    target = plan.targets[0].price if plan.targets else None
    if target is not None:
        update["take_profit_price"] = ts.target_tick(state, target.at(price))
        update["order_class"] = OrderClass.BRACKET
    elif not capabilities.oto:
        return body
    return body.model_copy(update=update)


def _price_at(state: TradeState, index: int) -> Decimal:
    assert state.ticket is not None
    return ladder_price(
        state.plan.side,
        state.ticket.start_price,
        state.plan.walk.step,
        state.ticket.approved.worst_price,
        index,
        state.plan.instrument,
    )


def _walk(
    state: TradeState,
    ticket: EntryTicket,
    order: OrderRecord,
    now: datetime,
    busy: Collection[str],
) -> _Result:
    """One step up the ladder when it is due and the price changes."""
    index = state.walk.step + 1
    due = state.walk.next_step_at is not None and now >= state.walk.next_step_at
    if not due or order.broker_order_id is None or f"order/{order.client_id}" in busy:
        return state, ()
    if not _may_step(state, order, index) or not is_due(order.retry_at, now):
        return state, ()
    price = _price_at(state, index)
    interval = timedelta(seconds=_wall_s(state, state.plan.walk.interval_s))
    walk = state.walk.model_copy(update={"step": index, "next_step_at": now + interval})
    body = entry_body(state, ticket.approved, price, now)
    state, intent = new_intent(
        state.changed(walk=walk),
        Purpose.ENTRY,
        Role.ENTRY,
        body,
        now,
        replaces=order.client_id,
        increasing=True,
        not_after=_walk_end(state),
        reason="walk",
    )
    below, above = invalid_bounds(state)
    steps = state.plan.walk.steps_max
    return state, (
        WalkStep(
            old_client_id=order.client_id,
            old_broker_id=order.broker_order_id,
            intent=intent,
            step_index=index,
            invalid_at_or_below=below,
            invalid_at_or_above=above,
            legs=state.plan.legs,
            summary=f"walk {index}/{steps} {body.side} {body.quantity} {body.symbol} @ {price}",
        ),
    )


def _may_step(state: TradeState, order: OrderRecord, index: int) -> bool:
    """A step needs a trading market, room on the ladder, a changed price, an untouched order."""
    if state.hours.halted or not state.hours.is_open:
        return False
    if index > state.plan.walk.steps_max or state.plan.entry_style is EntryStyle.ONCE:
        return False
    if state.kill_mode is not None:
        return False
    if ts.fills_of(state, order) or order.reported_filled > ZERO or any(order.leg_filled.values()):
        return False
    return _price_at(state, index) != order.limit_price


def _walk_end(state: TradeState) -> datetime | None:
    """Wall instant at which the walk's time is up."""
    if state.walk.started_at is None:
        return None
    return state.walk.started_at + timedelta(seconds=_wall_s(state, state.plan.walk.max_time_s))


def _wall_s(state: TradeState, market_s: Decimal) -> float:
    return state.clock.wall_duration_s(float(market_s))


def walk_deadlines(state: TradeState) -> list[datetime]:
    """When time alone moves the walk on."""
    if state.walk.ended or state.ticket is None:
        return []
    times: list[datetime] = []
    end = _walk_end(state)
    if end is not None:
        times.append(end)
    order = _current_entry(state)
    next_at = state.walk.next_step_at
    if order is not None and order.is_live and next_at is not None:
        if _may_step(state, order, state.walk.step + 1):
            times.append(next_at)
        if order.retry_at is not None:
            times.append(order.retry_at)
    since = state.walk.partial_since
    if since is not None:
        times.append(since + timedelta(seconds=float(state.plan.walk.partial_wait_s)))
    return times
