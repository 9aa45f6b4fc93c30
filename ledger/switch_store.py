"""Conditions, breakers and the daily baseline: what blocks entries while it lasts.

Missing state is bad state: a risk breaker without a row reads as TRIPPED, an API breaker without
one as OPEN (architecture §7).
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.alerts import TEXT_MAX, AlertDraft
from domain.commands import AlertSeverity
from domain.control import ApiBreakerState, BreakerState, ConditionKind, TripReason
from domain.errors import Refused
from domain.money import ZERO
from ledger.alert_store import add_alert
from ledger.audit import append_audit_row
from ledger.connection import LedgerConnection, notify
from ledger.control_store import CONTROL_CHANNEL
from ledger.records import (
    ALL_ACCOUNTS,
    ApiBreakerRecord,
    BreakerRecord,
    ConditionRecord,
    EquityBaseline,
)
from ledger.tables import (
    accounts,
    api_breakers,
    cash_movements,
    conditions,
    equity_baselines,
    plain,
    risk_breakers,
)


async def conditions_in(connection: AsyncConnection, account: str) -> tuple[ConditionRecord, ...]:
    """Active conditions of the account and of all accounts."""
    query = (
        select(conditions)
        .where(or_(conditions.c.account == account, conditions.c.account == ALL_ACCOUNTS))
        .order_by(conditions.c.account, conditions.c.kind, conditions.c.symbol)
    )
    rows = (await connection.execute(query)).mappings()
    return tuple(ConditionRecord.model_validate(dict(row)) for row in rows)


async def risk_breaker_in(connection: AsyncConnection, account: str) -> BreakerRecord:
    query = select(risk_breakers).where(risk_breakers.c.account == account)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return BreakerRecord(
            account=account, state=BreakerState.TRIPPED, reason=TripReason.MISSING.value
        )
    return BreakerRecord.model_validate(dict(row))


async def api_breaker_in(connection: AsyncConnection, broker: str) -> ApiBreakerRecord:
    query = select(api_breakers).where(api_breakers.c.broker == broker)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return ApiBreakerRecord(broker=broker, state=ApiBreakerState.OPEN)
    return ApiBreakerRecord.model_validate(dict(row))


async def api_breaker_of_account(connection: AsyncConnection, account: str) -> ApiBreakerRecord:
    query = select(accounts.c.broker).where(accounts.c.account == account)
    broker = (await connection.execute(query)).scalar_one_or_none()
    return await api_breaker_in(connection, broker or "")


async def baseline_in(
    connection: AsyncConnection, account: str, roll: datetime | None
) -> EquityBaseline | None:
    query = select(equity_baselines).where(equity_baselines.c.account == account)
    if roll is not None:
        query = query.where(equity_baselines.c.roll == roll)
    newest = query.order_by(equity_baselines.c.roll.desc()).limit(1)
    row = (await connection.execute(newest)).mappings().one_or_none()
    return None if row is None else EquityBaseline.model_validate(dict(row))


async def transfers_in(connection: AsyncConnection, baseline: EquityBaseline | None) -> Decimal:
    """Money moved in (> 0) or out since the baseline was read: no profit and no loss.

    What was there when it was read is inside it, whenever that is said to have come.
    """
    if baseline is None:
        return ZERO
    query = select(func.coalesce(func.sum(cash_movements.c.amount), 0)).where(
        cash_movements.c.account == baseline.account, cash_movements.c.at > baseline.read_at
    )
    return plain(Decimal((await connection.execute(query)).scalar_one()))


def _alert_of_trip(account: str, at: datetime, reason: str, text: str, by: str) -> AlertDraft:
    """Each trip is an event of its own, even right after a reset."""
    is_loss = reason == TripReason.DAILY_LOSS.value
    return AlertDraft(
        key=f"breaker/{account}/{at.isoformat()}",
        account=account,
        code="DAILY_LOSS" if is_loss else "RISK_BREAKER",
        severity=AlertSeverity.CRITICAL,
        text=f"entries are blocked: {reason} {text} ({by})"[:TEXT_MAX],
        once=True,
    )


def _alert_of_api(broker: str, failures: int) -> AlertDraft:
    """Told under all accounts: the breaker belongs to the venue."""
    return AlertDraft(
        key=f"api-breaker/{broker}",
        account=ALL_ACCOUNTS,
        code="API_BREAKER",
        severity=AlertSeverity.WARNING,
        text=f"{broker} does not answer ({failures} failures); entries are blocked",
    )


class SwitchStore(LedgerConnection):
    """Conditions, both breakers, equity baselines."""

    async def set_condition(
        self, account: str, kind: ConditionKind, symbol: str = "", text: str = ""
    ) -> bool:
        """Activates a condition (`*` = all accounts); True if it was not active."""
        row = {"account": account, "kind": kind.value, "symbol": symbol, "text": text}
        statement = upsert(conditions).values(**row).on_conflict_do_nothing()
        async with self._work() as connection:
            is_new = (await connection.execute(statement)).rowcount == 1
            if is_new:
                await notify(connection, CONTROL_CHANNEL, account)
                await append_audit_row(connection, "system", "condition_set", account, row)
        return is_new

    async def clear_condition(self, account: str, kind: ConditionKind, symbol: str = "") -> bool:
        """Ends a condition; True if it was active."""
        row = {"account": account, "kind": kind.value, "symbol": symbol}
        statement = delete(conditions).where(
            conditions.c.account == account,
            conditions.c.kind == kind.value,
            conditions.c.symbol == symbol,
        )
        async with self._work() as connection:
            was_active = (await connection.execute(statement)).rowcount == 1
            if was_active:
                await notify(connection, CONTROL_CHANNEL, account)
                await append_audit_row(connection, "system", "condition_cleared", account, row)
        return was_active

    async def conditions(self, account: str) -> tuple[ConditionRecord, ...]:
        """Active conditions of the account, those of all accounts included."""
        async with self._work() as connection:
            found = await conditions_in(connection, account)
        return found

    async def trip_breaker(self, account: str, reason: TripReason, text: str, by: str) -> bool:
        """Trips the risk breaker; True if it was normal. The first reason stands."""
        return await self._set_breaker(account, BreakerState.TRIPPED, reason.value, text, by)

    async def reset_breaker(self, account: str, by: str, reason: str) -> bool:
        """A named person sets it back to normal; True if it was tripped or missing.

        Raises:
            Refused: `BREAKER_RESET_BY` without a name or a reason, `ACCOUNT_UNKNOWN`.
        """
        if not by.strip() or not reason.strip():
            raise Refused("name or reason was empty", code="BREAKER_RESET_BY")
        return await self._set_breaker(account, BreakerState.NORMAL, "", reason, by)

    async def _set_breaker(
        self, account: str, state: BreakerState, reason: str, text: str, by: str
    ) -> bool:
        async with self._control_work() as connection:
            known = select(accounts.c.account).where(accounts.c.account == account)
            if (await connection.execute(known)).one_or_none() is None:
                raise Refused(f"account was {account}", code="ACCOUNT_UNKNOWN")
            changes = {"state": state.value, "reason": reason, "text": text, "changed_by": by}
            statement = upsert(risk_breakers).values(account=account, **changes)
            done = await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["account"],
                    set_=changes | {"changed_at": func.clock_timestamp()},
                    where=risk_breakers.c.state != state.value,
                ).returning(risk_breakers.c.changed_at)
            )
            changed_at = done.scalar_one_or_none()
            changed = changed_at is not None
            if state is BreakerState.TRIPPED and changed_at is not None:
                await add_alert(connection, _alert_of_trip(account, changed_at, reason, text, by))
            if changed:
                action = f"breaker_{state.value}"
                await notify(connection, CONTROL_CHANNEL, account)
                await append_audit_row(connection, by, action, account, changes)
        return changed

    async def risk_breaker(self, account: str) -> BreakerRecord:
        """The risk breaker; a missing row reads as TRIPPED with reason MISSING."""
        async with self._work() as connection:
            found = await risk_breaker_in(connection, account)
        return found

    async def set_api_breaker(self, broker: str, state: ApiBreakerState, failures: int = 0) -> None:
        """Stores the state that the order activities worked out; a change leaves an audit row."""
        changes = {"state": state.value, "failures": failures}
        async with self._work() as connection:
            before = await api_breaker_in(connection, broker)
            await connection.execute(
                upsert(api_breakers)
                .values(broker=broker, **changes)
                .on_conflict_do_update(
                    index_elements=["broker"],
                    set_=changes | {"changed_at": func.clock_timestamp()},
                )
            )
            if before.state is not state:
                if state is ApiBreakerState.OPEN:
                    await add_alert(connection, _alert_of_api(broker, failures))
                details = {"from": before.state.value, "failures": failures}
                action = f"api_breaker_{state.value}"
                await append_audit_row(connection, "system", action, broker, details)

    async def api_breaker(self, broker: str) -> ApiBreakerRecord:
        """The API breaker of a broker; a missing row reads as OPEN."""
        async with self._work() as connection:
            found = await api_breaker_in(connection, broker)
        return found

    async def set_equity_baseline(
        self, account: str, roll: datetime, equity: Decimal, read_at: datetime
    ) -> EquityBaseline:
        """Stores the first baseline of the roll and answers the one that stands."""
        row = {"account": account, "roll": roll, "equity": equity, "read_at": read_at}
        async with self._work() as connection:
            await connection.execute(
                upsert(equity_baselines).values(**row).on_conflict_do_nothing()
            )
            stands = await baseline_in(connection, account, roll)
        assert stands is not None
        return stands

    async def transfers_since(self, baseline: EquityBaseline | None) -> Decimal:
        """Money that the owner moved in (> 0) or out since the baseline was read."""
        async with self._work() as connection:
            moved = await transfers_in(connection, baseline)
        return moved

    async def equity_baseline(
        self, account: str, roll: datetime | None = None
    ) -> EquityBaseline | None:
        """The baseline of the roll, or the newest one; None if there is none."""
        async with self._work() as connection:
            found = await baseline_in(connection, account, roll)
        return found
