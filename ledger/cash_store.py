"""What every booked row moved in cash, summed by the database (R9, I5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from sqlalchemy import text

from domain.facts import OWNER_CHANGES, AdjustmentKind
from ledger.connection import LedgerConnection
from ledger.records import FeeRecord
from ledger.tables import plain

_NO_CASH = [kind.value for kind in (*OWNER_CHANGES, AdjustmentKind.SPLIT)]
_TRADED = text(
    """
    SELECT symbol, sum(cash) AS cash FROM (
        SELECT symbol,
               CASE side WHEN 'buy' THEN -quantity * price ELSE quantity * price END AS cash
        FROM fills WHERE account = :account
        UNION ALL
        SELECT symbol, -quantity * price AS cash FROM adjustments
        WHERE account = :account AND price IS NOT NULL AND kind <> ALL(:no_cash)
    ) AS moves GROUP BY symbol
    """
)
_OTHER = text(
    """
    SELECT (SELECT coalesce(sum(amount), 0) FROM cash_movements WHERE account = :account)
         - (SELECT coalesce(sum(amount), 0) FROM fees WHERE account = :account)
         - (SELECT coalesce(sum(fee), 0) FROM fills WHERE account = :account) AS cash
    """
)


class CashStore(LedgerConnection):
    """Cash of an account by its own rows, from zero."""

    async def booked_cash(self, account: str, multipliers: Mapping[str, Decimal]) -> Decimal:
        """Sum of all cash that the ledger knows of.

        Args:
            account: whose.
            multipliers: of the symbols for which it is not 1.
        """
        async with self._work() as connection:
            traded = await connection.execute(_TRADED, {"account": account, "no_cash": _NO_CASH})
            rows = list(traded)
            other = (await connection.execute(_OTHER, {"account": account})).scalar_one()
        sums = [plain(row.cash) * multipliers.get(row.symbol, Decimal(1)) for row in rows]
        return sum(sums, plain(other))

    async def traded_symbols(self, account: str) -> tuple[str, ...]:
        """Every symbol that ever moved on the account."""
        query = text(
            "SELECT symbol FROM fills WHERE account = :account"
            " UNION SELECT symbol FROM adjustments WHERE account = :account ORDER BY 1"
        )
        async with self._statement() as connection:
            rows = await connection.execute(query, {"account": account})
            return tuple(str(row.symbol) for row in rows)

    async def fees_naming(
        self, account: str, broker_order_ids: Sequence[str]
    ) -> tuple[FeeRecord, ...]:
        """Fee rows of no trade that name one of these orders, in their field or in their words."""
        query = text(
            "SELECT * FROM fees WHERE account = :account AND trade_id IS NULL"
            " AND (broker_order_id = ANY(:ids)"
            " OR string_to_array(text, ' ') && CAST(:ids AS text[]))"
            " ORDER BY venue_time, activity_id"
        )
        async with self._statement() as connection:
            found = await connection.execute(
                query, {"account": account, "ids": list(broker_order_ids)}
            )
            rows = found.mappings().all()
        return tuple(
            FeeRecord.model_validate({**row, "amount": plain(row["amount"])}) for row in rows
        )

    async def trades_with_estimated_fees(self, account: str, limit: int) -> tuple[str, ...]:
        """Closed trades with executions whose fees are not the broker's own yet, oldest first."""
        query = text(
            "SELECT trade_id FROM trades WHERE account = :account AND closed_at IS NOT NULL"
            " AND realised IS NOT NULL AND fees_estimated AND EXISTS"
            " (SELECT 1 FROM fills WHERE fills.trade_id = trades.trade_id)"
            " ORDER BY closed_at, trade_id LIMIT :limit"
        )
        async with self._statement() as connection:
            rows = await connection.execute(query, {"account": account, "limit": limit})
            return tuple(str(row.trade_id) for row in rows)
