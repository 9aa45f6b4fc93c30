"""`starter.py limits …` on a real ledger: two people, in time, exactly this file (row 52)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.context import demo_config
from domain.ids import check_id
from ledger.repository import Ledger
from settings_file import load_settings
from starter import app
from wiring import limits_in_force

SECRETS = {"ann": "ann-secret", "bob": "bob-secret"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_dsn: str) -> Path:
    """The demonstration's settings, to be edited."""
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    path = tmp_path / "holdfast.toml"
    path.write_text(demo_config().read_text())
    return path


def edit(config: Path, number: int) -> None:
    lines = config.read_text().splitlines()
    name = "max_open_positions"
    config.write_text("\n".join(f"{name} = {number}" if name in x else x for x in lines))


def run(config: Path, who: str, *arguments: str) -> Any:
    asked = ["--config", str(config), "--data", str(config.parent), "limits", *arguments]
    secret = {"HOLDFAST_OPERATOR_SECRET": SECRETS.get(who, "wrong-secret")}
    by = [] if arguments[0] == "diff" else ["--by", who]
    result = CliRunner().invoke(app, [*asked, *by, "--json"], env=secret)
    return json.loads(result.output) if result.exit_code == 0 else result.output


async def test_looser_limit_goes_from_the_file_over_two_people_into_force(
    ledger: Ledger, config: Path
) -> None:
    settings = load_settings(config)
    account = settings.account.name
    await ledger.ensure_account(account, "alpaca")
    for name, secret in SECRETS.items():
        await ledger.add_operator(name, secret)
    await limits_in_force(ledger, account, settings.limits)

    async def call(who: str, *arguments: str) -> Any:
        return await asyncio.to_thread(run, config, who, *arguments)

    assert "NOT_LOOSER" in await call("ann", "propose", "--reason", "why")
    edit(config, 9)
    (difference,) = await call("", "diff")
    assert (difference["limit"], difference["looser"]) == ("max_open_positions", True)
    proposal = await call("ann", "propose", "--reason", "a calm day")
    proposal_id = check_id(proposal["proposal_id"], "proposal_id")
    assert "SAME_PERSON" in await call("ann", "approve", proposal_id)
    assert "OPERATOR_REFUSED" in await call("mallory", "approve", proposal_id)
    assert "PROPOSAL_UNKNOWN" in await call("bob", "approve", "another")
    edit(config, 10)
    assert "LIMITS_DIFFER" in await call("bob", "approve", proposal_id)
    edit(config, 9)
    agreed = await call("bob", "approve", proposal_id)
    assert (agreed["by"], agreed["approved_by"]) == ("ann", "bob")
    rows = [row.action for row in await ledger.list_audit() if row.action.startswith("limits_")]
    refused = ["limits_refused"] * 2
    assert rows == ["limits_proposed", *refused, "limits_approved"]
