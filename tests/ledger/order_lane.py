"""The order lane on a real ledger and the simulated exchange, without a Temporal server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import httpx
from temporalio.testing import ActivityEnvironment

from activities.executions import book_executions
from activities.orders import OrderActivities
from activities.services import PlaceInput, Services, TradeRef
from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig
from domain.clock import ClockMap
from domain.commands import PlaceOrder, Urgency
from domain.facts import Fact, OrderAccepted
from domain.ids import IntentKey, Purpose
from domain.instrument import Instrument
from domain.order import OrderBody, OrderIntent, OrderType, Side, TimeInForce
from domain.risk.limits import RestrictedList
from ledger.repository import Ledger
from simulator.app import AlpacaFace
from simulator.config import ExchangeConfig, Listing
from simulator.exchange import Exchange
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.samples import ACCOUNT, INSTALLATION, plan
from tests.rig import roomy_limits


@dataclass
class Lane:
    """One account: `place` is the activity of the order lane, as a worker would run it."""

    ledger: Ledger
    exchange: Exchange
    services: Services

    def quote(self, bid: str, ask: str) -> None:
        self.exchange.set_quote("AAPL", Decimal(bid), Decimal(ask))

    async def open_trade(self, trade_id: str = "trade-1", quantity: str = "100") -> None:
        """A trade that has bought, its execution booked."""
        await self.ledger.create_trade(plan(trade_id))
        (accepted, *_) = await self.place(order(trade_id, quantity=quantity))
        assert isinstance(accepted, OrderAccepted), accepted
        await book_executions(self.services, trade_id)

    async def place(self, intent: OrderIntent) -> tuple[Fact, ...]:
        command = PlaceOrder(intent=intent, urgency=Urgency.EXIT)
        given = PlaceInput(trade=self.reference(intent.key.trade_id), command=command)
        lane = OrderActivities(self.services)
        batch = await ActivityEnvironment().run(lane.place_order, given)
        return tuple(batch.facts)

    def reference(self, trade_id: str = "trade-1") -> TradeRef:
        """The trade as its workflow names it to activities."""
        return TradeRef.of(plan(trade_id), ClockMap(wall0=MARKET_NOW, market0=MARKET_NOW))

    def requests(self) -> int:
        """How many orders the exchange was asked to take, by its own journal."""
        return len(self.exchange.journal.of("request"))


def order(
    trade_id: str = "trade-1",
    *,
    purpose: Purpose = Purpose.ENTRY,
    sequence: int = 1,
    side: Side = Side.BUY,
    quantity: str = "100",
    increasing: bool | None = None,
    price: str | None = None,
) -> OrderIntent:
    """An order of the trade; `increasing` is what it claims, by default what its purpose says."""
    body = OrderBody(
        symbol="AAPL",
        side=side,
        quantity=Decimal(quantity),
        order_type=OrderType.LIMIT,
        limit_price=Decimal(price or ("101" if side is Side.BUY else "99")),
        time_in_force=TimeInForce.DAY,
        intent_date=MARKET_NOW.date(),
    )
    claimed = purpose is Purpose.ENTRY if increasing is None else increasing
    return OrderIntent.derive(
        INSTALLATION,
        IntentKey(trade_id=trade_id, purpose=purpose, sequence=sequence),
        body,
        increasing=claimed,
        reason="test",
    )


@asynccontextmanager
async def order_lane(ledger: Ledger) -> AsyncIterator[Lane]:
    """An armed account at an exchange whose market of AAPL is 99.99 to 100.01."""
    listings = (Listing(Instrument(symbol="AAPL")),)
    exchange = Exchange(
        ExchangeConfig(start=MARKET_NOW, requests_per_minute=None, listings=listings)
    )
    config = AlpacaConfig(
        key_id="SIM-PAPER-KEY", secret="sim-paper-secret", trading_url="http://exchange.test"
    )
    transport = httpx.ASGITransport(app=AlpacaFace(exchange).app)
    broker = AlpacaBroker(config, http_transport=transport)
    services = Services(
        ledger=ledger,
        broker=broker,
        account=ACCOUNT,
        broker_name="alpaca",
        installation=INSTALLATION,
        limits=roomy_limits(),
        restricted=RestrictedList(as_of=datetime.now(UTC)),
        monotonic=lambda: 0.0,  # a busy machine makes no gate stale here
    )
    lane = Lane(ledger, exchange, services)
    lane.quote("99.99", "100.01")
    try:
        yield lane
    finally:
        await broker.aclose()
