"""Puts exchanges behind a wire face, as an ASGI application."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from simulator.clock import SimClock
from simulator.config import WireFace
from simulator.exchange import Exchange
from simulator.faces.alpaca.data import AlpacaData
from simulator.faces.alpaca.market_stream import MarketHub
from simulator.faces.alpaca.rest import AlpacaRest
from simulator.faces.alpaca.stream import StreamHub
from simulator.faces.alpaca.voice import AlpacaVoice
from simulator.faces.gate import Gate, Keys
from simulator.faces.tradier.reference import TradierReference
from simulator.faces.tradier.render import Ids, Render
from simulator.faces.tradier.rest import TradierRest
from simulator.faces.tradier.stream import AccountEventHub
from simulator.faces.tradier.voice import TradierVoice, bearer
from simulator.venue import Venue

KEY_HEADER = "apca-api-key-id"


def connection_cut() -> Exception:
    """What a dropped reply raises where there is no connection to cut."""
    return ConnectionResetError("the simulated venue cut the connection")


class ByKey:
    """Gives a request to the account of its key; the first account answers unknown keys."""

    def __init__(
        self, gates: Mapping[str, ASGIApp], first: ASGIApp, key_of: Callable[[Scope], str]
    ) -> None:
        self._gates = gates
        self._first = first
        self._key_of = key_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gates.get(self._key_of(scope), self._first)(scope, receive, send)


def _alpaca_key(scope: Scope) -> str:
    name = KEY_HEADER.encode()
    keys = [value for header, value in scope.get("headers", ()) if header.lower() == name]
    return keys[0].decode("latin-1") if keys else ""


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
            voice = AlpacaVoice(exchange, keys)
            gate = Gate(Starlette(routes=routes), exchange, self.clock, voice, drop_error)
            for key in exchange.config.keys:
                self._hubs[key.key], gates[key.key] = hub, gate
            if exchange is venue.first:
                self.hub, first_gate = hub, gate
        self.app: ASGIApp = ByKey(gates, first_gate, _alpaca_key)

    def close_streams(self) -> None:
        """Ends the stream connections of all accounts."""
        for hub in self._hubs.values():
            hub.close_all()
        self.market.close_all()


class TradierFace:
    """Tradier's protocol on one account, or on all of a venue: the access token tells which.

    An account's number is the key of its pair, its access token the secret.
    """

    def __init__(
        self,
        venue: Exchange | Venue,
        clock: SimClock | None = None,
        drop_error: Callable[[], Exception] = connection_cut,
    ) -> None:
        venue = Venue.of(venue)
        self.clock = clock or SimClock(venue.first.now)
        self._hubs: list[AccountEventHub] = []
        gates: dict[str, ASGIApp] = {}
        for exchange in venue.exchanges:
            ids = Ids(exchange)
            render = Render(exchange, ids)
            key = exchange.config.keys[0]
            hub = AccountEventHub(exchange, render, key.key, self._hubs)
            rest = TradierRest(exchange, ids, render, hub, key.key)
            routes = [
                *rest.routes(),
                *TradierReference(exchange, render).routes(),
                WebSocketRoute("/v1/accounts/events", hub.serve),
            ]
            voice = TradierVoice(Keys(exchange.config), {key.key: key.secret}, ids)
            gate = Gate(Starlette(routes=routes), exchange, self.clock, voice, drop_error)
            gates[key.secret] = gate
            self._hubs.append(hub)
        self.hub = self._hubs[0]
        first = gates[venue.first.config.keys[0].secret]
        self.app: ASGIApp = ByKey(gates, first, bearer)

    def close_streams(self) -> None:
        """Ends the stream connections of all accounts."""
        for hub in self._hubs:
            hub.close_all()


Face = AlpacaFace | TradierFace


def face_of(venue: Exchange | Venue, clock: SimClock | None = None) -> Face:
    """The face that the exchange's configuration names."""
    is_tradier = Venue.of(venue).first.config.face is WireFace.TRADIER
    return TradierFace(venue, clock) if is_tradier else AlpacaFace(venue, clock)


def build_app(
    exchange: Exchange,
    clock: SimClock | None = None,
    drop_error: Callable[[], Exception] = connection_cut,
) -> ASGIApp:
    """The Alpaca face of an exchange, for `httpx.ASGITransport` or a server.

    Without a clock market time moves only by `exchange.advance_to` (step mode).
    """
    return AlpacaFace(exchange, clock, drop_error).app
