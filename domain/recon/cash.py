"""The broker's cash against ours: who may ignore how much of it (R9)."""

from __future__ import annotations

from decimal import Decimal

from domain.base import Frozen
from domain.money import Amount

CASH_TOLERANCE = Decimal("0.01")
CASH_BLOCKS_FROM = Decimal(1000)


class CashRule(Frozen):
    """Up to `tolerance` it is rounding; from `blocks_from` on no entry goes out until a person
    has looked. Between them a person is told. Account currency."""

    tolerance: Amount = CASH_TOLERANCE
    blocks_from: Amount = CASH_BLOCKS_FROM

    @property
    def coarse(self) -> CashRule:
        """For a broker that tells fees and money too late: only what would block counts."""
        return CashRule(tolerance=self.blocks_from - self.tolerance, blocks_from=self.blocks_from)


class CashLook(Frozen):
    """`expected` is what the ledger booked, from the anchor of the first pass on."""

    broker: Amount
    expected: Amount

    @property
    def gap(self) -> Decimal:
        """Broker less ledger."""
        return self.broker - self.expected
