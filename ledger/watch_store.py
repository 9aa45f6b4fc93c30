"""The exit watch's list: which rule looks at which trade, and how far it has come."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from ledger.connection import LedgerConnection, notify
from ledger.records import WatchRecord
from ledger.rows import watch_of
from ledger.tables import watches

WATCH_CHANNEL = "holdfast_watches"


class WatchStore(LedgerConnection):
    """Exit-watch rows; every change of the list rings `holdfast_watches` with the account."""

    async def upsert_watch(self, watch: WatchRecord) -> bool:
        """Adds or replaces the rule of a trade.

        A newer position epoch restarts the progress, the same epoch keeps it and takes the new
        rule, an older one is ignored (answer False).
        """
        row = watch.model_dump()
        rule = {name: row[name] for name in ("account", "symbol", "document")}
        statement = upsert(watches).values(**row)
        async with self._work() as connection:
            query = select(watches.c.position_epoch).where(
                watches.c.trade_id == watch.trade_id, watches.c.rule_id == watch.rule_id
            )
            stored = (await connection.execute(query.with_for_update())).scalar_one_or_none()
            if stored is not None and stored > watch.position_epoch:
                return False
            if stored == watch.position_epoch:
                changes, guard = rule, watches.c.position_epoch == watch.position_epoch
            else:
                changes, guard = row, watches.c.position_epoch < watch.position_epoch
            done = await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["trade_id", "rule_id"], set_=changes, where=guard
                )
            )
            await notify(connection, WATCH_CHANNEL, watch.account)
        return done.rowcount == 1

    async def save_watch_progress(self, watch: WatchRecord) -> bool:
        """Stores marks and confirmations; False if the row is gone or of another epoch."""
        statement = (
            update(watches)
            .where(
                watches.c.trade_id == watch.trade_id,
                watches.c.rule_id == watch.rule_id,
                watches.c.position_epoch == watch.position_epoch,
            )
            .values(
                high_water_mark=watch.high_water_mark,
                last_mark=watch.last_mark,
                confirmations=watch.confirmations,
                confirmed_at=watch.confirmed_at,
                evaluated_at=watch.evaluated_at,
            )
        )
        async with self._statement() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def delete_watch(self, trade_id: str, rule_id: str | None = None) -> int:
        """Removes one rule of the trade, or all of them; returns how many."""
        statement = delete(watches).where(watches.c.trade_id == trade_id)
        if rule_id is not None:
            statement = statement.where(watches.c.rule_id == rule_id)
        async with self._work() as connection:
            done = await connection.execute(statement.returning(watches.c.account))
            gone = done.scalars().all()
            for account in sorted(set(gone)):
                await notify(connection, WATCH_CHANNEL, account)
        return len(gone)

    async def list_watches(self, account: str) -> tuple[WatchRecord, ...]:
        """Every rule that the account's exit watch evaluates."""
        query = select(watches).where(watches.c.account == account)
        async with self._statement() as connection:
            ordered = query.order_by(watches.c.trade_id, watches.c.rule_id)
            rows = (await connection.execute(ordered)).mappings().all()
        return tuple(watch_of(row) for row in rows)
