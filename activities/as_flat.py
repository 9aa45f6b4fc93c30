"""What the broker still shows of a trade that a person wants to close as flat (I10).

A broker that began anew, or forgot old orders, refuses every cancel and shows no position: then
only a person can end the trade. This is the look that keeps them from ending one that lives.
"""

from __future__ import annotations

from brokers.port import Broker
from domain.ids import trade_prefix
from domain.money import ZERO, total
from domain.order import OrderSnapshot
from ledger.records import IntentState, TradeBook
from ledger.repository import Ledger

_MAYBE_THERE = (IntentState.ACCEPTED, IntentState.SENDING, IntentState.UNKNOWN)


async def what_is_left(
    broker: Broker, ledger: Ledger, installation: str, book: TradeBook
) -> tuple[str, ...]:
    """Orders of the trade that work at the broker and positions that nobody else owns, in words.

    Raises:
        Transient, Refused, Uncertain: something could not be read, so nothing is proven (R6).
    """
    trade = book.trade
    found: dict[str, OrderSnapshot] = {}
    prefix = trade_prefix(installation, trade.trade_id)
    for order in await broker.open_orders():
        for each in (order, *order.legs):
            if (each.client_id or order.client_id or "").startswith(prefix):
                found[each.broker_order_id] = each
    children = await ledger.children_of_trade(trade.trade_id)
    named = [child.broker_order_id for child in children]
    for record in book.orders:
        if record.state in _MAYBE_THERE and record.broker_order_id is not None:
            named.append(record.broker_order_id)
        elif record.state in _MAYBE_THERE:
            seen = await broker.order_by_client_id(record.intent.client_id)
            if seen is not None:
                found[seen.broker_order_id] = seen
    for broker_id in named:
        seen = await broker.order(broker_id)
        if seen is not None:
            found[broker_id] = seen
    working = [
        f"order {each.broker_order_id} {each.status} {each.side} {each.quantity:f} {each.symbol}"
        for each in found.values()
        if not each.is_terminal
    ]
    return (*working, *await _positions_left(broker, ledger, book))


async def _positions_left(broker: Broker, ledger: Ledger, book: TradeBook) -> list[str]:
    """What the account holds of the trade's symbols beyond what other owners have there."""
    positions = {p.symbol: p.quantity for p in await broker.positions()}
    booked = await ledger.positions_by_trade(book.trade.account)
    left: list[str] = []
    for leg in book.trade.plan.legs:
        symbol = leg.instrument.symbol
        others = total(
            p.quantity for p in booked if p.symbol == symbol and p.trade_id != book.trade.trade_id
        )
        rest = positions.get(symbol, ZERO) - others
        if rest != 0:
            left.append(f"position {rest:f} {symbol}")
    return left
