"""What the check of the audit names, link by link, and how a row is sealed (control 24, M5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ledger.audit import GENESIS, ChainCheck, seal
from ledger.records import AuditProblem, AuditProblemKind, AuditRow

AT = datetime(2026, 3, 2, 15, 0, 0, 123456, tzinfo=UTC)
KIND = AuditProblemKind


def row(sequence: int, previous: str, **changes: object) -> AuditRow:
    fields: dict[str, object] = {
        "sequence": sequence,
        "at": AT,
        "actor": "alice",
        "action": "kill",
        "subject": "paper",
        "details": "{}",
        "previous_hash": previous,
        "hash": "",
    }
    made = AuditRow.model_validate(fields | changes)
    return made.model_copy(update={"hash": seal(made)})


def chain(length: int) -> list[AuditRow]:
    rows, last = list[AuditRow](), GENESIS
    for number in range(1, length + 1):
        rows.append(row(number, last, subject=f"subject-{number}"))
        last = rows[-1].hash
    return rows


def problems(rows: list[AuditRow], head: int, head_hash: str) -> tuple[AuditProblem, ...]:
    check = ChainCheck()
    check.take(rows)
    return check.finish(head, head_hash)


def found(
    rows: list[AuditRow], head: int, head_hash: str
) -> list[tuple[int, AuditProblemKind, str]]:
    return [(p.sequence, p.kind, p.text) for p in problems(rows, head, head_hash)]


def test_seal_of_a_row_is_the_same_in_every_release() -> None:
    """An audit of last year must still be provable with the program of this year."""
    assert GENESIS == "0" * 64
    assert row(1, GENESIS).hash == (
        "fdf6132cc252c65994aba1c7a0f051441e902a1ced5eda1bd058f73d8db0fb9e"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 2},
        {"at": AT + timedelta(microseconds=1)},
        {"actor": "bob"},
        {"action": "arm"},
        {"subject": "live"},
        {"details": '{"a":1}'},
        {"previous_hash": "1" * 64},
    ],
)
def test_no_field_of_a_row_can_change_under_its_seal(change: dict[str, object]) -> None:
    sealed = row(1, GENESIS)
    assert seal(sealed.model_copy(update=change)) != sealed.hash


def test_seal_does_not_depend_on_the_time_zone_of_the_reader() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=-5)))
    assert row(1, GENESIS, at=elsewhere).hash == row(1, GENESIS).hash


def test_whole_chain_has_no_problem_nor_has_an_empty_one() -> None:
    rows = chain(4)
    assert problems(rows, 4, rows[-1].hash) == ()
    assert problems([], 0, GENESIS) == ()


def test_chain_taken_in_pages_is_the_same_chain() -> None:
    rows = chain(5)
    check = ChainCheck()
    check.take(rows[:2])
    check.take(rows[2:])
    assert check.finish(5, rows[-1].hash) == ()


def test_each_missing_row_is_named_at_the_beginning_in_the_middle_and_at_the_end() -> None:
    rows = chain(6)
    kept = [rows[1], rows[4]]
    gone = [(n, KIND.DELETED, "the row is not there") for n in (1, 3, 4, 6)]
    assert found(kept, 6, rows[5].hash) == gone


def test_edited_row_is_named_and_its_followers_are_not() -> None:
    rows = chain(3)
    rows[1] = rows[1].model_copy(update={"actor": "eve"})
    wished = [(2, KIND.EDITED, "the row does not match its own hash")]
    assert found(rows, 3, rows[2].hash) == wished


def test_row_behind_a_gap_that_was_edited_is_edited_not_moved() -> None:
    rows = chain(3)
    edited = rows[2].model_copy(update={"actor": "eve"})
    assert found([rows[0], edited], 3, edited.hash) == [
        (2, KIND.DELETED, "the row is not there"),
        (3, KIND.EDITED, "the row does not match its own hash"),
    ]


def test_moved_row_is_named_as_moved_whether_or_not_it_was_sealed_anew() -> None:
    rows = chain(3)
    renumbered = rows[2].model_copy(update={"sequence": 2})
    wished = [(2, KIND.REORDERED, "the row does not match its own hash")]
    assert found([rows[0], renumbered], 2, renumbered.hash) == wished
    anew = row(2, rows[1].hash)
    wished = [(2, KIND.REORDERED, "the row does not follow the one before")]
    assert found([rows[0], anew], 2, anew.hash) == wished


def test_row_beyond_the_head_and_another_head_are_named() -> None:
    rows = chain(2)
    assert found(rows, 1, rows[0].hash) == [(2, KIND.EDITED, "the row is beyond the head")]
    assert found(rows, 2, rows[0].hash) == [(2, KIND.EDITED, "the head has another hash")]
