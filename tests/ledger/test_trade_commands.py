"""`starter.py trade …` on a real ledger: what has ended needs nothing (faults.md §3 row 65)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from typer.testing import CliRunner

from activities.protective_orders import protection_by_ledger, protective_orders
from cli.context import Target, demo_config
from cli.session_calls import entries_refused
from cli.trade import _checked
from deploy.local import control
from domain.errors import BadInput
from domain.ids import Purpose
from domain.order import Side
from ledger.records import IntentState
from ledger.repository import Ledger
from starter import app
from tests.ledger.samples import (
    ACCOUNT,
    NOW,
    fill,
    intent,
    owner,
    plan,
    snapshot,
)

DEMONSTRATION = "d0d0"
"""The installation of the configuration that a command takes when none is named."""


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


@pytest.mark.covers("K6")
async def test_flatten_of_a_released_trade_names_what_lies_bare_and_fails(
    armed: Ledger, ledger_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said done, exit 0, while the shares lay in EXTERNAL without a stop."""
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    trade = await armed.create_trade(plan())
    await armed.update_trade(trade.trade_id, stage="released", result="released", closed=True)
    await armed.record_fill(ACCOUNT, fill())
    asked = ["--data", str(tmp_path), "trade", "flatten", trade.trade_id, "--reason", "r", "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    told = json.loads(result.output)
    assert result.exit_code == 1, result.output
    assert (told["code"], told["done"]) == ("ALREADY_CLOSED", False)
    assert "10 AAPL" in told["left"]
    await armed.record_fill(ACCOUNT, fill("f-2", broker_order_id="b-2", side=Side.SELL))
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert result.exit_code == 0, result.output


class Configured:
    """As much of a target as the check of a trade's id asks for."""

    def __init__(self, ledger: Ledger, account: str) -> None:
        self._ledger = ledger
        self._account = SimpleNamespace(account=SimpleNamespace(name=account))

    def settings(self) -> object:
        return self._account

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        yield self._ledger


async def checked(ledger: Ledger, account: str = ACCOUNT) -> tuple[str, str, str]:
    return await _checked(cast(Target, Configured(ledger, account)), "trade-1")


@pytest.mark.covers("D9")
async def test_flatten_of_an_ended_trade_with_a_late_fill_is_not_answered_as_over(
    signalled: Ledger,
) -> None:
    """It said done, exit 0, of a position whose trade had not been restarted."""
    await signalled.open_gate(intent(), owner(), "t1", NOW)
    await signalled.update_trade("trade-1", stage="not_filled", result="time", closed=True)
    assert (await checked(signalled))[1] == "trade trade-1 ended: time"
    await signalled.record_fill(ACCOUNT, fill(client_id=intent().client_id))
    assert await checked(signalled) == ("trade-1", "", "")


@pytest.mark.covers("K8")
async def test_flatten_of_a_trade_of_another_account_is_refused(signalled: Ledger) -> None:
    """The flatten looked at the configured account, found nothing there and said flat."""
    assert await checked(signalled) == ("trade-1", "", "")
    with pytest.raises(BadInput, match=f"of account {ACCOUNT}"):
        await checked(signalled, "other")


async def test_trade_whose_workflow_is_silent_shows_what_rests_by_the_ledger(
    armed: Ledger, ledger_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I6: its row said naked, from nothing, while its OCO rested at the broker."""
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    await armed.create_trade(plan())
    await armed.update_trade("trade-1", stage="open", protection="naked")
    sent = intent(purpose=Purpose.OCO, increasing=False, installation=DEMONSTRATION)
    await armed.open_gate(sent, owner(), "t1", NOW)
    leg = snapshot("b-2", stop_price=Decimal(95))
    resting = snapshot(client_id=sent.client_id, legs=(leg,))
    await armed.record_answer(
        sent.client_id, "t1", IntentState.ACCEPTED, snapshot=resting, code="", at=NOW, sent_at=NOW
    )
    found = await protective_orders(armed, ACCOUNT)
    words = protection_by_ledger(found, DEMONSTRATION, "trade-1")
    assert "2 protective orders rest by the ledger" in words
    assert "no protective order rests" in protection_by_ledger(found, DEMONSTRATION, "trade-2")
    asked = ["--data", str(tmp_path), "trade", "show", "trade-1", "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert json.loads(result.output)["trade"]["protection"] == words


async def test_entries_that_the_gate_refused_are_told_apart_from_what_a_session_took(
    armed: Ledger, ledger_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    refused = await armed.create_trade(plan())
    await armed.update_trade(refused.trade_id, stage="refused", result="KILLED", closed=True)
    await armed.create_trade(plan().model_copy(update={"trade_id": "t2", "signal_id": "s2"}))
    target = Target(demo_config(), tmp_path)
    names = [plan().session, "another"]
    assert await entries_refused(target, names) == {plan().session: 1, "another": 0}
    monkeypatch.delenv("HOLDFAST_LEDGER_DSN")
    assert await entries_refused(target, names) == {}


async def test_stop_of_the_stack_tells_how_many_trades_are_open(
    armed: Ledger, ledger_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`down` with an open trade said only `stopped`; a plain `up` then moved it aside."""
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    monkeypatch.setattr(control, "down", lambda _data_dir: True)
    asked = ["--data", str(tmp_path), "down"]
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert result.output == "stopped\n"
    await armed.create_trade(plan())
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert result.exit_code == 0
    assert result.output.startswith("stopped\nopen trades: 1; `up --resume` goes on with them")
    assert "a plain `up` moves the data aside" in result.output
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", "postgresql://nobody@127.0.0.1:1/none")
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert result.exit_code == 0
    assert "whether trades are open was not read: LEDGER_DOWN" in result.output
