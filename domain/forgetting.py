"""What a trade carries into its next run: all that may still matter, and no more (I16).

Every move of a stop leaves dead orders behind. Carried for ever they outgrow one payload (2 MB),
and a trade that cannot hand its state over is stuck. The ledger keeps them all, and a fill that
comes for a forgotten one is booked all the same (`recalled`, D9).
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from datetime import datetime

from domain import trade_state as ts
from domain.fold_orders import BY_HAND
from domain.ids import Purpose, is_direct_order_id, parse_client_order_id, trade_prefix
from domain.money import ZERO
from domain.order import TERMINAL_STATES, Fill, OrderSnapshot, OrderState
from domain.trade_state import OrderRecord, Role, TradeState

DEAD_KEPT = 12
"""Newest dead orders that stay: decisions count refusals in a row, and people read the story."""
_DEAD = TERMINAL_STATES - {OrderState.FILLED}
_ROLE = {
    Purpose.ENTRY: Role.ENTRY,
    Purpose.STOP: Role.STOP,
    Purpose.TARGET: Role.TARGET,
    Purpose.OCO: Role.TARGET,
}


def carried(state: TradeState, kept: int = DEAD_KEPT) -> TradeState:
    """The state as the next run begins with it: nothing that it knows is fresh any more."""
    slim = forget(state, kept)
    return slim.changed(new_build="", knowledge_at=None, read_needed="continued")


def forget(state: TradeState, kept: int = DEAD_KEPT) -> TradeState:
    """The state without orders that are dead and never filled, but for the newest `kept`.

    Entries stay, and what others are tied to: parents, predecessors, and the last intent of each
    purpose, from which the next sequence is counted (I1).
    """
    if not ts.entry_is_dead(state):
        return state
    dead = [o for o in state.orders if _never_filled(state, o)]
    old = {o.client_id for o in dead[: max(len(dead) - kept, 0)]}
    gone = old - _last_of_each_sequence(state) - _needed(state.orders, old)
    if not gone:
        return state
    orders = tuple(o for o in state.orders if o.client_id not in gone)
    return state.changed(orders=orders, forgotten=state.forgotten + len(gone))


def recalled(
    state: TradeState, fill: Fill, now: datetime, *, looked: bool = False
) -> OrderRecord | None:
    """A record for an execution of a forgotten order; None if no forgotten one can have made it.

    The ledger gives a trade its own fills only. One without an id of ours is of a child that the
    broker made, the stop of its group; it may also be too young to be known, so somebody must
    have `looked` at the broker's orders first. So it is with one of a direct flatten.
    """
    symbols = {leg.instrument.symbol for leg in state.plan.legs}
    client_id = fill.client_id or ""
    is_direct = is_direct_order(state, client_id)
    if not (state.forgotten or is_direct) or fill.symbol not in symbols:
        return None
    parts = parse_client_order_id(client_id)
    is_ours = client_id.startswith(trade_prefix(state.installation, state.plan.trade_id))
    needs_look = is_direct or not client_id
    if not (looked if needs_look else is_ours):
        return None
    return OrderRecord(
        client_id=fill.client_id or f"recalled/{fill.broker_order_id}",
        role=Role.STOP if parts is None else _ROLE.get(parts.purpose, Role.EXIT),
        state=OrderState.CANCELED,
        symbol=fill.symbol,
        side=fill.side,
        quantity=fill.cumulative_quantity or fill.quantity,
        leg=0 if parts is None else parts.leg,
        broker_order_id=fill.broker_order_id,
        changed_at=now,
    )


def is_direct_order(state: TradeState, client_id: str | None) -> bool:
    """True if a flatten past this trade's workflow made the order; see `with_direct_order`."""
    return is_direct_order_id(client_id, state.installation, state.plan.trade_id)


def with_direct_order(state: TradeState, seen: OrderSnapshot, now: datetime) -> TradeState:
    """The state with an order that a flatten sent while the trade could not be asked (K8).

    Its exits are this trade's exits and the stop that it puts back is this trade's stop; without
    them the trade would believe for ever to hold what was sold. Every other order: no change.
    """
    client_id = seen.client_id or ""
    parts = parse_client_order_id(client_id)
    if parts is None or seen.side is None or not is_direct_order(state, client_id):
        return state
    if state.find(client_id, seen.broker_order_id) is not None:
        return state
    record = OrderRecord(
        client_id=client_id,
        role=_ROLE.get(parts.purpose, Role.EXIT),
        state=OrderState.UNKNOWN,
        symbol=seen.symbol,
        side=seen.side,
        quantity=seen.quantity,
        leg=parts.leg,
        limit_price=seen.limit_price,
        stop_price=seen.stop_price,
        broker_order_id=seen.broker_order_id,
        changed_at=now,
    )
    return state.with_order(record)


def _never_filled(state: TradeState, record: OrderRecord) -> bool:
    if record.role is Role.ENTRY or record.state not in _DEAD or record.reject_code == BY_HAND:
        return False
    told = record.reported_filled > ZERO or any(record.leg_filled.values())
    return not told and not ts.fills_of(state, record)


def _last_of_each_sequence(state: TradeState) -> set[str]:
    last: dict[tuple[Purpose, int], tuple[int, str]] = {}
    for record in state.orders:
        if record.intent is not None:
            key = record.intent.key
            name = (key.purpose, key.leg)
            last[name] = max(last.get(name, (0, "")), (key.sequence, record.client_id))
    return {client_id for _sequence, client_id in last.values()}


def _needed(orders: Iterable[OrderRecord], old: Set[str]) -> set[str]:
    """Of the old: what a kept order names, and what was replaced after something had filled.

    A replacement may count the fills of those before it as its own (D2): that chain must hold.
    """
    needed: set[str] = set()
    chained: set[str] = set()
    for record in orders:
        if record.client_id not in old:
            needed |= {record.parent_client_id or "", record.replaces or ""}
        if record.client_id not in old or record.replaces in chained:
            chained.add(record.client_id)
    return needed | chained
