"""The order stream: authenticate, listen, binary frames with JSON text (alpaca.md §7).

`StreamSession` is the protocol without a socket: the WebSocket endpoint and in-process tests use
the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from simulator.exchange import Exchange
from simulator.faces.alpaca.render import Render
from simulator.faults import FaultKind
from simulator.state import Notice

REORDER_HOLD_S = 1.0
TRADE_UPDATES = "trade_updates"


class StreamSession:
    """One connection: text in by `receive`, frames out by `next_frame`.

    `send` and `recv` are the same two under the names that a WebSocket client gives them.
    """

    def __init__(self, home: StreamHub) -> None:
        self.home = home
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.is_authorized = False
        self.streams: tuple[str, ...] = ()

    def receive(self, text: str | bytes) -> None:
        """Handles one message of the client; what it does not understand is ignored."""
        try:
            message = json.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        data = message.get("data")
        data = data if isinstance(data, dict) else {}
        if message.get("action") in ("authenticate", "auth"):
            key = str(data.get("key_id") or message.get("key") or "")
            secret = str(data.get("secret_key") or message.get("secret") or "")
            self.is_authorized = self.home.admit(self, key, secret)
            status = "authorized" if self.is_authorized else "unauthorized"
            self._reply("authorization", {"status": status, "action": "authenticate"})
        elif message.get("action") == "listen":
            if not self.is_authorized:
                self._reply("authorization", {"status": "unauthorized", "action": "listen"})
                return
            wanted = data.get("streams") or []
            self.streams = tuple(name for name in wanted if name == TRADE_UPDATES)
            self._reply("listening", {"streams": list(self.streams)})

    async def next_frame(self) -> bytes | None:
        """The next frame for the client; None when the server closes the connection."""
        return await self._outbox.get()

    async def send(self, message: str) -> None:
        self.receive(message)

    async def recv(self) -> bytes:
        """The next frame.

        Raises:
            ConnectionResetError: the server has closed the connection.
        """
        frame = await self.next_frame()
        if frame is None:
            raise ConnectionResetError("the simulated venue closed the stream")
        return frame

    def push(self, frame: bytes) -> None:
        self._outbox.put_nowait(frame)

    def close(self) -> None:
        self._outbox.put_nowait(None)

    def _reply(self, stream: str, data: dict[str, Any]) -> None:
        self.push(_frame(stream, data))


class StreamHub:
    """Renders each order event of one account once, applies the stream faults, tells its listeners.

    Every connection begins at the first account's hub; `homes` finds the hub that its key belongs
    to, and from then on it hears that account and no other.
    """

    def __init__(
        self,
        exchange: Exchange,
        allows: Callable[[str, str], bool],
        homes: Callable[[str], StreamHub | None] = lambda _key: None,
    ) -> None:
        self._exchange = exchange
        self._render = Render(exchange)
        self._allows = allows
        self._homes = homes
        self._sessions: list[StreamSession] = []
        self._held: list[bytes] = []
        self._silent_until_s = 0.0
        exchange.subscribe(self._on_notice)

    def open(self) -> StreamSession:
        session = StreamSession(self)
        self._sessions.append(session)
        return session

    def admit(self, session: StreamSession, key: str, secret: str) -> bool:
        """Checks the pair and moves the connection to the hub of its account."""
        home = self._homes(key) or self
        if not home._allows(key, secret):
            return False
        if home is not self and session in self._sessions:
            self._sessions.remove(session)
            home._sessions.append(session)
            session.home = home
        return True

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[StreamSession]:
        """A connection without a socket, for clients that take a connector."""
        session = self.open()
        try:
            yield session
        finally:
            self.discard(session)

    def discard(self, session: StreamSession) -> None:
        for hub in (self, session.home):
            if session in hub._sessions:
                hub._sessions.remove(session)

    def close_all(self) -> None:
        for session in self._sessions:
            session.close()

    def flush(self) -> None:
        """Sends what a reorder fault holds back."""
        held, self._held = self._held, []
        for frame in held:
            self._send(frame)

    async def serve(self, socket: WebSocket) -> None:
        """The WebSocket endpoint."""
        await socket.accept()
        session = self.open()
        writer = asyncio.create_task(self._write(socket, session))
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

    async def _write(self, socket: WebSocket, session: StreamSession) -> None:
        while True:
            frame = await session.next_frame()
            try:
                if frame is None:
                    await socket.close(code=1011)
                    return
                await socket.send_bytes(frame)
            except (RuntimeError, WebSocketDisconnect):
                return

    def _on_notice(self, notice: Notice) -> None:
        if notice.order.combo is not None and notice.execution_id is None:
            return
        frame = _frame(TRADE_UPDATES, self._render.notice(notice))
        facts = {
            "client_id": notice.order.client_id,
            "symbol": notice.order.symbol,
            "event": notice.event,
        }
        fault = self._exchange.state.fault
        silence = fault(FaultKind.STREAM_SILENCE, **facts)
        if silence is not None:
            self._silent_until_s = _wall_s() + silence.seconds("duration_s", 5.0)
        if fault(FaultKind.STREAM_DISCONNECT, **facts) is not None:
            self.close_all()
            return
        if _wall_s() < self._silent_until_s or fault(FaultKind.STREAM_DROP, **facts) is not None:
            return
        if fault(FaultKind.STREAM_REORDER, **facts) is not None:
            self._held.append(frame)
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().call_later(REORDER_HOLD_S, self.flush)
            return
        self._send(frame)
        if fault(FaultKind.STREAM_DUPLICATE, **facts) is not None:
            self._send(frame)
        self.flush()

    def _send(self, frame: bytes) -> None:
        for session in self._sessions:
            if TRADE_UPDATES in session.streams:
                session.push(frame)


def _frame(stream: str, data: dict[str, Any]) -> bytes:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()


def _wall_s() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0
