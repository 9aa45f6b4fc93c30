"""What a command says on a data directory, or to an account, that is not ready for it."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.context import EXIT_BAD_INPUT, Target, demo_config
from cli.trade import why_blocked
from deploy.local.kill_journal import JournalKill
from deploy.local.processes import start_time
from deploy.local.runfile import ProcessEntry, RunInfo, StackState, write_run_file
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from starter import app
from tests.unit import risk_world


@pytest.mark.parametrize("more", [(), ("--fresh",)])
def test_contest_names_another_directory_where_a_stack_of_its_own_runs(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    me = ProcessEntry(name="supervisor", pid=os.getpid(), started=start_time(os.getpid()))
    write_run_file(RunInfo(data_dir=str(tmp_path), state=StackState.READY, supervisor=me))
    result = CliRunner().invoke(app, ["--data", str(tmp_path), "contest", "start", *more])
    assert result.exit_code == EXIT_BAD_INPUT
    assert result.output.startswith("STACK_RUNS ")
    assert "--data OTHER" in result.output


def test_submit_says_that_a_kill_of_the_journal_blocks_the_entry(tmp_path: Path) -> None:
    target = Target(demo_config(), tmp_path)
    kill = KillSwitch(
        scope=KillScope(kind=KillScopeKind.ALL),
        mode=KillMode.BLOCK,
        reason="r",
        by="ada",
        command_id="c",
        engaged_at=datetime(2026, 3, 2, 15, 0, tzinfo=UTC),
    )
    target.kill_journal.append(JournalKill(account=None, kill=kill))
    assert asyncio.run(why_blocked(target, risk_world.plan())).startswith("KILLED ")


def test_submit_says_that_nobody_could_read_the_switches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOLDFAST_LEDGER_DSN", raising=False)
    target = Target(demo_config(), tmp_path)
    told = asyncio.run(why_blocked(target, risk_world.plan()))
    assert told.startswith("CONTROL_UNREADABLE NO_STACK ")
