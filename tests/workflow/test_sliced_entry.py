"""A sliced entry on the real stack; the exchange refuses a stop beside a working entry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from temporalio.client import Client

from domain.ids import Purpose, parse_client_order_id
from domain.plan import EntryStyle, SlicePlan, WalkStart
from ledger.repository import Ledger
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig
from workflows.trade import TradeWorkflow

D = Decimal
STOP = D("98.5")


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    async with running_rig(temporal_client, ledger, f"acct-{unique}") as made:
        yield made


def offer(rig: Rig, size: str) -> None:
    """What the next slices may buy at 100.50."""
    rig.quote(play.SYMBOL, "100.00", "100.50", size)


def sizes_of(rig: Rig, purpose: Purpose) -> list[str]:
    """Sizes of our accepted orders for this purpose, in order."""
    keys = [(parse_client_order_id(r["client_id"]), r["quantity"]) for r in play.own_orders(rig)]
    return [size for key, size in keys if key is not None and key.purpose == purpose]


async def test_partial_slice_is_carried_and_each_pause_is_protected(rig: Rig) -> None:
    """Requirement 177, I4, I15: 4 + 3 + 3, two of the first fill, the rest comes later."""
    offer(rig, "2")
    walk = play.walk_of(max_time_s="10").model_copy(update={"start": WalkStart.FAR})
    slices = SlicePlan(count=3, window_s=D(6), work_wall_s=D("0.5"))
    plan = play.plan_of(rig, "1", entry_style=EntryStyle.TWAP, slices=slices, walk=walk)
    handle = await rig.start_trade(plan)
    await rig.until(lambda: play.stops_at(rig, STOP) == 1, "the first part is protected")
    assert play.position(rig) == 2
    story = await handle.query(TradeWorkflow.story)
    assert "entry slice 1 of 3" in story

    offer(rig, "100000")
    await rig.until(lambda: play.stops_at(rig, STOP) == 3, "three tranches of ten")
    assert play.position(rig) == 10
    first, second, third = (D(size) for size in sizes_of(rig, Purpose.ENTRY))
    assert second == first - 2 + (10 - first - third), "the rest of the first came with it"
    assert sizes_of(rig, Purpose.STOP) == ["2", str(10 - third)]
    assert not rig.journal("refused"), "no stop meets a slice"

    rig.quote(play.SYMBOL, "98.00", "98.25")
    result = await handle.result()
    assert (result.outcome, result.exit_reason, result.quantity) == ("closed", "stop", D(10))
    print(f"naked {result.naked_s} s")
    assert 0 < result.naked_s < 6
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)
