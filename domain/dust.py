"""What is left below one lot cannot be sold: it is written off with an alert (E9, peers §4 row 14).

A base-coin fee or a split leaves such a rest. No order for it exists, so without this the trade
would try to get out for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from domain import trade_state as ts
from domain.changes import alert
from domain.facts import AdjustmentKind, PositionAdjusted
from domain.handing_over import book, is_proven
from domain.intents import is_due
from domain.money import multiply
from domain.moves import Step, read_orders
from domain.trade_state import TradeState


def is_dust(state: TradeState) -> bool:
    """True if something is held, and less than one lot of it."""
    held = abs(ts.held_units(state))
    return not state.plan.is_combo and held != 0 and state.plan.instrument.lot_down(held) == 0


def write_off(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """Gives the dust to EXTERNAL once nothing works and the broker was read since (I3, I20)."""
    if not is_dust(state) or not ts.entry_is_dead(state) or state.live():
        return state, (), False
    if not is_proven(state):
        if not is_due(state.read_after, now):
            return state, (), True
        return *read_orders(state, now, busy, "before dust is written off"), True
    symbol, held = state.plan.instrument.symbol, ts.held_units(state) * state.plan.side.sign
    gone = PositionAdjusted(
        at=now,
        adjustment_id=f"dust/{state.plan.trade_id}/{symbol}/{len(state.adjustments)}",
        symbol=symbol,
        quantity=-held,
        adjustment=AdjustmentKind.DUST,
    )
    mid = state.quote.mid if state.quote is not None else None
    worth = "" if mid is None else f", worth {multiply(abs(held), mid, state.plan.multiplier):.4f}"
    text = f"{held} {symbol} is less than one lot and stays at the broker{worth}"
    state = alert(state, AdjustmentKind.DUST.name, text)
    adjustments, booking = (*state.adjustments, gone), (*state.booking, gone)
    return *book(state.changed(adjustments=adjustments, booking=booking), now, busy)[:2], True
