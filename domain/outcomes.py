"""What became of a person's command: refused, running or done, told from the trade as it is."""

from __future__ import annotations

from enum import StrEnum

from domain import trade_state as ts
from domain.money import shown
from domain.moves import is_settled
from domain.operator_checks import SUPERSEDED, outcome_of
from domain.protecting import RATCHET_REFUSALS_MAX
from domain.protection import Layout, layout
from domain.trade_state import CommandOutcome, OrderRecord, Role, TradeState

_AUTOMATIC = frozenset({"close", "move_stop", "move_target"})
"""What only automation carries out: a take-over ends it where it stands."""


class Progress(StrEnum):
    """UNKNOWN: the trade has not folded the command yet, or never heard of it."""

    UNKNOWN = "unknown"
    REFUSED = "refused"
    RUNNING = "running"
    DONE = "done"


def progress_of(state: TradeState, command_id: str) -> tuple[Progress, str]:
    """How far the command is, and in words what is true now.

    Judged from the trade, not from what was sent: an order counts when the broker confirmed it.
    """
    outcome = outcome_of(state, command_id)
    if outcome is None:
        return Progress.UNKNOWN, ""
    if outcome.refusal:
        return Progress.REFUSED, outcome.refusal
    progress, text = _PROGRESS[outcome.verb](state, outcome)
    if progress is Progress.RUNNING and ts.is_final(state):
        return Progress.DONE, f"the trade has ended; {_position(state)}"
    if progress is Progress.RUNNING and state.taken_over and outcome.verb in _AUTOMATIC:
        return Progress.REFUSED, f"{SUPERSEDED} trade: taken over before it was done"
    return progress, text


def _pause(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    working = _orders(state.live(Role.ENTRY))
    left = f"the working entry stays: {working}" if working else "no entry works"
    return Progress.DONE, f"no new entry order; {left}; {_position(state)}"


def _resume(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    if state.giving_back or state.read_needed:
        return Progress.RUNNING, "comparing with the broker first"
    return Progress.DONE, f"automation goes on; {_position(state)}"


def _take_over(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    roles = [Role.ENTRY, Role.EXIT, *((Role.STOP, Role.TARGET) if state.withdrawn else ())]
    leaving = state.live(*roles)
    if leaving:
        return Progress.RUNNING, f"taking back {_orders(leaving)}"
    doubtful = tuple(o for o in state.live() if not is_settled(o))
    if doubtful:
        return Progress.RUNNING, f"waiting for the broker's word on {_orders(doubtful)}"
    left = _orders(state.live())
    return Progress.DONE, f"yours now; {_position(state)}; left resting: {left or 'nothing'}"


def _cancel_entry(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    if not ts.entry_is_dead(state):
        return Progress.RUNNING, f"cancelling {_orders(state.live(Role.ENTRY))}"
    is_naked = ts.protection(state) is ts.Protection.NAKED
    if is_naked and not state.taken_over:
        return Progress.RUNNING, f"protecting what was filled; {_position(state)}"
    return Progress.DONE, f"entry is dead; {_position(state)}"


def _close(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    began = state.exit.began_at
    is_mine = bool(state.exit.reason) and state.exit.command_id == outcome.command_id
    # A later close took this one up: what both want off is still going.
    is_mine |= ts.wants_part_close(state) and began is not None and outcome.at >= began
    gone = ts.is_flat(state) and ts.entry_is_dead(state)
    if gone or not is_mine:
        if not gone and _protects_the_rest(state):
            return Progress.RUNNING, f"sold; the rest is being protected; {_position(state)}"
        return Progress.DONE, _position(state)
    stays = f", {shown(state.exit.keep)} stay" if state.exit.keep else ""
    pending = f"; pending: {state.exit.pending}" if state.exit.pending else ""
    return Progress.RUNNING, f"{_position(state)}{stays}{pending}"


def _protects_the_rest(state: TradeState) -> bool:
    """True while automation still brings the stop of what stays to the broker."""
    if state.taken_over or ts.wants_exit(state) or not ts.can_rest_stop(state):
        return False
    if layout(state) is Layout.WATCHED or state.hours.halted or not state.hours.is_open:
        return False
    resting = state.live(Role.STOP, Role.TARGET)
    covered = ts.resting_stop_quantity(state) >= abs(ts.held_units(state))
    return not covered or not all(map(is_settled, resting))


def _move_stop(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    stops = state.live(Role.STOP)
    if _is_watched(state) or (not stops and ts.is_flat(state)):
        return Progress.DONE, _position(state)
    at_price = all(o.stop_price == state.stop_price and is_settled(o) for o in stops)
    if stops and at_price and ts.resting_stop_quantity(state) >= abs(ts.held_units(state)):
        return Progress.DONE, f"stop rests at {state.stop_price}; {_position(state)}"
    stuck = [o for o in stops if o.refusals >= RATCHET_REFUSALS_MAX]
    if stuck:
        return Progress.REFUSED, f"RATCHET_REFUSED stop: it stays at {stuck[0].stop_price}"
    return Progress.RUNNING, f"moving the stop to {state.stop_price}"


def _move_target(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    if _is_watched(state) or ts.is_flat(state):
        return Progress.DONE, _position(state)
    targets = state.live(Role.TARGET)
    wrong = [o for o in targets if o.limit_price != ts.target_price(state, o.tranche or 0)]
    complete = ts.reserved_units(state, Role.STOP, Role.TARGET) >= abs(ts.held_units(state))
    if wrong or not complete or not all(map(is_settled, targets)):
        return Progress.RUNNING, "the pair of target and stop is being placed again"
    return Progress.DONE, f"working: {_orders(targets)}"


def _resolve(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    if state.answers or state.booking:
        return Progress.RUNNING, "booking your answer"
    return Progress.DONE, f"the order is settled by your word; {_position(state)}"


def _release(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    if state.settled:
        return Progress.DONE, "the position is EXTERNAL now; the trade has ended"
    working = _orders(state.live())
    return Progress.RUNNING, f"taking back {working}" if working else "booking the release"


def _close_as_flat(state: TradeState, outcome: CommandOutcome) -> tuple[Progress, str]:
    if state.settled:
        return Progress.DONE, "closed by your word; nothing is claimed for what was held"
    if state.exit.command_id != outcome.command_id:
        alive = _orders(state.live())
        return Progress.REFUSED, f"RESOLUTION_CONTRADICTED trade: the broker shows {alive}"
    return Progress.RUNNING, "reading the broker once more and booking"


_PROGRESS = {
    "pause": _pause,
    "resume": _resume,
    "hand_back": _resume,
    "take_over": _take_over,
    "cancel_entry": _cancel_entry,
    "close": _close,
    "move_stop": _move_stop,
    "move_target": _move_target,
    "resolve_order": _resolve,
    "release": _release,
    "close_as_flat": _close_as_flat,
}


def _price(record: OrderRecord) -> str:
    price = record.limit_price if record.limit_price is not None else record.stop_price
    return "market" if price is None else shown(price)


def _is_watched(state: TradeState) -> bool:
    return state.ticket is not None and layout(state) is Layout.WATCHED


def _position(state: TradeState) -> str:
    return f"held {shown(ts.held_units(state))}, protection {ts.protection(state)}"


def _orders(records: tuple[OrderRecord, ...]) -> str:
    return ", ".join(f"{o.role} {o.side} {shown(o.quantity)} @ {_price(o)}" for o in records)
