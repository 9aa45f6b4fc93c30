"""When the absence of an order is a proof: counted from when nobody could send it any more (C8)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from activities.orders import OrderActivities
from activities.services import ResolveInput, Services, TradeRef
from domain.clock import ClockMap
from domain.commands import ResolveOrder, Urgency
from domain.facts import Fact, OrderResolved, OrderUnknown
from domain.order import OrderIntent
from ledger.records import IntentExists, IntentState
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import owner, plan

ASKED = datetime.now(UTC)
STOPPED_FOR = timedelta(minutes=2)


async def look(lane: Lane, later: timedelta, intent: OrderIntent | None = None) -> Fact:
    """One look for the order that was asked to be sent at `ASKED`, so much later."""
    services: Services = replace(lane.services, now=lambda: ASKED + later)
    command = ResolveOrder(
        intent=intent or order(),
        sent_at=ASKED,
        may_repost=False,
        is_bare=True,
        urgency=Urgency.PROTECT,
    )
    clock = ClockMap(wall0=MARKET_NOW, market0=MARKET_NOW)
    given = ResolveInput(trade=TradeRef.of(plan(), clock), command=command)
    batch = await ActivityEnvironment().run(OrderActivities(services).resolve_order, given)
    return batch.facts[0]


@pytest.mark.covers("C8")
async def test_late_first_look_proves_nothing_about_an_attempt_that_could_still_send(
    armed: Ledger,
) -> None:
    """Gateway stopped for minutes: the attempt and the look go on at the same instant."""
    async with order_lane(armed) as lane:
        await armed.create_trade(plan())
        await armed.open_gate(order(), owner(), "attempt", ASKED)
        assert isinstance(await look(lane, STOPPED_FOR), OrderUnknown)
        row = await armed.intent(order().client_id)
        assert row is not None
        assert row.state is IntentState.UNKNOWN
        soon = STOPPED_FOR + timedelta(seconds=1)
        assert isinstance(await look(lane, soon), OrderUnknown)
        settled = STOPPED_FOR + timedelta(minutes=1)
        found = await look(lane, settled)
        assert isinstance(found, OrderResolved)
        assert found.order is None


@pytest.mark.covers("C8")
async def test_entry_that_never_reached_its_gate_is_absent_at_once_and_stays_so(
    armed: Ledger,
) -> None:
    """I4: its worker died first. What it had bought before waited bare for a settle window."""
    entry = order().model_copy(update={"increasing": True})
    async with order_lane(armed) as lane:
        await armed.create_trade(plan())
        found = await look(lane, timedelta(), entry)
        assert isinstance(found, OrderResolved)
        assert found.order is None
        late = await armed.open_gate(entry, owner(), "attempt", ASKED)
        assert isinstance(late, IntentExists)


@pytest.mark.covers("C8", "H5")
async def test_exit_without_a_row_may_have_gone_without_the_ledger(armed: Ledger) -> None:
    async with order_lane(armed) as lane:
        await armed.create_trade(plan())
        reducing = order().model_copy(update={"increasing": False})
        assert isinstance(await look(lane, timedelta(), reducing), OrderUnknown)
