"""The order stream: one connection, told as events, ended by an error when it is lost.

No reconnect in here and no silence watchdog: the caller owns both, so that every gap is visible
and followed by a backfill (architecture §8). Keepalive is the WebSocket ping.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import datetime
from typing import Protocol

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from brokers.alpaca.config import AlpacaConfig
from brokers.alpaca.mapping import trade_update
from brokers.errors import (
    AUTH_NEEDED,
    BROKER_BAD_BODY,
    NOT_CONNECTED,
    BadBody,
    safe_text,
)
from brokers.port import FrameProblem, StreamEvent, StreamReady
from brokers.transport import parse_json
from domain.errors import Refused, Transient, Uncertain

OPEN_TIMEOUT_S = 5.0
HANDSHAKE_TIMEOUT_S = 5.0
PING_INTERVAL_S = 10.0
PING_TIMEOUT_S = 20.0
FRAME_BYTES_MAX = 4 * 1024 * 1024
STREAM_LOST = "STREAM_LOST"


class FrameSocket(Protocol):
    """What the stream needs of a WebSocket; simulations inject their own."""

    async def send(self, message: str) -> None: ...

    async def recv(self) -> str | bytes: ...


Connector = Callable[[], AbstractAsyncContextManager[FrameSocket]]


def websocket_connector(url: str) -> Connector:
    """Connects to `url` over the network, without proxies from the environment."""

    @asynccontextmanager
    async def open_socket() -> AsyncIterator[FrameSocket]:
        socket = await connect(
            url,
            proxy=None,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_TIMEOUT_S,
            close_timeout=1.0,
            max_size=FRAME_BYTES_MAX,
        )
        try:
            yield socket
        finally:
            await socket.close()

    return open_socket


async def order_stream(
    config: AlpacaConfig, connector: Connector, now: Callable[[], datetime]
) -> AsyncIterator[StreamEvent]:
    """Authenticates, subscribes, then tells every frame; `StreamReady` comes first.

    Raises:
        Transient: `NOT_CONNECTED` or `STREAM_LOST`; connect again after a while.
        Refused: `AUTH_NEEDED`; the keys were not accepted.
    """
    is_ready = False
    with connection_errors(lambda: is_ready):
        async with connector() as socket:
            await _subscribe(socket, config)
            is_ready = True
            yield StreamReady(at=now())
            while True:
                for event in stream_events(await socket.recv()):
                    yield event


@contextmanager
def connection_errors(is_ready: Callable[[], bool]) -> Iterator[None]:
    """Errors of a WebSocket as errors of the domain; `is_ready` tells lost from never made.

    Raises:
        Transient: `NOT_CONNECTED` or `STREAM_LOST`. Refused: `AUTH_NEEDED`.
    """
    try:
        yield
    except ConnectionClosed as error:
        raise Transient(safe_text(error), code=STREAM_LOST) from error
    except InvalidStatus as error:
        if error.response.status_code in (401, 403):
            raise Refused(safe_text(error), code=AUTH_NEEDED) from error
        raise Transient(safe_text(error), code=NOT_CONNECTED) from error
    except (OSError, InvalidHandshake, InvalidURI) as error:
        # TimeoutError is an OSError: opening or the handshake took too long.
        code = STREAM_LOST if is_ready() else NOT_CONNECTED
        raise Transient(safe_text(f"{type(error).__name__} {error}"), code=code) from error


async def _subscribe(socket: FrameSocket, config: AlpacaConfig) -> None:
    keys = {"key_id": config.key_id, "secret_key": config.secret.get_secret_value()}
    async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
        await socket.send(json.dumps({"action": "authenticate", "data": keys}))
        status = await _answer(socket, "authorization")
        if status.get("status") != "authorized":
            raise Refused("the stream did not accept the keys", code=AUTH_NEEDED)
        listen = {"action": "listen", "data": {"streams": ["trade_updates"]}}
        await socket.send(json.dumps(listen))
        streams = (await _answer(socket, "listening")).get("streams")
        if not isinstance(streams, list) or "trade_updates" not in streams:
            raise Refused("the stream did not subscribe to trade_updates", code=AUTH_NEEDED)


async def _answer(socket: FrameSocket, stream: str) -> dict[str, object]:
    """The data of the next frame of this stream; others are not expected before it."""
    while True:
        try:
            frame = parse_json(await socket.recv())
        except BadBody:
            continue
        if isinstance(frame, dict) and frame.get("stream") == stream:
            data = frame.get("data")
            return data if isinstance(data, dict) else {}


def stream_events(frame: str | bytes) -> tuple[StreamEvent, ...]:
    """What one frame tells; what cannot be read becomes a `FrameProblem`. Never raises."""
    try:
        body = parse_json(frame)
    except BadBody as error:
        return (FrameProblem(code=BROKER_BAD_BODY, text=safe_text(error)),)
    if not isinstance(body, dict):
        return (FrameProblem(code=BROKER_BAD_BODY, text="a frame was not an object"),)
    stream = body.get("stream")
    if stream in ("listening", "authorization"):
        return ()
    if stream != "trade_updates":
        return (FrameProblem(code="STREAM_UNKNOWN", text=f"stream was {safe_text(stream)!r}"),)
    try:
        return trade_update(body.get("data"))
    except Uncertain as error:
        return (FrameProblem(code=error.code, text=safe_text(error)),)
