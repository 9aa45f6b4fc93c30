"""Exact numbers: the types that refuse float and NaN, and the one rounding context.

Every amount of money, price and quantity in Holdfast is a `Decimal` that came in as a string,
an int or a Decimal. A float is refused where it appears (faults.md §3 rows 1-5), because
`0.1 + 0.2` has already lost the price by the time anybody looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import (
    ROUND_CEILING,
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from domain.base import Frozen

CTX = Context(
    prec=34,
    rounding=ROUND_HALF_EVEN,
    traps=[InvalidOperation, DivisionByZero, Overflow],
)
ZERO = Decimal(0)
ONE = Decimal(1)
CENT = Decimal("0.01")

MAGNITUDE_MAX = Decimal("1e15")
MAGNITUDE_MIN = Decimal("1e-12")
DECIMAL_PLACES_MAX = 12
_AMOUNT_PLACES = 8
_TEXT_MAX = 48
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")
_NOT_FINITE = frozenset({"nan", "snan", "-nan", "inf", "-inf", "+inf", "infinity", "-infinity"})


def exact(value: object) -> Decimal:
    """Returns `value` as an exact Decimal.

    Accepts Decimal, int (not bool) and plain ASCII number text.

    Raises:
        PydanticCustomError: `NOT_FINITE` for NaN and infinities, `PRICE_PRECISION` for a float,
            `NUMBER_OUT_OF_RANGE` beyond ±1e15 or 12 decimal places, `NUMBER_TYPE` for anything
            else (faults.md §3 rows 1, 2, 5, 9).
    """
    if isinstance(value, Decimal):
        return _from_digits(str(value))
    if isinstance(value, str):
        if len(value) > _TEXT_MAX:
            raise PydanticCustomError("NUMBER_OUT_OF_RANGE", "a shorter text")
        return _from_text(value)
    if isinstance(value, bool):
        raise PydanticCustomError("NUMBER_TYPE", "a number")
    if isinstance(value, int):
        if abs(value) > MAGNITUDE_MAX:
            raise PydanticCustomError("NUMBER_OUT_OF_RANGE", "|x| <= 1e15")
        return Decimal(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise PydanticCustomError("NOT_FINITE", "a finite number")
        raise PydanticCustomError(
            "PRICE_PRECISION", "a binary float was given; send the number as text"
        )
    raise PydanticCustomError("NUMBER_TYPE", "a number")


@lru_cache(maxsize=8192)
def _from_digits(text: str) -> Decimal:
    """The number in Decimal's own text, which names it exactly.

    Remembered: the same few prices and sizes pass here with every value that holds them.
    """
    number = Decimal(text)
    if not number.is_finite():
        raise PydanticCustomError("NOT_FINITE", "a finite number")
    if number and not MAGNITUDE_MIN <= abs(number) <= MAGNITUDE_MAX:
        raise PydanticCustomError("NUMBER_OUT_OF_RANGE", "1e-12 <= |x| <= 1e15")
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -DECIMAL_PLACES_MAX:
        number = _trim(number)
    return number if number or not number.is_signed() else ZERO


@lru_cache(maxsize=8192)
def _from_text(text: str) -> Decimal:
    if text.lower() in _NOT_FINITE:
        raise PydanticCustomError("NOT_FINITE", "a finite number")
    if not text.isascii() or _NUMBER.fullmatch(text) is None:
        raise PydanticCustomError("NUMBER_TYPE", "a plain number")
    return _from_digits(text)


def _trim(number: Decimal) -> Decimal:
    """Drops trailing zeros; more than 12 significant decimals is refused."""
    trimmed = number.normalize(CTX)
    exponent = trimmed.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -DECIMAL_PLACES_MAX:
        raise PydanticCustomError("NUMBER_OUT_OF_RANGE", "at most 12 decimal places")
    return trimmed


def _positive(number: Decimal) -> Decimal:
    if number <= 0:
        raise PydanticCustomError("PRICE_NOT_POSITIVE", "> 0")
    return number


def _not_negative(number: Decimal) -> Decimal:
    if number < 0:
        raise PydanticCustomError("QTY_NOT_POSITIVE", ">= 0")
    return number


Number = Annotated[Decimal, BeforeValidator(exact)]
"""Any finite exact number."""
Price = Annotated[Decimal, BeforeValidator(exact), AfterValidator(_positive)]
"""Price of one unit in quote currency, > 0."""
NetPrice = Annotated[Decimal, BeforeValidator(exact)]
"""Signed price of one combo unit: debit > 0, credit < 0; for one leg the plain price."""
Quantity = Annotated[Decimal, BeforeValidator(exact), AfterValidator(_not_negative)]
"""Unsigned size in units (shares, contracts, coins); the side is kept apart."""
SignedQuantity = Annotated[Decimal, BeforeValidator(exact)]
"""Position size: long > 0, short < 0."""
Amount = Annotated[Decimal, BeforeValidator(exact)]
"""Signed money in the account currency."""

Calculated = Annotated[Decimal, Field(strict=True)]
"""Result of a computation: up to 34 digits, never a float. Not for values from outside."""


class Money(Frozen):
    """An amount with its currency. Only equal currencies add."""

    amount: Amount
    currency: str

    def __add__(self, other: Money) -> Money:
        self._same_currency(other)
        return Money(amount=self.amount + other.amount, currency=self.currency)

    def __sub__(self, other: Money) -> Money:
        self._same_currency(other)
        return Money(amount=self.amount - other.amount, currency=self.currency)

    def _same_currency(self, other: Money) -> None:
        if self.currency != other.currency:
            raise ValueError(f"currencies were {self.currency} and {other.currency}")


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Exact sum; zero for nothing."""
    return sum(amounts, ZERO)


def shown(number: Decimal) -> str:
    """The number as people write it: no exponent, no zeros behind the last digit that counts."""
    return format(number.normalize(CTX), "f")


def in_figures(number: Decimal) -> str:
    """A number for people: no zeros beyond the second place, which stand for nothing."""
    text = f"{number:f}"
    whole, point, places = text.partition(".")
    places = places[:2] + places[2:].rstrip("0")
    return f"{whole}{point}{places}"


def divide(dividend: Decimal, divisor: Decimal) -> Decimal:
    """Quotient to 34 significant digits, half even, whatever the thread's context is."""
    return CTX.divide(dividend, divisor)


def multiply(*factors: Decimal) -> Decimal:
    """Product to 34 significant digits, half even, whatever the thread's context is."""
    product = ONE
    for factor in factors:
        product = CTX.multiply(product, factor)
    return product


def round_down_to_step(number: Decimal, step: Decimal) -> Decimal:
    """Largest multiple of `step` (> 0) that is <= `number`; negative numbers go down too."""
    return _to_step(number, step, ROUND_FLOOR)


def round_up_to_step(number: Decimal, step: Decimal) -> Decimal:
    """Smallest multiple of `step` (> 0) that is >= `number`."""
    return _to_step(number, step, ROUND_CEILING)


def _to_step(number: Decimal, step: Decimal, rounding: str) -> Decimal:
    if step <= 0:
        raise ValueError(f"step was {step}, allowed: > 0")
    steps = CTX.divide(number, step).to_integral_value(rounding=rounding, context=CTX)
    return CTX.multiply(steps, step)


def amount_up(amount: Decimal) -> Decimal:
    """A computed amount as `Amount` can hold it: at most 8 decimals, upwards (reservations)."""
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= -_AMOUNT_PLACES:
        return amount
    return amount.quantize(Decimal(1).scaleb(-_AMOUNT_PLACES), rounding=ROUND_CEILING, context=CTX)


def as_amount(amount: Decimal) -> Decimal:
    """A computed amount as `Amount` can hold it: at most 12 decimals, half even.

    An average price that does not end (23 shares in three fills) leaves a 1 at the 27th place.
    """
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= -DECIMAL_PLACES_MAX:
        return amount
    return amount.quantize(ONE.scaleb(-DECIMAL_PLACES_MAX), rounding=ROUND_HALF_EVEN, context=CTX)


def round_to_cent(amount: Decimal) -> Decimal:
    """Money as a statement shows it: two places, half even."""
    return amount.quantize(CENT, rounding=ROUND_HALF_EVEN, context=CTX)
