"""Puts an exchange behind a wire face, as an ASGI application."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp

from simulator.clock import SimClock
from simulator.exchange import Exchange
from simulator.faces.alpaca.data import AlpacaData
from simulator.faces.alpaca.gate import Gate, Keys
from simulator.faces.alpaca.rest import AlpacaRest
from simulator.faces.alpaca.stream import StreamHub


def connection_cut() -> Exception:
    """What a dropped reply raises where there is no connection to cut."""
    return ConnectionResetError("the simulated venue cut the connection")


class AlpacaFace:
    """Alpaca's protocol on one exchange.

    `app` speaks HTTP and WebSocket; `hub.connect` is the stream without a socket, an async
    context manager whose value has `send` and `recv`.
    """

    def __init__(
        self,
        exchange: Exchange,
        clock: SimClock | None = None,
        drop_error: Callable[[], Exception] = connection_cut,
    ) -> None:
        self.clock = clock or SimClock(exchange.now)
        keys = Keys(exchange.config)
        self.hub = StreamHub(exchange, keys.allows)
        routes = [
            *AlpacaRest(exchange).routes(),
            *AlpacaData(exchange).routes(),
            WebSocketRoute("/stream", self.hub.serve),
        ]
        inner = Starlette(routes=routes)
        self.app: ASGIApp = Gate(inner, exchange, self.clock, keys, drop_error)


def build_app(
    exchange: Exchange,
    clock: SimClock | None = None,
    drop_error: Callable[[], Exception] = connection_cut,
) -> ASGIApp:
    """The Alpaca face of an exchange, for `httpx.ASGITransport` or a server.

    Without a clock market time moves only by `exchange.advance_to` (step mode).
    """
    return AlpacaFace(exchange, clock, drop_error).app
