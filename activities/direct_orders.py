"""Orders that a flatten sent while the ledger was away get their rows when it is back (K8)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from activities.services import Services
from domain.ids import IntentKey, parse_client_order_id
from domain.order import BrokerOrderStatus, OrderBody, OrderIntent, OrderSnapshot, TimeInForce
from ledger.records import IntentState, OrderOwner, TradeRecord

ATTEMPT = "reconcile"
REASON = "flatten without the ledger"


async def book_direct_orders(services: Services, after: datetime) -> int:
    """Writes the missing rows of dead direct orders since `after` (market time); how many.

    The sums of a flatten reach their trade by their fills; a rung that filled nothing has none,
    and `verify` would name both kinds for ever. One that works is no matter of books: its open
    trade or reconcile ends it first.

    Raises:
        Transient, Uncertain, LedgerDown: one side was not read; the next pass asks again.
    """
    booked = 0
    for order in await services.broker.orders_since(after):
        parts = parse_client_order_id(order.client_id or "")
        if parts is None or parts.installation != services.installation or not order.is_terminal:
            continue
        if not parts.is_direct or await services.ledger.intent(order.client_id or "") is not None:
            continue
        # Links the fills as well, and tells whose order it is by its prefix.
        booking = await services.ledger.record_snapshot(services.account, order)
        trade = await services.ledger.trade(booking.trade_id) if booking.trade_id else None
        if trade is not None:
            booked += await _book(services, trade, order)
    return booked


async def _book(services: Services, trade: TradeRecord, order: OrderSnapshot) -> bool:
    taken = {row.intent.key for row in await services.ledger.orders_of_trade(trade.trade_id)}
    intent = _intent_of(services, trade.trade_id, order, taken)
    if intent is None:
        return False
    symbols = (trade.symbol, *(leg.instrument.symbol for leg in trade.plan.legs))
    was_rejected = order.status is BrokerOrderStatus.REJECTED
    await services.ledger.book_sent_intent(
        intent,
        OrderOwner(
            account=services.account,
            strategy=trade.strategy,
            symbols=tuple(dict.fromkeys(symbols)),
            trade_id=trade.trade_id,
        ),
        ATTEMPT,
        IntentState.REJECTED if was_rejected else IntentState.ACCEPTED,
        services.now(),
        snapshot=order,
        code=order.reject_code,
        text=order.reject_text,
    )
    return True


def _intent_of(
    services: Services, trade_id: str, order: OrderSnapshot, taken: Collection[IntentKey]
) -> OrderIntent | None:
    """The wish behind the order as far as the broker tells it; None if it does not tell enough.

    A flatten that was repeated sends other bodies under the same number: the later row gets the
    next free one, its client id says which it was.
    """
    client_id, side, order_type = order.client_id or "", order.side, order.order_type
    parts = parse_client_order_id(client_id)
    if parts is None or not order.symbol or side is None or order_type is None:
        return None
    body = OrderBody(
        symbol=order.symbol,
        side=side,
        quantity=order.quantity,
        order_type=order_type,
        time_in_force=order.time_in_force or TimeInForce.DAY,
        limit_price=order.limit_price,
        stop_price=order.stop_price,
        intent_date=(order.submitted_at or services.now()).date(),
    )
    key = IntentKey(
        trade_id=trade_id, leg=parts.leg, purpose=parts.purpose, sequence=parts.sequence
    )
    while key in taken:
        key = key.model_copy(update={"sequence": key.sequence + 1})
    return OrderIntent(key=key, client_id=client_id, body=body, increasing=False, reason=REASON)
