"""The kill on real parts: last hop, sweeper, receipt (faults.md I9, I17, K5, K6, K9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from activities.flatten import FlattenReceipt, flatten_id
from activities.gateway import GatewaySweeper
from activities.kill import OrderFate, engage
from activities.operations import EngageInput, OperationActivities
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from domain.plan import TradePlan, WalkPlan
from ledger.errors import VersionConflict
from tests.rig import Rig
from tests.workflow.test_flatten import position, stop_rests
from tests.workflow.test_trade_thread import plan_of

D = Decimal
ACKNOWLEDGED_TO_LAST_SEND_S = 0.25


@asynccontextmanager
async def sweeping(rig: Rig, **changes: Any) -> AsyncIterator[GatewaySweeper]:
    """The gateway's sweeper around the rig's broker, as `worker.py` runs it."""
    options = {"client": rig.client, "trade_queue": rig.queue, **changes}
    sweeper = GatewaySweeper(rig.services, rig.broker, **options)
    task = asyncio.create_task(sweeper.run())
    try:
        yield sweeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def patient(rig: Rig, name: str) -> TradePlan:
    """Walks slowly and far below the market, so that it works until somebody cancels it."""
    walk = WalkPlan(
        step=D("0.01"), interval_s=D("0.4"), steps_max=50, worst_offset=D("0.4"), max_time_s=D(60)
    )
    return plan_of(rig, name).model_copy(update={"walk": walk})


def kill_of(rig: Rig, mode: KillMode, command_id: str = "kill-1") -> KillSwitch:
    return KillSwitch(
        scope=KillScope(kind=KillScopeKind.ACCOUNT, value=rig.services.account),
        mode=mode,
        reason="test",
        by="ada",
        command_id=command_id,
        engaged_at=datetime.now(UTC),
    )


def entries(rig: Rig) -> list[Any]:
    """Open orders at the exchange that would open a position."""
    return [o for o in rig.exchange.open_orders if o.side == "buy"]


def accepted_buys(rig: Rig) -> int:
    return len([row for row in rig.journal("accepted") if row["side"] == "buy"])


@pytest.mark.covers("K4")
async def test_kill_while_walking_leaks_nothing_and_is_acknowledged_by_receipt(rig: Rig) -> None:
    async with sweeping(rig) as sweeper:
        handles = [await rig.start_trade(patient(rig, str(number))) for number in range(4)]
        await rig.until(lambda: len(entries(rig)) == 4, "four entries walk")
        before = len(rig.journal("accepted"))
        await rig.until(lambda: len(rig.journal("accepted")) > before, "a walk step has gone out")
        await engage(rig.ledger, rig.services.account, kill_of(rig, KillMode.CANCEL_ENTRIES))
        # The bound of I9 itself: whatever the exchange accepts later is a leak.
        await asyncio.sleep(ACKNOWLEDGED_TO_LAST_SEND_S)
        accepted = accepted_buys(rig)
        await rig.until(lambda: not entries(rig), "the entries are dead")
        await rig.until(lambda: "kill-1" in sweeper.receipts, "the receipt is final")
        results = [await handle.result() for handle in handles]
    receipt = sweeper.receipts["kill-1"]
    assert receipt.final
    assert receipt.open_ends == ()
    assert {each.fate for each in receipt.orders} <= {OrderFate.CANCELLED, OrderFate.ALREADY_DEAD}
    assert receipt.trades_not_told == ()
    assert accepted_buys(rig) == accepted
    assert {result.outcome for result in results} == {"not_filled"}


async def test_cancel_entries_takes_entries_and_leaves_the_protection(rig: Rig) -> None:
    async with sweeping(rig) as sweeper:
        held = await rig.start_trade(plan_of(rig, "held"))
        await rig.until(
            lambda: any(o.stop_price is not None for o in rig.exchange.open_orders), "protected"
        )
        symbol_free = patient(rig, "walks")
        await rig.start_trade(symbol_free)
        await engage(rig.ledger, rig.services.account, kill_of(rig, KillMode.CANCEL_ENTRIES))
        await rig.until(lambda: "kill-1" in sweeper.receipts, "the receipt is final")
        await rig.until(lambda: not entries(rig), "no entry works")
        assert any(o.stop_price is not None for o in rig.exchange.open_orders)
        rig.quote("ESX", "103.50", "103.75")
        result = await held.result()
    assert result.exit_reason == "target"


@pytest.mark.covers("K5")
async def test_killed_account_refuses_entries_at_the_last_hop_but_not_exits(rig: Rig) -> None:
    await engage(rig.ledger, rig.services.account, kill_of(rig, KillMode.BLOCK))
    handle = await rig.start_trade(plan_of(rig, "late"))
    result = await handle.result()
    assert result.outcome == "refused"
    assert rig.journal("accepted") == []


@pytest.mark.covers("K6")
async def test_second_operator_with_the_old_version_gets_a_conflict(rig: Rig) -> None:
    account = rig.services.account
    seen = (await rig.ledger.read_control(account)).version

    async def one(command_id: str) -> bool:
        kill = kill_of(rig, KillMode.BLOCK, command_id)
        try:
            await engage(rig.ledger, account, kill, expected_version=seen)
        except VersionConflict:
            return False
        return True

    outcomes = await asyncio.gather(one("ada-1"), one("bob-1"))
    assert sorted(outcomes) == [False, True]
    assert len((await rig.ledger.read_control(account)).kills) == 1


@pytest.mark.covers("K6")
async def test_same_command_twice_has_one_effect(rig: Rig) -> None:
    account, kill = rig.services.account, kill_of(rig, KillMode.BLOCK)
    first = await engage(rig.ledger, account, kill)
    again = await engage(rig.ledger, account, kill)
    assert first.answer is not None
    assert again.answer is not None
    assert (first.answer.was_engaged, again.answer.was_engaged) == (False, True)
    assert len((await rig.ledger.read_control(account)).kills) == 1


@pytest.mark.covers("K9")
async def test_kill_stays_over_a_restart_and_the_new_sweeper_works_it_off(rig: Rig) -> None:
    await rig.start_trade(patient(rig, "1"))
    await rig.until(lambda: len(entries(rig)) == 1, "the entry works")
    await engage(rig.ledger, rig.services.account, kill_of(rig, KillMode.CANCEL_ENTRIES))
    # Nobody swept yet: this process comes up later, as after a crash.
    async with sweeping(rig, second_sweep_after_s=0.2) as sweeper:
        await rig.until(lambda: "kill-1" in sweeper.receipts, "the receipt is final")
    assert entries(rig) == []
    control = await rig.ledger.read_control(rig.services.account)
    assert [kill.command_id for kill in control.kills] == ["kill-1"]


async def test_kill_from_the_web_ui_counts_although_its_id_was_used(rig: Rig) -> None:
    """I9: block, then flatten, both typed with the id `1`; a repeat changes nothing (I17)."""
    engages = OperationActivities(rig.services).engage_kill
    given = EngageInput(
        account=rig.services.account,
        scope=KillScope(kind=KillScopeKind.ACCOUNT, value=rig.services.account),
        mode=KillMode.BLOCK,
        command_id="1",
        by="ann",
        reason="web ui",
    )
    flatten = given.model_copy(update={"mode": KillMode.FLATTEN})
    for asked in (given, flatten, flatten, given):
        await engages(asked)
    control = await rig.ledger.read_control(rig.services.account)
    assert sorted(kill.mode for kill in control.kills) == [KillMode.BLOCK, KillMode.FLATTEN]


@pytest.mark.covers("K8")
async def test_kill_that_was_swept_before_temporal_was_there_flattens_once_it_is(rig: Rig) -> None:
    """The process came up without it: no trade was told, and no Flatten was ever started."""
    await rig.start_trade(plan_of(rig))
    await rig.until(lambda: stop_rests(rig), "protected")
    kill = kill_of(rig, KillMode.FLATTEN, command_id=f"kill-{rig.services.account}")
    async with sweeping(rig, client=None, second_sweep_after_s=0.0) as sweeper:
        await engage(rig.ledger, rig.services.account, kill)
        await rig.until(lambda: kill.command_id in sweeper.receipts, "it was swept")
        assert sweeper.receipts[kill.command_id].trades_told == 0
        assert position(rig) == D(10)
        sweeper.use_client(rig.client)
        await rig.until(lambda: position(rig) == 0, "the trade heard of it")
        name = flatten_id(kill.command_id, kill.scope, rig.services.account)
        receipt = await rig.client.get_workflow_handle(name, result_type=FlattenReceipt).result()
        assert receipt.done
