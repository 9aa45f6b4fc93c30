"""What a trade still does in a person's hands: withdraw its orders, book, let the position go."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from domain import trade_state as ts
from domain.commands import BookByHand, Urgency
from domain.facts import AdjustmentKind, PositionAdjusted
from domain.intents import is_due
from domain.moves import Step, cancel_orders, read_orders
from domain.order import OrderState
from domain.trade_state import Role, TradeState


def withdraw(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """Takes back what only automation may have working; protection if that was asked for."""
    roles = [Role.ENTRY, Role.EXIT]
    if state.withdrawn:
        roles += [Role.STOP, Role.TARGET]
    state, commands = cancel_orders(state, state.live(*roles), now, busy, Urgency.EXIT)
    return state, commands, False


def book(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """Writes to the ledger what a person changed; the same rows until it has them."""
    command = BookByHand(adjustments=state.booking, answers=state.answers)
    is_owed = bool(state.booking or state.answers) and command.key not in busy
    return state, (command,) if is_owed else (), False


def is_proven(state: TradeState) -> bool:
    """True if the broker was read after the last change of an order and no execution lacks."""
    changes = [o.changed_at for o in state.orders if o.state is not OrderState.NOT_SENT]
    known = state.knowledge_at
    read_since = not changes or (known is not None and known >= max(changes))
    return read_since and not ts.missing_fills(state)


def let_go(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """A released trade gives its position to EXTERNAL once none of its orders works (I3, I20)."""
    if not state.releasing or ts.is_flat(state):
        return state, (), False
    if state.live():
        return state, (), True
    if not is_proven(state):
        if not is_due(state.read_after, now):
            return state, (), True
        state, commands = read_orders(state, now, busy, "before the position is released")
        return state, commands, True
    # A fill that came late after a release is let go under an id of its own (D9).
    again = len([a for a in state.adjustments if a.adjustment is AdjustmentKind.RELEASED])
    suffix = f"/{again}" if again else ""
    gone = tuple(
        PositionAdjusted(
            at=now,
            adjustment_id=f"release/{state.plan.trade_id}/{leg.instrument.symbol}{suffix}",
            symbol=leg.instrument.symbol,
            quantity=-ts.position_of(state, leg.instrument.symbol),
            adjustment=AdjustmentKind.RELEASED,
        )
        for leg in state.plan.legs
        if ts.position_of(state, leg.instrument.symbol) != 0
    )
    state = state.changed(adjustments=(*state.adjustments, *gone), booking=(*state.booking, *gone))
    return *book(state, now, busy)[:2], True
