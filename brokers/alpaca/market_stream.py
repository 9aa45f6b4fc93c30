"""The market-data stream: one connection, told as events, ended by an error when it is lost.

Auth, then statuses of all symbols (halts are told nowhere else, ADR 0007), then trades and quotes
of the wanted ones (alpaca.md §8). As with the order stream there is no reconnect and no silence
watchdog in here: the caller owns both. JSON frames: MessagePack would send prices as floats.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from brokers.alpaca.config import AlpacaConfig, MarketFeed
from brokers.alpaca.mapping import SYMBOL_KIND_STOCK, symbol_kind
from brokers.alpaca.stream import HANDSHAKE_TIMEOUT_S
from brokers.alpaca.wire import WireQuote, WireStatus, WireTrade
from brokers.errors import AUTH_NEEDED, BROKER_BAD_BODY, BadBody, safe_text
from brokers.port import FrameProblem, MarketEvent, MarketSubscribed
from brokers.sockets import Connector, FrameSocket, connection_errors, websocket_connector
from brokers.transport import parse_json
from brokers.wire import not_negative, positive
from domain.errors import HoldfastError, Refused, Transient
from domain.order import Quote
from domain.tick import TradePrint, TradingStatus

# Trades and quotes count one channel each; the free feed has 30, the paid one no limit.
CHANNELS_MAX = {MarketFeed.IEX: 30, MarketFeed.SIP: None}
TICK_UNREADABLE = "TICK_UNREADABLE"
TRADING_STATUS_UNKNOWN = "TRADING_STATUS_UNKNOWN"
SYMBOL_LIMIT = "SYMBOL_LIMIT"
SYMBOL_NOT_STREAMED = "SYMBOL_NOT_STREAMED"
CONNECTION_LIMIT = "CONNECTION_LIMIT"
MARKET_STREAM_REFUSED = "MARKET_STREAM_REFUSED"
# Codes of the tapes: A and B use figures, C letters. Q resumes quotation while trading still waits.
_HALTED = frozenset({"2", "H", "P", "Q"})
_TRADING = frozenset({"3", "T"})
# Indications, imbalances, short sale restriction, price bands: no halt and no end of one.
_NO_CHANGE = frozenset({"5", "6", "7", "8", "9", "A", "C", "D", "E", "F"})
_CHANGED_LATER = {"c": "TRADE_CORRECTED", "x": "TRADE_CANCELLED"}
_SILENT_TYPES = frozenset({"success", "b", "u", "d", "l"})


class AlpacaMarketStream:
    """`brokers.port.MarketStream` of one account.

    Args:
        config: checked settings and keys.
        now: wall clock, aware UTC.
        connector: replaces the WebSocket connection in simulations.
    """

    def __init__(
        self,
        config: AlpacaConfig,
        now: Callable[[], datetime],
        connector: Connector | None = None,
    ) -> None:
        self._config = config
        self._now = now
        self._connector = connector or websocket_connector(config.market_stream_url)
        self._wanted: tuple[str, ...] = ()
        self._asked: frozenset[str] = frozenset()
        self._socket: FrameSocket | None = None
        self._told: list[FrameProblem] = []
        self._left_out: dict[str, set[str]] = {}

    async def want(self, symbols: Sequence[str]) -> None:
        """`MarketStream.want`; what this feed cannot send is told as a problem.

        Raises:
            Transient: the connection was lost meanwhile; `events` ends with the same.
        """
        every = tuple(dict.fromkeys(symbols))
        wanted = tuple(name for name in every if symbol_kind(name) == SYMBOL_KIND_STOCK)
        self._leave_out(
            SYMBOL_NOT_STREAMED, "the feed is for stocks", set(every) - set(wanted), every
        )
        limit = CHANNELS_MAX[self._config.market_feed]
        if limit is not None:
            count = limit // 2
            text = f"the feed takes {count} symbols"
            self._leave_out(SYMBOL_LIMIT, text, set(wanted[count:]), every)
            wanted = wanted[:count]
        self._wanted = wanted
        if self._socket is not None:
            with connection_errors(lambda: True):
                await self._ask(self._socket)

    def _leave_out(self, code: str, why: str, names: set[str], order: Sequence[str]) -> None:
        """Tells a set of symbols once, until it changes."""
        if names and self._left_out.get(code) != names:
            listed = ", ".join(name for name in order if name in names)
            text = f"{why}, without data: {listed}"
            self._told.append(FrameProblem(code=code, text=safe_text(text)))
        self._left_out[code] = names

    async def events(self) -> AsyncIterator[MarketEvent]:
        """Authenticates and subscribes, then tells every message; `MarketSubscribed` first.

        Raises:
            Transient: `NOT_CONNECTED`, `STREAM_LOST`, `CONNECTION_LIMIT` (another program uses the
                one connection) or what else the venue ended it with; connect again after a while.
            Refused: `AUTH_NEEDED`: the keys or the subscription do not allow this feed.
        """
        with connection_errors(lambda: self._socket is not None):
            try:
                async with self._connector() as socket:
                    await self._sign_in(socket)
                    self._socket, self._asked = socket, frozenset()
                    await self._ask(socket)
                    while True:
                        for event in market_events(await socket.recv(), self._now()):
                            yield event
                        while self._told:
                            yield self._told.pop(0)
            finally:
                self._socket = None

    async def _sign_in(self, socket: FrameSocket) -> None:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            await _until(socket, "connected")
            key, secret = self._config.key_id, self._config.secret.get_secret_value()
            await socket.send(json.dumps({"action": "auth", "key": key, "secret": secret}))
            await _until(socket, "authenticated")
            await socket.send(json.dumps({"action": "subscribe", "statuses": ["*"]}))

    async def _ask(self, socket: FrameSocket) -> None:
        """Sends what changed since the last time."""
        wanted = frozenset(self._wanted)
        changes = (("unsubscribe", self._asked - wanted), ("subscribe", wanted - self._asked))
        self._asked = wanted
        for action, symbols in changes:
            if symbols:
                names = sorted(symbols)
                message = {"action": action, "trades": names, "quotes": names}
                await socket.send(json.dumps(message))


async def _until(socket: FrameSocket, word: str) -> None:
    """Waits for a success message; an error ends the connection."""
    while True:
        try:
            frame = parse_json(await socket.recv())
        except BadBody:
            continue
        for message in frame if isinstance(frame, list) else ():
            if isinstance(message, dict) and message.get("T") == "error":
                raise _ended(message) or Refused(_words(message), code=AUTH_NEEDED)
            if isinstance(message, dict) and message.get("msg") == word:
                return


def market_events(frame: str | bytes, at: datetime) -> tuple[MarketEvent, ...]:
    """What one frame tells; what cannot be read becomes a `FrameProblem`.

    Raises:
        Transient, Refused: the venue says that this connection is over.
    """
    try:
        body = parse_json(frame)
    except BadBody as error:
        return (FrameProblem(code=BROKER_BAD_BODY, text=safe_text(error)),)
    if not isinstance(body, list):
        return (FrameProblem(code=BROKER_BAD_BODY, text="a frame was not a list"),)
    events: list[MarketEvent] = []
    for message in body:
        event = _event(message, at)
        if event is not None:
            events.append(event)
    return tuple(events)


def _event(message: object, at: datetime) -> MarketEvent | None:
    if not isinstance(message, dict):
        return FrameProblem(code=BROKER_BAD_BODY, text="a message was not an object")
    match message.get("T"):
        case "q":
            return _quote(message)
        case "t":
            return _trade(message)
        case "s":
            return _status(message)
        case "subscription":
            return _subscribed(message, at)
        case "error":
            ended = _ended(message)
            if ended is not None:
                raise ended
            code = SYMBOL_LIMIT if message.get("code") == 405 else MARKET_STREAM_REFUSED
            return FrameProblem(code=code, text=_words(message))
        case "c" | "x" as kind:
            # Bars that were handed out stay as they are: nobody could have known better.
            text = f"{safe_text(message.get('S'))} at {safe_text(message.get('t'))}"
            return FrameProblem(code=_CHANGED_LATER[kind], text=text)
        case kind if isinstance(kind, str) and kind in _SILENT_TYPES:
            return None
        case kind:
            return FrameProblem(code="STREAM_UNKNOWN", text=f"type was {safe_text(kind)!r}")


def _quote(message: dict[str, Any]) -> MarketEvent:
    """A zero or unreadable side is None: no price is not a price of zero (row 32)."""
    try:
        wire = WireQuote.model_validate({**message, "ask_size": message.get("as")})
        bid, ask = positive(wire.bp), positive(wire.ap)
        if wire.t is None:
            return _unreadable(message, "t")
        return Quote(
            symbol=message["S"],
            bid=bid,
            ask=ask,
            bid_size=not_negative(wire.bs) if bid is not None else None,
            ask_size=not_negative(wire.ask_size) if ask is not None else None,
            venue_time=wire.t,
        )
    except (ValidationError, KeyError) as error:
        return _unreadable(message, type(error).__name__)


def _trade(message: dict[str, Any]) -> MarketEvent:
    try:
        wire = WireTrade.model_validate(message)
        price, size = positive(wire.p), not_negative(wire.s)
        if wire.t is None or price is None or size is None:
            return _unreadable(message, "t" if wire.t is None else "p" if price is None else "s")
        return TradePrint(symbol=wire.S, price=price, size=size, venue_time=wire.t)
    except ValidationError as error:
        return _unreadable(message, type(error).__name__)


def _status(message: dict[str, Any]) -> MarketEvent | None:
    """A halt or its end. A code that nobody knows is told, not guessed at."""
    try:
        wire = WireStatus.model_validate(message)
    except ValidationError as error:
        return _unreadable(message, type(error).__name__)
    if wire.sc in _NO_CHANGE:
        return None
    if wire.sc not in _HALTED | _TRADING:
        text = f"status of {wire.S} was {wire.sc!r} {wire.sm}"
        return FrameProblem(code=TRADING_STATUS_UNKNOWN, text=safe_text(text))
    if wire.t is None:
        return _unreadable(message, "t")
    return TradingStatus(
        symbol=wire.S,
        is_halted=wire.sc in _HALTED,
        code=wire.sc,
        reason=" ".join(part for part in (wire.rc, wire.rm or wire.sm) if part),
        venue_time=wire.t,
    )


def _subscribed(message: dict[str, Any], at: datetime) -> MarketSubscribed:
    """What the venue says that it sends now: symbols with trades and quotes."""
    trades, quotes = (
        {name for name in message.get(channel) or () if isinstance(name, str)}
        for channel in ("trades", "quotes")
    )
    return MarketSubscribed(symbols=tuple(sorted(trades & quotes)), at=at)


def _unreadable(message: dict[str, Any], field: str) -> FrameProblem:
    text = f"{safe_text(message.get('T'))} of {safe_text(message.get('S'))}: {field}"
    return FrameProblem(code=TICK_UNREADABLE, text=text)


def _ended(message: dict[str, Any]) -> HoldfastError | None:
    """Why the venue ends the connection with this error; None where it goes on."""
    text = _words(message)
    match message.get("code"):
        case 402 | 408 | 409 | 411 | 412 | 413:
            return Refused(text, code=AUTH_NEEDED)
        case 406:
            return Transient(text, code=CONNECTION_LIMIT)
        case 404 | 407 | 500:
            return Transient(text, code=MARKET_STREAM_REFUSED)
    return None


def _words(message: dict[str, Any]) -> str:
    return safe_text(f"the market-data stream said {message.get('code')} {message.get('msg')}")
