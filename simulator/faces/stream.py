"""What the order streams of all faces share: connections, outboxes, and the faults of frames.

A face says what a message means (`Subscriber.receive`) and how a notice looks (`frame_of`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect

from simulator.exchange import Exchange
from simulator.faults import FaultKind
from simulator.state import Notice

REORDER_HOLD_S = 1.0
Frame = bytes | str


class Subscriber:
    """One connection: text in by `receive`, frames out by `next_frame`.

    `send` and `recv` are the same two under the names that a WebSocket client gives them.
    """

    def __init__(self) -> None:
        self._outbox: asyncio.Queue[Frame | None] = asyncio.Queue()

    @property
    def listens(self) -> bool:
        """True once it is told order events."""
        raise NotImplementedError

    def receive(self, text: str | bytes) -> None:
        """Handles one message of the client; what it does not understand is ignored."""
        raise NotImplementedError

    async def next_frame(self) -> Frame | None:
        """The next frame for the client; None when the server closes the connection."""
        return await self._outbox.get()

    async def send(self, message: str) -> None:
        self.receive(message)

    async def recv(self) -> Frame:
        """The next frame.

        Raises:
            ConnectionResetError: the server has closed the connection.
        """
        frame = await self.next_frame()
        if frame is None:
            raise ConnectionResetError("the simulated venue closed the stream")
        return frame

    def push(self, frame: Frame) -> None:
        self._outbox.put_nowait(frame)

    def close(self) -> None:
        self._outbox.put_nowait(None)


S = TypeVar("S", bound=Subscriber)


class EventHub(Generic[S]):
    """Renders each order event of one account once, with the stream faults, for its listeners."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sessions: list[S] = []
        self._held: list[Frame] = []
        self._silent_until_s = 0.0
        exchange.subscribe(self._on_notice)

    def new_session(self) -> S:
        """A connection that nobody has registered yet."""
        raise NotImplementedError

    def frame_of(self, notice: Notice) -> Frame | None:
        """The frame of an event; None if this face does not tell it."""
        raise NotImplementedError

    def open(self) -> S:
        session = self.new_session()
        self._sessions.append(session)
        return session

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[S]:
        """A connection without a socket, for clients that take a connector."""
        session = self.open()
        try:
            yield session
        finally:
            self.forget(session)

    def forget(self, session: S) -> None:
        """Drops a connection that has ended, wherever it went."""
        self.discard(session)

    def discard(self, session: S) -> None:
        if session in self._sessions:
            self._sessions.remove(session)

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
            self.forget(session)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer

    async def _write(self, socket: WebSocket, session: S) -> None:
        while True:
            frame = await session.next_frame()
            try:
                if frame is None:
                    await socket.close(code=1011)
                    return
                if isinstance(frame, str):
                    await socket.send_text(frame)
                else:
                    await socket.send_bytes(frame)
            except (RuntimeError, WebSocketDisconnect):
                return

    def _on_notice(self, notice: Notice) -> None:
        frame = self.frame_of(notice)
        if frame is None:
            return
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

    def _send(self, frame: Frame) -> None:
        for session in self._sessions:
            if session.listens:
                session.push(frame)


def _wall_s() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0
