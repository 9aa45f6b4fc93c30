"""A trade that lives for a month (faults.md H10, A9, I16; moonshot M13)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.testing import TimeSkipper

from domain.messages import OperatorRequest
from ledger.repository import Ledger
from tests import trade_scenarios as play
from tests.long_life import AnyHandle, Days, assert_handed_over, assert_small, count, runs_of
from tests.rig import Rig, running_rig
from workflows import _lifecycle as life
from workflows.trade import TradeWorkflow

D = Decimal
DAYS = 30
UPDATE_ACCEPTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED


@pytest.fixture
def days() -> Days:
    return Days()


@pytest.fixture
async def rig(
    temporal_client: Client, virtual_time: TimeSkipper, ledger: Ledger, unique: str, days: Days
) -> AsyncIterator[Rig]:
    async with running_rig(temporal_client, ledger, f"acct-{unique}", now=days.now) as made:
        play.calm_market(made)
        yield replace(made, client=virtual_time.client)


async def move_stop(rig: Rig, handle: AnyHandle, number: int, price: Decimal) -> None:
    """A person's move of the stop, sent twice under one command id (A9)."""
    request = OperatorRequest(command_id=f"move-{number}", by="ann", price=price, widen=True)
    await handle.execute_update("move_stop", request)
    await rig.until(lambda: play.stops_at(rig, price) == 3, f"three stops at {price}")
    await handle.execute_update("move_stop", request)


async def month(
    rig: Rig, skipper: TimeSkipper, days: Days, moves_a_day: int
) -> tuple[AnyHandle, int]:
    """Enters and holds for thirty days, then the target; answers how often the stop moved."""
    plan = play.plan_of(rig, "month")
    handle: AnyHandle = await rig.start_trade(plan)
    await play.enter_protected(rig)
    newest = play.newest_run(rig, handle)
    moves = 0
    for _ in range(DAYS):
        for _ in range(moves_a_day):
            moves += 1
            price = D("99.30") + D(moves % 50) / 100
            await move_stop(rig, newest, moves, price)
        await days.skip(rig, skipper, newest, timedelta(days=1))
        print(days.skipped, len(rig.exchange.open_orders))
    return newest, moves


async def test_month_in_ten_runs(
    rig: Rig, virtual_time: TimeSkipper, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "EVENTS_WISH_MAX", 150)
    handle, moves = await month(rig, virtual_time, days, 2)
    rig.quote("ESX", "106.00", "106.25")
    result = await handle.result()
    runs = await runs_of(rig.client, handle.id)
    assert_small(runs)
    print(result, len(runs), count(runs, UPDATE_ACCEPTED), moves)
    assert_handed_over(runs)
