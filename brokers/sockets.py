"""One WebSocket as the streams of all venues need it: connected, and its errors told.

No reconnect in here and no silence watchdog: the caller owns both (architecture §8).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Protocol

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from brokers.errors import AUTH_NEEDED, NOT_CONNECTED, safe_text
from domain.errors import Refused, Transient

OPEN_TIMEOUT_S = 5.0
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
