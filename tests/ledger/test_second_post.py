"""An order without an answer is posted again: what the refusal of that post says (C5, C11, I2)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from temporalio.testing import ActivityEnvironment

from activities.order_sending import REPOST_REFUSED
from activities.orders import OrderActivities
from activities.services import ResolveInput
from domain.commands import ResolveOrder, Urgency
from domain.facts import Fact, OrderResolved, OrderUnknown
from domain.ids import Purpose
from domain.order import OrderIntent, Side
from ledger.records import IntentState
from ledger.repository import Ledger
from tests.ledger.order_lane import Lane, order, order_lane

SENT = datetime.now(UTC)
HIDDEN_FOR_S = 2.0
EXIT = order(purpose=Purpose.EXIT, side=Side.SELL, price="101")
LOST_REPLY = {"kind": "drop_reply", "match": {"method": "POST"}}
LOST_REQUEST = {"kind": "error_before", "match": {"method": "POST"}}
LAG = {"kind": "lookup_lag", "match": {"count": None}, "params": {"lag_s": HIDDEN_FOR_S}}
# The venue looks at what is free to sell before it looks at the id.
REFUSED = {"kind": "reject", "params": {"text": "insufficient qty"}}


async def look(lane: Lane, intent: OrderIntent, later_s: float) -> tuple[Fact, ...]:
    """One look of the trade's resolver, so long after the sending."""
    services = replace(lane.services, now=lambda: SENT + timedelta(seconds=later_s))
    command = ResolveOrder(intent=intent, sent_at=SENT, may_repost=True, urgency=Urgency.PROTECT)
    given = ResolveInput(trade=lane.reference(), command=command)
    batch = await ActivityEnvironment().run(OrderActivities(services).resolve_order, given)
    return tuple(batch.facts)


async def state_of(lane: Lane, intent: OrderIntent) -> tuple[IntentState, str]:
    row = await lane.ledger.intent(intent.client_id)
    assert row is not None
    return row.state, row.code.partition(" ")[0]


@pytest.mark.covers("C5", "C11")
async def test_refusal_of_a_second_post_does_not_hide_the_exit_that_the_first_one_made(
    armed: Ledger,
) -> None:
    """Found by the soak: the stop of a hidden OCO filled, and the next exit flipped the account."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        for fault in (LOST_REPLY, LAG):
            lane.exchange.state.faults.add(fault)
        await lane.place(EXIT)
        lane.exchange.state.faults.add(REFUSED)
        (told,) = await look(lane, EXIT, 1)
        assert isinstance(told, OrderUnknown)
        assert await state_of(lane, EXIT) == (IntentState.UNKNOWN, REPOST_REFUSED)
        lane.quote("101.00", "101.10")
        lane.exchange.advance_to(lane.exchange.now + timedelta(seconds=HIDDEN_FOR_S + 1))
        found, *fills = await look(lane, EXIT, HIDDEN_FOR_S + 1)
        assert isinstance(found, OrderResolved)
        assert found.order is not None
        assert found.order.filled_quantity == 100
        assert fills
    assert await state_of(lane, EXIT) == (IntentState.ACCEPTED, "")
    book = await armed.trade_book("trade-1")
    assert book is not None
    assert book.position("AAPL") == Decimal(0)


@pytest.mark.covers("C5")
async def test_order_that_never_arrived_is_absent_after_its_second_post_was_refused(
    armed: Ledger,
) -> None:
    """One refused second post is enough, and only the settle window makes it a proof."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        asked = lane.requests()
        lane.exchange.state.faults.add(LOST_REQUEST)
        await lane.place(EXIT)
        lane.exchange.state.faults.add(REFUSED)
        for later_s in (1.0, 2.0):
            (told,) = await look(lane, EXIT, later_s)
            assert isinstance(told, OrderUnknown)
        (absent,) = await look(lane, EXIT, 60)
        assert isinstance(absent, OrderResolved)
        assert absent.order is None
        assert await state_of(lane, EXIT) == (IntentState.NOT_SENT, "PROVEN_ABSENT")
        assert lane.requests() - asked <= 2
