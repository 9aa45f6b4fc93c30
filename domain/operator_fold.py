"""A person's commands folded into the trade: each counts once, each leaves its outcome."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from domain import trade_state as ts
from domain.changes import alert, end_walk, move, take_command_id
from domain.closing import begin_close
from domain.commands import AlertSeverity, AnsweredOrder
from domain.facts import (
    AdjustmentKind,
    BookedByHand,
    BrokerSnapshot,
    CloseRequested,
    OperatorCommand,
    OperatorVerb,
    PositionAdjusted,
)
from domain.fold_orders import AS_FLAT, BY_HAND
from domain.money import ZERO, divide
from domain.operator_checks import SUPERSEDED, body_of, why_not
from domain.order import OrderEvent, Side
from domain.protection import Layout, layout
from domain.trade_state import CommandOutcome, ExitProgress, MovedTarget, Role, TradeState

OUTCOMES_MAX = 64


def operate(state: TradeState, fact: OperatorCommand | CloseRequested, now: datetime) -> TradeState:
    """State after the command; what cannot be is refused and told (I17, faults.md row 65)."""
    seen = take_command_id(state, fact.command_id)
    if seen is None:
        return state
    refusal = why_not(state, fact)
    state = _remember(seen, fact, refusal)
    verb = "close" if isinstance(fact, CloseRequested) else str(fact.verb)
    if refusal:
        return alert(state, f"{verb.upper()}_REFUSED", refusal)
    return begin_close(state, fact, now) if isinstance(fact, CloseRequested) else act(state, fact)


def _remember(
    state: TradeState, fact: OperatorCommand | CloseRequested, refusal: str
) -> TradeState:
    outcome = CommandOutcome(
        command_id=fact.command_id,
        verb="close" if isinstance(fact, CloseRequested) else fact.verb,
        by=fact.by,
        reason=fact.reason,
        at=fact.at,
        body_hash=body_of(fact),
        refusal=refusal,
    )
    return state.changed(outcomes=(*state.outcomes, outcome)[-OUTCOMES_MAX:])


def act(state: TradeState, fact: OperatorCommand) -> TradeState:
    """State after a command that may be carried out."""
    match fact.verb:
        case OperatorVerb.PAUSE:
            return state.changed(paused=True)
        case OperatorVerb.RESUME | OperatorVerb.HAND_BACK:
            return _resume(state)
        case OperatorVerb.TAKE_OVER:
            return _take_over(state, withdrawn=fact.release_orders)
        case OperatorVerb.CANCEL_ENTRY:
            return end_walk(state, "cancelled_by_operator")
        case OperatorVerb.MOVE_STOP:
            return _move_stop(state, fact)
        case OperatorVerb.MOVE_TARGET:
            return _move_target(state, fact)
        case OperatorVerb.RESOLVE_ORDER:
            return _resolve_by_hand(state, fact)
        case OperatorVerb.RELEASE:
            return _take_over(state, withdrawn=True).changed(releasing=True)
        case OperatorVerb.CLOSE_AS_FLAT:
            return _close_as_flat(state, fact)


# --- whose hand it is -----------------------------------------------------------------------------


def _resume(state: TradeState) -> TradeState:
    """Ends a pause and a parking at once; a trade taken over comes back after a read."""
    return state.changed(
        paused=False,
        needs_operator="",
        giving_back=state.taken_over,
        read_needed="resumed",
    )


def _take_over(state: TradeState, *, withdrawn: bool) -> TradeState:
    """Automation off: no entry, no exit of ours; resting protection stays or is withdrawn."""
    state = end_walk(state, "taken_over")
    text = f"{SUPERSEDED} trade: taken over before all was closed"
    state = _refuse(state, state.exit.command_id, text)
    return state.changed(
        taken_over=True,
        giving_back=False,
        withdrawn=state.withdrawn or withdrawn,
        exit=ExitProgress(),
    )


def see_what_is_left(state: TradeState, fact: BrokerSnapshot) -> TradeState:
    """Remembers what the account holds of a taken-over trade: no exit may sell more (I2)."""
    if not state.taken_over or not fact.complete:
        return state
    held = {position.symbol: position.quantity for position in fact.positions}
    units = [
        divide(held.get(leg.instrument.symbol, ZERO), Decimal(leg.side.sign * leg.ratio))
        for leg in state.plan.legs
    ]
    return state.changed(at_broker=min(units))


def give_back(state: TradeState, fact: BrokerSnapshot) -> TradeState:
    """Automation goes on if the account still holds what the trade believes to hold (I2).

    A person may have sold at the broker's own screen what the trade would protect: then exits
    would open a position the other way round, and the trade stays taken over.
    """
    if not state.giving_back or not fact.complete:
        return state
    resumed = _taken_resume(state)
    if resumed is not None and fact.started_at < resumed.at:
        # It began before the person gave the trade back: they may have sold after it.
        return state.changed(read_needed="resumed")
    held = {position.symbol: position.quantity for position in fact.positions}
    for leg in state.plan.legs:
        symbol = leg.instrument.symbol
        ours, theirs = ts.position_of(state, symbol), held.get(symbol, ZERO)
        if ours * theirs < 0 or abs(theirs) < abs(ours):
            text = f"POSITION_DIFFERS {symbol}: the broker holds {theirs}, the trade {ours}"
            state = _refuse_resume(state.changed(giving_back=False), text)
            return alert(state, "RESUME_REFUSED", text, AlertSeverity.CRITICAL)
    return state.changed(taken_over=False, giving_back=False, withdrawn=False)


def _refuse_resume(state: TradeState, refusal: str) -> TradeState:
    """The resume that was taken hears it; it may be forgotten by now, its alert is not."""
    taken = _taken_resume(state)
    return state if taken is None else _refuse(state, taken.command_id, refusal)


def _taken_resume(state: TradeState) -> CommandOutcome | None:
    verbs = (OperatorVerb.RESUME, OperatorVerb.HAND_BACK)
    taken = [o for o in state.outcomes if o.verb in verbs and not o.refusal]
    return taken[-1] if taken else None


def _refuse(state: TradeState, command_id: str, refusal: str) -> TradeState:
    """State in which a command that was taken was refused after all."""
    outcomes = tuple(
        o.model_copy(update={"refusal": refusal}) if o.command_id == command_id else o
        for o in state.outcomes
    )
    return state.changed(outcomes=outcomes)


# --- prices ---------------------------------------------------------------------------------------


def _move_stop(state: TradeState, fact: OperatorCommand) -> TradeState:
    """The operator may move a stop both ways; it is the one hand above the ratchet."""
    assert fact.price is not None
    for stop in state.live(Role.STOP):
        # What the venue refused at another price says nothing about this one.
        state = state.with_order(stop.model_copy(update={"refusals": 0, "retry_at": None}))
    return _watch_again(state.changed(stop_price=ts.protective_tick(state, fact.price)))


def _move_target(state: TradeState, fact: OperatorCommand) -> TradeState:
    """The price is rounded to the tick that fills later, never earlier than asked."""
    assert fact.price is not None
    assert fact.target is not None
    instrument = state.plan.instrument
    buy = state.plan.side is Side.BUY
    price = instrument.tick_up(fact.price) if buy else instrument.tick_down(fact.price)
    moved = MovedTarget(tranche=fact.target - 1, price=price)
    others = tuple(each for each in state.moved_targets if each.tranche != moved.tranche)
    return _watch_again(state.changed(moved_targets=(*others, moved)))


def _watch_again(state: TradeState) -> TradeState:
    """Where no order rests the exit watch has to learn the new price."""
    if state.ticket is None or layout(state) is not Layout.WATCHED:
        return state
    return state.changed(watched_epoch=0)


# --- unknown orders -------------------------------------------------------------------------------


def _resolve_by_hand(state: TradeState, fact: OperatorCommand) -> TradeState:
    """A person answers for an unknown order, with evidence (I10). Broker facts win later."""
    record = state.order(fact.client_id or "")
    assert record is not None
    assert fact.resolution is not None
    answer = AnsweredOrder(
        client_id=record.client_id, resolution=fact.resolution, evidence=fact.evidence
    )
    state = state.changed(
        answers=(*state.answers, answer), read_needed="order resolved by hand", needs_operator=""
    )
    if fact.resolution == "dead":
        dead = move(record, OrderEvent.CANCELED, fact.at, reject_code=BY_HAND)
        return _free(state.with_order(dead), record.replaces, fact.at)
    filled = move(record, OrderEvent.FILL, fact.at, reject_code=BY_HAND)
    adjusted = PositionAdjusted(
        at=fact.at,
        adjustment_id=f"{BY_HAND}/{record.client_id}",
        symbol=record.symbol,
        quantity=(fact.quantity or ZERO) * record.side.sign,
        price=fact.price,
        adjustment=AdjustmentKind.BY_HAND,
    )
    return state.with_order(filled).changed(
        adjustments=(*state.adjustments, adjusted),
        booking=(*state.booking, adjusted),
        first_fill_at=state.first_fill_at or state.clock.market(fact.at),
    )


def _close_as_flat(state: TradeState, fact: OperatorCommand) -> TradeState:
    """A person answers for every order and for the position: the broker has none of it any more.

    The trade is done only when a read after this contradicts nothing; an order that is seen alive
    takes its answer back (I10). Nothing is claimed for what was held: no price is known.
    """
    state = end_walk(state, AS_FLAT)
    for record in state.live():
        state = state.with_order(move(record, OrderEvent.CANCELED, fact.at, reject_code=BY_HAND))
        if record.intent is not None:
            answer = AnsweredOrder(
                client_id=record.client_id, resolution="dead", evidence=fact.evidence
            )
            state = state.changed(answers=(*state.answers, answer))
    gone = tuple(
        PositionAdjusted(
            at=fact.at,
            adjustment_id=f"{BY_HAND}/{AS_FLAT}/{fact.command_id}/{leg.instrument.symbol}",
            symbol=leg.instrument.symbol,
            quantity=-ts.position_of(state, leg.instrument.symbol),
            adjustment=AdjustmentKind.BY_HAND,
        )
        for leg in state.plan.legs
        if ts.position_of(state, leg.instrument.symbol) != 0
    )
    return state.changed(
        adjustments=(*state.adjustments, *gone),
        booking=(*state.booking, *gone),
        exit=ExitProgress(reason=AS_FLAT, command_id=fact.command_id, asked_at=fact.at),
        needs_operator="",
        read_needed=AS_FLAT,
        taken_over=False,
        giving_back=False,
        withdrawn=False,
    )


def _free(state: TradeState, replaced: str | None, now: datetime) -> TradeState:
    """A replacement that never came to be leaves the old order as it was."""
    old = state.order(replaced) if replaced is not None else None
    if old is None or not old.is_live:
        return state
    return state.with_order(move(old, OrderEvent.REPLACE_REJECTED, now))


def booked_by_hand(state: TradeState, fact: BookedByHand, now: datetime) -> TradeState:
    """The ledger has it: nothing more to write."""
    return state.changed(
        booking=tuple(a for a in state.booking if a.adjustment_id not in fact.adjustment_ids),
        answers=tuple(a for a in state.answers if a.client_id not in fact.client_ids),
    )
