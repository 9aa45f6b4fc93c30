"""Resting exits brought to what they should be: placed, ratcheted, resized, removed."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from itertools import takewhile

from domain import trade_state as ts
from domain.changes import alert, alert_once, start_exit
from domain.commands import (
    AlertSeverity,
    Command,
    ReplaceOrder,
    Urgency,
    WatchExits,
)
from domain.ids import Purpose
from domain.intents import is_due, new_intent, place
from domain.money import ZERO, total
from domain.moves import (
    Step,
    cancel_orders,
    is_fresh,
    is_settled,
    read_orders,
)
from domain.order import OrderBody, OrderState, OrderType
from domain.plan import EntryStyle
from domain.protection import (
    DesiredExit,
    desired_exits,
    exit_body,
    stop_limit_price,
    watched_rules,
)
from domain.slices import is_between_slices
from domain.trade_state import OrderRecord, Role, TradeState

PROTECTION_REJECTED = "protection_rejected"
PROTECTION_REJECTIONS_MAX = 2
RATCHET_REFUSALS_MAX = 3
UNTOLD_READS_MAX = 3
"""Reads that name no member of a pair, after which it counts as a target without a stop."""


def protect(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """Brings the resting exits to what they should be: place, ratchet, resize, remove.

    Also between two slices of an entry; the slices go on beside it.
    """
    slicing = is_between_slices(state, now)
    if not (slicing or ts.entry_is_dead(state)) or ts.held_units(state) <= 0:
        return state, (), False
    if ts.wants_exit(state) and state.live(Role.EXIT):
        return state, (), True
    commands: tuple[Command, ...] = ()
    if not slicing:
        state, commands = _watch(state, busy)
    wanted = desired_exits(state)
    state, more, changed = _protect_tranches(state, wanted, now, busy)
    if changed and not is_fresh(state, now):
        state, read = read_orders(state, now, busy, "before the protection changes")
        return state, (*commands, *read), not slicing
    return state, (*commands, *more), not slicing


def _watch(state: TradeState, busy: Collection[str]) -> tuple[TradeState, tuple[Command, ...]]:
    """The exit watch row of this position epoch, if there is a rule to watch."""
    moved = ts.has_stop_limit(state) and state.watched_stop != state.stop_price
    if (state.watched_epoch == state.position_epoch and not moved) or "watch" in busy:
        return state, ()
    command = watch_of(state)
    if command is None:
        return state, ()
    told = {"watched_epoch": state.position_epoch}
    if ts.has_stop_limit(state):
        return state.changed(**told, watched_stop=state.stop_price), (command,)
    return state.changed(**told), (command,)


def watch_of(state: TradeState) -> WatchExits | None:
    """What the exit watch is to look at for this position; None if there is nothing."""
    rules = watched_rules(state)
    average = ts.average_price(state, Role.ENTRY)
    if not rules or average is None or state.first_fill_at is None:
        return None
    return WatchExits(
        position_epoch=state.position_epoch,
        rules=rules,
        side=state.plan.side,
        units=ts.held_units(state),
        average_entry=average,
        opened_at=state.first_fill_at,
    )


def _protect_tranches(
    state: TradeState, wanted: tuple[DesiredExit, ...], now: datetime, busy: Collection[str]
) -> tuple[TradeState, tuple[Command, ...], bool]:
    """Commands for every tranche. If knowledge is stale nothing is remembered as asked."""
    before = state
    commands: list[Command] = []
    for exit_wanted in wanted:
        state, more = _protect_tranche(state, exit_wanted, now, busy)
        commands += more
    tranches = [exit_wanted.tranche for exit_wanted in wanted]
    strays = tuple(
        o for o in state.live(Role.STOP, Role.TARGET) if (o.tranche or 0) not in tranches
    )
    state, more = cancel_orders(state, strays, now, busy, Urgency.PROTECT)
    commands += more
    if commands and not is_fresh(state, now):
        return before, (), True
    return state, tuple(commands), bool(commands)


def _protect_tranche(
    state: TradeState, wanted: DesiredExit, now: datetime, busy: Collection[str]
) -> tuple[TradeState, tuple[Command, ...]]:
    live = tuple(
        o for o in state.live(Role.STOP, Role.TARGET) if (o.tranche or 0) == wanted.tranche
    )
    if not live:
        return _place_exit(state, wanted, now) if _has_room(state, wanted) else (state, ())
    dying = tuple(o for o in live if o.state is OrderState.PENDING_CANCEL)
    if dying:
        return cancel_orders(state, dying, now, busy, Urgency.PROTECT)
    if any(f"order/{o.client_id}" in busy or not is_settled(o) for o in live):
        return state, ()
    if not _covers(state, live, wanted):
        return cancel_orders(state, live, now, busy, Urgency.PROTECT)
    stops = [o for o in live if o.role is Role.STOP]
    if wanted.stop_price is not None and not stops:
        untold = any(ts.is_untold_group(state, record) for record in live)
        if untold and state.reads_in_vain < UNTOLD_READS_MAX:
            # The venue took a pair and the look behind the send failed: its stop may well rest.
            return state.changed(
                read_needed=state.read_needed or "members of a group are untold"
            ), ()
        # A target without its stop is not protection: take it down and place the pair.
        return cancel_orders(state, live, now, busy, Urgency.PROTECT)
    if _has_moved_target(state, live, wanted) or _is_stop_of_slices(state, live, wanted):
        return cancel_orders(state, live, now, busy, Urgency.PROTECT)
    for stop in stops:
        if wanted.stop_price is not None and stop.stop_price != wanted.stop_price:
            return _ratchet(state, stop, wanted, now)
    return state, ()


def _has_room(state: TradeState, wanted: DesiredExit) -> bool:
    """False while the one stop of a sliced entry still covers what this tranche shall cover."""
    if state.plan.entry_style is not EntryStyle.TWAP:
        return True
    reserved = ts.reserved_units(state, Role.STOP, Role.TARGET)
    return reserved + wanted.quantity <= ts.held_units(state)


def _is_stop_of_slices(
    state: TradeState, live: tuple[OrderRecord, ...], wanted: DesiredExit
) -> bool:
    """True for the bare stop that stood between slices where a pair belongs now."""
    if state.plan.entry_style is not EntryStyle.TWAP or wanted.target_price is None:
        return False
    return all(o.role is Role.STOP and o.parent_client_id is None for o in live)


def _has_moved_target(
    state: TradeState, live: tuple[OrderRecord, ...], wanted: DesiredExit
) -> bool:
    """True if a person moved this target: the pair goes and comes back at the new price."""
    target = ts.target_index(state, wanted.tranche)
    if all(moved.tranche != target for moved in state.moved_targets):
        return False
    return any(o.role is Role.TARGET and o.limit_price != wanted.target_price for o in live)


def _covers(state: TradeState, live: tuple[OrderRecord, ...], wanted: DesiredExit) -> bool:
    """True if the tranche's exits still take off what is wanted.

    What one of a pair fills is taken off the other by the venue, sooner or later told to us: a
    stop that fills in parts is at work and must not be cancelled for it (I4).
    """
    lead = next((o for o in live if o.role is Role.TARGET), live[0])
    own = ts.filled_quantity(state, lead)
    partner = total(ts.filled_quantity(state, o) for o in live) - own
    rest = lead.quantity - own
    if lead.intent is None:
        return wanted.quantity in (rest, rest - partner)
    told = max(lead.intent.body.quantity - lead.quantity, ZERO)
    return wanted.quantity == rest - max(partner - told, ZERO)


def _place_exit(
    state: TradeState, wanted: DesiredExit, now: datetime
) -> tuple[TradeState, tuple[Command, ...]]:
    """Places the exit of one tranche; a stop that keeps being refused becomes an exit (E2)."""
    earlier = [
        o
        for o in state.orders
        if o.intent is not None
        and o.role in (Role.STOP, Role.TARGET)
        and o.tranche == wanted.tranche
    ]
    failed = (OrderState.REJECTED, OrderState.NOT_SENT)
    rejected = _rejected_in_a_row(earlier)
    if len(rejected) >= PROTECTION_REJECTIONS_MAX:
        if ts.wants_exit(state):
            return state, ()  # Told when it began: an alert that repeats wakes the trade for ever.
        state = alert(state, "PROTECTION_REJECTED", rejected[0].reject_code, AlertSeverity.CRITICAL)
        return start_exit(state, PROTECTION_REJECTED), ()
    if earlier and earlier[-1].state in failed and not is_due(earlier[-1].retry_at, now):
        return state, ()
    if state.covered is None and not ts.is_slicing(state):
        state = state.changed(covered=ts.entry_quantity(state))
    purpose, body = exit_body(state, wanted, now.date())
    role = Role.STOP if purpose is Purpose.STOP else Role.TARGET
    state, command = place(
        state,
        purpose,
        role,
        body,
        now,
        urgency=Urgency.PROTECT,
        tranche=wanted.tranche,
        reason="protect",
    )
    return state, (command,)


def _rejected_in_a_row(earlier: list[OrderRecord]) -> list[OrderRecord]:
    """The newest exits of a tranche that were refused one after the other.

    A refused ratchet left the old stop in place: it says nothing about protection as such.
    """
    placed = [o for o in earlier if o.replaces is None and o.state is not OrderState.NOT_SENT]
    row = takewhile(lambda o: o.state is OrderState.REJECTED, reversed(placed))
    return list(row)


def _ratchet(
    state: TradeState, stop: OrderRecord, wanted: DesiredExit, now: datetime
) -> tuple[TradeState, tuple[Command, ...]]:
    """Moves a live stop by one atomic replace: old stop live or new stop live, never none."""
    assert state.ticket is not None
    assert wanted.stop_price is not None
    if stop.refusals >= RATCHET_REFUSALS_MAX:
        return alert_once(
            state,
            "RATCHET_REFUSED",
            f"{stop.client_id} stays at {stop.stop_price}",
            AlertSeverity.CRITICAL,
        ), ()
    if not is_due(stop.retry_at, now) or stop.broker_order_id is None:
        return state, ()
    limit = stop_limit_price(state, wanted.stop_price)
    body = OrderBody(
        symbol=stop.symbol,
        side=stop.side,
        quantity=wanted.quantity,
        order_type=OrderType.STOP if limit is None else OrderType.STOP_LIMIT,
        time_in_force=exit_body(state, wanted, now.date())[1].time_in_force,
        stop_price=wanted.stop_price,
        limit_price=limit,
        intent_date=now.date(),
    )
    state, intent = new_intent(
        state,
        Purpose.STOP,
        Role.STOP,
        body,
        now,
        tranche=stop.tranche,
        replaces=stop.client_id,
        parent=stop.parent_client_id,
        reason="ratchet",
    )
    command = ReplaceOrder(
        old_client_id=stop.client_id,
        old_broker_id=stop.broker_order_id,
        intent=intent,
        urgency=Urgency.PROTECT,
        summary=f"stop {stop.stop_price} → {wanted.stop_price} for {wanted.quantity}",
    )
    return state, (command,)
