"""`starter.py trade …` on a real ledger: what has ended needs nothing (faults.md §3 row 65)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ledger.repository import Ledger
from starter import app
from tests.ledger.samples import plan


async def test_flatten_of_a_trade_that_has_ended_does_nothing_and_raises_no_alert(
    armed: Ledger, ledger_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    trade = await armed.create_trade(plan())
    await armed.update_trade(trade.trade_id, stage="closed", result="target", closed=True)
    before = await armed.list_audit()
    asked = ["--data", str(tmp_path), "trade", "flatten", trade.trade_id, "--reason", "r", "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["code"] == "ALREADY_CLOSED"
    assert await armed.list_alerts() == ()
    assert await armed.list_audit() == before
