"""Executions, fees and adjustments: what the account really did (I2, I5, I7).

Fills are a set keyed by (broker, account, fill_key). A bust or correction is a row that reverses;
nothing that was booked is edited, except that a missing fee may be filled in once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import Refused
from domain.order import Fill
from ledger.audit import append_audit_row
from ledger.connection import LedgerConnection, limit_waits, lock_exclusive
from ledger.fill_booking import book, book_sum, known_fill, known_rows, take_back
from ledger.order_store import owner_of_order
from ledger.records import (
    EXTERNAL,
    AdjustmentRecord,
    CashMovement,
    FeeRecord,
    FillBooking,
    FillRecord,
    TradePosition,
)
from ledger.rows import fill_of
from ledger.tables import accounts, adjustments, cash_movements, fees, fills, plain

_POSITIONS = text(
    """
    SELECT coalesce(trade_id, :external) AS trade_id, symbol, sum(quantity) AS quantity
    FROM (
        SELECT trade_id, symbol, CASE side WHEN 'buy' THEN quantity ELSE -quantity END AS quantity
        FROM fills WHERE account = :account AND NOT netted
        UNION ALL
        SELECT trade_id, symbol, quantity FROM adjustments WHERE account = :account AND NOT netted
    ) AS moves
    GROUP BY 1, 2 HAVING sum(quantity) <> 0 ORDER BY 1, 2
    """
)
# One statement, so that what is summed is what is marked: a row that comes meanwhile is in neither.
_NET = text(
    """
    WITH flat AS (
        SELECT trade_id, symbol
        FROM (
            SELECT trade_id, symbol,
                   CASE side WHEN 'buy' THEN quantity ELSE -quantity END AS quantity
            FROM fills WHERE account = :account AND NOT netted
            UNION ALL
            SELECT trade_id, symbol, quantity FROM adjustments
            WHERE account = :account AND NOT netted
        ) AS moves
        WHERE trade_id IS NOT NULL
        GROUP BY 1, 2 HAVING sum(quantity) = 0 LIMIT :most
    ), moved AS (
        UPDATE adjustments SET netted = true FROM flat
        WHERE adjustments.account = :account AND NOT adjustments.netted
          AND adjustments.trade_id = flat.trade_id AND adjustments.symbol = flat.symbol
    ), filled AS (
        UPDATE fills SET netted = true FROM flat
        WHERE fills.account = :account AND NOT fills.netted
          AND fills.trade_id = flat.trade_id AND fills.symbol = flat.symbol
    )
    SELECT count(*) FROM flat
    """
)
# Far below the server's own look for deadlocks: a booking that meets it is never the victim.
NET_LOCK_MS, NET_IDLE_MS = 50, 5_000


async def positions_in(connection: AsyncConnection, account: str) -> tuple[TradePosition, ...]:
    """Non-zero positions by owner and symbol inside the caller's transaction."""
    rows = await connection.execute(_POSITIONS, {"account": account, "external": EXTERNAL})
    return tuple(
        TradePosition(trade_id=row.trade_id, symbol=row.symbol, quantity=plain(row.quantity))
        for row in rows
    )


class FillStore(LedgerConnection):
    """Booking executions and money that is not an execution."""

    async def record_fill(self, account: str, fill: Fill) -> FillBooking:
        """Books one execution once; see `record_fills`."""
        return (await self.record_fills(account, (fill,)))[0]

    async def record_fills(
        self,
        account: str,
        many: Sequence[Fill],
        *,
        told_to: str | None = None,
        only_owned: bool = False,
    ) -> tuple[FillBooking, ...]:
        """Books executions in one transaction, all or none, each once for ever.

        Of a sum (`Fill.is_sum`) only what is not booked yet becomes a row: two readers of one
        order that saw it at different times book its quantity once (ADR 0017).

        A fill goes to the trade of its order (client id, broker id, parent, id prefix); without
        one it is stored with trade None, counts as EXTERNAL and is attributed when the link
        arrives or it is read again: the two may have crossed. `told_to` is the trade that gets
        the fills as the caller's own answer; every other trade's stay untold until
        `mark_fills_told`. With `only_owned` a new execution of nobody is answered and not booked:
        the caller asks the broker whose it is, and books it then.

        Raises:
            Refused: `ACCOUNT_UNKNOWN`.
        """
        async with self._work() as connection:
            broker = await _broker_of(connection, account)
            known = await known_rows(connection, broker, account, many)
            booked = [
                await book_sum(connection, broker, account, fill, told_to)
                if fill.is_sum
                else await known_fill(connection, known[fill.fill_key], fill, told_to)
                if fill.fill_key in known
                else await book(
                    connection, broker, account, fill, told_to=told_to, only_owned=only_owned
                )
                for fill in many
            ]
        return tuple(booked)

    async def take_back(
        self, account: str, broker_order_id: str, execution_id: str, corrected: Fill | None = None
    ) -> FillBooking | None:
        """Books what the venue takes back, once: a reversal `<fill_key>/bust` (D9).

        With `corrected` that one is booked under its own key in the same transaction. None says
        that the execution is not booked yet: this is kept, and its row is reversed as it comes.

        Raises:
            Refused: `FILL_KEY_SAME` if the correction has the old key.
        """
        async with self._work() as connection:
            broker = await _broker_of(connection, account)
            booked = await take_back(
                connection, broker, account, broker_order_id, execution_id, corrected
            )
        return booked

    async def fills_of_trade(self, trade_id: str) -> tuple[FillRecord, ...]:
        """All rows of the trade, reversals included, in the order of booking."""
        return await self._fills(fills.c.trade_id == trade_id)

    async def fills_of_account(
        self, account: str, since: datetime | None = None
    ) -> tuple[FillRecord, ...]:
        """All rows of the account with a venue time from `since` on."""
        clauses = [fills.c.account == account]
        if since is not None:
            clauses.append(fills.c.venue_time >= since)
        return await self._fills(*clauses)

    async def unattributed_fills(self, account: str) -> tuple[FillRecord, ...]:
        """Fills that no trade of ours explains (R-rows: alert, never drop)."""
        return await self._fills(fills.c.account == account, fills.c.trade_id.is_(None))

    async def untold_fills(self, account: str) -> tuple[FillRecord, ...]:
        """Rows whose trade has not heard of them yet, reversals included, in booking order."""
        return await self._fills(
            fills.c.account == account, fills.c.told.is_(False), fills.c.trade_id.is_not(None)
        )

    async def mark_fills_told(self, account: str, fill_keys: Sequence[str]) -> None:
        """Notes that the trades of these rows have them; repeats are harmless."""
        statement = (
            update(fills)
            .where(
                fills.c.account == account,
                fills.c.fill_key.in_(tuple(fill_keys)),
                fills.c.told.is_(False),
            )
            .values(told=True)
        )
        async with self._statement() as connection:
            await connection.execute(statement)

    async def _fills(self, *clauses: Any) -> tuple[FillRecord, ...]:
        query = select(fills).where(*clauses).order_by(fills.c.booking)
        async with self._statement() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(fill_of(row) for row in rows)

    async def record_fee(self, fee: FeeRecord) -> bool:
        """Books a fee row once; attributes it by broker order id if no trade is named."""
        async with self._work() as connection:
            row = fee.model_dump()
            if fee.trade_id is None and fee.broker_order_id is not None:
                owner = await owner_of_order(connection, fee.account, None, (fee.broker_order_id,))
                row["trade_id"] = owner.trade_id
            done = await connection.execute(
                upsert(fees).values(**row).on_conflict_do_nothing().returning(fees.c.activity_id)
            )
            is_new = done.one_or_none() is not None
        return is_new

    async def fees(self, account: str, trade_id: str | None = None) -> tuple[FeeRecord, ...]:
        """Fee rows of the account, or of one trade in it."""
        query = select(fees).where(fees.c.account == account)
        if trade_id is not None:
            query = query.where(fees.c.trade_id == trade_id)
        async with self._statement() as connection:
            ordered = query.order_by(fees.c.venue_time, fees.c.activity_id)
            rows = (await connection.execute(ordered)).mappings().all()
        return tuple(FeeRecord.model_validate(dict(row)) for row in rows)

    async def record_adjustment(self, adjustment: AdjustmentRecord) -> bool:
        """Books a change of position that no fill explains, once."""
        row = adjustment.model_dump() | {"kind": adjustment.kind.value}
        statement = upsert(adjustments).values(**row).on_conflict_do_nothing()
        async with self._statement() as connection:
            done = await connection.execute(statement.returning(adjustments.c.adjustment_id))
            is_new = done.one_or_none() is not None
        return is_new

    async def move_positions(
        self, account: str, rows: Sequence[AdjustmentRecord], *, takes: Mapping[str, Decimal]
    ) -> bool:
        """Books rows that belong together, all or none; False if they were booked before.

        `takes` is what EXTERNAL must have of each symbol, signed, for the rows to be booked: two
        people cannot adopt the same position (K6).

        Raises:
            Refused: `EXTERNAL_MOVED`, EXTERNAL has less by now.
        """
        values = [row.model_dump() | {"kind": row.kind.value} for row in rows]
        statement = upsert(adjustments).values(values).on_conflict_do_nothing()
        async with self._work() as connection:
            await lock_exclusive(connection, f"holdfast/external/{account}")
            known = select(adjustments.c.adjustment_id).where(
                adjustments.c.account == account,
                adjustments.c.adjustment_id.in_([row.adjustment_id for row in rows]),
            )
            if (await connection.execute(known)).first() is not None:
                return False
            held = {
                row.symbol: row.quantity
                for row in await positions_in(connection, account)
                if row.trade_id == EXTERNAL
            }
            for symbol, quantity in takes.items():
                has = held.get(symbol, Decimal(0))
                if has * quantity <= 0 or abs(has) < abs(quantity):
                    raise Refused(f"EXTERNAL has {has} {symbol}", code="EXTERNAL_MOVED")
            await connection.execute(statement)
        return True

    async def adjustments(
        self, account: str, trade_id: str | None = None
    ) -> tuple[AdjustmentRecord, ...]:
        """Adjustment rows of the account, or of one trade in it."""
        query = select(adjustments).where(adjustments.c.account == account)
        if trade_id is not None:
            query = query.where(adjustments.c.trade_id == trade_id)
        async with self._statement() as connection:
            ordered = query.order_by(adjustments.c.at, adjustments.c.adjustment_id)
            rows = (await connection.execute(ordered)).mappings().all()
        return tuple(AdjustmentRecord.model_validate(dict(row)) for row in rows)

    async def book_cash(self, movement: CashMovement) -> bool:
        """Books a deposit or withdrawal once, audited; False if that id was booked before.

        Raises:
            Refused: `ACCOUNT_UNKNOWN`, or `CASH_DIFFERS` that id was booked with another amount.
        """
        account, row = movement.account, movement.model_dump()
        statement = upsert(cash_movements).values(**row).on_conflict_do_nothing()
        mine = (cash_movements.c.account == account) & (
            cash_movements.c.movement_id == movement.movement_id
        )
        async with self._work() as connection:
            await _broker_of(connection, account)
            done = await connection.execute(statement.returning(cash_movements.c.movement_id))
            if done.one_or_none() is None:
                stored = (
                    await connection.execute(select(cash_movements.c.amount).where(mine))
                ).scalar_one()
                if stored != movement.amount:
                    raise Refused(f"{movement.movement_id} was {stored}", code="CASH_DIFFERS")
                return False
            details = {"id": movement.movement_id, "amount": movement.amount, "at": movement.at}
            await append_audit_row(connection, movement.booked_by, "cash", account, details)
        return True

    async def cash_movements(self, account: str) -> tuple[CashMovement, ...]:
        """Deposits and withdrawals of the account, oldest first."""
        query = select(cash_movements).where(cash_movements.c.account == account)
        ordered = query.order_by(cash_movements.c.at, cash_movements.c.movement_id)
        async with self._statement() as connection:
            rows = (await connection.execute(ordered)).mappings().all()
        return tuple(CashMovement.model_validate(dict(row)) for row in rows)

    async def positions_by_trade(self, account: str) -> tuple[TradePosition, ...]:
        """Non-zero sums of fills and adjustments; owner EXTERNAL for those without a trade."""
        async with self._work() as connection:
            found = await positions_in(connection, account)
        return found

    async def net_positions(self, account: str, most: int) -> int:
        """Marks the rows of at most `most` flat positions; answers how many it found.

        Rows that sum to zero change no position, whatever comes later, so none is summed again.
        A row keeps its trade, symbol and quantity for ever; one without a trade may still find
        its trade and is never marked.

        Raises:
            LockBusy: a booking was at one of the rows; nothing was marked.
        """
        async with self._work() as connection:
            await limit_waits(connection, lock_ms=NET_LOCK_MS, idle_ms=NET_IDLE_MS)
            # Two at a time could mark parts of two sums.
            await lock_exclusive(connection, f"holdfast/net/{account}")
            asked = {"account": account, "most": most}
            found = (await connection.execute(_NET, asked)).scalar_one()
        return int(found)


async def _broker_of(connection: AsyncConnection, account: str) -> str:
    query = select(accounts.c.broker).where(accounts.c.account == account)
    broker = (await connection.execute(query)).scalar_one_or_none()
    if broker is None:
        raise Refused(f"account was {account}", code="ACCOUNT_UNKNOWN")
    return str(broker)
