"""The same adapter without sockets: ASGI transport and an injected stream connector (§2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal

import httpx
import pytest

from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig
from brokers.port import Accepted, OrderUpdate, StreamReady, UnknownOutcome
from brokers.sockets import FrameSocket
from domain.errors import Transient
from simulator.app import AlpacaFace
from simulator.config import ExchangeConfig
from simulator.exchange import Exchange
from simulator.faces.alpaca.stream import StreamSession
from tests.contract.broker_faces import MARKET_NOW, intent


class SessionSocket:
    """A stream session of the exchange as the frame socket that the adapter wants."""

    def __init__(self, session: StreamSession) -> None:
        self._session = session

    async def send(self, message: str) -> None:
        self._session.receive(message)

    async def recv(self) -> str | bytes:
        frame = await self._session.next_frame()
        if frame is None:
            raise ConnectionResetError("the exchange closed the stream")
        return frame


def in_process() -> tuple[Exchange, AlpacaFace, AlpacaBroker]:
    exchange = Exchange(ExchangeConfig(start=MARKET_NOW))
    exchange.set_quote("ESX", Decimal("104.00"), Decimal("104.10"))
    venue = AlpacaFace(exchange)

    @asynccontextmanager
    async def connector() -> AsyncIterator[FrameSocket]:
        session = venue.hub.open()
        try:
            yield SessionSocket(session)
        finally:
            venue.hub.discard(session)

    config = AlpacaConfig(
        key_id="SIM-PAPER-KEY", secret="sim-paper-secret", trading_url="http://exchange.test"
    )
    transport = httpx.ASGITransport(app=venue.app)
    return exchange, venue, AlpacaBroker(config, http_transport=transport, connector=connector)


async def test_order_and_its_fill_travel_without_a_socket() -> None:
    exchange, _, broker = in_process()
    async with aclosing(broker.stream()) as events:  # type: ignore[type-var]
        assert isinstance(await anext(events), StreamReady)
        outcome = await broker.place(intent(1))
        assert isinstance(outcome, Accepted)
        exchange.set_quote("ESX", Decimal("99.99"), Decimal("100.00"))
        fill = None
        while fill is None:
            event = await anext(events)
            assert isinstance(event, OrderUpdate)
            fill = event.fill
        page = await broker.executions_since(None)
        assert [booked.fill_key for booked in page.fills] == [fill.fill_key]
    await broker.aclose()


async def test_lost_reply_and_lost_stream_are_told_in_the_same_words() -> None:
    exchange, venue, broker = in_process()
    exchange.state.faults.add({"kind": "drop_reply", "match": {"method": "POST"}})
    wish = intent(1)
    assert isinstance(await broker.place(wish), UnknownOutcome)
    assert await broker.order_by_client_id(wish.client_id) is not None
    async with aclosing(broker.stream()) as events:  # type: ignore[type-var]
        await anext(events)
        venue.hub.close_all()
        with pytest.raises(Transient) as lost:
            await anext(events)
    assert lost.value.code == "STREAM_LOST"
    await broker.aclose()
