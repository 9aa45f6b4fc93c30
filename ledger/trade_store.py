"""Trades and signals: one row per idea, with what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, case, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.alerts import TEXT_MAX, AlertDraft
from domain.commands import AlertSeverity
from domain.errors import Refused
from domain.ids import trade_prefix
from domain.money import in_figures
from domain.plan import TradePlan
from ledger.alert_store import add_alert
from ledger.control_store import ControlStore
from ledger.records import (
    AdjustmentRecord,
    SessionSeen,
    SignalRecord,
    TradeBook,
    TradeRecord,
)
from ledger.rows import Columns, fill_of, intent_of, signal_of, trade_of
from ledger.tables import adjustments, fills, orders, signals, trades


class TradeStore(ControlStore):
    """Creating, following and closing trades; recording signals."""

    async def create_trade(
        self,
        plan: TradePlan,
        *,
        stage: str = "planned",
        build_id: str = "",
        config_hash: str = "",
        began_at: datetime | None = None,
    ) -> TradeRecord:
        """Creates the trade's row before anything else happens in its name.

        The same plan again answers the row as it is (a repeated activity, a restored Temporal
        store: look at its stage). `began_at` is for a trade whose row was lost; else it is now.

        Raises:
            Refused: `TRADE_EXISTS` the id belongs to another plan.
        """
        prefix = trade_prefix(await self.installation_id(), plan.trade_id)
        row: dict[str, Any] = {
            "trade_id": plan.trade_id,
            "client_prefix": prefix,
            "account": plan.account,
            "session": plan.session,
            "strategy": plan.strategy,
            "symbol": plan.symbol,
            "plan": plan.model_dump(mode="json"),
            "stage": stage,
            "build_id": build_id,
            "config_hash": config_hash,
        }
        if began_at is not None:
            row["created_at"] = began_at
        statement = upsert(trades).values(**row).on_conflict_do_nothing()
        async with self._work() as connection:
            await connection.execute(statement)
            stored = await _trade_row(connection, plan.trade_id)
        if stored is None or trade_of(stored).plan != plan:
            raise Refused(
                f"trade was there with another plan: {plan.trade_id}", code="TRADE_EXISTS"
            )
        return trade_of(stored)

    async def update_trade(
        self,
        trade_id: str,
        *,
        stage: str | None = None,
        protection: str | None = None,
        result: str | None = None,
        story: str | None = None,
        build_id: str | None = None,
        document: Mapping[str, object] | None = None,
        closed: bool | None = None,
        reopened_at: datetime | None = None,
    ) -> TradeRecord:
        """Changes what is not None. `closed` True stamps `closed_at` once, False reopens (D9).

        `reopened_at` reopens what was closed until then; a writer that comes behind the true end
        changes nothing about it.

        Raises:
            Refused: `TRADE_UNKNOWN`.
        """
        asked = {
            "stage": stage,
            "protection": protection,
            "result": result,
            "story": story,
            "build_id": build_id,
            "document": document,
        }
        changes: dict[str, Any] = {
            name: value for name, value in asked.items() if value is not None
        }
        if closed is not None:
            stamp = func.coalesce(trades.c.closed_at, func.clock_timestamp())
            changes["closed_at"] = stamp if closed else None
        elif reopened_at is not None:
            since = trades.c.closed_at > reopened_at
            changes["closed_at"] = case((since, trades.c.closed_at), else_=None)
        return await self._change_trade(trade_id, changes)

    async def settle_trade(
        self,
        trade_id: str,
        realised: Decimal,
        fees: Decimal,
        *,
        fees_estimated: bool,
        result: str | None = None,
    ) -> TradeRecord:
        """Books the trade's result; `settled_at` is stamped once the fees are the broker's own.

        Raises:
            Refused: `TRADE_UNKNOWN`.
        """
        changes: dict[str, Any] = {
            "realised": realised,
            "fees": fees,
            "fees_estimated": fees_estimated,
            "closed_at": func.coalesce(trades.c.closed_at, func.clock_timestamp()),
        }
        if result is not None:
            changes["result"] = result
        if not fees_estimated:
            changes["settled_at"] = func.coalesce(trades.c.settled_at, func.clock_timestamp())
        return await self._change_trade(trade_id, changes, tells_close=True)

    async def _change_trade(
        self, trade_id: str, changes: dict[str, Any], *, tells_close: bool = False
    ) -> TradeRecord:
        statement = (
            update(trades)
            .where(trades.c.trade_id == trade_id)
            .values(updated_at=func.clock_timestamp(), **changes)
            .returning(trades)
        )
        async with self._work() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
            if row is not None and tells_close and await _has_fills(connection, trade_id):
                await add_alert(connection, _alert_of_close(row))
        if row is None:
            raise Refused(f"trade was {trade_id}", code="TRADE_UNKNOWN")
        return trade_of(row)

    async def trade(self, trade_id: str) -> TradeRecord | None:
        """The trade's row, or None."""
        async with self._work() as connection:
            row = await _trade_row(connection, trade_id)
        return None if row is None else trade_of(row)

    async def trade_book(self, trade_id: str) -> TradeBook | None:
        """The trade with its orders, executions and adjustments, read at one instant; or None."""
        async with self._work() as connection:
            row = await _trade_row(connection, trade_id)
            if row is None:
                return None
            ordered = (
                select(orders).where(orders.c.trade_id == trade_id).order_by(orders.c.created_at),
                select(fills).where(fills.c.trade_id == trade_id).order_by(fills.c.booking),
                select(adjustments)
                .where(adjustments.c.trade_id == trade_id)
                .order_by(adjustments.c.at, adjustments.c.adjustment_id),
            )
            sent, filled, moved = [
                (await connection.execute(query)).mappings().all() for query in ordered
            ]
        return TradeBook(
            trade=trade_of(row),
            orders=tuple(intent_of(each) for each in sent),
            fills=tuple(fill_of(each) for each in filled),
            adjustments=tuple(AdjustmentRecord.model_validate(dict(each)) for each in moved),
        )

    async def trade_of_prefix(self, client_prefix: str) -> TradeRecord | None:
        """The trade behind the first 16 characters of a client order id."""
        query = select(trades).where(trades.c.client_prefix == client_prefix)
        async with self._statement() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else trade_of(row)

    async def list_trades(
        self,
        *,
        account: str | None = None,
        session: str | None = None,
        strategy: str | None = None,
        symbol: str | None = None,
        protection: str | None = None,
        open_only: bool = False,
        limit: int | None = None,
    ) -> tuple[TradeRecord, ...]:
        """Every trade that fits every given filter, oldest first; `limit` keeps the oldest few."""
        filters = {
            "account": account,
            "session": session,
            "strategy": strategy,
            "symbol": symbol,
            "protection": protection,
        }
        query = select(trades)
        for name, value in filters.items():
            if value is not None:
                query = query.where(trades.c[name] == value)
        if open_only:
            query = query.where(trades.c.closed_at.is_(None))
        ordered = query.order_by(trades.c.created_at, trades.c.trade_id).limit(limit)
        async with self._statement() as connection:
            rows = (await connection.execute(ordered)).mappings().all()
        return tuple(trade_of(row) for row in rows)

    async def record_signal(self, signal: SignalRecord) -> bool:
        """Records a signal and its decision; True the first time, a repeat changes nothing (A1)."""
        row = signal.model_dump() | {"side": signal.side.value if signal.side else None}
        statement = upsert(signals).values(**row).on_conflict_do_nothing()
        async with self._statement() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def decide_signal(
        self, signal_id: str, decision: str, *, code: str = "", text: str = "", trade_id: str = ""
    ) -> bool:
        """Replaces the decision of a recorded signal; False if there is no such signal."""
        statement = (
            update(signals)
            .where(signals.c.signal_id == signal_id)
            .values(decision=decision, code=code, text=text, trade_id=trade_id or None)
        )
        async with self._statement() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def signal(self, signal_id: str) -> SignalRecord | None:
        """The recorded signal, or None."""
        query = select(signals).where(signals.c.signal_id == signal_id)
        async with self._statement() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else signal_of(row)

    async def count_signals(self, session: str, decision: str) -> int:
        """How many signals of the session came to this decision."""
        query = select(func.count()).where(
            signals.c.session == session, signals.c.decision == decision
        )
        async with self._statement() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def list_signals(
        self,
        *,
        session: str | None = None,
        account: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> tuple[SignalRecord, ...]:
        """Every signal from `since` until before `until` in the order of their time."""
        query = select(signals)
        if session is not None:
            query = query.where(signals.c.session == session)
        if account is not None:
            query = query.where(signals.c.account == account)
        if since is not None:
            query = query.where(signals.c.signal_time >= since)
        if until is not None:
            query = query.where(signals.c.signal_time < until)
        ordered = query.order_by(signals.c.signal_time, signals.c.signal_id).limit(limit)
        async with self._statement() as connection:
            rows = (await connection.execute(ordered)).mappings().all()
        return tuple(signal_of(row) for row in rows)

    async def sessions(self, name: str | None = None) -> tuple[SessionSeen, ...]:
        """Every session that a signal or a trade names, the newest first; or only this one."""
        decided = _by_session(signals, signals.c.signal_time, signals.c.signal_time, name)
        traded = _by_session(trades, trades.c.created_at, trades.c.updated_at, name)
        is_taken = func.count().filter(signals.c.decision == "taken").label("taken")
        async with self._work() as connection:
            by_signal = (await connection.execute(decided.add_columns(is_taken))).mappings().all()
            by_trade = (await connection.execute(traded)).mappings().all()
        found = {
            row["session"]: _seen(row, decisions=row["rows"], taken=row["taken"])
            for row in by_signal
        }
        for row in by_trade:
            known = found.get(row["session"]) or _seen(row)
            found[known.name] = known.model_copy(update={"trades": row["rows"]})
        return tuple(sorted(found.values(), key=lambda each: (each.last_at, each.name))[::-1])


def _by_session(
    table: Table, first: ColumnElement[Any], last: ColumnElement[Any], name: str | None
) -> Select[Any]:
    query = select(
        table.c.session,
        func.min(table.c.account).label("account"),
        func.min(first).label("first_at"),
        func.max(last).label("last_at"),
        func.count().label("rows"),
    ).group_by(table.c.session)
    return query if name is None else query.where(table.c.session == name)


def _seen(row: Columns, **counts: int) -> SessionSeen:
    return SessionSeen(
        name=row["session"],
        account=row["account"],
        first_at=row["first_at"],
        last_at=row["last_at"],
        **counts,
    )


async def _has_fills(connection: AsyncConnection, trade_id: str) -> bool:
    query = select(fills.c.fill_key).where(fills.c.trade_id == trade_id).limit(1)
    return (await connection.execute(query)).one_or_none() is not None


def _alert_of_close(row: Columns) -> AlertDraft:
    """A trade that was never filled has not been opened and is not told as closed."""
    fees = "fees estimated" if row["fees_estimated"] else "after fees"
    sign = "" if row["realised"] < 0 else "+"
    amount = f"{sign}{in_figures(row['realised'])}"
    text = f"{row['symbol']} {row['strategy']}: {row['result']}, {amount} {fees}"
    return AlertDraft(
        key=f"trade-closed/{row['trade_id']}",
        account=row["account"],
        trade_id=row["trade_id"],
        code="TRADE_CLOSED",
        severity=AlertSeverity.INFO,
        text=text[:TEXT_MAX],
        once=True,
    )


async def _trade_row(connection: AsyncConnection, trade_id: str) -> Columns | None:
    query = select(trades).where(trades.c.trade_id == trade_id)
    return (await connection.execute(query)).mappings().one_or_none()
