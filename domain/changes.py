"""Changes to a trade that several parts make: alerts, walk's end, exits, order moves, clocks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from domain import trade_state as ts
from domain.commands import Alert, AlertSeverity
from domain.money import ZERO
from domain.order import (
    OrderEvent,
    OrderState,
    next_order_state,
)
from domain.trade_state import OrderRecord, TradeState

CANCEL_REFUSALS_MAX = 5
SEEN_COMMANDS_MAX = 256
TOLD_MAX = 64


def alert(
    state: TradeState,
    code: str,
    text: str,
    severity: AlertSeverity = AlertSeverity.WARNING,
) -> TradeState:
    """State with an alert queued; equal alerts queue once."""
    entry = Alert(code=code, severity=severity, text=text[:500])
    return state if entry in state.alerts else state.changed(alerts=(*state.alerts, entry))


def alert_once(
    state: TradeState,
    code: str,
    text: str,
    severity: AlertSeverity = AlertSeverity.WARNING,
) -> TradeState:
    """State with an alert of something that lasts: told the first time that it is seen.

    Every alert wakes the trade, which looks again: what still is so must not be told again (I18).
    """
    known = f"{code} {text}"
    if known in state.told:
        return state
    told = (*state.told, known)[-TOLD_MAX:]
    return alert(state, code, text, severity).changed(told=told)


def take_command_id(state: TradeState, command_id: str) -> TradeState | None:
    """State that remembers the id, or None if the command was seen before (I17, A9)."""
    if command_id in state.seen_commands:
        return None
    seen = (*state.seen_commands, command_id)[-SEEN_COMMANDS_MAX:]
    return state.changed(seen_commands=seen)


def ask_soon(state: TradeState) -> TradeState:
    """Ends the pause that grew while reads brought nothing: there is news, or a new wish."""
    if not state.reads_in_vain:
        return state
    orders = tuple(
        record.model_copy(update={"retry_at": None})
        if record.refusals > CANCEL_REFUSALS_MAX
        else record
        for record in state.orders
    )
    return state.changed(reads_in_vain=0, read_after=None, orders=orders)


def start_exit(state: TradeState, reason: str, command_id: str = "") -> TradeState:
    """Begins the reducing exit; it takes over from a part close.

    A stronger reason (kill, flatten) takes the name over.
    """
    is_full = bool(state.exit.reason) and state.exit.keep == 0
    if is_full and reason not in ("flatten", "kill"):
        return state
    state = ask_soon(state)
    if state.taken_over and not is_full:
        # A person may have sold at the broker's own screen what the trade believes to hold.
        state = state.changed(at_broker=None, read_needed="what a person left")
    exit_now = state.exit.model_copy(
        update={"reason": reason, "command_id": command_id, "keep": ZERO, "releasing": False}
    )
    walk = state.walk if state.walk.ended else state.walk.model_copy(update={"ended": reason})
    return state.changed(exit=exit_now, walk=walk)


def end_walk(state: TradeState, reason: str) -> TradeState:
    """No further entry work; the first reason stays."""
    if state.walk.ended:
        return state
    return state.changed(walk=state.walk.model_copy(update={"ended": reason}))


def count_version(before: TradeState, after: TradeState) -> TradeState:
    """`after` with the next version if something changed that a person should know first."""
    if _shape(before) == _shape(after):
        return after
    return after.changed(version=before.version + 1)


def _shape(state: TradeState) -> tuple[object, ...]:
    counts = (len(state.fills), len(state.busted), len(state.adjustments), len(state.moved_targets))
    exiting = (state.exit.reason, state.exit.keep)
    hands = (state.paused, state.taken_over, state.giving_back, state.withdrawn, state.releasing)
    ends = (state.walk.ended, state.kill_mode, state.needs_operator, state.settled)
    return (*counts, *exiting, *hands, *ends, state.stop_price, state.ticket is None)


def count_naked(state: TradeState, now: datetime) -> TradeState:
    """State whose naked clock runs if it has to, and stands if not (I4)."""
    clock, is_naked = state.naked, ts.protection(state) is ts.Protection.NAKED
    if is_naked and clock.since is None:
        return state.changed(naked=clock.model_copy(update={"since": now}))
    if is_naked or clock.since is None:
        return state
    gap_s = (now - clock.since).total_seconds()
    counted = ts.NakedClock(total_s=clock.total_s + gap_s, longest_s=max(clock.longest_s, gap_s))
    return state.changed(naked=counted)


def move(record: OrderRecord, event: OrderEvent, now: datetime, **update: Any) -> OrderRecord:
    """Record after the event of the table; `changed_at` moves only if the state did.

    Looks for an order in doubt are counted as `refusals`; once it is known, nothing was refused.
    """
    after = next_order_state(record.state, event)
    if record.state is OrderState.UNKNOWN and after is not OrderState.UNKNOWN:
        update = {"refusals": 0, **update}
    changed_at = now if after is not record.state else record.changed_at
    return record.model_copy(update={"state": after, "changed_at": changed_at, **update})
