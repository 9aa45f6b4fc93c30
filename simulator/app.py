"""Puts exchanges behind a wire face, as an ASGI application."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from simulator.clock import SimClock
from simulator.exchange import Exchange
from simulator.faces.alpaca.data import AlpacaData
from simulator.faces.alpaca.gate import Gate, Keys
from simulator.faces.alpaca.market_stream import MarketHub
from simulator.faces.alpaca.rest import AlpacaRest
from simulator.faces.alpaca.stream import StreamHub
from simulator.venue import Venue

KEY_HEADER = b"apca-api-key-id"


def connection_cut() -> Exception:
    """What a dropped reply raises where there is no connection to cut."""
    return ConnectionResetError("the simulated venue cut the connection")


class ByKey:
    """Gives a request to the account of its key; the first account answers unknown keys."""

    def __init__(self, gates: Mapping[str, ASGIApp], first: ASGIApp) -> None:
        self._gates = gates
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = [value for name, value in scope.get("headers", ()) if name.lower() == KEY_HEADER]
        key = keys[0].decode("latin-1") if keys else ""
        await self._gates.get(key, self._first)(scope, receive, send)


class AlpacaFace:
    """Alpaca's protocol on one account, or on all accounts of a venue: the key tells which.

    `app` speaks HTTP and WebSocket; `hub.connect` is the order stream without a socket and
    `market.connect` the market-data stream: async context managers of a `send` and `recv`.
    """

    def __init__(
        self,
        venue: Exchange | Venue,
        clock: SimClock | None = None,
        drop_error: Callable[[], Exception] = connection_cut,
    ) -> None:
        venue = Venue.of(venue)
        self.clock = clock or SimClock(venue.first.now)
        self._hubs: dict[str, StreamHub] = {}
        every = [Keys(exchange.config) for exchange in venue.exchanges]
        # One market for all accounts; their keys may come without a header, inside the stream.
        self.market = MarketHub(
            venue.first, lambda key, secret: any(each.allows(key, secret) for each in every)
        )
        gates: dict[str, ASGIApp] = {}
        for exchange in venue.exchanges:
            keys = Keys(exchange.config)
            hub = StreamHub(exchange, keys.allows, self._hubs.get)
            routes = [
                *AlpacaRest(exchange).routes(),
                *AlpacaData(exchange).routes(),
                WebSocketRoute("/stream", hub.serve),
                WebSocketRoute("/v2/{feed}", self.market.serve),
            ]
            gate = Gate(Starlette(routes=routes), exchange, self.clock, keys, drop_error)
            for key in exchange.config.keys:
                self._hubs[key.key], gates[key.key] = hub, gate
            if exchange is venue.first:
                self.hub, first_gate = hub, gate
        self.app: ASGIApp = ByKey(gates, first_gate)

    def close_streams(self) -> None:
        """Ends the stream connections of all accounts."""
        for hub in self._hubs.values():
            hub.close_all()
        self.market.close_all()


def build_app(
    exchange: Exchange,
    clock: SimClock | None = None,
    drop_error: Callable[[], Exception] = connection_cut,
) -> ASGIApp:
    """The Alpaca face of an exchange, for `httpx.ASGITransport` or a server.

    Without a clock market time moves only by `exchange.advance_to` (step mode).
    """
    return AlpacaFace(exchange, clock, drop_error).app
