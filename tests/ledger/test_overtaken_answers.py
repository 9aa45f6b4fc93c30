"""Executions that are read before the answer to their order is in its row (F3, I20)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from activities.executions import book_executions
from activities.services import Services
from brokers.port import Broker, PlaceOutcome
from domain.errors import Transient
from domain.facts import OrderAccepted
from domain.order import OrderIntent, OrderSnapshot
from ledger.records import EXTERNAL, TradePosition
from ledger.repository import Ledger
from simulator.orders import Kind, OrderRequest, Side
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import ACCOUNT, plan


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    async with order_lane(armed) as opened:
        yield opened


class Watched:
    """The broker of the lane: another reader comes between a placing and its answer.

    `seen` are the positions of the ledger at each look at a single order.
    """

    def __init__(self, broker: Broker, services: Services) -> None:
        self._broker = broker
        self._services = replace(services, broker=self)
        self.seen: list[tuple[TradePosition, ...]] = []
        self.is_away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def place(self, intent: OrderIntent) -> PlaceOutcome:
        outcome = await self._broker.place(intent)
        await book_executions(self._services)
        return outcome

    async def order(self, broker_order_id: str) -> OrderSnapshot | None:
        self.seen.append(await self._services.ledger.positions_by_trade(ACCOUNT))
        if self.is_away:
            raise Transient("the order could not be read", code="NO_ANSWER")
        return await self._broker.order(broker_order_id)


async def test_a_fill_that_overtakes_its_orders_answer_never_looks_foreign(lane: Lane) -> None:
    """Foreign for a moment, it froze its symbol, and entries of other trades were refused."""
    watched = Watched(lane.services.broker, lane.services)
    lane.services = replace(lane.services, broker=watched)
    await lane.ledger.create_trade(plan("trade-1"))
    (fact, *_) = await lane.place(order())
    assert isinstance(fact, OrderAccepted)
    assert watched.seen == [()]
    (held,) = await lane.ledger.positions_by_trade(ACCOUNT)
    assert (held.trade_id, held.quantity) == ("trade-1", Decimal(100))


async def test_a_fill_whose_order_cannot_be_read_counts_as_foreign_until_it_can(
    lane: Lane,
) -> None:
    watched = Watched(lane.services.broker, lane.services)
    watched.is_away = True
    services = replace(lane.services, broker=watched)
    foreign = OrderRequest(symbol="AAPL", side=Side.BUY, quantity=Decimal(7), kind=Kind.MARKET)
    lane.exchange.submit(foreign)
    with pytest.raises(Transient):
        await book_executions(services)
    (held,) = await lane.ledger.positions_by_trade(ACCOUNT)
    assert (held.trade_id, held.quantity) == (EXTERNAL, Decimal(7))
    watched.is_away = False
    await book_executions(services)
    assert await lane.ledger.positions_by_trade(ACCOUNT) == (held,)
