"""The kill and the flatten with servers really gone: SIGKILL, then the command line (K8, K9).

The exchange's journal is the oracle. The stack is the usual one, without restarts, so that what
was killed stays away until the test starts it again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig
from brokers.port import Accepted
from cli.context import Target
from cli.stack import stack_config
from deploy.local.runfile import RunInfo
from deploy.local.supervisor import Supervisor
from domain.ids import IntentKey, Purpose
from domain.order import OrderBody, OrderIntent, OrderType, Side, TimeInForce
from observability.build import repository_root
from settings_file import load_settings

pytestmark = pytest.mark.slow
D = Decimal
CONFIG = repository_root() / "config" / "demo.toml"
FIRST_CANCEL_MAX_S = 5.0
COMMAND_TIMEOUT_S = 60
EXCHANGE = {
    "listings": [
        {"symbol": "ESX", "tick_size": "0.01"},
        {"symbol": "ESY", "tick_size": "0.01"},
        {"symbol": "ESZ", "tick_size": "0.01"},
    ],
    "calendar": {"always_open": True},
    "keys": [{"key": "SIM-PAPER-KEY", "secret": "sim-paper-secret", "mode": "paper"}],
    "cash": "100000",
    "start": "2026-03-02T15:00:00+00:00",
}


class Stack:
    """A running stack and the way to its parts."""

    def __init__(self, data_dir: Path, settings_file: Path = CONFIG) -> None:
        self.data_dir = data_dir
        self.settings_file = settings_file
        exchange = data_dir.parent / "exchange.json"
        exchange.write_text(json.dumps(EXCHANGE))
        config = stack_config(
            Target(settings_file, data_dir),
            load_settings(settings_file, {}),
            workers="all",
            exchange_arguments=["--config", str(exchange), "--speed", "1"],
        )
        self.supervisor = Supervisor(config)

    @property
    def info(self) -> RunInfo:
        return self.supervisor.info

    @property
    def named(self) -> list[str]:
        """The options that name this stack."""
        return ["--config", str(self.settings_file), "--data", str(self.data_dir)]

    def end(self, name: str) -> None:
        """SIGKILL, as a crash does it."""
        entry = self.info.process(name)
        assert entry is not None
        os.kill(entry.pid, signal.SIGKILL)

    def command(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """`starter.py … --json`: exit code and what it printed."""
        command = [sys.executable, str(repository_root() / "starter.py")]
        done = subprocess.run(
            [*command, *self.named, *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def control(self, path: str, body: dict[str, Any] | None = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.info.exchange_control_url}{path}", data)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.read().decode())

    def quote(self) -> None:
        for symbol in ("ESX", "ESY", "ESZ"):
            self.control("/sim/quote", {"symbol": symbol, "bid": "99.95", "ask": "100.05"})

    def journal(self, *kinds: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self.control("/sim/journal").splitlines()]
        return [row for row in rows if row["kind"] in kinds]

    def open_orders(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.control("/sim/state"))["open_orders"]
        return found


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)
    tmp_path.chmod(0o755)
    made = Stack(tmp_path / "stack")
    with made.supervisor.running():
        made.quote()
        asyncio.run(hold_and_wait(made.info))
        yield made


async def hold_and_wait(info: RunInfo) -> None:
    """5 ESX held under a protective stop, and an entry for 10 ESY that waits far below."""
    broker = AlpacaBroker(
        AlpacaConfig(
            key_id="SIM-PAPER-KEY",
            secret="sim-paper-secret",
            account="demo",
            trading_url=info.exchange_url,
        )
    )
    day = datetime.fromisoformat("2026-03-02T15:00:00+00:00").date()

    async def place(symbol: str, side: Side, purpose: Purpose, **body: Any) -> None:
        wanted = OrderBody(symbol=symbol, side=side, intent_date=day, **body)
        key = IntentKey(trade_id=f"t-{symbol}", purpose=purpose, sequence=1)
        increasing = purpose is Purpose.ENTRY
        intent = OrderIntent.derive("d0d0", key, wanted, increasing=increasing)
        outcome = await broker.place(intent)
        assert isinstance(outcome, Accepted), outcome

    limit: dict[str, Any] = {"order_type": OrderType.LIMIT}
    await place("ESX", Side.BUY, Purpose.ENTRY, quantity=D(5), limit_price=D(101), **limit)
    stop: dict[str, Any] = {"order_type": OrderType.STOP, "time_in_force": TimeInForce.GTC}
    await place("ESX", Side.SELL, Purpose.STOP, quantity=D(5), stop_price=D(95), **stop)
    await place("ESY", Side.BUY, Purpose.ENTRY, quantity=D(10), limit_price=D(90), **limit)
    await broker.aclose()


def seconds_to_first_cancel(stack: Stack, outcome: dict[str, Any]) -> float:
    first = stack.journal("canceled", "cancelled")[0]
    engaged = datetime.fromisoformat(outcome["engaged_at"])
    return (datetime.fromisoformat(first["wall"]) - engaged).total_seconds()


def kill(stack: Stack, mode: str) -> tuple[int, dict[str, Any]]:
    return stack.command("kill", "--scope", "all", "--mode", mode, "--reason", "test")


@pytest.mark.covers("H2", "H4", "K8")
def test_kill_cancels_entries_and_leaves_the_stop_with_temporal_stopped(stack: Stack) -> None:
    stack.end("temporal")
    code, outcome = kill(stack, "cancel-entries")
    assert code == 0, outcome
    assert outcome["engaged_in"] == "ledger"
    assert [order["symbol"] for order in stack.open_orders()] == ["ESX"]
    assert seconds_to_first_cancel(stack, outcome) <= FIRST_CANCEL_MAX_S


@pytest.mark.covers("K8", "K9")
def test_kill_without_ledger_is_journalled_copied_and_a_restart_places_nothing(
    stack: Stack, tmp_path: Path
) -> None:
    stack.end("postgres")
    code, outcome = kill(stack, "cancel-entries")
    assert code == 1, "it is known on this machine alone"
    assert (outcome["engaged_in"], outcome["swept_by"]) == ("journal", "command line")
    assert {order["fate"] for order in outcome["receipt"]["orders"]} == {"cancelled"}
    assert [order["symbol"] for order in stack.open_orders()] == ["ESX"]
    assert seconds_to_first_cancel(stack, outcome) <= FIRST_CANCEL_MAX_S
    stack.supervisor.stop()
    again = Stack(tmp_path / "stack")
    with again.supervisor.running():
        code, status = again.command("status")
        assert status["kill_in_journal"] is False
        assert len(status["kills"]) == 1
        again.command("arm", "--reason", "test")
        again.quote()
        plan = again.data_dir.parent / "plan.json"
        plan.write_text(json.dumps(plan_for(again)))
        code, rehearsal = again.command("trade", "submit", str(plan), "--dry-run")
        kill_row = rehearsal["verdicts"][0]
        assert (code, kill_row["check"], kill_row["verdict"]) == (1, "kill", "refused")
        code, trade = again.command("trade", "submit", str(plan), "--wait")
        assert (code, trade["outcome"]) == (1, "refused")
        assert again.journal("accepted") == []


def plan_for(stack: Stack) -> dict[str, Any]:
    market_time = json.loads(stack.control("/sim/clock"))["market_time"]
    return {
        "trade_id": "later",
        "session": "s",
        "account": "demo",
        "strategy": "test",
        # Not ESX: what nobody of ours explains there freezes the symbol for entries (I20).
        "symbol": "ESZ",
        "legs": [{"instrument": {"symbol": "ESZ", "tick_size": "0.01"}, "side": "buy"}],
        "side": "buy",
        "size": {"kind": "fixed", "quantity": "10"},
        "walk": {
            "step": "0.05",
            "interval_s": "5",
            "steps_max": 3,
            "worst_offset": "0.2",
            "max_time_s": "300",
        },
        "stop": {"price": {"offset": "-2"}},
        "signal_id": "sig",
        "signal_time": market_time,
        "signal_max_age_s": "600",
    }


@pytest.mark.covers("H8", "K8")
def test_flatten_without_any_server_closes_what_is_ours(stack: Stack) -> None:
    stack.end("temporal")
    stack.end("postgres")
    code, outcome = kill(stack, "flatten")
    assert code == 1, "flat, but the kill is known on this machine alone"
    assert outcome["engaged_in"] == "journal"
    assert outcome["flatten"]["done"] is True
    [line] = outcome["flatten"]["lines"]
    assert (line["symbol"], line["found"], line["filled"], line["left"]) == ("ESX", "5", "5", "0")
    assert stack.open_orders() == []
    assert json.loads(stack.control("/sim/state"))["positions"] == {}
    assert seconds_to_first_cancel(stack, outcome) <= FIRST_CANCEL_MAX_S


COUNTED = ("trades", "orders", "reservations", "gate_verdicts", "equity_baselines", "audit")


def rows_of_ledger(stack: Stack) -> dict[str, int]:
    async def count() -> dict[str, int]:
        connection = await asyncpg.connect(stack.info.ledger_dsn)
        try:
            return {
                table: await connection.fetchval(f"SELECT count(*) FROM {table}")
                for table in COUNTED
            }
        finally:
            await connection.close()

    return asyncio.run(count())


@contextmanager
def living_market(stack: Stack) -> Iterator[None]:
    """Quotes that stay fresh however long a command takes to start."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.5):
            stack.quote()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_dry_run_shows_everything_and_neither_sends_nor_writes(stack: Stack) -> None:
    stack.command("arm", "--reason", "test")
    plan = stack.data_dir.parent / "plan.json"
    plan.write_text(json.dumps(plan_for(stack)))
    # Or the first reconcile pass writes the baseline and its findings in the middle of it.
    stack.end("worker-all")
    before, rows = stack.journal("accepted"), rows_of_ledger(stack)
    with living_market(stack):
        code, rehearsal = stack.command("trade", "submit", str(plan), "--dry-run")
    assert (code, rehearsal["approved"]) == (0, True), rehearsal
    assert rehearsal["quantity"] == "10"
    assert rehearsal["ladder"] == ["100.00", "100.05", "100.10", "100.15"]
    assert len(rehearsal["verdicts"]) > 20
    ids = [order["client_id"] for order in rehearsal["orders"]]
    assert len(ids) == len(set(ids)) >= 5
    assert [order["body"]["limit_price"] for order in rehearsal["orders"][:4]] == (
        rehearsal["ladder"]
    )
    assert rehearsal["orders"][-1]["purpose"] == "stop"
    assert stack.journal("accepted") == before
    assert rows_of_ledger(stack) == rows
