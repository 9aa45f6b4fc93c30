"""Rows of executions: booking one, what a sum holds beyond its rows, reversing, early busts.

Everything here runs inside the caller's transaction (`fill_store`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import ColumnElement, RowMapping, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import Refused
from domain.money import ZERO, divide
from domain.order import Fill
from ledger.alert_store import tell_opening
from ledger.connection import lock_exclusive, lock_shared
from ledger.order_store import owner_of_order
from ledger.records import CORRECTED_BY, FillBooking, FillRecord
from ledger.rows import fill_columns, fill_of
from ledger.tables import early_busts, fills

SUM_PRICE_STEP = Decimal("1e-8")
CENT, HALF = Decimal("0.01"), Decimal("0.5")
VENUES_WORD = "the venue's word"


async def book(
    connection: AsyncConnection,
    broker: str,
    account: str,
    fill: Fill,
    reverses: str | None = None,
    told_to: str | None = None,
    only_owned: bool = False,
) -> FillBooking:
    """One row, once for ever; what the venue took back before it came is reversed at once.

    With `only_owned` what nobody of ours owns yet is answered without a row.
    """
    owner = await owner_of_order(connection, account, fill.client_id, (fill.broker_order_id,))
    if only_owned and owner.trade_id is None:
        return FillBooking(fill_key=fill.fill_key, is_new=True, trade_id=None)
    told = owner.trade_id is not None and owner.trade_id == told_to
    columns = fill_columns(broker, account, fill)
    columns |= {"trade_id": owner.trade_id, "reverses": reverses, "told": told}
    statement = upsert(fills).values(**columns).on_conflict_do_nothing()
    done = await connection.execute(statement.returning(fills.c.fill_key))
    if done.one_or_none() is None:
        # Another process booked it since we looked.
        row = (await known_rows(connection, broker, account, (fill,)))[fill.fill_key]
        return await known_fill(connection, row, fill, told_to)
    booking = FillBooking(fill_key=fill.fill_key, is_new=True, trade_id=owner.trade_id, told=told)
    if reverses is not None:
        return booking
    if owner.trade_id is not None:
        await tell_opening(connection, account, owner.trade_id, columns)
    taken_back = await _taken_back_before(connection, broker, account, fill, told_to)
    return booking.model_copy(update={"took_back": taken_back})


@dataclass(frozen=True)
class Unbooked:
    """What a sum tells beyond the rows of its order; `replaces` the rows that stand."""

    fill: Fill
    replaces: tuple[str, ...] = ()


def unbooked(total: Fill, rows: Sequence[FillRecord]) -> Unbooked | None:
    """What of a sum is not in the rows of its order; None if that is nothing (ADR 0017).

    A new part has the price that makes the booked value that of the sum. A sum that is newer than
    every row, and has their quantity at another value, hides an execution that was taken back and
    filled anew (D9): it replaces them. An older one was overtaken on its way.
    """
    single = total.model_copy(update={"is_sum": False})
    if not rows:
        return Unbooked(single)
    # A reversal is a row of the other side: it takes its quantity out again.
    booked = [(1 if row.fill.side is total.side else -1, row.fill) for row in rows]
    quantity = total.quantity - sum((sign * old.quantity for sign, old in booked), ZERO)
    value = total.quantity * total.price
    value -= sum((sign * old.quantity * old.price for sign, old in booked), ZERO)
    if quantity < 0:
        return None
    if quantity > 0:
        price = divide(value, quantity).quantize(SUM_PRICE_STEP)
        if price > 0:
            return Unbooked(single.model_copy(update={"quantity": quantity, "price": price}))
    is_newer = total.venue_time > max(old.venue_time for _, old in booked)
    if quantity == 0 and not (is_newer and abs(value) > _rounding(total)):
        return None
    reversed_keys = [row.reverses for row in rows if row.reverses is not None]
    key = f"{total.fill_key}/revised/{len(reversed_keys) + 1}"
    standing = [row.fill.fill_key for row in rows if row.reverses is None]
    return Unbooked(
        single.model_copy(update={"fill_key": key}),
        tuple(each for each in standing if each not in reversed_keys),
    )


def _rounding(total: Fill) -> Decimal:
    """By how much the value of a sum may be wrong: its average is as exact as its digits."""
    digits = total.price.as_tuple().exponent
    unit = min(CENT, Decimal(1).scaleb(int(digits)))
    return total.quantity * (unit * HALF + SUM_PRICE_STEP)


async def book_sum(
    connection: AsyncConnection, broker: str, account: str, fill: Fill, told_to: str | None
) -> FillBooking:
    """Books what a sum holds beyond the rows of its order; nothing if that is nothing."""
    await lock_exclusive(connection, f"fills/{broker}/{account}")
    rows = await _rows_of_order(connection, broker, account, fill.broker_order_id)
    rows = [row for row in rows if row["symbol"] == fill.symbol]
    new = unbooked(fill, [fill_of(row) for row in rows])
    if new is None:
        last = fill_of(rows[-1])
        trade_id, told = await _owned(connection, rows[-1], told_to)
        return FillBooking(
            fill_key=last.fill.fill_key, is_new=False, trade_id=trade_id, told=told, fill=last.fill
        )
    for key in new.replaces:
        await reverse(connection, broker, account, key, corrected_by(new.fill))
    booking = await book(connection, broker, account, new.fill, told_to=told_to)
    return booking.model_copy(update={"fill": new.fill, "took_back": bool(new.replaces)})


async def _rows_of_order(
    connection: AsyncConnection, broker: str, account: str, broker_order_id: str
) -> Sequence[RowMapping]:
    query = select(fills).where(
        (fills.c.broker == broker)
        & (fills.c.account == account)
        & (fills.c.broker_order_id == broker_order_id)
    )
    return (await connection.execute(query.order_by(fills.c.booking))).mappings().all()


# --- executions that the venue takes back -------------------------------------------------------


def execution_name(fill: Fill) -> str:
    """The venue's id of it: REST names an execution by time and id, the stream by its id alone."""
    return fill.execution_id.rpartition("::")[2]


def corrected_by(fill: Fill) -> str:
    """What a reversal says of the row that counts instead."""
    return f"{CORRECTED_BY}{fill.fill_key}"


async def take_back(
    connection: AsyncConnection,
    broker: str,
    account: str,
    broker_order_id: str,
    execution_id: str,
    corrected: Fill | None,
) -> FillBooking | None:
    """Reverses an execution, and books what it is corrected to; None if it is not booked yet.

    Then it is kept, and whoever books the execution finds it: which comes first does not matter.
    """
    await lock_exclusive(connection, f"busts/{broker}/{account}")
    rows = [fill_of(r) for r in await _rows_of_order(connection, broker, account, broker_order_id)]
    for row in rows:
        if not row.is_reversal and execution_name(row.fill) == execution_id:
            return await _apply(connection, broker, account, row.fill.fill_key, corrected)
    document = None if corrected is None else corrected.model_dump(mode="json")
    early = {
        "broker": broker,
        "account": account,
        "broker_order_id": broker_order_id,
        "execution_id": execution_id,
        "corrected": document,
    }
    await connection.execute(upsert(early_busts).values(**early).on_conflict_do_nothing())
    return None


async def _taken_back_before(
    connection: AsyncConnection, broker: str, account: str, fill: Fill, told_to: str | None
) -> bool:
    """True if the venue has taken this new row back already; then it is reversed here.

    The lock is taken behind the row's insert: whoever takes back either sees the row or has left
    word before we look.
    """
    if not fill.execution_id:
        return False
    await lock_shared(connection, f"busts/{broker}/{account}")
    query = select(early_busts.c.corrected).where(
        (early_busts.c.broker == broker)
        & (early_busts.c.account == account)
        & (early_busts.c.broker_order_id == fill.broker_order_id)
        & (early_busts.c.execution_id == execution_name(fill))
    )
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        return False
    corrected = None if found.corrected is None else Fill.model_validate(found.corrected)
    await _apply(connection, broker, account, fill.fill_key, corrected, told_to)
    return True


async def _apply(
    connection: AsyncConnection,
    broker: str,
    account: str,
    fill_key: str,
    corrected: Fill | None,
    told_to: str | None = None,
) -> FillBooking:
    if corrected is None:
        return await reverse(connection, broker, account, fill_key, VENUES_WORD, told_to)
    if corrected.fill_key == fill_key:
        raise Refused(f"fill key was {fill_key} for both", code="FILL_KEY_SAME")
    await reverse(connection, broker, account, fill_key, corrected_by(corrected), told_to)
    return await book(connection, broker, account, corrected, told_to=told_to)


async def reverse(
    connection: AsyncConnection,
    broker: str,
    account: str,
    fill_key: str,
    reason: str,
    told_to: str | None = None,
) -> FillBooking:
    """Books the reversal `<fill_key>/bust` once (D9)."""
    query = select(fills).where(_row_of(broker, account, fill_key))
    booked = fill_of((await connection.execute(query)).mappings().one())
    opposite = reversal_of(booked.fill, reason)
    return await book(connection, broker, account, opposite, fill_key, told_to)


def reversal_of(fill: Fill, reason: str) -> Fill:
    """The row that takes this one out again."""
    return fill.model_copy(
        update={
            "fill_key": f"{fill.fill_key}/bust",
            "side": fill.side.opposite,
            "fee": None if fill.fee is None else -fill.fee,
            "execution_id": reason,
            "cumulative_quantity": None,
        }
    )


# --- rows that stand ----------------------------------------------------------------------------


def _row_of(broker: str, account: str, *fill_keys: str) -> ColumnElement[bool]:
    return (
        (fills.c.broker == broker) & (fills.c.account == account) & fills.c.fill_key.in_(fill_keys)
    )


async def known_rows(
    connection: AsyncConnection, broker: str, account: str, many: Sequence[Fill]
) -> dict[str, RowMapping]:
    """Rows booked before, by fill key: pages of executions overlap, so most are known."""
    mine = _row_of(broker, account, *(fill.fill_key for fill in many))
    rows = (await connection.execute(select(fills).where(mine))).mappings().all()
    return {row["fill_key"]: row for row in rows}


async def known_fill(
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
