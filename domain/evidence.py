"""A check on what brokers tell of an order (faults.md §3 row 58).

It crashes no trade: the fault comes back as a code, and the caller quarantines the value, raises
an alert and goes on.
"""

from __future__ import annotations

from domain.base import Frozen
from domain.money import ZERO
from domain.order import OrderSnapshot

FILL_INCONSISTENT = "FILL_INCONSISTENT"


class Finding(Frozen):
    """One fault found in outside data."""

    code: str
    text: str = ""


def check_order_progress(order: OrderSnapshot) -> Finding | None:
    """No more may have filled than was ordered, nor for nothing (row 58).

    A number that falls is the fold's to judge, which knows what was told before.
    """
    if order.quantity > 0 and order.filled_quantity > order.quantity:
        return Finding(
            code=FILL_INCONSISTENT, text=f"filled {order.filled_quantity} of {order.quantity}"
        )
    # A combo may fill at a net price of zero; a single instrument never does.
    if order.filled_quantity > 0 and not order.legs and order.average_fill_price == ZERO:
        return Finding(code=FILL_INCONSISTENT, text="average price was 0 with a fill")
    return None
