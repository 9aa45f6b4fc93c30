"""Safe single moves that several phases share: read the broker, cancel a group once."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from domain import trade_state as ts
from domain.changes import CANCEL_REFUSALS_MAX, alert
from domain.commands import (
    AlertSeverity,
    CancelOrder,
    Command,
    ReadBroker,
    Urgency,
)
from domain.doubts import cancel_refused
from domain.intents import is_due
from domain.order import OrderState
from domain.trade_state import OrderRecord, Role, TradeState

CANCEL_RECHECK_S = 2.0
CANCEL_LOOK_S = 0.7
GROUP_DEATH_S = 5.0
READ_AGAIN_S = 1.0
READ_AGAIN_MAX_S = 32.0

CRITICAL = AlertSeverity.CRITICAL

Step = tuple[TradeState, tuple[Command, ...], bool]


def read_orders(
    state: TradeState,
    now: datetime,
    busy: Collection[str],
    reason: str,
    *,
    is_bare: bool = False,
) -> tuple[TradeState, tuple[Command, ...]]:
    """The read of what lives, and of dead orders of which something has not been told.

    `is_bare`: the exit of a bare position waits for nothing else, and it goes before all others.
    """
    asked = (*ts.missing_fills(state), *ts.untold_groups(state))
    watched = [o for o in state.orders if o.is_live or o in asked]
    command = ReadBroker(
        broker_order_ids=tuple(o.broker_order_id for o in watched if o.broker_order_id),
        client_ids=tuple(
            o.client_id for o in watched if o.broker_order_id is None and o.intent is not None
        ),
        symbols=tuple(leg.instrument.symbol for leg in state.plan.legs),
        reason=reason,
        urgency=Urgency.EXIT if _is_naked(state) else Urgency.PROTECT,
        is_bare=is_bare,
    )
    if command.key in busy:
        return state, ()
    return state.changed(read_after=now + timedelta(seconds=_pause_s(state))), (command,)


def _is_naked(state: TradeState) -> bool:
    """Its stop or its exit waits for what is read: not behind what protected trades ask (I4)."""
    return ts.protection(state) is ts.Protection.NAKED


def _pause_s(state: TradeState) -> float:
    """Seconds to the next read: doubles while reads bring nothing, to spare the request budget.

    An exit under way and a position without its stop ask on quickly, unless a person must act. An
    exit that has sold everything is under way no more, whatever is still missing.
    """
    is_leaving = ts.wants_exit(state) and not ts.is_flat(state)
    if not state.needs_operator and (is_leaving or _is_naked(state)):
        return READ_AGAIN_S
    return min(READ_AGAIN_S * 2.0 ** min(state.reads_in_vain, 8), READ_AGAIN_MAX_S)


def waits_for_person(state: TradeState, now: datetime) -> bool:
    """True while a parked trade, of which reads tell nothing new, may leave the broker alone."""
    is_quiet = bool(state.needs_operator) and state.reads_in_vain > 0
    return is_quiet and not is_due(state.read_after, now)


def is_fresh(state: TradeState, now: datetime) -> bool:
    """True if orders and position were read at most `KNOWLEDGE_MAX_AGE_S` ago."""
    if state.knowledge_at is None:
        return False
    return (now - state.knowledge_at).total_seconds() <= ts.KNOWLEDGE_MAX_AGE_S


def cancel_orders(
    state: TradeState,
    records: tuple[OrderRecord, ...],
    now: datetime,
    busy: Collection[str],
    urgency: Urgency,
) -> tuple[TradeState, tuple[Command, ...]]:
    """Cancel commands for the groups of these orders; a refused one waits and is counted."""
    commands: list[Command] = []
    for record in records:
        if _follows_another(state, record) or dies_with_partner(state, record, now):
            continue  # the broker cancels the group
        if record.state is OrderState.PENDING_NEW:
            continue
        if record.state is OrderState.PENDING_CANCEL and not _outlived_cancel(state, record):
            continue
        if record.state is OrderState.UNKNOWN and record.broker_order_id is None:
            continue  # resolved first
        if record.refusals >= CANCEL_REFUSALS_MAX and not state.needs_operator:
            state = alert(
                state,
                "CANCEL_REFUSED",
                f"{record.client_id} refused {record.refusals} times",
                AlertSeverity.CRITICAL,
            )
            state = state.changed(needs_operator=cancel_refused(record.client_id))
        command = CancelOrder(
            client_id=record.client_id,
            broker_order_id=record.broker_order_id,
            urgency=urgency,
            summary=f"cancel {record.role} {record.quantity} {record.symbol}",
        )
        if command.key not in busy and is_due(record.retry_at, now):
            commands.append(command)
    return state, tuple(commands)


def _outlived_cancel(state: TradeState, record: OrderRecord) -> bool:
    """True if a read well after the cancel still showed the order: ask again (D4)."""
    known = state.knowledge_at
    return known is not None and known > record.changed_at + timedelta(seconds=CANCEL_RECHECK_S)


def _follows_another(state: TradeState, record: OrderRecord) -> bool:
    """True for a group member that dies with a live leading order (parent, or the target)."""
    parent = state.order(record.parent_client_id) if record.parent_client_id else None
    if parent is None:
        return False
    if parent.is_live:
        return True
    return record.role is Role.STOP and any(
        o.parent_client_id == record.parent_client_id for o in state.live(Role.TARGET)
    )


def partner_filled_at(state: TradeState, record: OrderRecord) -> datetime | None:
    """When the OCO partner of this order filled completely, or None."""
    group = record.parent_client_id or record.client_id
    for other in state.orders:
        if other.role is Role.ENTRY or other.state is not OrderState.FILLED:
            continue
        if other.client_id != record.client_id and group in (
            other.client_id,
            other.parent_client_id,
        ):
            return other.changed_at
    return None


def dies_with_partner(state: TradeState, record: OrderRecord, now: datetime) -> bool:
    """True while the broker may still be cancelling this sibling of a filled order (E5)."""
    filled_at = partner_filled_at(state, record)
    return filled_at is not None and (now - filled_at).total_seconds() < GROUP_DEATH_S


def is_settled(record: OrderRecord) -> bool:
    return record.state in (OrderState.WORKING, OrderState.HELD)
