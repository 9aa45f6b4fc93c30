"""The sliced entry (TWAP): even slices over a window, protected between them (ADR 0016).

A slice is a limit order at the plan's start in a fresh quote, never past the worst price. It works
`work_wall_s` at most, then its rest is cancelled and carried into the next one. Between two slices
no entry works and one stop covers what is held. Where the broker refuses a stop beside a working
entry, the stop stands aside for the slice and comes back right after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime, timedelta
from decimal import Decimal

from domain import trade_state as ts
from domain.base import Frozen
from domain.changes import end_walk
from domain.commands import Command, ReadQuote, Urgency
from domain.entry import is_late, ladder_price, wished_start
from domain.handing_over import is_proven
from domain.ids import Purpose
from domain.instrument import Instrument
from domain.intents import is_due, last_order, place
from domain.money import ZERO, total
from domain.moves import cancel_orders, is_settled, read_orders
from domain.order import OrderState, TimeInForce
from domain.trade_state import OrderRecord, Role, TradeState
from domain.walk import (
    ENTRY_ATTEMPTS_MAX,
    RETRYABLE_CODES,
    entry_body,
    invalid_bounds,
    overfill_possible,
)

ASIDE_MAX_S = 5.0
"""Longest time without a stop before a slice that does not get out is given up."""
ASK_AGAIN_S = 1.0
TRY_AGAIN_S = 5.0
QUOTE_FRESH_S = 2.0

_RETRYABLE = RETRYABLE_CODES | {"NOT_AFTER"}
_Result = tuple[TradeState, tuple[Command, ...]]


class Slicing(Frozen):
    """Where a sliced entry is, for people: slice `number` of `count`, the next one at `next_at`."""

    number: int
    count: int
    next_at: datetime | None


def slice_sizes(
    trade_id: str, quantity: Decimal, count: int, instrument: Instrument
) -> tuple[Decimal, ...]:
    """Sizes of the slices in order; their sum is exactly `quantity` (requirement 177).

    Whole lots are dealt out evenly. The lots left over go to slices chosen by a hash of the trade
    id: spread like at random, and the same in every process. A quantity too small for `count`
    slices of the instrument's smallest size is cut into fewer.
    """
    smallest = max(instrument.lot_size, instrument.min_quantity)
    count = max(1, min(count, int(quantity // smallest)))
    lots = int(quantity // instrument.lot_size)
    each, left = divmod(lots, count)
    drawn = sorted(range(count), key=lambda index: _draw(trade_id, index))[:left]
    sizes = [instrument.lot_size * (each + (index in drawn)) for index in range(count)]
    sizes[-1] += quantity - total(sizes)
    return tuple(sizes)


def _draw(trade_id: str, index: int) -> bytes:
    return hashlib.sha256(f"{trade_id}/slice/{index}".encode()).digest()


def slicing(state: TradeState) -> Slicing | None:
    """Progress of a sliced entry; None for other entries and before the approval."""
    if state.plan.slices is None or state.ticket is None:
        return None
    count = len(_sizes(state))
    begun = _begun(state)
    running = ts.is_slicing(state) and begun < count
    return Slicing(number=begun, count=count, next_at=_due_at(state, begun) if running else None)


def is_between_slices(state: TradeState, now: datetime) -> bool:
    """True while slices go on, none is live and none is about to go: the stop belongs there."""
    if not ts.is_slicing(state) or state.live(Role.ENTRY) or _stands_aside(state, now):
        return False
    return not _why_over(state, now)


def end_if_over(state: TradeState, now: datetime) -> TradeState:
    """State whose entry has ended if there is a reason for it."""
    reason = _why_over(state, now)
    return end_walk(state, reason) if reason else state


def drop_overdue(state: TradeState, now: datetime, busy: Collection[str]) -> _Result:
    """Cancels the slice whose time is up. Safe without fresh knowledge, also while paused."""
    if not ts.is_slicing(state):
        return state, ()
    overdue = tuple(o for o in state.live(Role.ENTRY) if now >= _work_ends(state, o))
    if not overdue:
        return state, ()
    walk = state.walk.model_copy(update={"timed_out": overdue[-1].client_id})
    return cancel_orders(state.changed(walk=walk), overdue, now, busy, Urgency.EXIT)


def slice_step(state: TradeState, now: datetime, busy: Collection[str]) -> _Result:
    """What the sliced entry does next: ask, stand aside, send the slice, or end."""
    reason = _why_over(state, now)
    if reason:
        return end_walk(state, reason), ()
    if state.live(Role.ENTRY) or not _is_due(state, now):
        return state, ()
    if state.walk.aside_since is not None and not _stands_aside(state, now):
        return _give_up(state, now), ()  # the stop comes back first
    if state.hours.halted or not state.hours.is_open:
        return state, ()
    if state.walk.aside_since is None:
        if not _is_covered(state):
            return state, ()
        asked, commands = _ask(state, now, busy)
        if commands or asked is None:
            return asked or state, commands
        if _price(state) is None:
            return _give_up(state, now), ()
    return _send(_stand_aside(state, now), now, busy)


def slice_deadlines(state: TradeState) -> list[datetime]:
    """When time alone moves the slices on."""
    if not ts.is_slicing(state):
        return []
    times = [_window_end(state)]
    times += [_work_ends(state, o) for o in state.live(Role.ENTRY)]
    times += [o.retry_at for o in state.live() if o.retry_at is not None]
    begun, walk = _begun(state), state.walk
    if begun < len(_sizes(state)):
        times.append(_due_at(state, begun))
    if walk.next_step_at is not None:
        times.append(walk.next_step_at)
    if walk.asked_at is not None:
        times.append(walk.asked_at + timedelta(seconds=ASK_AGAIN_S))
    if walk.aside_since is not None:
        times.append(walk.aside_since + timedelta(seconds=ASIDE_MAX_S))
    last = last_order(state, Role.ENTRY)
    if last is not None and last.state is OrderState.NOT_SENT and last.retry_at is not None:
        times.append(last.retry_at)
    return times


# --- the course ---------------------------------------------------------------------------------


def _sizes(state: TradeState) -> tuple[Decimal, ...]:
    assert state.ticket is not None
    assert state.plan.slices is not None
    quantity = state.ticket.approved.quantity
    plan = state.plan
    return slice_sizes(plan.trade_id, quantity, state.plan.slices.count, plan.instrument)


def _window_s(state: TradeState) -> float:
    assert state.plan.slices is not None
    return state.clock.wall_duration_s(float(state.plan.slices.window_s))


def _window_end(state: TradeState) -> datetime:
    assert state.walk.started_at is not None
    return state.walk.started_at + timedelta(seconds=_window_s(state))


def _due_at(state: TradeState, index: int) -> datetime:
    """Wall instant at which slice `index` (0-based) is due."""
    assert state.walk.started_at is not None
    interval = timedelta(seconds=_window_s(state)) / len(_sizes(state))
    return state.walk.started_at + interval * index


def _begun(state: TradeState) -> int:
    """Slices that went out; one that was definitely not sent counts as not begun."""
    last = last_order(state, Role.ENTRY)
    unsent = last is not None and last.state is OrderState.NOT_SENT
    return state.walk.step - 1 if unsent else state.walk.step


def _number_due(state: TradeState, now: datetime) -> int:
    """How many slices should have begun by now: missed ones are carried, never crowded."""
    count = len(_sizes(state))
    return sum(now >= _due_at(state, index) for index in range(count))


def _is_due(state: TradeState, now: datetime) -> bool:
    if not is_due(state.walk.next_step_at, now):
        return False
    last = last_order(state, Role.ENTRY)
    if last is not None and last.state is OrderState.NOT_SENT and not is_due(last.retry_at, now):
        return False
    return _number_due(state, now) > _begun(state)


def _work_ends(state: TradeState, record: OrderRecord) -> datetime:
    """Wall instant at which a slice's rest is cancelled; at once if that was refused before."""
    assert state.plan.slices is not None
    work_s = 0.0 if record.refusals else float(state.plan.slices.work_wall_s)
    return record.changed_at + timedelta(seconds=work_s)


def _why_over(state: TradeState, now: datetime) -> str:
    """The reason why no further slice is wanted, empty to go on."""
    assert state.ticket is not None
    filled = ts.entry_quantity(state)
    if filled >= state.ticket.approved.quantity:
        return "filled"
    if overfill_possible(state):
        return "overfill_guard"
    if any(ts.fills_of(state, o) or o.reported_filled for o in state.orders if _is_exit(o)):
        return "protection_filled"
    if now >= _window_end(state):
        return "partial" if filled else "time"
    if state.live(Role.ENTRY):
        return ""
    last = last_order(state, Role.ENTRY)
    if last is None:
        if is_late(state.plan.signal_time, state.clock.market(now), state.plan.signal_max_age_s):
            return "signal_expired"
        if not state.hours.is_open or state.hours.halted:
            return "session_closed"
    elif _ended_it(state, last):
        return _ended_it(state, last)
    elif _begun(state) >= len(_sizes(state)) and not ts.missing_fills(state):
        return "partial" if filled else "time"
    if state.kill_mode is not None:
        return "killed"
    return "invalidated" if _is_invalidated(state) else ""


def _is_exit(record: OrderRecord) -> bool:
    return record.role is not Role.ENTRY


def _ended_it(state: TradeState, last: OrderRecord) -> str:
    """Why the last slice's end is the end of the entry; empty if another one may follow."""
    if last.state is OrderState.NOT_SENT:
        attempts = 0
        for record in reversed([o for o in state.orders if o.role is Role.ENTRY]):
            if record.state is not OrderState.NOT_SENT:
                break
            attempts += 1
        final = last.reject_code not in _RETRYABLE | {"PROVEN_ABSENT"}
        if final or attempts >= ENTRY_ATTEMPTS_MAX:
            return f"not_sent:{last.reject_code}"
    if last.state in (OrderState.REJECTED, OrderState.REPLACED):
        return str(last.state)
    ends_itself = last.intent is None or last.intent.body.time_in_force is TimeInForce.IOC
    was_ours = ends_itself or last.client_id == state.walk.timed_out
    if last.state in (OrderState.CANCELED, OrderState.EXPIRED) and not was_ours:
        return str(last.state)
    return ""


def _is_invalidated(state: TradeState) -> bool:
    """True if the market stands beyond stop or first target: no more is bought there."""
    below, above = invalid_bounds(state)
    mid = state.quote.mid if state.quote is not None else None
    if mid is None:
        return False
    return (below is not None and mid <= below) or (above is not None and mid >= above)


# --- one slice ----------------------------------------------------------------------------------


def _is_covered(state: TradeState) -> bool:
    """True if the stop covers all that is held: nothing is added to a bare position."""
    resting = state.live(Role.STOP, Role.TARGET)
    if not all(is_settled(o) for o in resting):
        return False
    return ts.resting_stop_quantity(state) >= max(ts.held_units(state), ZERO)


def _ask(
    state: TradeState, now: datetime, busy: Collection[str]
) -> tuple[TradeState | None, tuple[Command, ...]]:
    """Asks for a fresh quote and for the proof of the last slice; None while answers are due.

    Only a read after the slice's end shows that no execution of it is missing, so that slices
    together never exceed what was approved (I15).
    """
    commands: list[Command] = []
    read_at, asked_at = state.quote_read_at, state.walk.asked_at
    fresh = read_at is not None and (now - read_at).total_seconds() <= QUOTE_FRESH_S
    proven = is_proven(state)
    quote = ReadQuote(legs=state.plan.legs)
    again = asked_at is None or (now - asked_at).total_seconds() >= ASK_AGAIN_S
    if not fresh and again and quote.key not in busy:
        commands.append(quote)
        state = state.changed(walk=state.walk.model_copy(update={"asked_at": now}))
    if not proven and is_due(state.read_after, now):
        state, read = read_orders(state, now, busy, "before the next slice")
        commands += read
    if commands:
        return state, tuple(commands)
    return (state, ()) if fresh and proven else (None, ())


def _stand_aside(state: TradeState, now: datetime) -> TradeState:
    if state.walk.aside_since is not None:
        return state
    return state.changed(walk=state.walk.model_copy(update={"aside_since": now}))


def _stands_aside(state: TradeState, now: datetime) -> bool:
    """True while protection is down for a slice that may still go out."""
    since = state.walk.aside_since
    if since is None or state.paused or state.needs_operator or state.kill_mode is not None:
        return False
    if state.hours.halted or not state.hours.is_open:
        return False
    return (now - since).total_seconds() < ASIDE_MAX_S


def _give_up(state: TradeState, now: datetime) -> TradeState:
    """No price, or the stop did not get out of the way in time: it comes back, then a new try."""
    again = now + timedelta(seconds=TRY_AGAIN_S)
    update = {"aside_since": None, "next_step_at": again}
    return state.changed(walk=state.walk.model_copy(update=update))


def _send(state: TradeState, now: datetime, busy: Collection[str]) -> _Result:
    """Takes the stop out of the way where it must be, then sends the slice."""
    assert state.ticket is not None
    resting = state.live(Role.STOP, Role.TARGET)
    if resting and not state.ticket.capabilities.opposite_side_while_entry_works:
        return cancel_orders(state, resting, now, busy, Urgency.PROTECT)
    price = _price(state)
    if price is None or ts.missing_fills(state):
        return state, ()
    number = _number_due(state, now)
    wanted = total(_sizes(state)[:number]) - ts.entry_quantity(state)
    walk = state.walk.model_copy(
        update={"step": number, "aside_since": None, "asked_at": None, "next_step_at": None}
    )
    if wanted <= 0:
        return state.changed(walk=walk), ()
    state, command = place(
        state,
        Purpose.ENTRY,
        Role.ENTRY,
        entry_body(state, state.ticket.approved, price, now, wanted),
        now,
        urgency=Urgency.ENTRY,
        increasing=True,
        not_after=min(now + timedelta(seconds=ASIDE_MAX_S), _window_end(state)),
        reason=f"slice {number}/{len(_sizes(state))}",
    )
    return state.changed(walk=walk), (command,)


def _price(state: TradeState) -> Decimal | None:
    """The plan's start in the quote just read, capped by the worst price; None without a price."""
    assert state.ticket is not None
    quote, plan = state.quote, state.plan
    mid = quote.mid if quote is not None else None
    if quote is None or mid is None:
        return None
    start = wished_start(plan.walk.start, quote, mid, plan.side)
    worst = state.ticket.approved.worst_price
    return ladder_price(plan.side, start, plan.walk.step, worst, 0, plan.instrument)
