"""The audit chain finds every edit, deletion and move (control 24, S24)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from ledger.audit import seal
from ledger.records import AuditProblemKind
from ledger.repository import Ledger
from tests.fixtures_postgres import run_as_superuser

_UNLOCK = "ALTER TABLE audit DISABLE TRIGGER ALL"
_LOCK = "ALTER TABLE audit ENABLE TRIGGER ALL"
KIND = AuditProblemKind


@pytest.fixture
async def chained(ledger: Ledger) -> Ledger:
    """Ten rows."""
    for number in range(1, 11):
        await ledger.append_audit("alice", "note", f"subject-{number}", {"number": number})
    return ledger


async def _problems(
    ledger: Ledger, dsn: str, *statements: str
) -> set[tuple[int, AuditProblemKind]]:
    await run_as_superuser(dsn, _UNLOCK, *statements, _LOCK)
    return {(problem.sequence, problem.kind) for problem in await ledger.verify_audit()}


async def test_untouched_chain_is_whole_and_numbered_without_gaps(chained: Ledger) -> None:
    assert await chained.verify_audit() == ()
    assert [row.sequence for row in await chained.list_audit()] == list(range(1, 11))


async def test_concurrent_writers_keep_one_chain(ledger: Ledger) -> None:
    await asyncio.gather(
        *(ledger.append_audit("a", "note", str(number), {}) for number in range(40))
    )
    assert await ledger.verify_audit() == ()
    assert len(await ledger.list_audit()) == 40


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit SET actor = 'eve'", "DELETE FROM audit WHERE sequence = 10", "TRUNCATE audit"],
)
async def test_database_refuses_to_change_audit_rows(
    chained: Ledger, ledger_dsn: str, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await run_as_superuser(ledger_dsn, statement)
    assert await chained.verify_audit() == ()


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'eve'",
        "action = 'other'",
        "subject = 'other'",
        "details = '{}'",
        "at = at + interval '1 microsecond'",
        "hash = repeat('a', 64)",
    ],
)
async def test_edited_row_is_named(chained: Ledger, ledger_dsn: str, change: str) -> None:
    edit = f"UPDATE audit SET {change} WHERE sequence = 4"
    assert (4, KIND.EDITED) in await _problems(chained, ledger_dsn, edit)


@pytest.mark.parametrize("sequence", [1, 5, 10])
async def test_deleted_row_is_named(chained: Ledger, ledger_dsn: str, sequence: int) -> None:
    delete = f"DELETE FROM audit WHERE sequence = {sequence}"
    assert await _problems(chained, ledger_dsn, delete) == {(sequence, KIND.DELETED)}


async def test_all_rows_deleted_are_named(chained: Ledger, ledger_dsn: str) -> None:
    problems = await _problems(chained, ledger_dsn, "DELETE FROM audit")
    assert problems == {(number, KIND.DELETED) for number in range(1, 11)}


async def test_swapped_rows_are_named(chained: Ledger, ledger_dsn: str) -> None:
    problems = await _problems(
        chained,
        ledger_dsn,
        "UPDATE audit SET sequence = 99 WHERE sequence = 4",
        "UPDATE audit SET sequence = 4 WHERE sequence = 5",
        "UPDATE audit SET sequence = 5 WHERE sequence = 99",
    )
    assert {(4, KIND.REORDERED), (5, KIND.REORDERED)} <= problems


async def test_row_sealed_anew_by_a_forger_breaks_the_next_one(
    chained: Ledger, ledger_dsn: str
) -> None:
    forged = (await chained.list_audit())[3].model_copy(update={"actor": "eve"})
    edit = f"UPDATE audit SET actor = 'eve', hash = '{seal(forged)}' WHERE sequence = 4"
    assert (5, KIND.REORDERED) in await _problems(chained, ledger_dsn, edit)


async def test_row_added_behind_the_head_is_named(chained: Ledger, ledger_dsn: str) -> None:
    insert = "INSERT INTO audit VALUES (11, now(), 'eve', 'x', 'x', '{}', 'x', 'x')"
    problems = await _problems(chained, ledger_dsn, insert)
    assert {sequence for sequence, _ in problems} == {11}


async def test_missing_head_is_named(chained: Ledger, ledger_dsn: str) -> None:
    assert (0, KIND.DELETED) in await _problems(chained, ledger_dsn, "DELETE FROM audit_head")


async def test_head_is_the_last_link_and_nothing_once_it_is_gone(
    chained: Ledger, ledger_dsn: str
) -> None:
    last = (await chained.list_audit())[-1]
    assert await chained.audit_head() == (10, last.hash)
    await run_as_superuser(ledger_dsn, "DELETE FROM audit_head")
    assert await chained.audit_head() == (0, "")


async def test_rows_are_found_by_time_beginning_of_the_action_and_subject(
    chained: Ledger,
) -> None:
    for action in ("kill_reset", "kill_engaged", "killed", "overkill_x"):
        await chained.append_audit("bob", action, "paper", {})
    rows = await chained.list_audit()

    async def found(since_row: int = 0, **wish: Any) -> list[int]:
        since = rows[since_row].at
        return [row.sequence for row in await chained.find_audit(since=since, **wish)]

    assert await found() == list(range(1, 15))
    assert await found(4) == list(range(5, 15))
    assert await found(limit=3) == [12, 13, 14]
    # The underscore is no wildcard.
    assert await found(action="kill_") == [11, 12]
    assert await found(action="kill", subject="paper") == [11, 12, 13]
    assert await found(subject="subject-7") == [7]
    assert await chained.find_audit(since=rows[-1].at + timedelta(microseconds=1)) == ()
    assert await chained.find_audit(since=rows[6].at, subject="subject-7") == (rows[6],)


async def test_rows_are_read_on_from_a_number(chained: Ledger) -> None:
    assert [row.sequence for row in await chained.list_audit(after=3, limit=2)] == [4, 5]
    assert await chained.list_audit(after=10) == ()
