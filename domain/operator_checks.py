"""May a person do this to the trade now? Pure checks, asked before a command and in the fold.

Every answer is `CODE field: what was, what is allowed` or empty. The validator of the workflow
asks first, so that a refused command leaves no trace in history; the fold asks again, because
facts that were still waiting may have changed the trade.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal

from domain import trade_state as ts
from domain.closing import why_not_close
from domain.facts import CloseRequested, OperatorCommand, OperatorVerb
from domain.idempotency import body_hash
from domain.leaving import NOT_REDUCING, POSITION_DIFFERS
from domain.order import OrderState, Side
from domain.trade_state import CommandOutcome, Role, TradeState

STALE_VERSION = "STALE_VERSION"
IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
_NOT_THERE = (POSITION_DIFFERS, NOT_REDUCING)
SUPERSEDED = "SUPERSEDED"
_NOT_BODY = {"at", "by", "reason", "command_id", "version", "evidence", "reference"}


def body_of(fact: OperatorCommand | CloseRequested) -> str:
    """Hash of what is asked for; who, when and why are no part of it (faults.md row 37)."""
    return body_hash(fact.model_dump(exclude=_NOT_BODY, exclude_none=True))


def outcome_of(state: TradeState, command_id: str) -> CommandOutcome | None:
    """What the trade remembers of the command."""
    return next((each for each in state.outcomes if each.command_id == command_id), None)


def why_not(state: TradeState, fact: OperatorCommand | CloseRequested) -> str:
    """Why the command is refused; empty if it may be carried out.

    A repeat of a known command is no reason (I17); another body under its id is (row 37).
    """
    known = outcome_of(state, fact.command_id)
    if known is not None:
        if known.body_hash == body_of(fact):
            return ""
        return f"{IDEMPOTENCY_MISMATCH} command_id: {fact.command_id} was another command"
    if ts.is_final(state):
        return f"ALREADY_CLOSED trade: it ended ({ts.stage(state)})"
    if fact.version is not None and fact.version != state.version:
        return f"{STALE_VERSION} version: value was {fact.version}, the trade has {state.version}"
    if state.releasing:
        return "RELEASING trade: it is being released; only flatten and kill still count"
    if isinstance(fact, CloseRequested):
        return why_not_close(state, fact)
    check = _CHECKS.get(fact.verb)
    return "" if check is None else check(state, fact)


def _take_over(state: TradeState, fact: OperatorCommand) -> str:
    if state.ticket is None:
        return "NOT_STARTED trade: the risk gate has not answered yet"
    if ts.wants_exit(state) and state.exit.reason in ("flatten", "kill"):
        return f"ALREADY_CLOSING trade: {state.exit.reason} gets it out and is not taken over"
    return ""


def _cancel_entry(state: TradeState, fact: OperatorCommand) -> str:
    if ts.entry_is_dead(state):
        return f"ENTRY_OVER entry: it ended already ({state.walk.ended})"
    return ""


def _move_stop(state: TradeState, fact: OperatorCommand) -> str:
    if fact.price is None or fact.price <= 0:
        return f"PRICE_NOT_POSITIVE price: value was {fact.price}, allowed > 0"
    if state.plan.stop is None:
        return "STOP_MISSING stop: the plan of this trade has none to move"
    refusal = _why_no_exit_to_move(state)
    if refusal:
        return refusal
    price = ts.protective_tick(state, fact.price)
    buy = state.plan.side is Side.BUY
    old = _stop_that_holds(state)
    is_wider = old is not None and (price < old if buy else price > old)
    if is_wider and not fact.widen:
        side = ">=" if buy else "<="
        return f"STOP_WIDER price: value was {price}, allowed {side} {old}, or --widen"
    return _why_beyond(state, price, fact, is_stop=True)


def _stop_that_holds(state: TradeState) -> Decimal | None:
    """The tightest stop that rests now; what the trade wants if none does."""
    resting = [o.stop_price for o in state.live(Role.STOP) if o.stop_price is not None]
    if not resting:
        return state.stop_price
    return max(resting) if state.plan.side is Side.BUY else min(resting)


def _move_target(state: TradeState, fact: OperatorCommand) -> str:
    targets = state.plan.targets
    if fact.target is None or not 1 <= fact.target <= len(targets):
        return f"TARGET_UNKNOWN target: value was {fact.target}, allowed 1..{len(targets)}"
    if targets[fact.target - 1].price is None:
        return f"TARGET_UNKNOWN target: number {fact.target} is a runner without a price"
    if fact.price is None or fact.price <= 0:
        return f"PRICE_NOT_POSITIVE price: value was {fact.price}, allowed > 0"
    refusal = _why_no_exit_to_move(state)
    if refusal:
        return refusal
    tranche = fact.target - 1
    if ts.rescaled_tranches(state)[tranche] <= ts.tranche_sold(state, tranche):
        return f"TARGET_DONE target: nothing is left of tranche {fact.target}"
    buy = state.plan.side is Side.BUY
    stop = state.stop_price
    if stop is not None and (fact.price <= stop if buy else fact.price >= stop):
        side = ">" if buy else "<"
        return f"TARGETS_INVALID price: value was {fact.price}, allowed {side} stop {stop}"
    return _why_beyond(state, fact.price, fact, is_stop=False)


def _why_no_exit_to_move(state: TradeState) -> str:
    if state.taken_over:
        return "TAKEN_OVER trade: you trade it by hand; resume it first"
    if ts.wants_exit(state):
        return f"ALREADY_CLOSING trade: it is getting out ({state.exit.reason})"
    if not ts.entry_is_dead(state):
        return "ENTRY_WORKS trade: its exits follow the entry until that has ended"
    if ts.held_units(state) <= 0:
        return "NOTHING_HELD trade: there is no exit to move"
    return ""


def _why_beyond(state: TradeState, price: object, fact: OperatorCommand, *, is_stop: bool) -> str:
    """A price that the market has reached would fill at once: only if that is meant."""
    market = fact.reference
    if market is None or fact.marketable or fact.price is None:
        return ""
    must_be_below = (state.plan.side is Side.BUY) == is_stop
    if fact.price < market if must_be_below else fact.price > market:
        return ""
    side, what = ("<" if must_be_below else ">"), "STOP" if is_stop else "TARGET"
    text = f"value was {price}, allowed {side} {market} (market), or --marketable"
    return f"{what}_BEYOND_MARKET price: {text}"


def _resolve(state: TradeState, fact: OperatorCommand) -> str:
    """I10: a person may only answer for an order of which nobody knows anything."""
    record = state.order(fact.client_id or "")
    if record is None:
        return f"ORDER_NOT_FOUND client_id: value was {fact.client_id}, see trade show"
    if record.state is not OrderState.UNKNOWN:
        return f"ORDER_IS_KNOWN client_id: the broker says {record.state}; nothing to resolve"
    if not fact.evidence.strip():
        return "EVIDENCE_REQUIRED evidence: say where you saw it"
    if fact.resolution is None:
        return "RESOLUTION_INVALID as: allowed filled, dead"
    if fact.resolution == "dead":
        return ""
    if state.plan.is_combo:
        return "LEGS_UNEVEN as: executions of a structure are booked by the broker only"
    if fact.quantity is None or not 0 < fact.quantity <= record.quantity:
        return f"QTY_RANGE quantity: value was {fact.quantity}, allowed 0 < q <= {record.quantity}"
    if fact.price is None or fact.price <= 0:
        return f"PRICE_NOT_POSITIVE price: value was {fact.price}, allowed > 0"
    return ""


def _release(state: TradeState, fact: OperatorCommand) -> str:
    """Like a take-over, also in the middle of an exit: nothing is let go while an order of it is
    in doubt. A flatten that cannot sell what it believes to hold ends here and nowhere else."""
    if ts.is_flat(state) and ts.entry_is_dead(state):
        return "NOTHING_HELD trade: there is nothing to release"
    if state.needs_operator.startswith(_NOT_THERE):
        return ""  # the broker has less of it, or none: only a person knows who sold it
    return _take_over(state, fact)


def _close_as_flat(state: TradeState, fact: OperatorCommand) -> str:
    """Only with evidence: a person says that the broker has none of it any more (I10)."""
    if not fact.evidence.strip():
        return "EVIDENCE_REQUIRED evidence: say where you saw that it is flat"
    if state.ticket is None:
        return "NOT_STARTED trade: the risk gate has not answered yet"
    return ""


_CHECKS: Mapping[OperatorVerb, Callable[[TradeState, OperatorCommand], str]] = {
    OperatorVerb.TAKE_OVER: _take_over,
    OperatorVerb.CANCEL_ENTRY: _cancel_entry,
    OperatorVerb.MOVE_STOP: _move_stop,
    OperatorVerb.MOVE_TARGET: _move_target,
    OperatorVerb.RESOLVE_ORDER: _resolve,
    OperatorVerb.RELEASE: _release,
    OperatorVerb.CLOSE_AS_FLAT: _close_as_flat,
}
