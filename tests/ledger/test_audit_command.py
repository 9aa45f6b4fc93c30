"""`starter.py audit …` on a real ledger: whole, broken, and what it shows (control 24, S24)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ledger.repository import Ledger
from starter import app
from tests.fixtures_postgres import run_as_superuser

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_dsn: str) -> Run:
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    _fill(ledger_dsn)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--data", str(tmp_path), "audit", *arguments])

    return call


def _fill(dsn: str) -> None:
    """Three links more, by two people."""

    async def append() -> None:
        ledger = await Ledger.connect(dsn, pool_size=1)
        for actor, action in (("ann", "kill"), ("bob", "trade.pause"), ("ann", "trade.resume")):
            await ledger.append_audit(actor, action, "subject-1", {"reason": "test"})
        await ledger.aclose()

    asyncio.run(append())


def _edit(dsn: str, *statements: str) -> None:
    unlock, lock = (f"ALTER TABLE audit {word} TRIGGER ALL" for word in ("DISABLE", "ENABLE"))
    asyncio.run(run_as_superuser(dsn, unlock, *statements, lock))


def test_whole_chain_is_said_to_be_whole(run: Run) -> None:
    result = run("verify")
    assert (result.exit_code, result.output.split(":")[0]) == (0, "audit chain is whole")
    assert json.loads(run("verify", "--json").output)["whole"] is True


def test_first_edited_row_is_named_and_the_exit_code_is_1(run: Run, ledger_dsn: str) -> None:
    rows = json.loads(run("verify", "--json").output)["rows"]
    broken = rows - 1
    _edit(ledger_dsn, f"UPDATE audit SET actor = 'eve' WHERE sequence = {broken}")

    result = run("verify")
    assert result.exit_code == 1
    first = result.output.splitlines()[0]
    assert first.startswith(f"audit chain is BROKEN first at row {broken}: edited")
    told = json.loads(run("verify", "--json").output)
    assert [each["sequence"] for each in told["problems"]] == [broken]


def test_rows_are_shown_by_kind_subject_and_time(run: Run) -> None:
    shown = json.loads(run("show", "--kind", "trade", "--subject", "subject-1", "--json").output)
    assert [row["action"] for row in shown] == ["trade.pause", "trade.resume"]
    assert json.loads(run("show", "--since", "2999-01-01", "--json").output) == []
    assert len(json.loads(run("show", "--limit", "1", "--json").output)) == 1


def test_instant_without_its_zone_is_refused(run: Run) -> None:
    result = run("show", "--since", "2026-03-02T15:00")
    assert (result.exit_code, result.output.split()[0]) == (2, "DATE_INVALID")
