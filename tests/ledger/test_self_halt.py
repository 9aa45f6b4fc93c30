"""A component that finds too many entries stops itself and cannot start itself (controls 6, 8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from activities.risk import RiskActivities
from activities.services import ReserveInput, TradeRef
from domain.clock import ClockMap
from domain.errors import Refused
from domain.facts import OrderNotSent, RiskRefused, RiskReserved
from domain.plan import TradePlan
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import ACCOUNT, plan
from tests.rig import roomy_limits

START = datetime.now(UTC)
DAY = {"account_max_age_s": "86400"}
THREE_AN_HOUR = {"repeat_entries_max": 3, "repeat_window_s": "3600", **DAY}


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    async with order_lane(armed) as opened:
        opened.services = replace(opened.services, limits=roomy_limits(**THREE_AN_HOUR))
        yield opened


def at(lane: Lane, minutes: float) -> None:
    """The wall clock of the gate, that many minutes on."""
    moment = START + timedelta(minutes=minutes)
    restricted = lane.services.restricted.model_copy(update={"as_of": moment})
    lane.services = replace(lane.services, now=lambda: moment, restricted=restricted)


async def enter(lane: Lane, trade_id: str, **changes: object) -> str:
    """Asks the gate for a trade; the code of its refusal, empty if it was approved."""
    wanted = TradePlan.model_validate({**plan(trade_id).model_dump(), **changes})
    clock = ClockMap(wall0=START, market0=MARKET_NOW)
    given = ReserveInput(trade=TradeRef.of(wanted, clock), plan=wanted)
    batch = await ActivityEnvironment().run(RiskActivities(lane.services).reserve_risk, given)
    (fact,) = batch.facts
    if isinstance(fact, RiskRefused):
        return fact.code
    assert isinstance(fact, RiskReserved)
    return ""


async def lift(lane: Lane, minutes: float) -> None:
    """Two people lift the kills of the account."""
    moment = START + timedelta(minutes=minutes)
    for name in ("alice", "bob"):
        await lane.ledger.add_operator(name, f"{name}-secret")
    asked = await lane.ledger.request_reset(
        ACCOUNT, "alice", "the loop was mended", f"RESET {ACCOUNT}", moment
    )
    await lane.ledger.confirm_reset(asked.request_id, "bob", moment)


async def test_strategy_that_repeats_itself_is_stopped_until_people_reset_it(lane: Lane) -> None:
    """Control 6: the fourth entry of the hour; no timer and no restart lets a fifth one in."""
    at(lane, 0)
    assert [await enter(lane, f"trade-{n}") for n in range(3)] == ["", "", ""]
    assert await enter(lane, "trade-3") == "REPEATED_ENTRIES"
    (kill,) = (await lane.ledger.read_control(ACCOUNT)).kills
    assert (kill.scope.text, kill.by) == ("strategy:sma", "repeat-throttle")
    at(lane, 200)
    assert await enter(lane, "trade-4") == "KILLED"
    assert await enter(lane, "trade-5", strategy="other") == ""
    await lift(lane, 201)
    at(lane, 202)
    assert await enter(lane, "trade-6") == ""


async def test_reset_within_the_window_begins_the_count_anew(lane: Lane) -> None:
    at(lane, 0)
    for number in range(4):
        await enter(lane, f"trade-{number}")
    await lift(lane, 1)
    at(lane, 2)
    assert [await enter(lane, f"again-{n}") for n in range(4)] == ["", "", "", "REPEATED_ENTRIES"]


async def test_component_that_tripped_cannot_lift_its_own_kill(lane: Lane) -> None:
    """Control 8: only registered people may ask for a reset."""
    at(lane, 0)
    for number in range(4):
        await enter(lane, f"trade-{number}")
    phrase = f"RESET {ACCOUNT}"
    with pytest.raises(Refused) as refused:
        await lane.ledger.request_reset(ACCOUNT, "repeat-throttle", "all is well", phrase, START)
    assert refused.value.code == "OPERATOR_UNKNOWN"
    assert len((await lane.ledger.read_control(ACCOUNT)).kills) == 1


@pytest.mark.covers("A7")
async def test_same_idea_from_two_sources_is_entered_once(lane: Lane) -> None:
    """A7: a second apart, other ids, other sessions."""
    lane.services = replace(lane.services, limits=roomy_limits(duplicate_window_s="30", **DAY))
    at(lane, 0)
    assert await enter(lane, "trade-1") == ""
    at(lane, 1 / 60)
    assert await enter(lane, "trade-2", session="s-2") == "DUPLICATE_SUSPECT"
    at(lane, 1)
    assert await enter(lane, "trade-3") == ""


async def test_loop_that_sends_entries_is_stopped_after_the_plans_orders(lane: Lane) -> None:
    """Control 8, Knight ¶21: four orders leave for the one signal, then the account is stopped."""
    await lane.ledger.create_trade(plan())
    for number in range(1, 9):
        await lane.place(order(sequence=number, quantity="1", price="90"))
    assert lane.requests() == 4
    kills = (await lane.ledger.read_control(ACCOUNT)).kills
    assert {(kill.scope.text, kill.by) for kill in kills} == {(f"account:{ACCOUNT}", "orders-out")}
    await lane.ledger.create_trade(plan("trade-2"))
    (fact,) = await lane.place(order("trade-2"))
    assert isinstance(fact, OrderNotSent)
    assert fact.code == "KILLED"
