"""What an order shows as filled, at a venue that names no executions (ADR 0017). Pure."""

from __future__ import annotations

from decimal import Decimal

from domain.evidence import FILL_INCONSISTENT
from domain.order import Fill, OrderClass, OrderSnapshot


def fill_key(broker_order_id: str, cumulative_quantity: Decimal) -> str:
    """Identity of an execution: order id and cumulative quantity after it.

    Every way of reading an execution must give the same key (ADR 0003, ADR 0017).
    """
    text = format(cumulative_quantity, "f")
    plain = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{broker_order_id}:{plain}"


def parts_of(order: OrderSnapshot) -> tuple[OrderSnapshot, ...]:
    """What of the order fills by itself: the legs of a combo, or the order and its children."""
    return order.legs if order.order_class is OrderClass.COMBO else (order, *order.legs)


def sum_of(part: OrderSnapshot) -> Fill | None:
    """All that it has filled so far, as one sum at the average price.

    None if that is nothing, or if what is shown cannot be true (faults.md §3 row 58).
    """
    moment, price = part.updated_at or part.submitted_at, part.average_fill_price
    if part.filled_quantity == 0 or part.reject_code == FILL_INCONSISTENT:
        return None
    if part.side is None or not part.symbol or moment is None or price is None or price <= 0:
        return None
    return Fill(
        fill_key=fill_key(part.broker_order_id, part.filled_quantity),
        broker_order_id=part.broker_order_id,
        client_id=part.client_id,
        symbol=part.symbol,
        side=part.side,
        quantity=part.filled_quantity,
        price=price,
        cumulative_quantity=part.filled_quantity,
        venue_time=moment,
        is_sum=True,
    )


def sums_of(order: OrderSnapshot) -> tuple[Fill, ...]:
    """The sums of all its parts that have filled."""
    found = (sum_of(part) for part in parts_of(order))
    return tuple(each for each in found if each is not None)
