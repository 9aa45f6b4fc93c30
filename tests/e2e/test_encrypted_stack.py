"""A stack whose payloads are sealed, as an operator runs it: new key, trade, replay, lost key."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.client import WorkflowHistory
from typer.testing import CliRunner

import starter
from observability.payload_codec import ENCODING, payloads_in
from tests.e2e.test_degraded_kill import CONFIG, Stack, hold_and_wait, kill, living_market, plan_for

pytestmark = pytest.mark.slow
KEYS = "payload-keys"


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)
    tmp_path.chmod(0o755)
    head, encryption, tail = CONFIG.read_text().partition("[encryption]\n")
    tail = tail.replace('"off"', '"key_file"', 1).replace(
        'key_file = ""', f'key_file = "{KEYS}"', 1
    )
    config = tmp_path / "settings.toml"
    config.write_text(head + encryption + tail)
    made = CliRunner().invoke(starter.app, ["--config", str(config), "key", "new", "--id", "one"])
    assert made.exit_code == 0, made.output
    running = Stack(tmp_path / "stack", config)
    with running.supervisor.running():
        running.quote()
        asyncio.run(hold_and_wait(running.info))
        yield running


def recorded(stack: Stack, workflow_id: str, folder: Path) -> Path:
    told = CliRunner().invoke(
        starter.app,
        [*stack.named, "history", "record", workflow_id, "--folder", str(folder)],
    )
    assert told.exit_code == 0, told.output
    return Path(told.output.strip())


def until_protected(stack: Stack, symbol: str) -> None:
    deadline = time.monotonic() + 60
    while not any(o["symbol"] == symbol and o["side"] == "sell" for o in stack.open_orders()):
        assert time.monotonic() < deadline, stack.journal("accepted", "fill", "rejected")
        time.sleep(0.2)


def rows_of(stack: Stack, *words: str) -> list[dict[str, Any]]:
    """The rows that a command prints; it must succeed."""
    code, rows = stack.command(*words)
    assert code == 0, rows
    return cast("list[dict[str, Any]]", rows)


@pytest.mark.covers("H14")
def test_sealed_trade_replays_and_without_the_key_the_kill_still_flattens(
    stack: Stack, tmp_path: Path
) -> None:
    stack.command("arm", "--reason", "test")
    plan = tmp_path / "plan.json"
    with living_market(stack):
        wanted = plan_for(stack)
        wanted["walk"]["interval_s"] = "0.5"
        plan.write_text(json.dumps(wanted))
        code, trade = stack.command("trade", "submit", str(plan))
        assert code == 0, trade
        until_protected(stack, "ESZ")

    file = recorded(stack, "trade/later", tmp_path / "histories")
    history = WorkflowHistory.from_json("trade/later", file.read_text())
    sealed = [
        p.metadata["encoding"] == ENCODING for event in history.events for p in payloads_in(event)
    ]
    assert len(sealed) > 10
    assert all(sealed)
    whole = b"".join(event.SerializeToString() for event in history.events)
    assert b"ESZ" not in whole
    assert [row["verdict"] for row in rows_of(stack, "history", "replay", str(file))] == ["ok"]
    assert {row["verdict"] for row in rows_of(stack, "deploy", "--check")} == {"ok"}
    [key] = rows_of(stack, "key", "list", "--needed")
    assert (key["key"], key["open workflows"] >= 2) == ("one", True), key

    (tmp_path / KEYS).rename(tmp_path / "lost")
    with living_market(stack):
        _code, outcome = kill(stack, "flatten")
    assert outcome["flatten"]["done"] is True, outcome
    # ESX is nobody's in the ledger (EXTERNAL): never flattened without being named.
    assert set(json.loads(stack.control("/sim/state"))["positions"]) == {"ESX"}
    assert {order["symbol"] for order in stack.open_orders()} <= {"ESX"}
