"""The order stream: one connection, told as events, ended by an error when it is lost.

No reconnect in here and no silence watchdog: the caller owns both, so that every gap is visible
and followed by a backfill (architecture §8). Keepalive is the WebSocket ping.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime

from brokers.alpaca.config import AlpacaConfig
from brokers.alpaca.mapping import trade_update
from brokers.errors import AUTH_NEEDED, BROKER_BAD_BODY, BadBody, safe_text
from brokers.port import FrameProblem, StreamEvent, StreamReady
from brokers.sockets import Connector, FrameSocket, connection_errors
from brokers.transport import parse_json
from domain.errors import Refused, Uncertain

HANDSHAKE_TIMEOUT_S = 5.0


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
