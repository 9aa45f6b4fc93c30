"""Orders that the broker has answered for and does not know any more (R6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from activities import stream_events
from activities.doorbell import Doorbell
from activities.stream_events import StreamBooker
from domain.facts import OrderAccepted
from ledger.repository import Ledger
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import plan


async def heard(*_: object) -> bool:
    return True


async def passes(lane: Lane, *seconds: float) -> list[str]:
    """Compare passes at these seconds; the alerts that stand after each, joined."""
    now = [0.0]
    services = replace(lane.services, monotonic=lambda: now[0])
    doorbell = Doorbell(heard, sender="test", now=services.now)
    booker = StreamBooker(services, doorbell)
    told = []
    try:
        for each in seconds:
            now[0] = each
            await booker.compare()
            alerts = await lane.ledger.list_alerts()
            told.append(" ".join(f"{row.code}/{row.trade_id}/{row.occurrences}" for row in alerts))
    finally:
        await doorbell.aclose()
    return told


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_events, "IN_FLIGHT_S", 0.0)


async def test_order_that_the_broker_knows_no_more_is_told_once_within_a_minute(
    armed: Ledger,
) -> None:
    """R6: an exchange that began anew has none of our stops, and nothing said so."""
    async with order_lane(armed) as lane:
        await lane.ledger.create_trade(plan())
        (accepted, *_) = await lane.place(order(price="90"))
        assert isinstance(accepted, OrderAccepted)
    async with order_lane(armed) as anew:
        assert await passes(anew, 0, 10, 20, 30) == ["", "", *["ORDER_LOST/trade-1/1"] * 2]


async def test_order_that_is_found_again_is_not_called_lost(
    armed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with order_lane(armed) as lane:
        await lane.ledger.create_trade(plan())
        await lane.place(order(price="90"))
        assert await passes(lane, 0, 30, 60) == ["", "", ""]
