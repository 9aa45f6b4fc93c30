"""Operators, and lifting a kill: the one thing that is slow on purpose (architecture §7).

Killing never needs approval. Lifting needs two different operators where two are registered,
otherwise the same one again after five minutes; always a reason and the typed phrase.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.control import Control, KillScope
from domain.errors import Refused
from ledger.audit import append_audit_row
from ledger.control_store import (
    ControlStore,
    control_in,
    engaged_kills,
    touch_control,
)
from ledger.records import ALL_ACCOUNTS, ResetRequest
from ledger.tables import kills, operators, reset_requests

LONE_RESET_WAIT = timedelta(minutes=5)
RESET_LIFETIME = timedelta(minutes=30)
SECRET_LENGTH_MIN = 8
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 1
_SALT_BYTES = 16


def reset_phrase(account: str | None, scope: KillScope | None = None) -> str:
    """What the operator must type: `RESET <account>`, `RESET ALL` or `RESET <kind>:<value>`."""
    if scope is not None:
        return f"RESET {scope.text}"
    return f"RESET {'ALL' if account in (None, ALL_ACCOUNTS) else account}"


def hash_secret(secret: str, salt: bytes) -> str:
    """`scrypt$n$r$p$salt$hash`, hex; takes some 50 ms of one core on purpose."""
    derived = hashlib.scrypt(secret.encode(), salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
    return f"scrypt${_SCRYPT_N}${_SCRYPT_R}${_SCRYPT_P}${salt.hex()}${derived.hex()}"


def secret_matches(secret: str, stored: str) -> bool:
    """Compares in constant time; parameters come from the stored text."""
    _, n, r, p, salt, expected = stored.split("$")
    derived = hashlib.scrypt(
        secret.encode(), salt=bytes.fromhex(salt), n=int(n), r=int(r), p=int(p)
    )
    return hmac.compare_digest(derived.hex(), expected)


class ResetStore(ControlStore):
    """Operators and reset requests."""

    async def add_operator(self, name: str, secret: str) -> bool:
        """Registers an operator; False if the name is taken (its secret stays).

        Raises:
            Refused: `SECRET_TOO_SHORT`.
        """
        if len(secret) < SECRET_LENGTH_MIN:
            text = f"secret length was {len(secret)}, allowed: >= {SECRET_LENGTH_MIN}"
            raise Refused(text, code="SECRET_TOO_SHORT")
        stored = await asyncio.to_thread(hash_secret, secret, os.urandom(_SALT_BYTES))
        statement = upsert(operators).values(name=name, secret_hash=stored)
        async with self._work() as connection:
            done = await connection.execute(statement.on_conflict_do_nothing())
            is_new = done.rowcount == 1
            if is_new:
                await append_audit_row(connection, name, "operator_added", name, {})
        return is_new

    async def check_operator(self, name: str, secret: str) -> bool:
        """True if the operator exists and the secret is theirs; a refusal leaves an audit row."""
        query = select(operators.c.secret_hash).where(operators.c.name == name)
        async with self._statement() as connection:
            stored = (await connection.execute(query)).scalar_one_or_none()
        # An unknown name costs as much time as a known one.
        probe = stored or hash_secret("", b"0" * _SALT_BYTES)
        matches = await asyncio.to_thread(secret_matches, secret, probe)
        if stored is not None and matches:
            return True
        async with self._work() as connection:
            await append_audit_row(connection, name, "operator_refused", name, {})
        return False

    async def operators(self) -> tuple[str, ...]:
        """Names of all operators."""
        async with self._statement() as connection:
            names = await connection.execute(select(operators.c.name).order_by("name"))
            found = tuple(str(name) for name in names.scalars())
        return found

    async def request_reset(
        self,
        account: str | None,
        by: str,
        reason: str,
        phrase: str,
        at: datetime,
        *,
        scope: KillScope | None = None,
    ) -> ResetRequest:
        """Asks to lift the kills that are engaged now; one engaged later stays.

        `account` None asks for the kills of scope `all`. With `scope` only the kills of exactly
        this scope on the account's row are meant, such as that of one trade.

        Raises:
            Refused: `OPERATOR_UNKNOWN`, `RESET_PHRASE`, `RESET_REASON` or `NOT_KILLED`.
        """
        owner = ALL_ACCOUNTS if account is None else account
        wanted = reset_phrase(account, scope)
        if phrase != wanted:
            text = f"phrase was not {wanted!r}"
            raise Refused(text, code="RESET_PHRASE")
        if not reason.strip():
            raise Refused("reason was empty", code="RESET_REASON")
        async with self._control_work() as connection:
            known = await _known_operators(connection, by)
            engaged = await engaged_kills(connection, (owner,))
            engaged = tuple(kill for kill in engaged if scope in (None, kill.scope))
            about = owner if scope is None else scope.text
            if not engaged:
                raise Refused(f"no kill was engaged on {about}", code="NOT_KILLED")
            alone = known < 2
            identity = f"{about}|{by}|{at.isoformat()}"
            request = ResetRequest(
                request_id=hashlib.sha256(identity.encode()).hexdigest()[:16],
                account=owner,
                command_ids=tuple(kill.command_id for kill in engaged),
                requested_by=by,
                reason=reason,
                approvals_needed=1 if alone else 2,
                requested_at=at,
                confirmable_at=at + LONE_RESET_WAIT if alone else at,
                expires_at=at + RESET_LIFETIME,
            )
            columns = request.model_dump() | {"command_ids": list(request.command_ids)}
            await connection.execute(
                upsert(reset_requests).values(**columns).on_conflict_do_nothing()
            )
            details = {"request_id": request.request_id, "reason": reason}
            await append_audit_row(connection, by, "reset_requested", owner, details)
        return request

    async def confirm_reset(self, request_id: str, by: str, at: datetime) -> Control:
        """Lifts the kills that the request named. Arms nothing.

        Raises:
            Refused: `OPERATOR_UNKNOWN`, `RESET_UNKNOWN`, `RESET_DONE`, `RESET_EXPIRED`,
                `SAME_PERSON` (two are needed) or `RESET_TOO_EARLY`. Refusals leave an audit row.
        """
        query = select(reset_requests).where(reset_requests.c.request_id == request_id)
        async with self._control_work() as connection:
            known = await _known_operators(connection, by)
            row = (await connection.execute(query)).mappings().one_or_none()
            if row is None:
                raise Refused(f"reset request was {request_id}", code="RESET_UNKNOWN")
            await self._take_alone(connection, row["account"])
            locked = await connection.execute(query.with_for_update())
            row = locked.mappings().one()
            refusal = _refusal(ResetRequest.model_validate(dict(row)), known, by, at)
            if refusal is None:
                await self._lift(connection, row["account"], row["command_ids"], request_id, by, at)
            action = "reset_confirmed" if refusal is None else "reset_refused"
            details = {"request_id": request_id, "requested_by": row["requested_by"]}
            details["code"] = "" if refusal is None else refusal.code
            await append_audit_row(connection, by, action, row["account"], details)
            now = await control_in(connection, row["account"])
        if refusal is not None:
            raise refusal
        return now

    async def _lift(
        self,
        connection: AsyncConnection,
        owner: str,
        command_ids: list[str],
        request_id: str,
        by: str,
        at: datetime,
    ) -> None:
        await connection.execute(
            update(kills)
            .where(kills.c.command_id.in_(command_ids), kills.c.reset_at.is_(None))
            .values(reset_at=at, reset_request_id=request_id)
        )
        await connection.execute(
            update(reset_requests)
            .where(reset_requests.c.request_id == request_id)
            .values(confirmed_by=by, confirmed_at=at)
        )
        await touch_control(connection, owner, by, f"reset {request_id}")


async def _known_operators(connection: AsyncConnection, by: str) -> int:
    """Number of registered operators, refused if `by` is not one of them."""
    here = select(func.count()).where(operators.c.name == by).scalar_subquery()
    everyone = select(func.count()).select_from(operators).scalar_subquery()
    row = (await connection.execute(select(here.label("here"), everyone.label("everyone")))).one()
    if row.here == 0:
        raise Refused(f"operator was {by}", code="OPERATOR_UNKNOWN")
    return int(row.everyone)


def _refusal(request: ResetRequest, known: int, by: str, at: datetime) -> Refused | None:
    if request.confirmed_by is not None:
        return Refused(f"reset was confirmed by {request.confirmed_by}", code="RESET_DONE")
    if at > request.expires_at:
        return Refused(f"reset expired at {request.expires_at}", code="RESET_EXPIRED")
    # An operator registered meanwhile makes it a matter of two.
    two_needed = request.approvals_needed > 1 or known > 1
    if two_needed and by == request.requested_by:
        return Refused("a second person must confirm", code="SAME_PERSON")
    if at < request.confirmable_at:
        return Refused(f"confirmable at {request.confirmable_at}", code="RESET_TOO_EARLY")
    return None
