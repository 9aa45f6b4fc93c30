"""Closing as flat is refused while the broker shows anything of the trade (I10, R6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.as_flat import what_is_left
from activities.by_hand import ByHandActivities, ByHandInput
from activities.doorbell import Doorbell
from activities.executions import book_executions
from activities.stream_events import StreamBooker
from brokers.port import OrderUpdate
from cli.two_people import APPROVER_VARIABLE, check_second_person
from domain.commands import AnsweredOrder, BookByHand
from domain.errors import Refused, Transient
from domain.facts import OrderAccepted
from domain.ids import Purpose
from domain.order import BrokerOrderStatus, Fill, Side
from domain.sums import fill_key
from ledger.records import IntentState
from ledger.repository import Ledger
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import ACCOUNT, INSTALLATION, plan


async def left(lane: Lane) -> tuple[str, ...]:
    book = await lane.ledger.trade_book("trade-1")
    assert book is not None
    return await what_is_left(lane.services.broker, lane.ledger, INSTALLATION, book)


async def test_exchange_that_began_anew_shows_nothing_of_the_trade(armed: Ledger) -> None:
    async with order_lane(armed) as lane:
        await lane.open_trade()
        await lane.place(order(purpose=Purpose.EXIT, side=Side.SELL, price="105"))
        shown = await left(lane)
        assert any(text.startswith("order ") for text in shown)
        assert "position 100 AAPL" in shown
    async with order_lane(armed) as anew:
        assert await left(anew) == ()


async def test_position_of_the_trade_alone_is_shown(armed: Ledger) -> None:
    async with order_lane(armed) as lane:
        await lane.open_trade()
        assert await left(lane) == ("position 100 AAPL",)


async def test_what_another_trade_holds_is_not_this_ones(armed: Ledger) -> None:
    """I20: the account still has shares, all of them another trade's."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        await lane.place(order(purpose=Purpose.EXIT, side=Side.SELL))
        await book_executions(lane.services, "trade-1")
        await lane.open_trade("trade-2")
        assert await left(lane) == ()


async def test_order_whose_answer_was_lost_is_looked_up_by_its_own_id(armed: Ledger) -> None:
    async with order_lane(armed) as lane:
        await armed.create_trade(plan())
        lane.exchange.state.faults.add({"kind": "drop_reply", "match": {"method": "POST"}})
        await lane.place(order(price="90"))
        (shown,) = await left(lane)
        assert shown.startswith("order ")


async def test_broker_that_does_not_answer_proves_nothing(armed: Ledger) -> None:
    async with order_lane(armed) as lane:
        await lane.open_trade()
        broker: Any = lane.services.broker

        async def away() -> Any:
            raise Transient("away")

        broker.positions = away
        with pytest.raises(Transient):
            await left(lane)


@asynccontextmanager
async def frames_of(
    lane: Lane,
) -> AsyncIterator[tuple[StreamBooker, Callable[[OrderUpdate], Awaitable[None]]]]:
    """A booker, and how a frame is taken to the end of its grace."""

    async def heard(*_: object) -> bool:
        return True

    doorbell = Doorbell(heard, sender="test", now=lane.services.now)
    booker = StreamBooker(lane.services, doorbell)

    async def take(update: OrderUpdate) -> None:
        others = asyncio.all_tasks()
        await booker.take(update)
        await asyncio.gather(*(asyncio.all_tasks() - others))

    try:
        yield booker, take
    finally:
        await doorbell.aclose()


async def call_dead(lane: Lane, client_id: str) -> None:
    """A person says that the order is gone."""
    dead = AnsweredOrder(client_id=client_id, resolution="dead", evidence="as flat: the screen")
    given = ByHandInput(trade=lane.reference(), command=BookByHand(answers=(dead,)))
    await ActivityEnvironment().run(ByHandActivities(lane.services).book_by_hand, given)


async def resting_order(lane: Lane) -> OrderAccepted:
    await lane.ledger.create_trade(plan())
    (accepted, *_) = await lane.place(order(price="90"))
    assert isinstance(accepted, OrderAccepted)
    return accepted


async def test_frame_that_waits_while_a_person_closes_as_flat_revives_no_order(
    armed: Ledger,
) -> None:
    """I10: it was received before the word, and is booked a quarter of a second after it."""
    async with order_lane(armed) as lane, frames_of(lane) as (booker, _):
        accepted = await resting_order(lane)
        others = asyncio.all_tasks()
        await booker.take(OrderUpdate(event="new", order=accepted.order))
        (waiting,) = asyncio.all_tasks() - others
        await call_dead(lane, accepted.client_id)
        await waiting
        assert await armed.open_orders(ACCOUNT) == ()
        # What works all the same is in the next list.
        await booker.compare()
        (shown,) = await armed.open_orders(ACCOUNT)
        assert shown.intent.client_id == accepted.client_id


async def test_frame_sent_before_a_persons_word_and_received_after_it_revives_no_order(
    armed: Ledger,
) -> None:
    """I10: a frame is as old as the broker says, however long it was on its way."""
    async with order_lane(armed) as lane, frames_of(lane) as (_, take):
        accepted = await resting_order(lane)
        await call_dead(lane, accepted.client_id)
        now = lane.services.now()
        for seconds, alive in ((-60, False), (60, True)):
            told_at = now + timedelta(seconds=seconds)
            seen = accepted.order.model_copy(update={"updated_at": told_at})
            await take(OrderUpdate(event="new", order=seen))
            assert [o.intent.client_id for o in await armed.open_orders(ACCOUNT)] == (
                [accepted.client_id] if alive else []
            )


async def test_fill_frame_from_before_a_persons_word_books_the_fill_and_revives_nothing(
    armed: Ledger,
) -> None:
    """I10, I20: what was executed counts whenever it is heard of; what rested is dead."""
    async with order_lane(armed) as lane, frames_of(lane) as (_, take):
        accepted = await resting_order(lane)
        await call_dead(lane, accepted.client_id)
        told_at = lane.services.now() - timedelta(seconds=60)
        part = accepted.order.model_copy(
            update={
                "updated_at": told_at,
                "status": BrokerOrderStatus.WORKING,
                "filled_quantity": Decimal(30),
                "average_fill_price": Decimal(90),
            }
        )
        filled = Fill(
            fill_key=fill_key(part.broker_order_id, Decimal(30)),
            broker_order_id=part.broker_order_id,
            client_id=accepted.client_id,
            symbol="AAPL",
            side=Side.BUY,
            quantity=Decimal(30),
            price=Decimal(90),
            venue_time=told_at,
            cumulative_quantity=Decimal(30),
        )
        await take(OrderUpdate(event="partial_fill", order=part, fill=filled))
        assert await armed.open_orders(ACCOUNT) == ()
        (held,) = await armed.positions_by_trade(ACCOUNT)
        assert (held.trade_id, held.quantity) == ("trade-1", Decimal(30))
        row = await armed.intent(accepted.client_id)
        assert row is not None
        assert (row.state, row.filled_quantity) == (IntentState.ACCEPTED, Decimal(30))


@pytest.mark.parametrize(
    ("approver", "secret", "code"),
    [
        (None, "", "SECOND_PERSON"),
        ("alice", "alice-secret", "SAME_PERSON"),
        ("bob", "wrong-secret", "OPERATOR_REFUSED"),
        ("mallory", "bob-secret", "OPERATOR_REFUSED"),
    ],
)
async def test_second_person_is_another_one_with_a_secret(
    armed: Ledger, monkeypatch: pytest.MonkeyPatch, approver: str | None, secret: str, code: str
) -> None:
    for name in ("alice", "bob"):
        await armed.add_operator(name, f"{name}-secret")
    monkeypatch.setenv(APPROVER_VARIABLE, secret)
    with pytest.raises(Refused) as refused:
        await check_second_person(armed, "alice", approver)
    assert refused.value.code == code
    monkeypatch.setenv(APPROVER_VARIABLE, "bob-secret")
    await check_second_person(armed, "alice", "bob")
