"""Reservations: the atomic end of the risk gate (I6, B1-B3).

One lock per account makes "read the book, decide, write" one step, so that two trades can never
both take the last of a limit. The row is keyed by trade: a repeat reads the first answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, exists, func, insert, literal_column, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.control import KillScopeKind
from domain.money import ONE, ZERO, amount_up, divide, multiply
from domain.plan import EntryStyle
from domain.risk.repeats import EntryIdea
from ledger.connection import LedgerConnection, limit_waits, lock_exclusive
from ledger.control_store import control_in
from ledger.fill_store import positions_in
from ledger.records import (
    EXTERNAL,
    GateVerdict,
    IntentState,
    RecentReservation,
    Reservation,
    ReserveDecision,
    ReserveRequest,
    ReserveResult,
    RiskBook,
    TradePosition,
    WorkingOrder,
)
from ledger.rows import Columns, decision_of, reservation_of, working_of
from ledger.strategy_store import configurations_in
from ledger.switch_store import (
    api_breaker_of_account,
    baseline_in,
    conditions_in,
    risk_breaker_in,
    transfers_in,
)
from ledger.tables import LIVE_ORDERS, gate_verdicts, kills, orders, reservations, trades


def _of_legs(path: str) -> ColumnElement[Any]:
    """A JSON array with what stands at the path in each leg of the trade's plan."""
    where: ColumnElement[str] = literal_column(f"'$.legs[*].{path}'")
    return func.jsonb_path_query_array(trades.c.plan, where, type_=JSONB)


MESSAGE_WINDOW = timedelta(seconds=60)
RECENT_MAX = 1000
RESERVE_LOCK_MS = 4000
RESERVE_IDLE_MS = 3000
# A trade's end is booked after each of its orders is known to be done. A row that was accepted
# before it and still says working is older news: its last frame was lost, and the next compare
# pass mends it. An order that was called dead and shows up all the same keeps the code of that
# word (C5, I10).
_IS_PROVEN_DONE = (
    (orders.c.state == IntentState.ACCEPTED.value)
    & (orders.c.code == "")
    & exists().where(
        trades.c.trade_id == orders.c.trade_id, trades.c.closed_at > orders.c.answered_at
    )
)
_HELD = reservations.c.approved & reservations.c.released_at.is_(None)
# The lock is held meanwhile, and a whole plan or ticket of each of a thousand trades takes a second
# to read: only what the gate asks of them comes out of the database.
_LEG_SYMBOLS = _of_legs("instrument.symbol")
_LEG_SIDES = _of_legs("side")
_LEG_RATIOS = _of_legs("ratio")
_HELD_COLUMNS = [reservations.c[name] for name in Reservation.model_fields if name != "legs"]


async def read_risk_book(
    connection: AsyncConnection,
    account: str,
    now: datetime,
    strategy: str = "",
    look_back_s: float = 0.0,
) -> RiskBook:
    """Everything the gate may count, inside the caller's transaction."""
    columns = ("client_id", "trade_id", "body", "filled_quantity", "increasing")
    live = select(*(orders.c[name] for name in columns)).where(
        orders.c.account == account, LIVE_ORDERS, ~_IS_PROVEN_DONE
    )
    working = (await connection.execute(live)).mappings().all()
    sent = select(func.coalesce(func.sum(orders.c.attempts), 0)).where(
        orders.c.account == account, orders.c.gate_at > now - MESSAGE_WINDOW
    )
    baseline = await baseline_in(connection, account, None)
    positions = await positions_in(connection, account)
    orders_at_work = tuple(working_of(row) for row in working)
    return RiskBook(
        account=account,
        read_at=now,
        control=await control_in(connection, account),
        conditions=await conditions_in(connection, account),
        risk_breaker=await risk_breaker_in(connection, account),
        api_breaker=await api_breaker_of_account(connection, account),
        reservations=await _reservations_in(connection, account, positions, orders_at_work),
        positions=positions,
        working_orders=orders_at_work,
        messages_last_60_s=int((await connection.execute(sent)).scalar_one()),
        baseline=baseline,
        transfers=await transfers_in(connection, baseline),
        configurations=await configurations_in(connection),
        recent=await _recent_in(connection, account, strategy, now, look_back_s),
    )


async def _reservations_in(
    connection: AsyncConnection,
    account: str,
    positions: Sequence[TradePosition],
    working: Sequence[WorkingOrder],
) -> tuple[Reservation, ...]:
    """Every reservation that counts, as far as it is still at risk.

    Released ones count too while their trade holds something or its entry works after its end: it
    is restarted for that (D9, C5), and gave its risk back before (I6).
    """
    rows = await _reservation_rows(connection, reservations.c.account == account, _HELD)
    owned, known = _sizes(positions), {row["trade_id"] for row in rows}
    enters = {order.trade_id for order in working if order.increasing}
    holds = {trade_id for (trade_id, _), size in owned.items() if size}
    back = (enters | holds) - known - {EXTERNAL}
    if back:
        mine = (reservations.c.account == account, reservations.c.trade_id.in_(back))
        rows += await _reservation_rows(connection, *mine, reservations.c.approved)
    grows = {row["trade_id"] for row in rows if row["entry_style"] == EntryStyle.TWAP}
    return tuple(_still_reserved(_with_legs(row), owned, enters | grows) for row in rows)


async def _reservation_rows(
    connection: AsyncConnection, *clauses: ColumnElement[bool]
) -> list[Columns]:
    style = trades.c.plan["entry_style"].astext.label("entry_style")
    query = (
        select(*_HELD_COLUMNS, style, _LEG_SYMBOLS.label("symbols"), _LEG_SIDES.label("sides"))
        .select_from(reservations)
        .outerjoin(trades, trades.c.trade_id == reservations.c.trade_id)
        .where(*clauses)
        .order_by(reservations.c.reserved_at)
    )
    return list((await connection.execute(query)).mappings().all())


def _with_legs(row: Columns) -> Reservation:
    legs = zip(row["symbols"] or (), row["sides"] or (), strict=True)
    made = [{"symbol": symbol, "side": side} for symbol, side in legs]
    return Reservation.model_validate({**row, "legs": made})


def _sizes(positions: Sequence[TradePosition]) -> dict[tuple[str, str], Decimal]:
    """Absolute quantity by trade and symbol."""
    sizes: dict[tuple[str, str], Decimal] = {}
    for one in positions:
        owner = (one.trade_id, one.symbol)
        sizes[owner] = sizes.get(owner, ZERO) + abs(one.quantity)
    return sizes


def _still_reserved(
    held: Reservation, owned: Mapping[tuple[str, str], Decimal], whole: Collection[str]
) -> Reservation:
    """The reservation as far as it is still at risk: it shrinks as the position goes (I6).

    Reckoned anew at each reading, so that a late fill makes it whole again. While the trade holds
    nothing of its symbol (not entered yet, or a structure of legs), while an entry works, and for
    entries in slices (both in `whole`) all of it counts.
    """
    size = owned.get((held.trade_id, held.symbol))
    if size is None or held.trade_id in whole or held.quantity <= 0:
        return held
    share = min(divide(size, held.quantity), ONE)
    return held.model_copy(
        update={
            "quantity": multiply(held.quantity, share),
            "notional": amount_up(multiply(held.notional, share)),
            "loss": amount_up(multiply(held.loss, share)),
        }
    )


async def _recent_in(
    connection: AsyncConnection, account: str, strategy: str, now: datetime, look_back_s: float
) -> tuple[RecentReservation, ...]:
    """Entries of the strategy that were let through, newest first.

    A person who lifted its kill has seen the earlier ones: counting begins anew (control 6).
    """
    if look_back_s <= 0:
        return ()
    lifted = select(func.max(kills.c.reset_at)).where(
        kills.c.account == account,
        kills.c.scope_kind == KillScopeKind.STRATEGY.value,
        kills.c.scope_value == strategy,
    )
    since = now - timedelta(seconds=look_back_s)
    reset_at = (await connection.execute(lifted)).scalar_one_or_none()
    query = (
        select(
            reservations.c.trade_id,
            reservations.c.reserved_at,
            trades.c.plan["side"].label("side"),
            trades.c.plan["size"].label("size"),
            _LEG_SYMBOLS.label("symbols"),
            _LEG_SIDES.label("sides"),
            _LEG_RATIOS.label("ratios"),
        )
        .join(trades, trades.c.trade_id == reservations.c.trade_id)
        .where(
            reservations.c.account == account,
            reservations.c.strategy == strategy,
            reservations.c.approved,
            reservations.c.reserved_at > (since if reset_at is None else max(since, reset_at)),
        )
        .order_by(reservations.c.reserved_at.desc())
        .limit(RECENT_MAX)
    )
    rows = (await connection.execute(query)).mappings().all()
    return tuple(
        RecentReservation(
            trade_id=row["trade_id"],
            strategy=strategy,
            idea=EntryIdea(
                legs=tuple(zip(row["symbols"], row["sides"], row["ratios"], strict=True)),
                side=row["side"],
                size=row["size"],
            ),
            reserved_at=row["reserved_at"],
        )
        for row in rows
    )


class RiskStore(LedgerConnection):
    """Reserving and releasing risk."""

    async def reserve(
        self,
        request: ReserveRequest,
        evaluate: Callable[[RiskBook], ReserveDecision],
        now: datetime,
    ) -> ReserveResult:
        """Lets `evaluate` judge the account's book and books its decision, in one transaction.

        `evaluate` must be pure and quick: the account's other reservations wait for it. All its
        verdicts are stored, refusals too. A repeat for the same trade does not evaluate again
        and answers the first decision with `is_new` False (B2, B3).
        """
        async with self._work() as connection:
            await limit_waits(connection, lock_ms=RESERVE_LOCK_MS, idle_ms=RESERVE_IDLE_MS)
            await lock_exclusive(connection, f"holdfast/reserve/{request.account}")
            row = await _reservation_row(connection, request.trade_id)
            is_new = row is None
            if row is None:
                book = await read_risk_book(
                    connection, request.account, now, request.strategy, request.look_back_s
                )
                decision = evaluate(book)
                row = await _store(connection, request, decision, now)
            result = ReserveResult(
                is_new=is_new,
                reservation_id=row["reservation_id"],
                decision=decision_of(row),
                reservation=reservation_of(row) if row["approved"] else None,
            )
        return result

    async def risk_book(
        self, account: str, now: datetime, *, strategy: str = "", look_back_s: float = 0.0
    ) -> RiskBook:
        """The book without a decision (dry runs, status)."""
        async with self._work() as connection:
            book = await read_risk_book(connection, account, now, strategy, look_back_s)
        return book

    async def release_reservation(self, trade_id: str, reason: str) -> bool:
        """Frees the risk of the trade; True exactly once (I6)."""
        statement = (
            update(reservations)
            .where(reservations.c.trade_id == trade_id, _HELD)
            .values(released_at=func.clock_timestamp(), release_reason=reason)
        )
        async with self._statement() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def reservation(self, trade_id: str) -> Reservation | None:
        """The trade's reservation, released or not; None if there is none or it was refused."""
        async with self._work() as connection:
            row = await _reservation_row(connection, trade_id)
        return reservation_of(row) if row is not None and row["approved"] else None

    async def reserved_decision(self, trade_id: str) -> ReserveDecision | None:
        """The stored decision of the gate, approved or refused."""
        async with self._work() as connection:
            row = await _reservation_row(connection, trade_id)
        return None if row is None else decision_of(row)

    async def open_reservations(self, account: str) -> tuple[Reservation, ...]:
        """Unreleased reservations of the account."""
        query = select(reservations).where(reservations.c.account == account, _HELD)
        async with self._statement() as connection:
            ordered = query.order_by(reservations.c.reserved_at)
            rows = (await connection.execute(ordered)).mappings().all()
        return tuple(reservation_of(row) for row in rows)

    async def verdicts(self, trade_id: str) -> tuple[GateVerdict, ...]:
        """The gate's verdicts on the trade in gate order."""
        query = (
            select(gate_verdicts)
            .where(gate_verdicts.c.trade_id == trade_id)
            .order_by(gate_verdicts.c.position)
        )
        async with self._statement() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(GateVerdict.model_validate(dict(row)) for row in rows)


async def _reservation_row(connection: AsyncConnection, trade_id: str) -> Columns | None:
    query = select(reservations).where(reservations.c.trade_id == trade_id)
    return (await connection.execute(query)).mappings().one_or_none()


async def _store(
    connection: AsyncConnection,
    request: ReserveRequest,
    decision: ReserveDecision,
    now: datetime,
) -> Columns:
    columns: dict[str, Any] = request.model_dump(exclude={"look_back_s"}) | {
        "reservation_id": f"reservation/{request.trade_id}",
        "approved": decision.approved,
        "decision": decision.model_dump(mode="json"),
        "quantity": decision.quantity,
        "notional": decision.notional,
        "loss": decision.loss,
        "reserved_at": now,
    }
    statement = upsert(reservations).values(**columns).returning(reservations)
    row: Columns = (await connection.execute(statement)).mappings().one()
    if decision.verdicts:
        verdicts = [
            verdict.model_dump(mode="json")
            | {"trade_id": request.trade_id, "position": position, "at": now}
            for position, verdict in enumerate(decision.verdicts)
        ]
        await connection.execute(insert(gate_verdicts), verdicts)
    return row
