"""A trade that lives for a month (faults.md H10, A9, I16; moonshot M13)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.testing import TimeSkipper

from ledger.repository import Ledger
from tests import trade_scenarios as play
from tests.long_life import (
    DAYS,
    ONE_TARGET,
    AnyHandle,
    Days,
    assert_handed_over,
    assert_small,
    count,
    live_a_month,
    runs_of,
)
from tests.rig import Rig, running_rig
from workflows import _lifecycle as life

HAND_OVERS_MIN, MOVES_A_DAY = 10, 24
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


async def judge(rig: Rig, handle: AnyHandle, moves: int, tranches: int) -> None:
    """The month was lived without a loss, in small runs (I16, I17, M13)."""
    result = await handle.result()
    assert (result.outcome, result.exit_reason) == ("closed", "target")
    replaced = [row for row in play.accepted(rig, side="sell") if row.get("replaces")]
    assert len(replaced) == tranches * moves, "each command had one effect"
    runs = await runs_of(rig.client, handle.id)
    assert_small(runs)
    assert_handed_over(runs)
    assert len(runs) > HAND_OVERS_MIN
    assert count(runs, UPDATE_ACCEPTED) == 2 * moves, "no update was lost"
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)


@pytest.mark.covers("A9", "H10")
@pytest.mark.timeout(900)
async def test_month_is_lived_in_small_runs_that_hand_over_an_equal_state(
    rig: Rig, virtual_time: TimeSkipper, days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H10, A9: thirty days, ten hand-overs, each after a twentieth of the events of real life."""
    monkeypatch.setattr(life, "EVENTS_WISH_MAX", 65)
    plain: dict[str, Any] = {"targets": ONE_TARGET, "ratchet": ()}
    handle = await live_a_month(rig, virtual_time, days, 1, **plain)
    await judge(rig, handle, moves=DAYS, tranches=1)


@pytest.mark.nightly
@pytest.mark.timeout(3000)
async def test_month_at_full_length_keeps_every_run_within_its_bounds(
    rig: Rig, virtual_time: TimeSkipper, days: Days
) -> None:
    """M13: ten hand-overs at the events at which a trade really hands over."""
    handle = await live_a_month(rig, virtual_time, days, MOVES_A_DAY)
    await judge(rig, handle, moves=DAYS * MOVES_A_DAY, tranches=3)
