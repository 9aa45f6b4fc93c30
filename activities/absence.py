"""When an order that nobody has answered for is absent: one proof for its trade and reconcile.

Whoever may still send it is barred first, by a token on its row (C8). What he sent until then
arrives meanwhile; after that, absence from look-up, order list and executions is proof (C5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from activities.executions import book_executions, fills_of_trade
from activities.services import Services
from domain.money import ZERO
from domain.order import OrderSnapshot, Position
from ledger.records import DUPLICATE, IntentRecord, IntentState

LIST_MARGIN_S = 60.0
NOT_SEEN = "NOT_SEEN"


@dataclass(frozen=True)
class Evidence:
    """What list and executions say of an order: found, absent, or neither."""

    found: OrderSnapshot | None = None
    is_absent: bool = False


async def bar_senders(services: Services, client_id: str, token: str) -> IntentRecord | None:
    """Puts `token` on an open row, so that no earlier attempt may still send; None: no such row.

    `answered_at` of a row that was `sending` is from then on the moment of the barring.
    """
    record = await services.ledger.claim_intent(client_id, token)
    if record is not None and record.state is IntentState.SENDING:
        record = await services.ledger.record_answer(
            client_id, token, IntentState.UNKNOWN, code=NOT_SEEN, at=services.now()
        )
    return record


async def look_for(
    services: Services,
    record: IntentRecord,
    since: datetime,
    *,
    told_to: str | None = None,
    lists_may_lag: bool = False,
) -> Evidence:
    """Broker evidence about an order that the look-up does not show, after the settle window.

    Never absent is an id that the venue has called a duplicate: it has the order. An order that
    only the list shows is found. Where lists may lag still, the account must hold what was booked:
    a hidden exit that fills shows there. Wherever executions have ids of their own they show it.

    Args:
        since: market instant from before the sending.
        told_to: the trade that gets its fresh executions in the caller's answer.

    Raises:
        HoldfastError: one of them could not be read; nothing is known.
    """
    client_id, owner = record.intent.client_id, record.owner
    # Side by side: what the order would protect may be bare while we look (I4).
    listed, positions, _ = await asyncio.gather(
        services.broker.orders_since(since),
        services.broker.positions() if lists_may_lag else _nothing(),
        book_executions(services, told_to),
    )
    fills = await fills_of_trade(services, owner.trade_id)
    moved = lists_may_lag and await _account_moved(services, owner.symbols, positions)
    found = next((order for order in listed if order.client_id == client_id), None)
    if found is not None:
        return Evidence(found=found)
    is_there = record.code == DUPLICATE or any(fill.client_id == client_id for fill in fills)
    if is_there or moved:
        return Evidence()
    return Evidence(is_absent=not await _hidden_one_fills(services, owner.symbols, since))


async def _nothing() -> tuple[Position, ...]:
    return ()


async def _hidden_one_fills(services: Services, symbols: Sequence[str], since: datetime) -> bool:
    """True if something has executed whose order the venue does not show yet: it may be ours.

    It counts as foreign until then, so the account holds what was booked. An order of somebody
    else can be read.

    Raises:
        HoldfastError: ledger or broker did not answer; nothing is known.
    """
    rows = await services.ledger.unattributed_fills(services.account)
    fills = [row.fill for row in rows]
    lonely = [f for f in fills if f.symbol in symbols and f.venue_time >= since]
    for broker_order_id in dict.fromkeys(fill.broker_order_id for fill in lonely):
        if await services.broker.order(broker_order_id) is None:
            return True
    return False


async def _account_moved(
    services: Services, symbols: Sequence[str], positions: Sequence[Position]
) -> bool:
    """True if the account holds anything else of these symbols than was booked.

    Raises:
        LedgerDown: what was booked could not be read.
    """
    held = dict.fromkeys(symbols, ZERO)
    for position in positions:
        if position.symbol in held:
            held[position.symbol] += position.quantity
    for row in await services.ledger.positions_by_trade(services.account):
        if row.symbol in held:
            held[row.symbol] -= row.quantity
    return any(held.values())
