"""What reconciliation asks of the ledger in memory: rows of the account, and its cash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from domain.errors import Refused
from domain.facts import OWNER_CHANGES, AdjustmentKind
from domain.money import ZERO
from ledger.records import AdjustmentRecord, CashMovement, FeeRecord, FillRecord

NO_CASH = (*OWNER_CHANGES, AdjustmentKind.SPLIT)


class AccountBooks:
    """Reads of `fill_store` and `cash_store` that are sums over one account."""

    fills: dict[str, FillRecord]
    fee_rows: dict[str, FeeRecord]
    moves: dict[str, AdjustmentRecord]
    movements: dict[str, CashMovement]

    async def fills_of_account(
        self, account: str, since: datetime | None = None
    ) -> tuple[FillRecord, ...]:
        return tuple(
            row for row in self.fills.values() if since is None or row.fill.venue_time >= since
        )

    async def unattributed_fills(self, account: str) -> tuple[FillRecord, ...]:
        return tuple(row for row in self.fills.values() if row.trade_id is None)

    async def traded_symbols(self, account: str) -> tuple[str, ...]:
        traded = {row.fill.symbol for row in self.fills.values()}
        return tuple(sorted(traded | {row.symbol for row in self.moves.values()}))

    async def booked_cash(self, account: str, multipliers: Mapping[str, Decimal]) -> Decimal:
        cash = sum((row.amount for row in self.movements.values()), ZERO)
        cash -= sum((row.amount for row in self.fee_rows.values()), ZERO)
        for row in self.fills.values():
            fill = row.fill
            value = fill.signed_quantity * fill.price * multipliers.get(fill.symbol, Decimal(1))
            cash -= value + (fill.fee or ZERO)
        for move in self.moves.values():
            if move.price is not None and move.kind not in NO_CASH:
                cash -= move.quantity * move.price * multipliers.get(move.symbol, Decimal(1))
        return cash

    async def book_cash(self, movement: CashMovement) -> bool:
        known = self.movements.setdefault(movement.movement_id, movement)
        if known.amount != movement.amount:
            raise Refused(f"{movement.movement_id} was {known.amount}", code="CASH_DIFFERS")
        return known is movement

    async def cash_movements(self, account: str) -> Sequence[CashMovement]:
        return tuple(sorted(self.movements.values(), key=lambda row: (row.at, row.movement_id)))
