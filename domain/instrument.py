"""What can be traded: tick, lot, multiplier, and the directions of rounding."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from enum import StrEnum

from domain.base import Frozen
from domain.money import ONE, Price, Quantity, round_down_to_step, round_up_to_step


class InstrumentKind(StrEnum):
    EQUITY = "equity"
    OPTION = "option"
    FUTURE = "future"
    PERPETUAL = "perpetual"
    CRYPTO = "crypto"


class OptionRight(StrEnum):
    CALL = "call"
    PUT = "put"


class Instrument(Frozen):
    """One tradable contract as its venue describes it.

    `multiplier` turns price x quantity into money (100 for a US option). `tick_size` is the
    smallest price step, `sub_dollar_tick_size` the one that holds below 1.00 where the venue has
    one (Alpaca: 0.0001). `lot_size` is the quantity step. `inverse` contracts are quoted in the
    quote currency and settle in the base coin. `calendar` names the trading calendar.
    """

    symbol: str
    kind: InstrumentKind = InstrumentKind.EQUITY
    currency: str = "USD"
    multiplier: Quantity = ONE
    tick_size: Price = Decimal("0.01")
    sub_dollar_tick_size: Price | None = None
    lot_size: Quantity = ONE
    min_quantity: Quantity = ONE
    inverse: bool = False
    calendar: str = "XNYS"
    underlying: str | None = None
    expiry: date | None = None
    strike: Price | None = None
    right: OptionRight | None = None

    def tick_at(self, price: Decimal) -> Decimal:
        """Tick size that holds at `price` (absolute value, so that credits work too)."""
        if self.sub_dollar_tick_size is not None and abs(price) < 1:
            return self.sub_dollar_tick_size
        return self.tick_size

    def is_on_tick(self, price: Decimal) -> bool:
        return price == self.tick_down(price)

    def tick_down(self, price: Decimal) -> Decimal:
        """Largest valid price <= `price`."""
        return round_down_to_step(price, self.tick_at(price))

    def tick_up(self, price: Decimal) -> Decimal:
        """Smallest valid price >= `price`."""
        return round_up_to_step(price, self.tick_at(price))

    def lot_down(self, quantity: Decimal) -> Decimal:
        """Largest whole number of lots <= `quantity`; what is sellable, never more."""
        return round_down_to_step(quantity, self.lot_size)
