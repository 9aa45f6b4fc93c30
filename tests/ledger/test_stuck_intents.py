"""An order whose answer nobody waits for gets its end, by the lane or by reconcile (I10)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from activities.doorbell import Doorbell
from activities.services import LAG_MAX_S
from activities.stuck_intents import StuckIntents
from brokers.port import Accepted
from domain.facts import FactEnvelope, OrderNotSent
from domain.fold_orders import PROVEN_ABSENT
from domain.ids import Purpose
from domain.order import OrderSnapshot, Side
from ledger.errors import LedgerDown
from ledger.records import GatePermit, IntentExists, IntentRecord, IntentState
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import owner, plan

SENT_AT = datetime.now(UTC) - timedelta(seconds=40)
ATTEMPT = "run-1/5/1"
SETTLED = timedelta(seconds=30)
LISTED = timedelta(seconds=LAG_MAX_S + 1)
"""When an entry would be in every list of a venue that promises nothing of them."""


class LosesCommits:
    """A line to the ledger on which the answer to a gate's COMMIT is lost (B3)."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def open_gate(self, *given: Any, **options: Any) -> None:
        await self._ledger.open_gate(*given, **options)
        raise LedgerDown("the answer to COMMIT was lost")


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    await armed.create_trade(plan())
    async with order_lane(armed) as opened:
        yield opened


async def never_told(_trade_id: str, _signal: str, _envelope: FactEnvelope) -> bool:
    return True


async def settle(lane: Lane, later: timedelta = timedelta(), **changes: Any) -> int:
    """Reconcile's look at stuck rows, so much later."""
    changes["now"] = lambda: datetime.now(UTC) + later
    services = replace(lane.services, **changes)
    doorbell = Doorbell(never_told, sender="test", now=services.now)
    try:
        return await StuckIntents(services, doorbell).settle(MARKET_NOW + later)
    finally:
        await doorbell.aclose()


async def row(lane: Lane) -> IntentRecord:
    found = await lane.ledger.intent(order().client_id)
    assert found is not None
    return found


@pytest.mark.covers("B3")
async def test_order_whose_gate_lost_its_answer_is_booked_as_not_sent(lane: Lane) -> None:
    """I10: its trade goes on with the next order and never asks for this one."""
    services = replace(lane.services, ledger=cast(Ledger, LosesCommits(lane.ledger)))
    lane.services = services
    (fact,) = await lane.place(order())
    assert isinstance(fact, OrderNotSent)
    booked = await row(lane)
    assert (booked.state, booked.code) == (IntentState.NOT_SENT, "LEDGER_DOWN")
    assert lane.requests() == 0


@pytest.mark.covers("C5", "C8")
async def test_stuck_order_is_barred_first_and_absent_when_all_would_have_arrived(
    lane: Lane,
) -> None:
    await lane.ledger.open_gate(order(), owner(), ATTEMPT, SENT_AT)
    assert await settle(lane) == 0
    assert (await row(lane)).state is IntentState.UNKNOWN
    late = await lane.ledger.open_gate(order(), owner(), ATTEMPT, SENT_AT)
    assert isinstance(late, IntentExists)
    assert late.record.attempt_token.startswith("run-1/"), "another run is a rewound trade (K7)"
    assert await settle(lane, timedelta(seconds=2)) == 0, "a request may still be under way"
    assert await settle(lane, SETTLED) == 0, "no list may show it yet"
    assert await settle(lane, LISTED) == 1
    ended = await row(lane)
    assert (ended.state, ended.code) == (IntentState.NOT_SENT, PROVEN_ABSENT)
    again = await lane.ledger.open_gate(order(), owner(), ATTEMPT, SENT_AT)
    assert isinstance(again, IntentExists)


@pytest.mark.covers("C5")
async def test_stuck_exit_is_absent_after_the_settle_window(lane: Lane) -> None:
    """I4, R7: what it would protect may be bare, and an open row hides what happens meanwhile."""
    leaving = order(purpose=Purpose.EXIT, side=Side.SELL, price="101")
    await lane.ledger.open_gate(leaving, owner(), ATTEMPT, SENT_AT)
    await settle(lane)
    assert await settle(lane, SETTLED) == 1


@pytest.mark.covers("C5")
async def test_order_that_is_under_way_for_less_than_half_a_minute_is_let_alone(
    lane: Lane,
) -> None:
    await lane.ledger.open_gate(order(), owner(), ATTEMPT, datetime.now(UTC))
    assert await settle(lane) == 0
    assert (await row(lane)).state is IntentState.SENDING


@pytest.mark.covers("C5")
async def test_stuck_order_that_the_broker_has_gets_its_snapshot(lane: Lane) -> None:
    await lane.ledger.open_gate(order(), owner(), ATTEMPT, SENT_AT)
    assert isinstance(await lane.services.broker.place(order()), Accepted)
    await settle(lane)
    await settle(lane, SETTLED)
    booked = await row(lane)
    assert booked.state is IntentState.ACCEPTED
    assert booked.broker_order_id is not None


@pytest.mark.covers("C8")
async def test_order_that_is_sent_again_during_the_proof_is_not_called_absent(
    lane: Lane,
) -> None:
    """I1: the look is old by then, and the row belongs to whoever sends."""
    await lane.ledger.open_gate(order(), owner(), ATTEMPT, SENT_AT)
    await settle(lane)
    resent_at = datetime.now(UTC)

    class SendsAgain:
        def __getattr__(self, name: str) -> Any:
            return getattr(lane.services.broker, name)

        async def orders_since(self, after: datetime) -> tuple[OrderSnapshot, ...]:
            listed = await lane.services.broker.orders_since(after)
            token = "run-1/9/1"
            gate = lane.ledger.open_gate(order(), owner(), token, resent_at, resend=True)
            assert isinstance(await gate, GatePermit)
            return tuple(listed)

    assert await settle(lane, LISTED, broker=SendsAgain()) == 0
    assert (await row(lane)).state is IntentState.SENDING
