"""Stored configurations of strategies: which file runs under which name, and whether it may."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.alerts import TEXT_MAX, AlertDraft
from domain.commands import AlertSeverity
from domain.errors import Refused
from ledger.alert_store import add_alert
from ledger.audit import append_audit_row
from ledger.connection import LedgerConnection
from ledger.errors import VersionConflict
from ledger.records import StrategyRecord
from ledger.tables import strategy_configurations as configurations
from ledger.tables import trades

LOSSES_IN_A_ROW = "LOSSES_IN_A_ROW"


async def configurations_in(connection: AsyncConnection) -> tuple[StrategyRecord, ...]:
    """All configurations in order of name, inside the caller's transaction."""
    query = select(configurations).order_by(configurations.c.name)
    rows = (await connection.execute(query)).mappings()
    return tuple(StrategyRecord.model_validate(dict(row)) for row in rows)


class StrategyStore(LedgerConnection):
    """Adding and changing configurations; every change raises the version and is audited."""

    async def strategies(self) -> tuple[StrategyRecord, ...]:
        """All configurations in order of name."""
        async with self._work() as connection:
            found = await configurations_in(connection)
        return found

    async def strategy(self, name: str) -> StrategyRecord | None:
        """The configuration of this name, or None."""
        async with self._work() as connection:
            found = await _row(connection, name)
        return found

    async def add_strategy(self, wanted: StrategyRecord, by: str, reason: str) -> StrategyRecord:
        """Stores a new configuration with version 1.

        Raises:
            Refused: `STRATEGY_EXISTS`.
        """
        columns = ("name", "strategy", "parameters", "enabled", "capital", "losses_max")
        row = {name: getattr(wanted, name) for name in columns}
        row |= {"reason": reason, "updated_by": by}
        statement = upsert(configurations).values(**row).on_conflict_do_nothing()
        async with self._work() as connection:
            done = await connection.execute(statement.returning(configurations))
            stored = done.mappings().one_or_none()
            if stored is None:
                raise Refused(f"configuration {wanted.name} was there", code="STRATEGY_EXISTS")
            await append_audit_row(connection, by, "strategy.add", wanted.name, row)
        return StrategyRecord.model_validate(dict(stored))

    async def change_strategy(
        self,
        name: str,
        changes: Mapping[str, object],
        by: str,
        reason: str,
        *,
        version: int | None = None,
    ) -> StrategyRecord:
        """Changes the given columns; setting `enabled` to True begins the count of losses anew.

        Raises:
            Refused: `STRATEGY_UNKNOWN`.
            VersionConflict: `version` was not the row's (I17).
        """
        async with self._work() as connection:
            before = await _row(connection, name, lock=True)
            if before is None:
                raise Refused(f"configuration was {name}", code="STRATEGY_UNKNOWN")
            if version is not None and version != before.version:
                raise VersionConflict(version, before.version)
            after = await _change(connection, before, changes, by, reason)
        return after

    async def disable_after_losses(self, name: str, account: str) -> StrategyRecord | None:
        """Disables the configuration if its newest `losses_max` trades since it was enabled lost.

        Trades without a result in money (refused, not filled) neither count nor end a row of
        losses. The alert is raised for `account` in the same transaction. Answers the changed
        row, once; None where nothing was to be done.
        """
        async with self._work() as connection:
            row = await _row(connection, name, lock=True)
            if row is None or not row.enabled or row.losses_max is None:
                return None
            losses = await _newest_results(connection, row, row.losses_max)
            if len(losses) < row.losses_max or max(losses) >= 0:
                return None
            text = f"{LOSSES_IN_A_ROW}: the last {len(losses)} trades lost {-sum(losses):f}"
            changed = await _change(connection, row, {"enabled": False}, "rule", text)
            await add_alert(connection, _alert_of(changed, account))
        return changed


async def _row(
    connection: AsyncConnection, name: str, *, lock: bool = False
) -> StrategyRecord | None:
    query = select(configurations).where(configurations.c.name == name)
    found = await connection.execute(query.with_for_update() if lock else query)
    row = found.mappings().one_or_none()
    return None if row is None else StrategyRecord.model_validate(dict(row))


async def _change(
    connection: AsyncConnection,
    before: StrategyRecord,
    changes: Mapping[str, object],
    by: str,
    reason: str,
) -> StrategyRecord:
    values = dict(changes) | {"version": before.version + 1, "reason": reason, "updated_by": by}
    if changes.get("enabled") is True and not before.enabled:
        values["enabled_at"] = func.clock_timestamp()
    statement = (
        update(configurations)
        .where(configurations.c.name == before.name)
        .values(updated_at=func.clock_timestamp(), **values)
        .returning(configurations)
    )
    row = (await connection.execute(statement)).mappings().one()
    action = "set"
    if "enabled" in changes:
        action = "enable" if changes["enabled"] else "disable"
    details = dict(changes) | {"version": before.version + 1, "reason": reason}
    await append_audit_row(connection, by, f"strategy.{action}", before.name, details)
    return StrategyRecord.model_validate(dict(row))


def _alert_of(disabled: StrategyRecord, account: str) -> AlertDraft:
    return AlertDraft(
        key=f"strategy/{disabled.name}/{disabled.version}",
        account=account,
        code="STRATEGY_DISABLED",
        severity=AlertSeverity.WARNING,
        text=f"{disabled.name}: {disabled.reason}"[:TEXT_MAX],
    )


async def _newest_results(
    connection: AsyncConnection, row: StrategyRecord, count: int
) -> list[Decimal]:
    """Realised money of the newest closed trades since the configuration was enabled."""
    query = (
        select(trades.c.realised)
        .where(
            trades.c.strategy == row.name,
            trades.c.closed_at > row.enabled_at,
            trades.c.realised.is_not(None),
            trades.c.realised != 0,
        )
        .order_by(trades.c.closed_at.desc(), trades.c.trade_id.desc())
        .limit(count)
    )
    return list((await connection.execute(query)).scalars())
