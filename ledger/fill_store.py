"""Executions, fees and adjustments: what the account really did (I2, I5, I7).

Fills are a set keyed by (broker, account, fill_key). A bust or correction is a row that reverses;
nothing that was booked is edited, except that a missing fee may be filled in once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import Refused
from domain.money import ZERO, divide
from domain.order import Fill
from ledger.alert_store import tell_opening
from ledger.audit import append_audit_row
from ledger.connection import LedgerConnection, lock_exclusive
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
from ledger.rows import fill_columns, fill_of
from ledger.tables import accounts, adjustments, cash_movements, fees, fills, plain

SUM_PRICE_STEP = Decimal("1e-8")
_POSITIONS = text(
    """
    SELECT coalesce(trade_id, :external) AS trade_id, symbol, sum(quantity) AS quantity
    FROM (
        SELECT trade_id, symbol, CASE side WHEN 'buy' THEN quantity ELSE -quantity END AS quantity
        FROM fills WHERE account = :account
        UNION ALL
        SELECT trade_id, symbol, quantity FROM adjustments WHERE account = :account
    ) AS moves
    GROUP BY 1, 2 HAVING sum(quantity) <> 0 ORDER BY 1, 2
    """
)


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
        self, account: str, many: Sequence[Fill], *, told_to: str | None = None
    ) -> tuple[FillBooking, ...]:
        """Books executions in one transaction, all or none, each once for ever.

        Of a sum (`Fill.is_sum`) only what is not booked yet becomes a row: two readers of one
        order that saw it at different times book its quantity once (ADR 0017).

        A fill goes to the trade of its order (client id, broker id, parent, id prefix); without
        one it is stored with trade None, counts as EXTERNAL and is attributed when the link
        arrives or it is read again: the two may have crossed. `told_to` is the trade that gets
        the fills as the caller's own answer; every other trade's stay untold until
        `mark_fills_told`.

        Raises:
            Refused: `ACCOUNT_UNKNOWN`.
        """
        async with self._work() as connection:
            broker = await _broker_of(connection, account)
            known = await _known_rows(connection, broker, account, many)
            booked = [
                await book_sum(connection, broker, account, fill, told_to)
                if fill.is_sum
                else await _known_fill(connection, known[fill.fill_key], fill, told_to)
                if fill.fill_key in known
                else await _book(connection, broker, account, fill, told_to=told_to)
                for fill in many
            ]
        return tuple(booked)

    async def bust_fill(self, account: str, fill_key: str, reason: str) -> FillBooking:
        """Books the reversal `<fill_key>/bust` once (D9).

        Raises:
            Refused: `FILL_UNKNOWN` there is no such fill, or `FILL_IS_REVERSAL`.
        """
        async with self._work() as connection:
            broker = await _broker_of(connection, account)
            booked = await _reverse(connection, broker, account, fill_key, reason)
        return booked

    async def correct_fill(self, account: str, fill_key: str, fill: Fill) -> FillBooking:
        """Reverses `fill_key` and books the corrected fill under its own key, all or none.

        Raises:
            Refused: as `bust_fill`, or `FILL_KEY_SAME` if the correction has the old key.
        """
        if fill.fill_key == fill_key:
            raise Refused(f"fill key was {fill_key} for both", code="FILL_KEY_SAME")
        async with self._work() as connection:
            broker = await _broker_of(connection, account)
            await _reverse(connection, broker, account, fill_key, f"corrected by {fill.fill_key}")
            booked = await _book(connection, broker, account, fill)
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


async def _broker_of(connection: AsyncConnection, account: str) -> str:
    query = select(accounts.c.broker).where(accounts.c.account == account)
    broker = (await connection.execute(query)).scalar_one_or_none()
    if broker is None:
        raise Refused(f"account was {account}", code="ACCOUNT_UNKNOWN")
    return str(broker)


async def _book(
    connection: AsyncConnection,
    broker: str,
    account: str,
    fill: Fill,
    reverses: str | None = None,
    told_to: str | None = None,
) -> FillBooking:
    owner = await owner_of_order(connection, account, fill.client_id, (fill.broker_order_id,))
    told = owner.trade_id is not None and owner.trade_id == told_to
    columns = fill_columns(broker, account, fill)
    columns |= {"trade_id": owner.trade_id, "reverses": reverses, "told": told}
    statement = upsert(fills).values(**columns).on_conflict_do_nothing()
    done = await connection.execute(statement.returning(fills.c.fill_key))
    if done.one_or_none() is not None:
        if owner.trade_id is not None and reverses is None:
            await tell_opening(connection, account, owner.trade_id, columns)
        return FillBooking(fill_key=fill.fill_key, is_new=True, trade_id=owner.trade_id, told=told)
    # Another process booked it since we looked.
    row = (await _known_rows(connection, broker, account, (fill,)))[fill.fill_key]
    return await _known_fill(connection, row, fill, told_to)


async def book_sum(
    connection: AsyncConnection, broker: str, account: str, fill: Fill, told_to: str | None
) -> FillBooking:
    """Books what a sum holds beyond the rows of its order; nothing if that is nothing.

    The price of the new part makes the booked value that of the whole sum.
    """
    await lock_exclusive(connection, f"fills/{broker}/{account}")
    query = select(fills).where(
        (fills.c.broker == broker)
        & (fills.c.account == account)
        & (fills.c.broker_order_id == fill.broker_order_id)
        & (fills.c.symbol == fill.symbol)
    )
    rows = (await connection.execute(query.order_by(fills.c.booking))).mappings().all()
    # A reversal is a row of the other side: it takes its quantity out again.
    signs = [1 if row["side"] == fill.side.value else -1 for row in rows]
    pairs = list(zip(signs, rows, strict=True))
    quantity = fill.quantity - sum((sign * row["quantity"] for sign, row in pairs), ZERO)
    if rows and quantity <= 0:
        last = fill_of(rows[-1])
        trade_id, told = await _owned(connection, rows[-1], told_to)
        return FillBooking(
            fill_key=last.fill.fill_key, is_new=False, trade_id=trade_id, told=told, fill=last.fill
        )
    value = fill.quantity * fill.price
    value -= sum((sign * row["quantity"] * row["price"] for sign, row in pairs), ZERO)
    price = divide(value, quantity).quantize(SUM_PRICE_STEP)
    part = {"quantity": quantity, "price": price if price > 0 else fill.price, "is_sum": False}
    booked = fill.model_copy(update=part)
    booking = await _book(connection, broker, account, booked, told_to=told_to)
    return booking.model_copy(update={"fill": booked})


def _row_of(broker: str, account: str, *fill_keys: str) -> ColumnElement[bool]:
    return (
        (fills.c.broker == broker) & (fills.c.account == account) & fills.c.fill_key.in_(fill_keys)
    )


async def _known_rows(
    connection: AsyncConnection, broker: str, account: str, many: Sequence[Fill]
) -> dict[str, RowMapping]:
    """Rows booked before, by fill key: pages of executions overlap, so most are known."""
    mine = _row_of(broker, account, *(fill.fill_key for fill in many))
    rows = (await connection.execute(select(fills).where(mine))).mappings().all()
    return {row["fill_key"]: row for row in rows}


async def _known_fill(
    connection: AsyncConnection, row: RowMapping, fill: Fill, told_to: str | None
) -> FillBooking:
    """The booking of a fill that stands; a fee that was missing is filled in."""
    if row["fee"] is None and fill.fee is not None:
        mine = _row_of(row["broker"], row["account"], fill.fill_key)
        await connection.execute(
            update(fills).where(mine, fills.c.fee.is_(None)).values(fee=fill.fee)
        )
    seen = (fill.symbol, fill.side.value, fill.quantity, fill.price)
    stored = (row["symbol"], row["side"], row["quantity"], row["price"])
    trade_id, told = await _owned(connection, row, told_to)
    return FillBooking(
        fill_key=fill.fill_key,
        is_new=False,
        trade_id=trade_id,
        differs=seen != stored,
        told=told,
    )


async def _owned(
    connection: AsyncConnection, row: RowMapping, told_to: str | None
) -> tuple[str | None, bool]:
    """The trade of a row that stands, and whether that trade has heard of it.

    A fill of nobody is looked at again: it and the answer that names its order may have been
    booked side by side, and neither saw the other. Left alone, the trade would never hear of it
    and its position would stand bare (F3, E1).
    """
    if row["trade_id"] is not None:
        return row["trade_id"], row["told"]
    account, broker_id = row["account"], row["broker_order_id"]
    owner = await owner_of_order(connection, account, row["client_id"], (broker_id,))
    if owner.trade_id is None:
        return None, False
    told = owner.trade_id == told_to
    mine = _row_of(row["broker"], account, row["fill_key"])
    await connection.execute(
        update(fills)
        .where(mine, fills.c.trade_id.is_(None))
        .values(trade_id=owner.trade_id, told=told)
    )
    if row["reverses"] is None:
        columns = fill_columns(row["broker"], account, fill_of(row).fill)
        await tell_opening(connection, account, owner.trade_id, columns)
    return owner.trade_id, told


async def _reverse(
    connection: AsyncConnection, broker: str, account: str, fill_key: str, reason: str
) -> FillBooking:
    query = select(fills).where(
        fills.c.broker == broker, fills.c.account == account, fills.c.fill_key == fill_key
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise Refused(f"fill key was {fill_key}", code="FILL_UNKNOWN")
    if row["reverses"] is not None:
        raise Refused(f"fill key was {fill_key}", code="FILL_IS_REVERSAL")
    booked = fill_of(row)
    fee = None if booked.fill.fee is None else -booked.fill.fee
    opposite = booked.fill.model_copy(
        update={
            "fill_key": f"{fill_key}/bust",
            "side": booked.fill.side.opposite,
            "fee": fee,
            "execution_id": reason,
            "cumulative_quantity": None,
        }
    )
    return await _book(connection, broker, account, opposite, reverses=fill_key)
