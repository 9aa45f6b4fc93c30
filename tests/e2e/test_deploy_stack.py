"""New code over a running stack, by the command line alone (faults.md H12, H13, K9).

A copy of the tree is the installation: its code is changed on disk as a person would do it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deploy.local import control
from deploy.local.runfile import read_run_file
from observability.build import build_id, repository_root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
COMMAND_TIMEOUT_S = 240
EVENTUALLY_S = 120.0
LEFT_OUT = (".git", ".venv", ".holdfast", "tests", "docs", ".mypy_cache", ".ruff_cache", ".uv")
NAP = "        await workflow.sleep(1)\n"
RUN = "    async def run(self, input: TradeInput) -> TradeResult:\n"
# Quiet, so that nothing but the test moves the trade.
EXCHANGE = {
    "listings": [{"symbol": "ESX", "tick_size": "0.01"}, {"symbol": "ESY", "tick_size": "0.01"}],
    "generated": [
        {
            "symbol": symbol,
            "start_price": "100.00",
            "interval_s": "1",
            "step_ticks": 0,
            "half_spread_ticks": 1,
            "size_max": 400,
        }
        for symbol in ("ESX", "ESY")
    ],
    "calendar": {"always_open": True},
    "keys": [{"key": "SIM-PAPER-KEY", "secret": "sim-paper-secret", "mode": "paper"}],
    "cash": "100000",
    "seed": 1,
}


class Installation:
    """A copy of the tree with a stack of its own."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.data_dir = folder / "app", folder / "stack"
        ignored = shutil.ignore_patterns(*LEFT_OUT, "__pycache__", "*.pyc")
        shutil.copytree(repository_root(), self.tree, ignore=ignored)
        self._exchange = folder / "exchange.json"
        self._exchange.write_text(json.dumps(EXCHANGE))

    @property
    def build(self) -> str:
        return build_id(self.tree)

    def command(self, *arguments: str, exits: int = 0) -> subprocess.CompletedProcess[str]:
        """`starter.py …` of the copy."""
        start = [sys.executable, str(self.tree / "starter.py"), "--data", str(self.data_dir)]
        start += ["--config", str(self.tree / "config" / "demo.toml")]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        done = subprocess.run(
            [*start, *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            cwd=self.tree,
            env={**kept, "HOLDFAST_OPERATOR": "ann"},
        )
        assert done.returncode == exits, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    def told(self, *arguments: str, exits: int = 0) -> Any:
        return json.loads(self.command(*arguments, "--json", exits=exits).stdout)

    def up(self, *options: str) -> None:
        begun = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        given = ["--exchange-config", str(self._exchange), "--exchange-start", begun]
        self.command("up", "--detach", *given, *options)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.tree / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def submit(self, trade_id: str, symbol: str, exits: int = 0) -> None:
        plan = self.data_dir.parent / f"{trade_id}.json"
        plan.write_text(json.dumps(plan_of(trade_id, symbol)))
        self.command("trade", "submit", str(plan), exits=exits)

    def trade(self, trade_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.told("trade", "show", trade_id)["trade"]
        return found

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + EVENTUALLY_S
        while not condition():
            assert time.monotonic() < deadline, f"not within {EVENTUALLY_S} s: {what}"
            time.sleep(0.5)

    def kill_everything(self) -> None:
        """SIGKILL to the supervisor and all that it started."""
        info = read_run_file(self.data_dir)
        assert info is not None
        entries = [info.supervisor, *info.processes]
        for entry in entries:
            if entry.mark.is_alive():
                os.kill(entry.pid, signal.SIGKILL)
        self.until(lambda: not any(e.mark.is_alive() for e in entries), "everything is dead")


def plan_of(trade_id: str, symbol: str) -> dict[str, Any]:
    return {
        "trade_id": trade_id,
        "session": "s",
        "account": "demo",
        "strategy": "test",
        "symbol": symbol,
        "legs": [{"instrument": {"symbol": symbol, "tick_size": "0.01"}, "side": "buy"}],
        "side": "buy",
        "size": {"kind": "fixed", "quantity": "10"},
        "walk": {
            "step": "0.05",
            "interval_s": "1",
            "steps_max": 4,
            "worst_offset": "0.5",
            "max_time_s": "120",
        },
        "stop": {"price": {"offset": "-5"}},
        "targets": [{"price": {"offset": "5"}, "fraction": "1"}],
        "signal_id": trade_id,
        "signal_time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "signal_max_age_s": "600",
    }


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Installation]:
    tmp_path.chmod(0o755)
    made = Installation(tmp_path)
    try:
        yield made
    finally:
        control.down(made.data_dir)


@pytest.mark.covers("H12", "H13", "K9")
def test_code_is_changed_on_disk_and_deployed_over_an_open_trade_then_all_is_killed(
    app: Installation,
) -> None:
    app.up()
    app.command("arm", "--reason", "test")
    app.submit("first", "ESX")
    app.until(lambda: app.trade("first")["protection"] == "resting", "protected")
    first_build = app.build
    assert app.trade("first")["build_id"] == first_build

    # A build that decides the same: everything moves, the workers come back, entries go on.
    app.edit("domain/errors.py", '"""', '"""A new build. ')
    assert app.build != first_build
    assert [row["verdict"] for row in app.told("deploy", "--check")] == ["ok", "ok"]
    deployed = app.told("deploy", "--wait-s", "120")
    assert (deployed["build"], deployed["left"]) == (app.build, [])
    assert deployed["restarted"] == 1
    assert app.trade("first")["build_id"] == app.build
    app.submit("second", "ESY")
    app.until(lambda: app.trade("second")["protection"] == "resting", "the new build trades")

    # A build that decides otherwise: caught before anything starts, the stack stays as it is.
    app.edit("workflows/trade.py", RUN, RUN + NAP)
    known = app.trade("first")["build_id"]
    checked = {row["workflow"]: row["verdict"] for row in app.told("deploy", "--check", exits=1)}
    assert checked["trade/first"] == checked["trade/second"] == "FAILED"
    assert "REPLAY_DIFFERS 2 of" in app.command("deploy", exits=1).stderr
    assert app.trade("first")["build_id"] == known
    assert app.trade("first")["protection"] == "resting"

    # Forced through: the kill still closes everything.
    app.command("deploy", "--force", "--no-restart", "--wait-s", "120")
    app.command("kill", "--scope", "all", "--mode", "flatten", "--reason", "test")
    app.until(lambda: app.told("status")["positions"] == [], "flat")

    # K9: everything dies; what comes back is still killed.
    app.kill_everything()
    app.up("--resume", "--override-pins")
    assert len(app.told("status")["kills"]) == 1
    app.command("arm", "--reason", "test")
    app.submit("third", "ESX", exits=1)
    app.until(lambda: app.trade("third")["stage"] == "refused", "still killed")
