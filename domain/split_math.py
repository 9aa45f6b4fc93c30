"""Quantities and prices over a split, rounded so that every value stays one that can be stored."""

from __future__ import annotations

from decimal import Decimal

from domain.money import CTX, divide, multiply

QUANTITY_STEP = Decimal("1e-9")
PRICE_STEP = Decimal("1e-10")


def split_quantity(quantity: Decimal, ratio: Decimal) -> Decimal:
    """So many new shares for `quantity` old ones; `ratio` may be a third."""
    return multiply(quantity, ratio).quantize(QUANTITY_STEP, context=CTX).normalize(CTX)


def split_price(price: Decimal, ratio: Decimal) -> Decimal:
    """What one new share costs if an old one cost `price`."""
    return divide(price, ratio).quantize(PRICE_STEP, context=CTX).normalize(CTX)
