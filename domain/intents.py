"""New intents: derived id, frozen body, remembered as PENDING_NEW before anything is sent."""

from __future__ import annotations

from datetime import datetime

from domain.commands import PlaceOrder, Urgency
from domain.ids import Purpose
from domain.order import OrderBody, OrderIntent, OrderState
from domain.trade_state import OrderRecord, Role, TradeState


def new_intent(
    state: TradeState,
    purpose: Purpose,
    role: Role,
    body: OrderBody,
    now: datetime,
    *,
    tranche: int | None = None,
    leg: int = 0,
    replaces: str | None = None,
    parent: str | None = None,
    increasing: bool = False,
    not_after: datetime | None = None,
    reason: str = "",
) -> tuple[TradeState, OrderIntent]:
    """A new intent with its derived id, remembered as PENDING_NEW before it is asked for."""
    intent = OrderIntent.derive(
        state.installation,
        state.next_key(purpose, leg),
        body,
        increasing=increasing,
        tranche=tranche,
        replaces=replaces,
        not_after=not_after,
        keeps_quantity=replaces is not None,
        reason=reason,
    )
    record = OrderRecord(
        client_id=intent.client_id,
        role=role,
        state=OrderState.PENDING_NEW,
        symbol=body.symbol,
        side=body.side,
        quantity=body.quantity,
        tranche=tranche,
        leg=leg,
        limit_price=body.limit_price,
        stop_price=body.stop_price,
        intent=intent,
        replaces=replaces,
        parent_client_id=parent,
        changed_at=now,
    )
    return state.with_order(record), intent


def place(
    state: TradeState,
    purpose: Purpose,
    role: Role,
    body: OrderBody,
    now: datetime,
    *,
    urgency: Urgency,
    tranche: int | None = None,
    leg: int = 0,
    increasing: bool = False,
    not_after: datetime | None = None,
    reason: str = "",
) -> tuple[TradeState, PlaceOrder]:
    """A PlaceOrder command with its remembered intent."""
    state, intent = new_intent(
        state,
        purpose,
        role,
        body,
        now,
        tranche=tranche,
        leg=leg,
        increasing=increasing,
        not_after=not_after,
        reason=reason,
    )
    price = body.limit_price if body.limit_price is not None else body.stop_price
    summary = f"{reason or purpose} {body.side} {body.quantity} {body.symbol}"
    if price is not None:
        summary += f" @ {price}"
    return state, PlaceOrder(intent=intent, urgency=urgency, summary=summary)


def last_order(state: TradeState, role: Role) -> OrderRecord | None:
    return next((o for o in reversed(state.orders) if o.role is role), None)


def is_due(at: datetime | None, now: datetime) -> bool:
    return at is None or now >= at


def urgency_of(role: Role) -> Urgency:
    if role is Role.ENTRY:
        return Urgency.ENTRY
    return Urgency.EXIT if role is Role.EXIT else Urgency.PROTECT
