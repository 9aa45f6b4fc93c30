"""Stacks of many accounts say what is deployed on each, as `up` does for its one (H13)."""

from __future__ import annotations

from pathlib import Path

import pytest

import worker
from cli.contest_files import Contest, ContestFiles, contest_template, entrants
from cli.context import Target
from cli.demo_stack import deploy_accounts
from cli.deploy import deployed_alone, next_worker, served_settings
from deploy.local.runfile import ProcessEntry, RunInfo
from ledger.repository import Ledger
from marketdata.demo_tape import DEMO_BEGIN, DEMO_END, demo_instrument
from marketdata.session_tape import SessionTape
from observability.build import build_id
from settings_file import load_settings
from wiring import config_hash

STRATEGIES = ["mean_reversion", "opening_breakout"]


@pytest.mark.covers("H13")
async def test_every_account_of_a_contest_has_its_deployment_before_the_workers_start(
    ledger: Ledger, ledger_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read as the worker reads it: with the shell's own words."""
    monkeypatch.setenv("HOLDFAST_DRY_RUN", "true")
    portfolios = ContestFiles(tmp_path).enter(contest_template(), entrants(STRATEGIES))
    me = ProcessEntry(name="supervisor", pid=1, started="now")
    info = RunInfo(data_dir=str(tmp_path), supervisor=me, ledger_dsn=ledger_dsn)
    await deploy_accounts(info, [Path(each.settings) for each in portfolios])
    for each in portfolios:
        found = await ledger.deployed(each.account)
        assert found is not None
        assert found.build_ids == (build_id(),)
        assert found.config_hashes == (config_hash(load_settings(Path(each.settings))),)


@pytest.fixture
def contest(tmp_path: Path) -> Target:
    """A contest of two, seen from its second account."""
    files = ContestFiles(tmp_path)
    portfolios = files.enter(contest_template(), entrants(STRATEGIES))
    tape = SessionTape(
        path="",
        instruments=(demo_instrument(),),
        calendar="ESX",
        hours=(),
        begin=DEMO_BEGIN,
        end=DEMO_END,
        events=0,
        synthetic_quotes=True,
        label="",
    )
    files.save(Contest(tape=tape, portfolios=portfolios))
    return Target(config=Path(portfolios[1].settings), data_dir=tmp_path)


@pytest.mark.covers("H13")
async def test_deploy_speaks_for_every_account_of_the_contest(
    ledger: Ledger, contest: Target
) -> None:
    """Else the workers that it started anew would be stale for all accounts but one."""
    portfolios = ContestFiles(contest.data_dir).load().portfolios
    every = served_settings(contest)
    assert [each.account.name for each in every] == [p.account for p in reversed(portfolios)]
    for each in every:
        await ledger.ensure_account(each.account.name, "alpaca")
    await deployed_alone(ledger, every, "ann")
    assert all([await ledger.deployed(p.account) for p in portfolios])


@pytest.mark.covers("H12")
def test_worker_of_the_next_build_serves_every_account_of_the_contest(contest: Target) -> None:
    """It is given the work of all: one account alone would be all that it knows (I13)."""
    me = ProcessEntry(name="supervisor", pid=1, started="now")
    info = RunInfo(data_dir=str(contest.data_dir), supervisor=me)
    command = next_worker(contest, info).command
    options = worker.arguments([str(each) for each in command[2:]])
    accounts = [load_settings(path).account.name for path in options.config]
    portfolios = ContestFiles(contest.data_dir).load().portfolios
    assert sorted(accounts) == sorted(each.account for each in portfolios)
