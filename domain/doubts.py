"""Parks that wait for the answer to one question about one order.

A person may answer it, and so may the broker: an order whose end is seen, or an unknown one that
is found, leaves nothing to ask. A trade that stayed parked then would keep its position beyond
its deadline for a network that was away for a few seconds (I11; found by the simulation).
"""

from __future__ import annotations

from domain.order import OrderState
from domain.trade_state import TradeState

_UNKNOWN = "order {} is unknown"
_REFUSED = "cancel of {} is refused"


def unknown(client_id: str) -> str:
    """Why a trade is parked whose order is unknown for too long."""
    return _UNKNOWN.format(client_id)


def cancel_refused(client_id: str) -> str:
    """Why a trade is parked whose order cannot be cancelled."""
    return _REFUSED.format(client_id)


def lift_answered(state: TradeState) -> TradeState:
    """The state without a park whose question the orders answer by now."""
    if not state.needs_operator:
        return state
    for record in state.orders:
        is_refused = state.needs_operator == cancel_refused(record.client_id)
        is_unknown = state.needs_operator == unknown(record.client_id)
        if is_refused and not record.is_live:
            return state.changed(needs_operator="")
        if is_unknown and record.state is not OrderState.UNKNOWN:
            return state.changed(needs_operator="")
    return state
