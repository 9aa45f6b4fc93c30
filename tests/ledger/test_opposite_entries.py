"""Two trades of one symbol never pull in opposite directions: the broker nets them (I20)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from temporalio.testing import ActivityEnvironment

from activities.risk import RiskActivities
from activities.services import ReserveInput, TradeRef
from domain.clock import ClockMap
from domain.facts import RiskRefused
from domain.order import Side
from domain.plan import TradePlan
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order_lane
from tests.ledger.samples import plan
from tests.rig import roomy_limits


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    async with order_lane(armed) as opened:
        opened.services = replace(opened.services, limits=roomy_limits(allow_short=True))
        yield opened


async def reserve(lane: Lane, trade_id: str, side: Side) -> str:
    """Asks the gate for a trade; the code of its refusal, empty if it was approved."""
    bought = plan(trade_id)
    legs = tuple(leg.model_copy(update={"side": side}) for leg in bought.legs)
    wanted = TradePlan.model_validate(bought.model_dump() | {"side": side, "legs": legs})
    clock = ClockMap(wall0=datetime.now(UTC), market0=MARKET_NOW)
    given = ReserveInput(trade=TradeRef.of(wanted, clock), plan=wanted)
    batch = await ActivityEnvironment().run(RiskActivities(lane.services).reserve_risk, given)
    (fact,) = batch.facts
    return fact.code if isinstance(fact, RiskRefused) else ""


@pytest.mark.parametrize(("first", "second"), [(Side.BUY, Side.SELL), (Side.SELL, Side.BUY)])
async def test_an_entry_is_refused_against_a_trade_that_has_yet_to_send_its_own(
    lane: Lane, first: Side, second: Side
) -> None:
    """Neither holds anything nor has an order out: the reservation alone says what is coming."""
    assert await reserve(lane, "trade-1", first) == ""
    assert await reserve(lane, "trade-2", first) == ""
    assert await reserve(lane, "trade-3", second) == "OPPOSITE_POSITION"
    for ended in ("trade-1", "trade-2"):
        await lane.ledger.release_reservation(ended, "never filled")
    assert await reserve(lane, "trade-4", second) == ""
