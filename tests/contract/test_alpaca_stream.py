"""The order stream over a real WebSocket: both frame kinds, bad frames, loss, keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig
from brokers.alpaca.stream import stream_events
from brokers.port import FrameProblem, OrderUpdate, StreamEvent, StreamReady
from domain.errors import Refused, Transient
from domain.order import BrokerOrderStatus

Script = Callable[[ServerConnection], Awaitable[None]]
ORDER = {
    "id": "o1",
    "client_order_id": "c1",
    "symbol": "ESX",
    "side": "buy",
    "qty": "10",
    "filled_qty": "0",
    "filled_avg_price": None,
    "status": "new",
    "updated_at": "2026-03-04T15:00:00Z",
}


def update(event: str, order: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
    body = {"event": event, "timestamp": "2026-03-04T15:00:00.123456789Z", **data}
    return {"stream": "trade_updates", "data": {**body, "order": {**ORDER, **(order or {})}}}


def fill(quantity: str, filled: str, *, event: str = "partial_fill") -> dict[str, Any]:
    order = {"filled_qty": filled, "filled_avg_price": "100.25", "status": "partially_filled"}
    return update(event, order, price="100.25", qty=quantity, execution_id=f"x{filled}")


async def handshake(socket: ServerConnection, status: str = "authorized") -> dict[str, Any]:
    keys: dict[str, Any] = json.loads(await socket.recv())
    await socket.send(json.dumps({"stream": "authorization", "data": {"status": status}}).encode())
    if status == "authorized":
        listen = json.loads(await socket.recv())
        await socket.send(json.dumps({"stream": "listening", "data": listen["data"]}))
    return keys


@asynccontextmanager
async def streaming(script: Script) -> AsyncIterator[AsyncIterator[StreamEvent]]:
    async with serve(script, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        config = AlpacaConfig(key_id="KEY", secret="SECRET", trading_url=f"http://127.0.0.1:{port}")
        broker = AlpacaBroker(config)
        events = broker.stream()
        try:
            yield events
        finally:
            await events.aclose()  # type: ignore[attr-defined]
            await broker.aclose()


async def take(events: AsyncIterator[StreamEvent], count: int) -> list[StreamEvent]:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(count)]


async def test_ready_comes_first_then_binary_and_text_frames_alike() -> None:
    seen: list[dict[str, Any]] = []

    async def script(socket: ServerConnection) -> None:
        seen.append(await handshake(socket))
        await socket.send(json.dumps(update("new")).encode())
        await socket.send(json.dumps(fill("3", "3")))
        await socket.wait_closed()

    async with streaming(script) as events:
        ready, new, filled = await take(events, 3)
    assert isinstance(ready, StreamReady)
    assert isinstance(new, OrderUpdate)
    assert (new.event, new.fill) == ("new", None)
    assert isinstance(filled, OrderUpdate)
    assert filled.fill is not None
    assert (filled.fill.fill_key, filled.fill.execution_id) == ("o1:3", "x3")
    assert filled.fill.price == Decimal("100.25")
    assert filled.fill.venue_time == datetime(2026, 3, 4, 15, 0, 0, 123456, tzinfo=UTC)
    assert seen == [{"action": "authenticate", "data": {"key_id": "KEY", "secret_key": "SECRET"}}]


async def test_refused_keys_end_the_stream_as_refused() -> None:
    async def script(socket: ServerConnection) -> None:
        await handshake(socket, "unauthorized")

    async with streaming(script) as events:
        with pytest.raises(Refused) as refused:
            await take(events, 1)
    assert refused.value.code == "AUTH_NEEDED"


@pytest.mark.parametrize("code", [1000, 1011])
async def test_closed_connection_ends_the_stream_as_lost(code: int) -> None:
    """Even an orderly close is a loss: the iterator never just stops."""

    async def script(socket: ServerConnection) -> None:
        await handshake(socket)
        await socket.close(code=code)

    async with streaming(script) as events:
        await take(events, 1)
        with pytest.raises(Transient) as lost:
            await take(events, 1)
    assert lost.value.code == "STREAM_LOST"


async def test_refused_connection_ends_the_stream_as_not_connected() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    config = AlpacaConfig(key_id="K", secret="S", trading_url=f"http://127.0.0.1:{port}")
    broker = AlpacaBroker(config)
    with pytest.raises(Transient) as failed:
        await take(broker.stream(), 1)
    assert failed.value.code == "NOT_CONNECTED"
    await broker.aclose()


async def test_bad_frames_are_told_and_the_stream_goes_on() -> None:
    frames: list[str | bytes] = [
        b"\xff\xfe",
        "not json",
        "[]",
        json.dumps({"stream": "account_updates", "data": {}}),
        json.dumps({"stream": "trade_updates", "data": None}),
        json.dumps(update("new", {"id": None})),
        json.dumps(update("new")),
    ]

    async def script(socket: ServerConnection) -> None:
        await handshake(socket)
        for frame in frames:
            await socket.send(frame)
        await socket.wait_closed()

    async with streaming(script) as events:
        told = (await take(events, 1 + len(frames)))[1:]
    codes = [event.code for event in told if isinstance(event, FrameProblem)]
    assert codes == [
        "BROKER_BAD_BODY",
        "BROKER_BAD_BODY",
        "BROKER_BAD_BODY",
        "STREAM_UNKNOWN",
        "BROKER_BAD_BODY",
        "BROKER_ID_TYPE",
    ]
    assert isinstance(told[-1], OrderUpdate)


def test_unknown_event_keeps_its_order_and_is_told() -> None:
    problem, order = stream_events(json.dumps(update("order_teleported")))
    assert isinstance(problem, FrameProblem)
    assert problem.code == "EVENT_UNKNOWN"
    assert isinstance(order, OrderUpdate)
    assert order.order.status is BrokerOrderStatus.WORKING


def test_unknown_status_in_a_frame_is_unknown() -> None:
    (event,) = stream_events(json.dumps(update("new", {"status": "pondering"})))
    assert isinstance(event, OrderUpdate)
    assert (event.order.status, event.order.raw_status) == (BrokerOrderStatus.UNKNOWN, "pondering")


@pytest.mark.parametrize(
    "frame",
    [
        fill("3", "2"),
        fill("NaN", "3"),
        fill("0", "3"),
        fill("3", "11"),
        update("fill", {"filled_qty": "3", "filled_avg_price": "0"}, price="0", qty="3"),
        update(
            "fill", {"filled_qty": "3", "filled_avg_price": "9", "side": "?"}, price="9", qty="3"
        ),
    ],
)
def test_contradicting_fill_books_nothing_and_is_told(frame: dict[str, Any]) -> None:
    """§3 row 58."""
    problem, event = stream_events(json.dumps(frame))
    assert isinstance(problem, FrameProblem)
    assert problem.code == "FILL_INCONSISTENT"
    assert isinstance(event, OrderUpdate)
    assert event.fill is None


def test_combo_parent_gives_no_fill_but_its_leg_does() -> None:
    parent = update(
        "fill",
        {"symbol": "", "side": "", "order_class": "mleg", "qty": "1", "filled_qty": "1"},
        price="-1.25",
        qty="1",
    )
    (event,) = stream_events(json.dumps(parent))
    assert isinstance(event, OrderUpdate)
    assert event.fill is None
    leg = fill("2", "2", event="fill")
    leg["data"]["order"] |= {"symbol": "SPY261218C00600000", "order_class": "mleg", "qty": "2"}
    (event,) = stream_events(json.dumps(leg))
    assert isinstance(event, OrderUpdate)
    assert event.fill is not None
    assert event.fill.symbol == "SPY261218C00600000"
