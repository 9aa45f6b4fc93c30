"""The audit: append-only, each row sealed with the hash of the row before it (control 24).

A trigger refuses UPDATE, DELETE and TRUNCATE. Whoever switches the trigger off is found by the
verifier: an edited row no longer matches its own hash, a deleted one leaves a gap or a head that
is too high, a moved one does not follow its predecessor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.connection import LedgerConnection, lock_exclusive
from ledger.records import AuditProblem, AuditProblemKind, AuditRow
from ledger.tables import audit, audit_head

GENESIS = "0" * 64
_PAGE_ROWS = 5000


async def append_audit_row(
    connection: AsyncConnection,
    actor: str,
    action: str,
    subject: str,
    details: Mapping[str, object],
) -> int:
    """Adds one link inside the caller's transaction; returns its sequence number.

    Writers queue on one lock until commit, so append last and keep the transaction short.
    """
    await lock_exclusive(connection, "holdfast/audit")
    # A statement of its own: it must see what the last holder of the lock committed.
    head = (await connection.execute(select(audit_head.c.sequence, audit_head.c.hash))).one()
    at = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
    row = AuditRow(
        sequence=head.sequence + 1,
        at=at,
        actor=actor,
        action=action,
        subject=subject,
        details=json.dumps(details, sort_keys=True, separators=(",", ":"), default=str),
        previous_hash=head.hash,
        hash="",
    )
    sealed = row.model_dump() | {"hash": seal(row)}
    await connection.execute(insert(audit).values(**sealed))
    await connection.execute(update(audit_head).values(sequence=row.sequence, hash=sealed["hash"]))
    return row.sequence


def seal(row: AuditRow) -> str:
    """SHA-256 over every field but the hash, in a form that no two rows share."""
    fields = [
        row.sequence,
        _instant_text(row.at),
        row.actor,
        row.action,
        row.subject,
        row.details,
        row.previous_hash,
    ]
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()


def _instant_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


class ChainCheck:
    """Walks the rows in order of their number and collects what does not fit."""

    def __init__(self) -> None:
        self.problems: list[AuditProblem] = []
        self._sequence = 0
        self._hash = GENESIS

    def take(self, rows: Iterable[AuditRow]) -> None:
        for row in rows:
            self._take_one(row)

    def _take_one(self, row: AuditRow) -> None:
        for missing in range(self._sequence + 1, row.sequence):
            self._report(missing, AuditProblemKind.DELETED, "the row is not there")
        is_next = row.sequence == self._sequence + 1
        if seal(row) != row.hash:
            # A row that was moved here carries a seal of another number.
            moved = is_next and row.previous_hash != self._hash
            kind = AuditProblemKind.REORDERED if moved else AuditProblemKind.EDITED
            self._report(row.sequence, kind, "the row does not match its own hash")
        elif is_next and row.previous_hash != self._hash:
            self._report(
                row.sequence, AuditProblemKind.REORDERED, "the row does not follow the one before"
            )
        self._sequence, self._hash = row.sequence, row.hash

    def finish(self, head_sequence: int, head_hash: str) -> tuple[AuditProblem, ...]:
        """Compares the end of the chain with the head and returns every problem."""
        for missing in range(self._sequence + 1, head_sequence + 1):
            self._report(missing, AuditProblemKind.DELETED, "the row is not there")
        if self._sequence > head_sequence:
            self._report(self._sequence, AuditProblemKind.EDITED, "the row is beyond the head")
        elif self._sequence == head_sequence and self._hash != head_hash:
            self._report(head_sequence, AuditProblemKind.EDITED, "the head has another hash")
        return tuple(self.problems)

    def _report(self, sequence: int, kind: AuditProblemKind, words: str) -> None:
        self.problems.append(AuditProblem(sequence=sequence, kind=kind, text=words))


class AuditStore(LedgerConnection):
    """Appending and verifying the chain."""

    async def append_audit(
        self, actor: str, action: str, subject: str, details: Mapping[str, object]
    ) -> int:
        """Appends one row and returns its sequence number. Never put a secret into `details`."""
        async with self._work() as connection:
            sequence = await append_audit_row(connection, actor, action, subject, details)
        return sequence

    async def list_audit(self, *, after: int = 0, limit: int = 1000) -> tuple[AuditRow, ...]:
        """Rows with a number above `after`, oldest first."""
        query = select(audit).where(audit.c.sequence > after).order_by(audit.c.sequence)
        async with self._statement() as connection:
            rows = (await connection.execute(query.limit(limit))).mappings().all()
        return tuple(AuditRow.model_validate(dict(row)) for row in rows)

    async def find_audit(
        self, *, since: datetime, action: str = "", subject: str = "", limit: int = 100
    ) -> tuple[AuditRow, ...]:
        """The newest rows from `since` on, oldest first; `action` is a beginning of the action."""
        query = select(audit).where(audit.c.at >= since)
        if action:
            query = query.where(audit.c.action.startswith(action, autoescape=True))
        if subject:
            query = query.where(audit.c.subject == subject)
        newest = query.order_by(audit.c.sequence.desc()).limit(limit)
        async with self._statement() as connection:
            rows = (await connection.execute(newest)).mappings().all()
        return tuple(AuditRow.model_validate(dict(row)) for row in reversed(rows))

    async def audit_head(self) -> tuple[int, str]:
        """Number and hash of the last link; (0, "") if the head itself is gone."""
        async with self._statement() as connection:
            row = (await connection.execute(select(audit_head))).one_or_none()
        return (0, "") if row is None else (row.sequence, row.hash)

    async def verify_audit(self) -> tuple[AuditProblem, ...]:
        """Every edited, deleted or reordered row by number; empty = the chain is whole."""
        async with self._work() as connection:
            # One snapshot instead of the lock: a long check must not hold up a kill.
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            head = (await connection.execute(select(audit_head))).one_or_none()
            check, last = ChainCheck(), -1
            query = select(audit).order_by(audit.c.sequence).limit(_PAGE_ROWS)
            while True:
                page = (
                    (await connection.execute(query.where(audit.c.sequence > last)))
                    .mappings()
                    .all()
                )
                if not page:
                    break
                check.take(AuditRow.model_validate(dict(row)) for row in page)
                last = page[-1]["sequence"]
        if head is None:
            return (*check.problems, _HEAD_GONE)
        return check.finish(head.sequence, head.hash)


_HEAD_GONE = AuditProblem(
    sequence=0, kind=AuditProblemKind.DELETED, text="the head of the chain is not there"
)
