"""The market-data stream over real sockets: our adapter against the face, and a scripted venue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from websockets.asyncio.server import ServerConnection, serve

from brokers.alpaca.config import AlpacaConfig, AlpacaMode, MarketFeed
from brokers.alpaca.market_stream import AlpacaMarketStream, market_events
from brokers.port import FrameProblem, MarketEvent, MarketSubscribed
from domain.errors import BadInput, Refused, Transient
from domain.order import Quote
from domain.tick import TradePrint, TradingStatus
from simulator.server import SimulatorServer
from tests.unit.simulator_rig import START, SYMBOL, equity, exchange, quote

NOW = datetime(2026, 3, 4, 15, 0, tzinfo=UTC)
TIME = "2026-03-04T15:00:00.123456789Z"
Script = Callable[[ServerConnection], Awaitable[None]]


def config(url: str, **changes: Any) -> AlpacaConfig:
    values = {"key_id": "SIM-PAPER-KEY", "secret": "sim-paper-secret", "trading_url": url}
    return AlpacaConfig.model_validate(values | changes)


def events_of(*messages: Any) -> tuple[MarketEvent, ...]:
    return market_events(json.dumps(list(messages)), NOW)


def codes(*messages: Any) -> list[str]:
    return [each.code for each in events_of(*messages) if isinstance(each, FrameProblem)]


class Listener:
    """Collects what a stream tells, in the background."""

    def __init__(self, stream: AlpacaMarketStream) -> None:
        self.stream = stream
        self.seen: list[MarketEvent] = []
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with aclosing(cast(Any, self.stream.events())) as events:
            async for event in events:
                self.seen.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.01)

    async def subscribed(self, *symbols: str) -> None:
        await self.until(lambda: any(each.symbols == symbols for each in self.of(MarketSubscribed)))


@asynccontextmanager
async def listening(
    server: SimulatorServer, *symbols: str, **changes: Any
) -> AsyncIterator[Listener]:
    stream = AlpacaMarketStream(config(server.url, **changes), lambda: NOW)
    await stream.want(symbols)
    listener = Listener(stream)
    try:
        await listener.subscribed(*sorted(symbols))
        yield listener
    finally:
        listener.task.cancel()
        await asyncio.gather(listener.task, return_exceptions=True)


async def test_trades_quotes_and_halts_of_the_exchange_arrive_exactly() -> None:
    venue = exchange(listings=(equity(),))
    async with SimulatorServer(venue) as server, listening(server, SYMBOL) as listener:
        quote(venue, "100.25", "100.50", size=7)
        server.step_s(1.5)
        venue.trade(SYMBOL, Decimal("100.50"), Decimal(3))
        venue.set_quote(SYMBOL, None, Decimal("100.75"), Decimal(0), Decimal(5))
        venue.halt(SYMBOL)
        venue.resume(SYMBOL)
        await listener.until(lambda: len(listener.of(TradingStatus)) == 2)
    later = START + timedelta(seconds=1.5)
    assert listener.of(TradePrint) == [
        TradePrint(symbol=SYMBOL, price=Decimal("100.50"), size=Decimal(3), venue_time=later)
    ]
    whole, one_sided = listener.of(Quote)
    assert (whole.bid, whole.ask, whole.bid_size) == (Decimal("100.25"), Decimal("100.5"), 7)
    assert whole.venue_time == START
    assert (one_sided.bid, one_sided.bid_size, one_sided.ask_size) == (None, None, 5)
    halted, resumed = listener.of(TradingStatus)
    assert (halted.is_halted, halted.code, resumed.is_halted) == (True, "H", False)
    assert not listener.of(FrameProblem)


async def test_wanting_other_symbols_changes_the_subscription_of_the_open_connection() -> None:
    venue = exchange(listings=(equity("AAA"), equity("BBB")), quoted=False)
    async with SimulatorServer(venue) as server, listening(server, "AAA") as listener:
        await listener.stream.want(["BBB"])
        await listener.subscribed("BBB")
        quote(venue, "1.00", "1.25", symbol="AAA")
        quote(venue, "2.00", "2.25", symbol="BBB")
        await listener.until(lambda: bool(listener.of(Quote)))
        assert [each.symbol for each in listener.of(Quote)] == ["BBB"]
        assert len(server.alpaca.market.sessions) == 1


async def test_a_second_connection_is_told_as_the_venues_limit() -> None:
    venue = exchange(listings=(equity(),))
    async with SimulatorServer(venue) as server, listening(server, SYMBOL):
        second = AlpacaMarketStream(config(server.url), lambda: NOW)
        with pytest.raises(Transient) as refused:
            await anext(second.events())
    assert refused.value.code == "CONNECTION_LIMIT"


async def test_symbols_beyond_the_free_feed_are_named_and_the_first_ones_stream() -> None:
    names = [f"S{number:02d}" for number in range(17)]
    venue = exchange(listings=tuple(equity(name) for name in names), quoted=False)
    async with SimulatorServer(venue) as server:
        stream = AlpacaMarketStream(config(server.url), lambda: NOW)
        await stream.want([*names, "BTC/USD"])
        await stream.want([*names, "BTC/USD"])
        listener = Listener(stream)
        await listener.subscribed(*names[:15])
        await listener.until(lambda: bool(listener.of(FrameProblem)))
        stocks, limit = listener.of(FrameProblem)
        assert (stocks.code, limit.code) == ("SYMBOL_NOT_STREAMED", "SYMBOL_LIMIT")
        assert stocks.text.endswith("without data: BTC/USD")
        assert limit.text.endswith("without data: S15, S16")
        listener.task.cancel()
        await asyncio.gather(listener.task, return_exceptions=True)
        async with listening(server, *names, market_feed=MarketFeed.SIP) as paid:
            assert not paid.of(FrameProblem)


async def test_wrong_keys_need_a_person_and_a_lost_connection_does_not() -> None:
    venue = exchange(listings=(equity(),))
    async with SimulatorServer(venue) as server:
        wrong = AlpacaMarketStream(config(server.url, secret="wrong"), lambda: NOW)
        with pytest.raises(Refused) as refused:
            await anext(wrong.events())
        assert refused.value.code == "AUTH_NEEDED"
        async with listening(server, SYMBOL) as listener:
            server.alpaca.market.close_all()
            with pytest.raises(Transient) as lost:
                await asyncio.wait_for(asyncio.shield(listener.task), 10)
        assert lost.value.code == "STREAM_LOST"
    gone = AlpacaMarketStream(config(server.url), lambda: NOW)
    with pytest.raises(Transient) as absent:
        await anext(gone.events())
    assert absent.value.code == "NOT_CONNECTED"


async def test_frames_that_cannot_be_read_are_named_and_the_stream_goes_on() -> None:
    async def script(socket: ServerConnection) -> None:
        await socket.send('[{"T":"success","msg":"connected"}]')
        await socket.recv()
        await socket.send('[{"T":"success","msg":"authenticated"}]')
        await socket.recv()
        await socket.send("{")
        await socket.send('{"T":"q"}')
        await socket.send('[7,{"T":"?"},{"T":"t","S":"AAA","p":0,"s":1,"t":"' + TIME + '"}]')
        await socket.send('[{"T":"t","S":"AAA","p":1.5,"s":1,"t":"' + TIME + '"}]')
        await socket.wait_closed()

    async with serve(script, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        listener = Listener(AlpacaMarketStream(config(f"http://127.0.0.1:{port}"), lambda: NOW))
        await listener.until(lambda: bool(listener.of(TradePrint)))
        listener.task.cancel()
        await asyncio.gather(listener.task, return_exceptions=True)
    assert [each.code for each in listener.of(FrameProblem)] == [
        "BROKER_BAD_BODY",
        "BROKER_BAD_BODY",
        "BROKER_BAD_BODY",
        "STREAM_UNKNOWN",
        "TICK_UNREADABLE",
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"T": "t", "S": "AAA", "p": 1.5, "s": 1},
        {"T": "t", "S": "AAA", "p": "NaN", "s": 1, "t": TIME},
        {"T": "t", "S": "AAA", "p": 1.5, "s": -1, "t": TIME},
        {"T": "t", "S": 7, "p": 1.5, "s": 1, "t": TIME},
        {"T": "q", "S": "AAA", "bp": 1, "ap": 2, "t": "yesterday"},
        {"T": "q", "bp": 1, "ap": 2, "t": TIME},
        {"T": "s", "S": "AAA", "sc": "H"},
    ],
)
def test_a_tick_without_price_size_time_or_symbol_is_unreadable(message: Any) -> None:
    assert codes(message) == ["TICK_UNREADABLE"]


@pytest.mark.parametrize(
    ("status", "halted"), [("2", True), ("H", True), ("P", True), ("Q", True), ("3", False)]
)
def test_status_codes_of_the_tapes_say_whether_trading_goes_on(status: str, halted: bool) -> None:
    (event,) = events_of({"T": "s", "S": "AAA", "sc": status, "rc": "T12", "t": TIME})
    assert isinstance(event, TradingStatus)
    assert (event.is_halted, event.reason) == (halted, "T12")


def test_a_status_that_nobody_knows_is_told_and_not_guessed() -> None:
    assert codes({"T": "s", "S": "AAA", "sc": "%", "t": TIME}) == ["TRADING_STATUS_UNKNOWN"]
    assert events_of({"T": "s", "S": "AAA", "sc": "E", "t": TIME}) == ()


def test_corrections_of_the_venue_are_told() -> None:
    assert codes({"T": "c", "S": "AAA", "t": TIME}, {"T": "x", "S": "AAA", "t": TIME}) == [
        "TRADE_CORRECTED",
        "TRADE_CANCELLED",
    ]


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        (406, Transient, "CONNECTION_LIMIT"),
        (407, Transient, "MARKET_STREAM_REFUSED"),
        (409, Refused, "AUTH_NEEDED"),
    ],
)
def test_errors_that_end_the_connection_raise(code: int, error: type[Exception], told: str) -> None:
    with pytest.raises(error) as raised:
        events_of({"T": "error", "code": code, "msg": "text"})
    assert getattr(raised.value, "code", None) == told
    assert codes({"T": "error", "code": 405, "msg": "symbol limit exceeded"}) == ["SYMBOL_LIMIT"]


def test_keys_never_travel_to_a_stranger() -> None:
    real = {"key_id": "PKX", "secret": "S", "mode": AlpacaMode.PAPER}
    paper = AlpacaConfig.model_validate(real)
    assert paper.market_stream_url == "wss://stream.data.alpaca.markets/v2/iex"
    for url in ("wss://stream.example.com/v2/iex", "ws://stream.data.alpaca.markets/v2/iex"):
        with pytest.raises(BadInput, match="market_stream_url"):
            AlpacaConfig.model_validate(real | {"market_stream_url": url})
