"""`session stop` again and again: what it answers is read now, and flatten is never too late."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from activities.strategy_hosts import StrategyHosts
from cli.context import demo_config
from cli.session import sessions, with_open_trades
from cli.session_stop import stop_session
from domain.ids import trade_workflow_id
from domain.messages import OperatorSignal
from domain.session import SessionRequest
from tests.rig import DEADLINE_S, Rig
from tests.rig_target import RigTarget
from tests.workflow.test_session import Started
from tests.workflow.test_session_days import Plan, protected
from tests.workflow.test_session_days import rig as rig
from workflows.session import SessionWorkflow


def stop_of(command_id: str, *, flatten: bool = False) -> SessionRequest:
    return SessionRequest(command_id=command_id, by="ann", flatten=flatten)


async def listed(target: RigTarget) -> list[dict[str, Any]]:
    """What `session list` shows."""
    return await with_open_trades(target, await sessions(target.rig.client))


async def holding_session(rig: Rig, folder: Path) -> tuple[Started, str]:
    """A session with one trade that is open and protected."""
    session = await Plan(rig, folder).start()
    signal = session.outside("held")
    await session.send(signal)
    await rig.until(lambda: protected(rig), "protected")
    return session, signal.signal_id


async def test_stop_with_flatten_after_a_plain_stop_takes_the_trades_out(
    rig: Rig, tmp_path: Path
) -> None:
    """It did nothing: `flatten no`, the trade open, three times over."""
    session, trade_id = await holding_session(rig, tmp_path)
    target = RigTarget(demo_config(), tmp_path, rig)
    name = session.spec.name
    plain = await stop_session(target, name, stop_of("s1"), DEADLINE_S)
    assert (plain["stage"], plain["flatten"], plain["open trades"]) == ("ended", False, 1)
    assert protected(rig), "the stop stays at the broker"
    (row,) = [each for each in await listed(target) if each["session"] == name]
    assert (row["stage"], row["open trades"]) == ("ended", 1), "the words of the receipt"
    again = await stop_session(target, name, stop_of("s2", flatten=True), DEADLINE_S)
    assert (again["stage"], again["flatten"], again["open trades"]) == ("ended", True, 0)
    assert rig.exchange.holdings() == []
    rows = await rig.ledger.list_audit(limit=10_000)
    asked = [(row.actor, row.action) for row in rows if row.subject == trade_id]
    assert ("ann", "trade.flatten") in asked, "who wanted it out"


async def test_repeated_stop_tells_which_trades_are_open_now(rig: Rig, tmp_path: Path) -> None:
    """It printed the receipt of the session's end: two trades open after both were flat."""
    session, trade_id = await holding_session(rig, tmp_path)
    target = RigTarget(demo_config(), tmp_path, rig)
    plain = await stop_session(target, session.spec.name, stop_of("s1"), DEADLINE_S)
    (row,) = plain["trades"]
    assert (row["trade_id"], row["stage"], row["protection"]) == (trade_id, "open", "resting")
    child = rig.client.get_workflow_handle(trade_workflow_id(trade_id))
    await child.signal("flatten", OperatorSignal(by="test"))
    await child.result()
    again = await stop_session(target, session.spec.name, stop_of("s2", flatten=True), DEADLINE_S)
    assert (again["open trades"], again["trades"]) == (0, [])
    assert again["as of"] > plain["as of"]


async def test_stop_says_that_the_ledger_did_not_tell_what_is_open(
    rig: Rig, tmp_path: Path
) -> None:
    session, trade_id = await holding_session(rig, tmp_path)
    away = RigTarget(demo_config(), tmp_path, rig, ledger_is_up=False)
    found = await stop_session(away, session.spec.name, stop_of("s1"), DEADLINE_S)
    assert found["open trades"] == "unknown"
    assert found["not read"].startswith("LEDGER_DOWN")
    child = rig.client.get_workflow_handle(trade_workflow_id(trade_id))
    await child.signal("flatten", OperatorSignal(by="test"))
    await child.result()


async def test_flatten_of_an_ended_session_in_a_halt_names_what_is_not_flat(
    rig: Rig, tmp_path: Path
) -> None:
    session, trade_id = await holding_session(rig, tmp_path)
    target = RigTarget(demo_config(), tmp_path, rig)
    await stop_session(target, session.spec.name, stop_of("s1"), DEADLINE_S)
    rig.exchange.halt("ESX")
    found = await stop_session(target, session.spec.name, stop_of("s2", flatten=True), 1.0)
    assert [row["trade_id"] for row in found["trades"]] == [trade_id]
    assert "ask again" in found["next"]
    rig.exchange.resume("ESX")
    rig.quote("ESX", "99.75", "100.25")
    found = await stop_session(target, session.spec.name, stop_of("s3", flatten=True), DEADLINE_S)
    assert found["open trades"] == 0


async def test_flatten_asked_for_in_the_last_moment_of_a_session_is_done(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was recorded between the drain and the end, and nobody told the trades."""
    session, _ = await holding_session(rig, tmp_path)
    ending, go_on = asyncio.Event(), asyncio.Event()
    close = StrategyHosts.close

    async def slow_close(hosts: StrategyHosts, name: str) -> None:
        ending.set()
        await go_on.wait()
        await close(hosts, name)

    monkeypatch.setattr(StrategyHosts, "close", slow_close)
    stop = SessionWorkflow.request_stop
    await session.handle.execute_update(stop, stop_of("s1"), id="s1")
    async with asyncio.timeout(DEADLINE_S):
        await ending.wait()
    await session.handle.execute_update(stop, stop_of("s2", flatten=True), id="s2")
    go_on.set()
    result = await session.handle.result()
    assert (result.flatten, result.trades) == (True, ())
    assert rig.exchange.holdings() == []
