"""Serves a venue on real sockets: the wire face on one port, the control plane on another."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from datetime import timedelta
from types import TracebackType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from simulator.app import AlpacaFace, face_of
from simulator.clock import SimClock
from simulator.control import ControlPlane
from simulator.exchange import Exchange
from simulator.venue import Venue

PUMP_INTERVAL_S = 0.01
START_POLL_S = 0.005
SHUTDOWN_S = 1


class CuttableProtocol(H11Protocol):
    """Hands the transport to the application, so that a fault can really cut the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class SimulatorServer:
    """Async context manager: `async with SimulatorServer(exchange) as server: server.url`.

    Without a clock time is stepped: `server.step_s(...)` or `POST /sim/clock`. With a running
    clock a pump plays the tape every 10 ms of wall time.
    """

    def __init__(
        self,
        exchange: Exchange | Venue,
        clock: SimClock | None = None,
        port: int = 0,
        control_port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.venue = Venue.of(exchange)
        self.exchange = self.venue.first
        self.clock = clock or SimClock(self.exchange.now)
        self.face = face_of(self.venue, self.clock)
        self._host = host
        self._sockets = [_listen(host, port), _listen(host, control_port)]
        self.port, self.control_port = (s.getsockname()[1] for s in self._sockets)
        self._servers: list[_QuietServer] = []
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def alpaca(self) -> AlpacaFace:
        """The face, where it is Alpaca's: its streams without a socket."""
        assert isinstance(self.face, AlpacaFace), "the exchange speaks another protocol"
        return self.face

    @property
    def url(self) -> str:
        """Base URL of the trading and data API, without `/v2`."""
        return f"http://{self._host}:{self.port}"

    @property
    def stream_url(self) -> str:
        return f"ws://{self._host}:{self.port}/stream"

    @property
    def control_url(self) -> str:
        return f"http://{self._host}:{self.control_port}"

    async def __aenter__(self) -> SimulatorServer:
        control = ControlPlane(self.venue, self.clock).app()
        apps: tuple[ASGIApp, ...] = (self.face.app, control)
        for app, listening in zip(apps, self._sockets, strict=True):
            server = _QuietServer(_settings(app))
            self._servers.append(server)
            self._tasks.append(asyncio.create_task(server.serve(sockets=[listening])))
        while not all(server.started for server in self._servers):
            failed = next((task for task in self._tasks if task.done()), None)
            if failed is not None:
                failed.result()
                raise RuntimeError("the simulated exchange did not start")
            await asyncio.sleep(START_POLL_S)
        self.clock.restart()
        self._tasks.append(asyncio.create_task(self._pump()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.face.close_streams()
        for server in self._servers:
            server.should_exit = True
        serving, pumping = self._tasks[: len(self._servers)], self._tasks[len(self._servers) :]
        for task in pumping:
            task.cancel()
        await asyncio.gather(*pumping, return_exceptions=True)
        # Only when both servers have closed their connections is the port really free.
        await asyncio.gather(*serving)
        for listening in self._sockets:
            listening.close()
        self.venue.close_journals()

    async def run_until(self, stopped: asyncio.Event) -> None:
        """Serves until the event is set; a tape that cannot be read any further ends it too.

        Raises:
            TapeError: the tape had a bad row.
        """
        waiting = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait({waiting, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        for task in self._tasks:
            if task.done():
                task.result()

    def step_s(self, seconds: float) -> None:
        """Moves market time forward in step mode."""
        moment = max(self.clock.now(), self.exchange.now) + timedelta(seconds=seconds)
        self.clock.step_to(moment)
        self.venue.advance_to(moment)

    async def _pump(self) -> None:
        while True:
            if not self.clock.is_stepped:
                self.venue.advance_to(self.clock.now())
            await asyncio.sleep(PUMP_INTERVAL_S)


class _QuietServer(uvicorn.Server):
    """Leaves the signals of the process alone: the owner decides when it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def _settings(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=CuttableProtocol,
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        ws_ping_interval=20.0,
    )


def _listen(host: str, port: int) -> socket.socket:
    # With the protocol named, asyncio sets TCP_NODELAY; else each reply on a kept connection waits
    # 40 ms for an acknowledgement.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(128)
    listening.setblocking(False)
    return listening
