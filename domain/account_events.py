"""What a broker tells of an account beside executions: options that end, splits, money."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.money import ZERO, Amount, NetPrice, SignedQuantity


class EventKind(StrEnum):
    """DELIVERY are the shares of an assigned or exercised option. INCOME is dividend or interest,
    TRANSFER the owner's money, OTHER a word that we do not know: never acted on alone."""

    ASSIGNMENT = "assignment"
    EXERCISE = "exercise"
    EXPIRY = "expiry"
    DELIVERY = "delivery"
    SPLIT = "split"
    SYMBOL_CHANGE = "symbol_change"
    LIQUIDATION = "liquidation"
    FUNDING = "funding"
    INCOME = "income"
    TRANSFER = "transfer"
    OTHER = "other"


CASH_KINDS = (EventKind.FUNDING, EventKind.INCOME, EventKind.TRANSFER)
"""Kinds that move money and no position."""


class AccountEvent(Frozen):
    """One row of the broker's statement that is neither execution nor fee.

    `quantity` is the signed change of the position, `amount` the signed change of cash; `at` is
    the broker's time, often only a day. `event_id` is made of the broker's id and its word: the
    rows of one assignment may share an id (docs of Alpaca).
    """

    event_id: str
    kind: EventKind
    symbol: str = ""
    quantity: SignedQuantity = ZERO
    price: NetPrice | None = None
    amount: Amount = ZERO
    text: str = ""
    at: AwareDatetime
