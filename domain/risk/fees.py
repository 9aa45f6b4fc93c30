"""The worst fee of an entry, as far as the account's rates are known before the fill.

No broker here tells fees beforehand; the rates are configuration, zero where the broker takes
none. They make buying power honest for options, where fees are a real part of the price.
"""

from __future__ import annotations

from decimal import Decimal

from domain.base import Frozen
from domain.instrument import InstrumentKind
from domain.money import ZERO, Amount, multiply, total
from domain.plan import TradePlan


class FeeRates(Frozen):
    """Commission and exchange fees of one side, account currency, at their worst."""

    per_share: Amount = ZERO
    per_contract: Amount = ZERO


def entry_fee(plan: TradePlan, quantity: Decimal, rates: FeeRates) -> Decimal:
    """Fee of entering `quantity` trade units: each leg at the rate of its kind."""
    return total(
        multiply(
            rates.per_share if leg.instrument.kind is InstrumentKind.EQUITY else rates.per_contract,
            Decimal(leg.ratio),
            quantity,
        )
        for leg in plan.legs
    )
