"""Accounts, arming and the latched kill: the rows that every order passes (architecture §7).

A kill takes the control row exclusively, the order gate takes it shared. So each increasing
intent either committed before the kill and stands in its answer, or is refused (K5). An advisory
lock in front keeps a stream of gates from starving the kill, which row locks alone would allow.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.alerts import TEXT_MAX, AlertDraft
from domain.commands import AlertSeverity
from domain.control import (
    ApiBreakerState,
    BreakerState,
    Control,
    KillScope,
    KillScopeKind,
    KillSwitch,
)
from domain.errors import Refused
from ledger.alert_store import add_alert
from ledger.audit import append_audit_row
from ledger.connection import LedgerConnection, limit_waits, lock_exclusive, notify
from ledger.errors import VersionConflict
from ledger.records import (
    ALL_ACCOUNTS,
    AccountRecord,
    IntentState,
    KillAnswer,
)
from ledger.rows import Columns, intent_of, kill_of, unarmed
from ledger.tables import (
    LIVE_ORDERS,
    accounts,
    api_breakers,
    control,
    installation,
    kills,
    orders,
    risk_breakers,
)

CONTROL_CHANNEL = "holdfast_control"
KILL_LOCK_MS = 2000
GATE_LOCK_MS = 100
# A process frozen between gate and commit must not hold up a kill longer than this (M9).
GATE_IDLE_MS = 800


def gate_lock_name(account: str) -> str:
    """Advisory lock that gates share and kills take alone."""
    return f"holdfast/gate/{account}"


async def control_in(connection: AsyncConnection, account: str) -> Control:
    """The control of an account inside the caller's transaction, kills of `all` merged in.

    The version is the sum of the account's and the common row's: any change raises it.
    """
    query = select(control).where(control.c.account.in_((account, ALL_ACCOUNTS)))
    found = {row["account"]: row for row in (await connection.execute(query)).mappings()}
    engaged = await engaged_kills(connection, (account, ALL_ACCOUNTS))
    own, common = found.get(account), found.get(ALL_ACCOUNTS)
    if own is None or common is None:
        return unarmed(account).model_copy(update={"kills": engaged})
    newest = max(own, common, key=lambda row: row["updated_at"])
    return Control(
        account=account,
        armed=own["armed"],
        kills=engaged,
        version=own["version"] + (0 if own is common else common["version"]),
        updated_at=newest["updated_at"],
        updated_by=newest["updated_by"],
    )


async def engaged_kills(
    connection: AsyncConnection, owners: Iterable[str]
) -> tuple[KillSwitch, ...]:
    query = (
        select(kills)
        .where(kills.c.account.in_(tuple(owners)), kills.c.reset_at.is_(None))
        .order_by(kills.c.engaged_at, kills.c.command_id)
    )
    return tuple(kill_of(row) for row in (await connection.execute(query)).mappings())


async def touch_control(
    connection: AsyncConnection, account: str, by: str, reason: str, **changes: Any
) -> None:
    """Raises the row's version, stamps who and why, and rings the control bell."""
    await connection.execute(
        update(control)
        .where(control.c.account == account)
        .values(
            version=control.c.version + 1,
            updated_at=func.clock_timestamp(),
            updated_by=by,
            reason=reason,
            **changes,
        )
    )
    await notify(connection, CONTROL_CHANNEL, account)


class ControlStore(LedgerConnection):
    """Accounts, arm/disarm and kills."""

    async def installation_id(self) -> str:
        """4 lower-case hex, drawn once at the first migration."""
        if self._installation is None:
            async with self._statement() as connection:
                query = select(installation.c.installation)
                self._installation = str((await connection.execute(query)).scalar_one())
        return self._installation

    async def ensure_installation(self, wanted: str) -> None:
        """Makes `wanted` the installation of a ledger that has no orders yet.

        Raises:
            Refused: `INSTALLATION_DIFFERS`; ids of the orders at the broker would not be known.
        """
        async with self._work() as connection:
            row = await connection.execute(select(installation.c.installation).with_for_update())
            found = str(row.scalar_one())
            if found != wanted:
                used = await connection.execute(select(orders.c.client_id).limit(1))
                if used.one_or_none() is not None:
                    text = f"installation was {wanted}, the ledger's orders have {found}"
                    raise Refused(text, code="INSTALLATION_DIFFERS")
                await connection.execute(update(installation).values(installation=wanted))
        self._installation = wanted

    async def ensure_account(self, account: str, broker: str, currency: str = "USD") -> bool:
        """Creates the account disarmed with normal breakers; True if it is new.

        Breakers are made only with the account: one that goes missing later reads as tripped.

        Raises:
            Refused: `ACCOUNT_DIFFERS` if it exists at another broker or in another currency.
        """
        async with self._work() as connection:
            row = {"account": account, "broker": broker, "currency": currency}
            new = upsert(accounts).values(**row).on_conflict_do_nothing().returning(accounts)
            is_new = (await connection.execute(new)).one_or_none() is not None
            if is_new:
                await connection.execute(
                    upsert(control)
                    .values(account=account, updated_by="ensure_account")
                    .on_conflict_do_nothing()
                )
                await connection.execute(
                    insert(risk_breakers).values(account=account, state=BreakerState.NORMAL.value)
                )
                await connection.execute(
                    upsert(api_breakers)
                    .values(broker=broker, state=ApiBreakerState.CLOSED.value)
                    .on_conflict_do_nothing()
                )
                await append_audit_row(connection, "system", "account_created", account, row)
            else:
                query = select(accounts).where(accounts.c.account == account)
                found = (await connection.execute(query)).mappings().one()
                if (found["broker"], found["currency"]) != (broker, currency):
                    text = f"account was at {found['broker']} in {found['currency']}"
                    raise Refused(text, code="ACCOUNT_DIFFERS")
        return is_new

    async def accounts(self) -> tuple[AccountRecord, ...]:
        """Every account with its armed flag."""
        query = (
            select(accounts, func.coalesce(control.c.armed, False).label("armed"))
            .outerjoin(control, control.c.account == accounts.c.account)
            .order_by(accounts.c.account)
        )
        async with self._statement() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(AccountRecord.model_validate(dict(row)) for row in rows)

    async def arm(self, account: str, by: str, reason: str) -> Control:
        """Allows entries. Kills, conditions and breakers stay as they are."""
        return await self._set_armed(account, True, by, reason)

    async def disarm(self, account: str, by: str, reason: str) -> Control:
        """Refuses entries from this commit on; working orders stay."""
        return await self._set_armed(account, False, by, reason)

    async def _set_armed(self, account: str, armed: bool, by: str, reason: str) -> Control:
        async with self._control_work() as connection:
            await self._take_alone(connection, account)
            await touch_control(connection, account, by, reason, armed=armed)
            action = "arm" if armed else "disarm"
            now = await control_in(connection, account)
            await append_audit_row(connection, by, action, account, {"reason": reason})
        return now

    async def read_control(self, account: str) -> Control:
        """Control of the account; an unknown account reads as disarmed."""
        async with self._control_work() as connection:
            now = await control_in(connection, account)
        return now

    async def known_kills(self, command_ids: Iterable[str]) -> frozenset[str]:
        """Those of these kills that have a row, lifted ones included."""
        query = select(kills.c.command_id).where(kills.c.command_id.in_(tuple(command_ids)))
        async with self._statement() as connection:
            return frozenset((await connection.execute(query)).scalars().all())

    async def engage_kill(
        self, account: str | None, kill: KillSwitch, expected_version: int | None = None
    ) -> KillAnswer:
        """Engages a kill; in force from this commit on, latched over restarts (K9).

        Scope `all` wants `account` None, every other scope an account. Idempotent by
        `command_id`: a repeat answers with the orders as they are now. `expected_version` is
        the version of `read_control` (of `*` for scope `all`); None kills whatever the version.

        Raises:
            VersionConflict: the row moved since (409); nothing has changed.
            Refused: `KILL_SCOPE` account and scope do not fit, `ACCOUNT_UNKNOWN`, or
                `COMMAND_ID_USED` by a different kill.
        """
        owner = _owner_of(account, kill.scope)
        async with self._control_work() as connection:
            await self._take_alone(connection, owner)
            before = await _version_of(connection, owner)
            was_engaged, lifted_at = await _same_kill_stands(connection, owner, kill)
            if not was_engaged:
                if expected_version is not None and expected_version != before:
                    raise VersionConflict(expected_version, before)
                await connection.execute(insert(kills).values(**_columns_of(owner, kill)))
                await touch_control(connection, owner, kill.by, kill.reason)
            rows = await _live_rows(connection, owner, kill.scope)
            controls = await _controls_of(connection, owner)
            if not was_engaged:
                await add_alert(connection, _alert_of_kill(owner, kill))
                details = {"mode": kill.mode, "scope": kill.scope.text, "reason": kill.reason}
                details["command_id"] = kill.command_id
                await append_audit_row(connection, kill.by, "kill", owner, details)
        # Read only now: nothing may delay the commit that stops the entries.
        covered = [intent_of(row) for row in rows]
        in_flight = (IntentState.SENDING, IntentState.UNKNOWN)
        return KillAnswer(
            controls=controls,
            was_engaged=was_engaged,
            lifted_at=lifted_at,
            in_flight=tuple(one for one in covered if one.state in in_flight),
            working=tuple(
                one for one in covered if one.state not in in_flight and one.intent.increasing
            ),
        )

    async def _take_alone(self, connection: AsyncConnection, account: str) -> None:
        """Waits for the gates under way, holds up the next ones until commit."""
        await limit_waits(connection, lock_ms=KILL_LOCK_MS, idle_ms=KILL_LOCK_MS)
        await lock_exclusive(connection, gate_lock_name(account))
        query = select(control.c.account).where(control.c.account == account).with_for_update()
        if (await connection.execute(query)).one_or_none() is None:
            raise Refused(f"account was {account}", code="ACCOUNT_UNKNOWN")


def _alert_of_kill(owner: str, kill: KillSwitch) -> AlertDraft:
    return AlertDraft(
        key=f"kill/{kill.command_id}",
        account=owner,
        code="KILL",
        severity=AlertSeverity.CRITICAL,
        text=f"{kill.mode} {kill.scope.text} by {kill.by}: {kill.reason}"[:TEXT_MAX],
        once=True,
    )


def _owner_of(account: str | None, scope: KillScope) -> str:
    is_all = scope.kind is KillScopeKind.ALL
    names_other = scope.kind is KillScopeKind.ACCOUNT and scope.value != account
    if is_all != (account is None) or names_other:
        raise Refused(f"scope was {scope.text}, account was {account}", code="KILL_SCOPE")
    return ALL_ACCOUNTS if account is None else account


async def _version_of(connection: AsyncConnection, owner: str) -> int:
    if owner != ALL_ACCOUNTS:
        return (await control_in(connection, owner)).version
    query = select(control.c.version).where(control.c.account == ALL_ACCOUNTS)
    return int((await connection.execute(query)).scalar_one())


async def _same_kill_stands(
    connection: AsyncConnection, owner: str, kill: KillSwitch
) -> tuple[bool, datetime | None]:
    """Whether this kill was engaged before and, if people have lifted it since, when."""
    query = select(kills).where(kills.c.command_id == kill.command_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return False, None
    wanted = _columns_of(owner, kill)
    identity = ("account", "scope_kind", "scope_value", "mode")
    if any(row[name] != wanted[name] for name in identity):
        raise Refused(f"command id was used: {kill.command_id}", code="COMMAND_ID_USED")
    return True, row["reset_at"]


def _columns_of(owner: str, kill: KillSwitch) -> dict[str, Any]:
    return {
        "command_id": kill.command_id,
        "account": owner,
        "scope_kind": kill.scope.kind.value,
        "scope_value": kill.scope.value,
        "mode": kill.mode.value,
        "reason": kill.reason,
        "by": kill.by,
        "engaged_at": kill.engaged_at,
    }


async def _live_rows(connection: AsyncConnection, owner: str, scope: KillScope) -> list[Columns]:
    """Live intents in the scope. A statement of its own, after the lock: it sees every gate."""
    query = select(orders).where(LIVE_ORDERS)
    if owner != ALL_ACCOUNTS:
        query = query.where(orders.c.account == owner)
    rows = (await connection.execute(query.order_by(orders.c.gate_at))).mappings().all()
    return [
        row
        for row in rows
        if scope.covers(
            account=row["account"],
            strategy=row["strategy"],
            symbols=tuple(row["symbols"]),
            trade_id=row["trade_id"],
            client_id=row["client_id"],
        )
    ]


async def _controls_of(connection: AsyncConnection, owner: str) -> tuple[Control, ...]:
    if owner != ALL_ACCOUNTS:
        return (await control_in(connection, owner),)
    names = (await connection.execute(select(accounts.c.account).order_by("account"))).scalars()
    return tuple([await control_in(connection, name) for name in names.all()])
