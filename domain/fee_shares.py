"""Whose a fee is that names no order: a rule of thumb of the fee itself, to the last cent.

Alpaca books a day's fees next morning in one row per kind: `TAF fee for proceed of 1572 shares (89
trades) on 2026-09-08`, `REG fee for proceed of $5271.37 on …`, `CAT fee for proceed of 2 trades`.
The row says what it was counted by, so each execution of that day carries its part of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import ROUND_DOWN, Decimal

from domain.base import Frozen
from domain.money import CTX, ONE, ZERO, divide, multiply, total
from domain.occ import OPTION_MULTIPLIER, looks_like_option
from domain.order import Fill, Side

SHARE_STEP = Decimal("1e-8")
_DAY = re.compile(r"\bon (\d{4}-\d{2}-\d{2})\b")


class DayFee(Frozen):
    """A fee that belongs to the executions of one exchange day."""

    day: date
    amount: Decimal
    text: str = ""
    symbol: str = ""


def fee_day(text: str, venue_time: datetime) -> date:
    """The day that the row names; without one the day under which it was booked."""
    named = _DAY.search(text)
    return date.fromisoformat(named.group(1)) if named else venue_time.date()


def shares_of(fee: DayFee, fills: Sequence[Fill]) -> dict[str, Decimal]:
    """The fee's part of each execution by fill key; empty if none of them can have caused it.

    Args:
        fee: One row.
        fills: Every execution of the account on the fee's exchange day, whoever made it.
    """
    weigh = _weight_of(fee.text)
    weights = {fill.fill_key: weigh(fill) for fill in fills if fee.symbol in ("", fill.symbol)}
    whole = total(weights.values())
    if whole == 0:
        return {}
    shares = {
        key: divide(multiply(fee.amount, weight), whole).quantize(
            SHARE_STEP, rounding=ROUND_DOWN, context=CTX
        )
        for key, weight in weights.items()
    }
    last = max(key for key, weight in weights.items() if weight)
    shares[last] += fee.amount - total(shares.values())
    return {key: share for key, share in shares.items() if share != 0}


def shares_of_all(
    fees: Iterable[DayFee], fills_by_day: Mapping[date, Sequence[Fill]]
) -> dict[str, Decimal]:
    """Every fee's part of each execution, added up; `fills_by_day` are exchange days."""
    found: dict[str, Decimal] = {}
    for fee in fees:
        for key, share in shares_of(fee, fills_by_day.get(fee.day, ())).items():
            found[key] = found.get(key, ZERO) + share
    return found


def _weight_of(text: str) -> Callable[[Fill], Decimal]:
    """What the fee is counted by: shares sold, value sold, executions, contracts, else value."""
    word = text.split(" ", 1)[0].upper()
    return {
        "TAF": lambda fill: fill.quantity if fill.side is Side.SELL else ZERO,
        "REG": lambda fill: _value(fill) if fill.side is Side.SELL else ZERO,
        "CAT": lambda fill: ONE,
        "ORF": lambda fill: fill.quantity if looks_like_option(fill.symbol) else ZERO,
        "OCC": lambda fill: fill.quantity if looks_like_option(fill.symbol) else ZERO,
    }.get(word, _value)


def _value(fill: Fill) -> Decimal:
    multiplier = OPTION_MULTIPLIER if looks_like_option(fill.symbol) else ONE
    return multiply(fill.quantity, fill.price, multiplier)
