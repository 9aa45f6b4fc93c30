"""The market-data stream: auth, subscribe, then trades, quotes, minute bars, statuses (§8).

JSON text frames, or MessagePack for clients that ask for it in the Content-Type header, as the
official SDK does. One connection for each feed and key, as at the venue.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgpack
from starlette.websockets import WebSocket, WebSocketDisconnect

from domain.money import ZERO
from simulator.exchange import Exchange
from simulator.faces.alpaca.render import moment
from simulator.state import MarketNotice

Json = dict[str, Any]
Allows = Callable[[str, str], bool]

CHANNELS = (
    "trades",
    "quotes",
    "bars",
    "updatedBars",
    "dailyBars",
    "statuses",
    "lulds",
    "corrections",
    "cancelErrors",
)
ALL_SYMBOLS = "*"
# Trades and quotes of the free feed; the paid one has no limit.
IEX_CHANNELS_MAX = 30
FEED_LIMITS = {"iex": IEX_CHANNELS_MAX, "sip": None, "test": IEX_CHANNELS_MAX}
_BAR = timedelta(minutes=1)
_ERRORS = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
}
OUTBOX_MAX = 200_000


class MarketSession:
    """One connection without its socket: `receive` takes messages, `next_frame` gives frames."""

    def __init__(self, hub: MarketHub, feed: str, *, packed: bool = False) -> None:
        self._hub = hub
        self._packed = packed
        self._outbox: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.feed = feed
        self.key = ""
        self.wanted: dict[str, set[str]] = {name: set() for name in CHANNELS}
        self.push({"T": "success", "msg": "connected"})

    @property
    def is_authorized(self) -> bool:
        return self.key != ""

    def receive(self, frame: str | bytes) -> None:
        """Handles one message of the client."""
        try:
            message = msgpack.unpackb(frame) if self._packed else json.loads(frame)
        except (ValueError, msgpack.UnpackException):
            message = None
        action = message.get("action") if isinstance(message, dict) else None
        if action == "auth":
            self._authenticate(str(message.get("key") or ""), str(message.get("secret") or ""))
        elif action not in ("subscribe", "unsubscribe"):
            self.refuse(400)
        elif not self.is_authorized:
            self.refuse(401)
        else:
            self._change(action == "subscribe", message)

    def wants(self, channel: str, symbol: str) -> bool:
        wanted = self.wanted[channel]
        return symbol in wanted or ALL_SYMBOLS in wanted

    async def next_frame(self) -> str | bytes | None:
        """The next frame for the client; None when the server closes the connection."""
        return await self._outbox.get()

    async def send(self, message: str) -> None:
        """`receive` under the name that a WebSocket client gives it."""
        self.receive(message)

    async def recv(self) -> str | bytes:
        """The next frame.

        Raises:
            ConnectionResetError: the server has closed the connection.
        """
        frame = await self.next_frame()
        if frame is None:
            raise ConnectionResetError("the simulated venue closed the stream")
        return frame

    def push(self, *messages: Json) -> None:
        """One frame with these messages. A client that does not read is thrown out."""
        if self._outbox.qsize() >= OUTBOX_MAX:
            self._outbox = asyncio.Queue()
            self._outbox.put_nowait(self._frame([{"T": "error", "code": 407, "msg": _ERRORS[407]}]))
            self.close()
            return
        self._outbox.put_nowait(self._frame(list(messages)))

    def refuse(self, code: int) -> None:
        self.push({"T": "error", "code": code, "msg": _ERRORS[code]})

    def close(self) -> None:
        self._outbox.put_nowait(None)

    def _frame(self, messages: list[Json]) -> str | bytes:
        if self._packed:
            return bytes(msgpack.packb([_with_timestamp(each) for each in messages]))
        return json.dumps(messages, separators=(",", ":"))

    def _authenticate(self, key: str, secret: str) -> None:
        if self.is_authorized:
            self.refuse(403)
        elif not self._hub.allows(key, secret):
            self.refuse(402)
            self.close()
        elif self._hub.is_taken(self.feed, key):
            self.refuse(406)
            self.close()
        else:
            self.key = key
            self.push({"T": "success", "msg": "authenticated"})

    def _change(self, adds: bool, message: Json) -> None:
        changed = {name: set(symbols) for name, symbols in self.wanted.items()}
        for name in CHANNELS:
            symbols = message.get(name, [])
            if not isinstance(symbols, list):
                self.refuse(400)
                return
            changed[name] = changed[name] | set(symbols) if adds else changed[name] - set(symbols)
        limit = FEED_LIMITS[self.feed]
        if adds and limit is not None and len(changed["trades"]) + len(changed["quotes"]) > limit:
            self.refuse(405)
            return
        self.wanted = changed
        shown = {name: sorted(symbols) for name, symbols in changed.items()}
        self.push({"T": "subscription", **shown})


@dataclass(slots=True)
class _Minute:
    """The bar that grows for a symbol."""

    start: datetime
    prices: list[Decimal] = field(default_factory=list)
    volume: Decimal = ZERO

    def shown(self, symbol: str) -> Json:
        numbers = [float(price) for price in self.prices]
        return {
            "T": "b",
            "S": symbol,
            "o": numbers[0],
            "h": max(numbers),
            "l": min(numbers),
            "c": numbers[-1],
            "v": _size(self.volume),
            "n": len(numbers),
            "vw": round(sum(numbers) / len(numbers), 6),
            "t": moment(self.start),
        }


class MarketHub:
    """Gives every event of the exchange's market to the connections that asked for it."""

    def __init__(self, exchange: Exchange, allows: Allows) -> None:
        self.allows = allows
        self.sessions: list[MarketSession] = []
        self.is_mute = False
        self._trade_number = 0
        self._minutes: dict[str, _Minute] = {}
        exchange.subscribe_market(self._on_notice)

    def is_taken(self, feed: str, key: str) -> bool:
        return any(each.feed == feed and each.key == key for each in self.sessions)

    def open(self, feed: str = "iex", *, packed: bool = False) -> MarketSession:
        session = MarketSession(self, feed, packed=packed)
        self.sessions.append(session)
        return session

    @contextlib.asynccontextmanager
    async def connect(self, feed: str = "iex") -> AsyncIterator[MarketSession]:
        """A connection without a socket, for clients that take a connector."""
        session = self.open(feed)
        try:
            yield session
        finally:
            self.discard(session)

    def discard(self, session: MarketSession) -> None:
        if session in self.sessions:
            self.sessions.remove(session)

    def close_all(self) -> None:
        for session in self.sessions:
            session.close()

    async def serve(self, socket: WebSocket) -> None:
        """The WebSocket endpoint `/v2/{feed}`."""
        feed = str(socket.path_params["feed"])
        await socket.accept()
        if feed not in FEED_LIMITS:
            await socket.close(code=1008)
            return
        packed = socket.headers.get("content-type") == "application/msgpack"
        session = self.open(feed, packed=packed)
        writer = asyncio.create_task(_write(socket, session))
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                session.receive(message.get("text") or message.get("bytes") or b"")
        except WebSocketDisconnect:
            pass
        finally:
            self.discard(session)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer

    def _on_notice(self, notice: MarketNotice) -> None:
        symbol = notice.book.symbol
        if notice.event == "trade":
            self._trade_number += 1
            bar = self._grown(notice)
            if bar is not None:
                self._send("bars", symbol, lambda: bar)
            self._send("trades", symbol, lambda: _trade(notice, self._trade_number))
        elif notice.event == "quote":
            self._send("quotes", symbol, lambda: _quote(notice))
        else:
            self._send("statuses", symbol, lambda: _status(notice))

    def _grown(self, notice: MarketNotice) -> Json | None:
        """Adds a trade to its minute; the bar of the minute before, if that is complete now."""
        symbol, price = notice.book.symbol, notice.price or ZERO
        start = notice.time.replace(second=0, microsecond=0)
        minute = self._minutes.get(symbol)
        done = None
        if minute is None or start >= minute.start + _BAR:
            done = None if minute is None else minute.shown(symbol)
            minute = self._minutes[symbol] = _Minute(start)
        minute.prices.append(price)
        minute.volume += notice.size or ZERO
        return done

    def _send(self, channel: str, symbol: str, made: Callable[[], Json]) -> None:
        listening = [each for each in self.sessions if each.wants(channel, symbol)]
        if not listening or self.is_mute:
            return
        message = made()
        for session in listening:
            session.push(message)


async def _write(socket: WebSocket, session: MarketSession) -> None:
    while True:
        frame = await session.next_frame()
        try:
            if frame is None:
                await socket.close(code=1011)
                return
            if isinstance(frame, bytes):
                await socket.send_bytes(frame)
            else:
                await socket.send_text(frame)
        except (RuntimeError, WebSocketDisconnect):
            return


def _trade(notice: MarketNotice, number: int) -> Json:
    return {
        "T": "t",
        "S": notice.book.symbol,
        "i": number,
        "x": "V",
        "p": float(notice.price or ZERO),
        "s": _size(notice.size or ZERO),
        "c": ["@"],
        "z": "C",
        "t": moment(notice.time),
    }


def _quote(notice: MarketNotice) -> Json:
    """A missing side is 0, as the real stream sends it."""
    book = notice.book
    return {
        "T": "q",
        "S": book.symbol,
        "bx": "V",
        "bp": float(book.bid or ZERO),
        "bs": _size(book.bid_size if book.bid is not None else ZERO),
        "ax": "V",
        "ap": float(book.ask or ZERO),
        "as": _size(book.ask_size if book.ask is not None else ZERO),
        "c": ["R"],
        "z": "C",
        "t": moment(notice.time),
    }


def _status(notice: MarketNotice) -> Json:
    halted = notice.book.is_halted
    return {
        "T": "s",
        "S": notice.book.symbol,
        "sc": "H" if halted else "T",
        "sm": "Trading Halt" if halted else "Trading Resumption",
        "rc": "T1" if halted else "",
        "rm": "News Pending" if halted else "",
        "z": "C",
        "t": moment(notice.time),
    }


def _size(number: Decimal) -> int | float:
    return int(number) if number == number.to_integral_value() else float(number)


def _with_timestamp(message: Json) -> Json:
    """MessagePack has a type for instants; JSON has text."""
    told = message.get("t")
    if told is None:
        return message
    at = datetime.fromisoformat(str(told)[:26]).replace(tzinfo=UTC)
    return {**message, "t": msgpack.Timestamp.from_datetime(at)}
