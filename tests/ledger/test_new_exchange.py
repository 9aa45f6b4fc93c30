"""What a new simulated exchange does not have of what the ledger has open (R6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers.alpaca.config import AlpacaMode
from cli.context import Target, demo_config
from cli.new_exchange import what_a_new_exchange_forgot
from cli.stack import tell_of_new_exchange
from deploy.local.runfile import ProcessEntry, RunInfo
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, fill, plan


async def test_ledger_without_open_trades_gives_no_warning(armed: Ledger) -> None:
    assert await what_a_new_exchange_forgot(armed, ACCOUNT) == ""


async def test_open_trade_and_position_are_named_with_the_way_out(armed: Ledger) -> None:
    await armed.create_trade(plan("first"))
    said = await what_a_new_exchange_forgot(armed, ACCOUNT)
    assert said.startswith(f"EXCHANGE_NEW account {ACCOUNT}: ")
    assert "AAPL (first is open)" in said
    await armed.record_fill(ACCOUNT, fill())
    said = await what_a_new_exchange_forgot(armed, ACCOUNT)
    assert "AAPL (EXTERNAL holds " in said
    assert "without --resume" in said
    assert await what_a_new_exchange_forgot(armed, "other") == ""


@pytest.mark.parametrize("mode", [AlpacaMode.SIMULATOR, AlpacaMode.PAPER])
async def test_only_a_simulated_exchange_is_said_to_be_new(
    armed: Ledger,
    ledger_dsn: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mode: AlpacaMode,
) -> None:
    await armed.create_trade(plan("first"))
    settings = Target(demo_config(), tmp_path).settings()
    account = settings.account.model_copy(update={"name": ACCOUNT})
    broker = settings.broker.model_copy(update={"mode": mode})
    settings = settings.model_copy(update={"account": account, "broker": broker})
    supervisor = ProcessEntry(name="supervisor", pid=1, started="1")
    info = RunInfo(data_dir=str(tmp_path), supervisor=supervisor, ledger_dsn=ledger_dsn)
    await tell_of_new_exchange(info, settings)
    told = capsys.readouterr()
    assert told.out == ""
    assert ("EXCHANGE_NEW" in told.err) == (mode is AlpacaMode.SIMULATOR)
