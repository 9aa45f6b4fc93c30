"""A flatten while the ledger was away: its fills find their trade when the ledger is back (K8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from activities.emergency import DirectFlatten, HeldLeg
from activities.executions import book_executions
from domain.facts import OrderNotSent
from domain.ids import Purpose, trade_prefix
from domain.order import Side
from ledger.repository import Ledger
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import ACCOUNT


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    async with order_lane(armed) as opened:
        yield opened


@pytest.mark.covers("K8")
async def test_what_a_flatten_without_the_ledger_sold_is_not_sold_again(lane: Lane) -> None:
    await lane.open_trade()
    installation = await lane.ledger.installation_id()
    lane.services = replace(lane.services, installation=installation)
    prefix = trade_prefix(installation, "trade-1")
    held = (HeldLeg(symbol="AAPL", quantity=Decimal(100), prefix=prefix),)
    direct = DirectFlatten(
        lane.services.broker,
        installation,
        "emergency-1",
        ledger=None,
        collar_fraction=Decimal("0.02"),
        now=lambda: datetime.now(UTC),
    )
    [line] = await direct.run(held)
    assert line.is_flat, line
    await book_executions(lane.services, "trade-1")
    assert await lane.ledger.unattributed_fills(ACCOUNT) == ()
    assert await lane.ledger.positions_by_trade(ACCOUNT) == ()
    exits = [row.fill for row in await lane.ledger.fills_of_trade("trade-1")][1:]
    assert all(fill.client_id is not None for fill in exits)
    # Another trade holds the symbol, so that the broker's list is no empty page.
    await lane.open_trade("trade-2")
    (fact,) = await lane.place(order(purpose=Purpose.EXIT, side=Side.SELL))
    assert isinstance(fact, OrderNotSent)
    assert fact.code == "NOT_REDUCING"
