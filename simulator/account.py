"""Cash, positions, fees and the activity list of the one account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from domain.money import ZERO, divide, round_to_cent
from simulator.config import FeeSchedule, Listing


@dataclass(slots=True)
class Holding:
    """Signed quantity with its average entry price per unit."""

    symbol: str
    quantity: Decimal = ZERO
    average_price: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Activity:
    """One row of the account statement; `kind` is FILL, FEE or a non-trade kind."""

    id: str
    kind: str
    time: datetime
    symbol: str = ""
    order_id: str = ""
    execution_id: str = ""
    side: str = ""
    price: Decimal | None = None
    quantity: Decimal | None = None
    cumulative: Decimal | None = None
    leaves: Decimal | None = None
    order_status: str = ""
    net_amount: Decimal | None = None
    text: str = ""


@dataclass(slots=True)
class AccruedFees:
    """Fees of a day before their rows: cash has them already. Sales pay by the share (`TAF`),
    purchases by the execution (`CAT`)."""

    of_sales: Decimal = ZERO
    of_purchases: Decimal = ZERO
    sold: Decimal = ZERO
    sales: int = 0
    purchases: int = 0

    @property
    def amount(self) -> Decimal:
        return self.of_sales + self.of_purchases


class Account:
    """Books fills and fees exactly. Cash changes only here (I5)."""

    def __init__(self, cash: Decimal, listings: Mapping[str, Listing]) -> None:
        self.cash = cash
        self.start_cash = cash
        self.last_equity = cash
        self.fees_paid = ZERO
        self.holdings: dict[str, Holding] = {}
        self.activities: list[Activity] = []
        self.accrued = AccruedFees()
        self._listings = listings

    def quantity(self, symbol: str) -> Decimal:
        holding = self.holdings.get(symbol)
        return holding.quantity if holding is not None else ZERO

    def multiplier(self, symbol: str) -> Decimal:
        return self._listings[symbol].instrument.multiplier

    def book(self, symbol: str, signed_quantity: Decimal, price: Decimal) -> Decimal:
        """Books an execution and returns the change of cash, without fee."""
        holding = self.holdings.setdefault(symbol, Holding(symbol))
        before = holding.quantity
        after = before + signed_quantity
        if before * signed_quantity >= 0:
            value = abs(before) * holding.average_price + abs(signed_quantity) * price
            holding.average_price = divide(value, abs(after)) if after else ZERO
        elif before * after < 0:
            holding.average_price = price
        holding.quantity = after
        if after == 0:
            del self.holdings[symbol]
        change = -signed_quantity * price * self.multiplier(symbol)
        self.cash += change
        return change

    def set_quantity(self, symbol: str, quantity: Decimal, price: Decimal) -> None:
        """Changes a position without cash: vanished, split, assigned from outside."""
        if quantity == 0:
            self.holdings.pop(symbol, None)
            return
        holding = self.holdings.setdefault(symbol, Holding(symbol, average_price=price))
        holding.quantity = quantity

    def charge(self, fee: Decimal) -> None:
        self.cash -= fee
        self.fees_paid += fee

    def accrue(self, fee: Decimal, sold: Decimal) -> None:
        """Notes a fee that is charged and has no row yet; `sold` is zero for a purchase."""
        if sold:
            self.accrued.of_sales += fee
            self.accrued.sold += sold
            self.accrued.sales += 1
        else:
            self.accrued.of_purchases += fee
            self.accrued.purchases += 1

    def fee_for(self, symbol: str, quantity: Decimal, price: Decimal) -> Decimal:
        """Fee of one execution, rounded to the cent."""
        schedule: FeeSchedule = self._listings[symbol].fees
        value = quantity * price * self.multiplier(symbol)
        fee = quantity * schedule.per_unit + value * schedule.rate
        return round_to_cent(max(fee, schedule.minimum))
