"""The part close: what stays keeps its protection while the rest is sold.

A close says how much shall *stay*, so that it stays right whatever fills meanwhile (level, not
edge). Resting exits first stand back to that size, the last targets first: tranches that stay
whole are not touched, one tranche is made smaller, the others are dropped. As soon as the broker
has released enough, the exit goes out together with the smaller tranche. Stops, targets and exit
never cover more than is held (I4). While nothing can trade (halt, closed session, no quote, ladder
exhausted) everything is protected as before (K3).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal

from domain import trade_state as ts
from domain.changes import end_walk, start_exit
from domain.commands import Urgency
from domain.facts import CloseRequested
from domain.intents import is_due
from domain.leaving import can_trade_now, is_asking, send_exit, wait_for_exit
from domain.money import ONE, ZERO
from domain.moves import Step, cancel_orders, is_fresh, read_orders
from domain.trade_state import ExitProgress, Role, TradeState

PART_CLOSE = "part_close"
EXIT_SIGNAL = "exit_signal"
"""Exit name of a close that a strategy asked for, not a person."""


def open_units(state: TradeState) -> Decimal:
    """Units a close is about: held, less what an earlier part close is already taking off."""
    held = max(ts.held_units(state), ZERO)
    return min(held, state.exit.keep) if ts.wants_part_close(state) else held


def why_not_close(state: TradeState, fact: CloseRequested) -> str:
    """`CODE field: …` why this close cannot be; empty if it can (faults.md §3 rows 6-8)."""
    amount, share = fact.quantity, fact.fraction
    fault = _size_fault(amount, share)
    if fault:
        return fault
    if ts.wants_exit(state):
        return f"ALREADY_CLOSING trade: it is getting out ({state.exit.reason})"
    if state.taken_over and fact.exit_name == EXIT_SIGNAL:
        return "TAKEN_OVER trade: a person trades it by hand; the strategy does not"
    if share == ONE:
        return ""
    held = open_units(state)
    if held == 0:
        return "NOTHING_HELD quantity: there is nothing to close"
    if state.taken_over:
        return "TAKEN_OVER trade: you trade it by hand; resume it first, or close all of it"
    if not ts.is_balanced(state):
        return "LEGS_UNEVEN quantity: a structure with uneven legs is closed as a whole"
    if amount is not None and amount > held:
        return f"QTY_ABOVE_MAX quantity: value was {amount}, allowed <= {held} held"
    lots = state.plan.instrument
    if amount is not None and lots.lot_down(amount) != amount:
        return f"QTY_NOT_WHOLE quantity: value was {amount}, allowed multiples of {lots.lot_size}"
    if share is not None and lots.lot_down(held * share) == 0:
        return f"QTY_BELOW_LOT fraction: {share} of {held} is less than one lot"
    return ""


def _size_fault(amount: Decimal | None, share: Decimal | None) -> str:
    if (amount is None) == (share is None):
        return "CLOSE_SIZE quantity: allowed is one of quantity and fraction"
    if amount is not None and amount <= 0:
        return f"QTY_NOT_POSITIVE quantity: value was {amount}, allowed > 0"
    if share is not None and not ZERO < share <= ONE:
        return f"FRACTION_RANGE fraction: value was {share}, allowed 0 < f <= 1"
    return ""


def begin_close(state: TradeState, fact: CloseRequested, now: datetime) -> TradeState:
    """State that knows how much shall stay. `why_not_close` has been asked."""
    held = open_units(state)
    wanted = fact.quantity
    if wanted is None:
        assert fact.fraction is not None
        wanted = state.plan.instrument.lot_down(held * fact.fraction)
    if fact.fraction == ONE or wanted >= held:
        return start_exit(state, fact.exit_name, fact.command_id)
    progress = state.exit
    if not ts.wants_part_close(state):
        progress = ExitProgress(reason=PART_CLOSE, began_at=now)
    progress = progress.model_copy(update={"keep": held - wanted, "command_id": fact.command_id})
    return end_walk(state, PART_CLOSE).changed(exit=progress)


def close_part(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """Brings the position down to what shall stay; protection of the rest goes on beside it."""
    if ts.wants_exit(state) or not ts.entry_is_dead(state):
        return state, (), False
    working = state.live(Role.EXIT)
    surplus = ts.held_units(state) - state.exit.keep
    if not ts.wants_part_close(state) or surplus <= 0:
        if not working:
            return _finished(state), (), False
        state, commands = cancel_orders(state, working, now, busy, Urgency.EXIT)
        return state, commands, False
    if working:
        state, commands, _ = wait_for_exit(state, now, busy)
        return state, commands, False
    if not is_due(state.exit.retry_at, now):
        return _releasing(state, False), (), False
    state, commands, can_trade = can_trade_now(state, now, busy)
    if not can_trade:
        keeps_room = state.exit.releasing and is_asking(state, now)
        return _releasing(state, keeps_room), commands, False
    if not is_fresh(state, now):
        state, commands = read_orders(state, now, busy, "before a part is closed")
        return state, commands, False
    state = _releasing(state, True)
    if ts.held_units(state) - ts.reserved_units(state, Role.STOP, Role.TARGET) < surplus:
        return state, (), False  # protect makes the room
    state, commands, _ = send_exit(state, surplus, now, busy)
    return (state if state.live(Role.EXIT) else _releasing(state, False)), commands, False


def _finished(state: TradeState) -> TradeState:
    """The part is gone; also when stop or targets took it meanwhile."""
    return state.changed(exit=ExitProgress()) if ts.wants_part_close(state) else state


def _releasing(state: TradeState, releasing: bool) -> TradeState:
    if state.exit.releasing == releasing:
        return state
    return state.changed(exit=state.exit.model_copy(update={"releasing": releasing}))
