"""A kill of a name that nobody knows: in force, but never told as done (faults.md K8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.flatten import FlattenReceipt
from cli import kill as command
from cli.context import demo_config
from cli.kill import KillOutcome, kill_now, kill_scope
from cli.known_names import nothing_known_by
from domain.control import KillMode, KillScope
from domain.messages import OperatorSignal
from tests.rig import Rig
from tests.rig_target import RigTarget
from tests.trade_scenarios import plan_of
from tests.workflow.test_session import start


async def engaged(target: RigTarget, scope: str, mode: KillMode) -> KillOutcome:
    return await kill_now(
        target,
        kill_scope(scope, target.settings().account.name),
        mode,
        by="ann",
        reason="test",
        command_id=None,
        expected_version=None,
        wait_s=0,
        say=lambda _line: None,
    )


async def test_kill_of_a_misspelt_symbol_is_in_force_and_says_what_is_open(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`symbol:APPL` with AAPL open said `DONE: the broker says flat`, exit 0."""

    async def all_flat(_target: object, scope: KillScope, command_id: str, **_: object) -> object:
        words = {"command_id": command_id, "scope": scope.text, "by": "ann", "reason": "test"}
        return FlattenReceipt.model_validate(
            words | {"done": True, "started_at": rig.clock.wall0, "at": rig.clock.wall0}
        )

    monkeypatch.setattr(command, "flatten_scope", all_flat)
    target = RigTarget(demo_config(), tmp_path, rig)
    trade = await rig.start_trade(plan_of(rig, "held"))
    await rig.until(lambda: bool(rig.exchange.holdings()), "the trade holds")
    outcome = await engaged(target, "symbol:EXS", KillMode.FLATTEN)
    assert "open symbols are ESX" in outcome.unknown_name
    assert outcome.flatten is not None
    assert (outcome.flatten.done, outcome.is_clean) == (False, False)
    (kill,) = (await rig.ledger.read_control(rig.services.account)).kills
    assert kill.scope.text == "symbol:EXS", "in force as it was asked for"
    outcome = await engaged(target, "symbol:ESX", KillMode.CANCEL_ENTRIES)
    assert (outcome.unknown_name, outcome.is_clean) == ("", True)
    await trade.signal("flatten", OperatorSignal(by="test"))
    await trade.result()


async def test_names_are_known_by_trades_orders_sessions_and_settings(
    rig: Rig, tmp_path: Path
) -> None:
    strategy = tmp_path / "own_idea.py"
    strategy.write_text("def generate_signal(bars, context): ...\n")
    session = await start(rig, strategy, tmp_path, bars=1, open_end=True)
    trade = await rig.start_trade(plan_of(rig, "held", symbol="ESX"))
    await rig.until(lambda: bool(rig.exchange.open_orders), "an order works")
    target = RigTarget(demo_config(), tmp_path, rig)
    order_id = rig.exchange.open_orders[0].client_id
    trade_id = trade.id.partition("/")[2]

    async def said_of(scope: str) -> str:
        wanted = kill_scope(scope, rig.services.account)
        return await nothing_known_by(target, rig.ledger, rig.broker, wanted)

    async def is_listed() -> bool:
        return await said_of("strategy:own_idea") == ""

    await rig.until_async(is_listed, "the session is listed")
    known = ("all", "symbol:ESX", f"trade:{trade_id}", f"order:{order_id}")
    assert [await said_of(scope) for scope in (*known, "strategy:opening_breakout")] == [""] * 5
    assert f"open trades are {trade_id}" in await said_of("trade:nosuch")
    assert "nothing is known by strategy:nosuch" in await said_of("strategy:nosuch")
    assert "nothing is known by order:1" in await said_of("order:1")
    assert "nothing is known by symbol:esx" in await said_of("symbol:esx")
    away = RigTarget(demo_config(), tmp_path, rig, temporal_is_up=False)
    unread = kill_scope("symbol:EXS", rig.services.account)
    assert await nothing_known_by(away, rig.ledger, rig.broker, unread) == ""
    await session.handle.signal("stop", OperatorSignal(by="test"))
    await trade.signal("flatten", OperatorSignal(by="test"))
    await trade.result()
    await session.handle.result()
