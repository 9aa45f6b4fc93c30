"""A TCP proxy that misbehaves on demand: between a worker and its broker, or its database.

faults.md §2.1 (cut, delay, duplicate) and F5, H4, H5. It knows nothing of what it carries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CHUNK = 65_536


@dataclass
class Proxy:
    """One listening port in front of one server.

    `is_cut` refuses new connections; `delay_s` holds every chunk back, both ways;
    `is_duplicating` repeats what a client sends on a second connection to the server whose
    answers nobody reads, as a network element that retries by itself does.
    """

    target_port: int
    is_cut: bool = False
    delay_s: float = 0.0
    is_duplicating: bool = False
    port: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set, repr=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, repr=False)

    def cut(self) -> None:
        """Ends every connection at once and refuses new ones until `heal`."""
        self.is_cut = True
        self.end_connections()

    def end_connections(self) -> None:
        """Ends what is open; new connections are as before."""
        for writer in tuple(self._open):
            writer.transport.abort()

    def heal(self) -> None:
        """Behaves from now on."""
        self.is_cut, self.delay_s, self.is_duplicating = False, 0.0, False

    async def serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carries one connection until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            if not self.is_cut:
                await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, server = await asyncio.open_connection("127.0.0.1", self.target_port)
        self._open.add(server)
        twin: asyncio.StreamWriter | None = None
        try:
            back = asyncio.create_task(self._pump(there, writer))
            try:
                while data := await reader.read(CHUNK):
                    if self.delay_s:
                        await asyncio.sleep(self.delay_s)
                    server.write(data)
                    await server.drain()
                    if self.is_duplicating:
                        if twin is None:
                            _unread, twin = await asyncio.open_connection(
                                "127.0.0.1", self.target_port
                            )
                            self._open.add(twin)
                        twin.write(data)
                        await twin.drain()
            finally:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
        finally:
            for each in (server, twin):
                if each is not None:
                    self._open.discard(each)
                    each.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(data)
                await sink.drain()
        sink.transport.abort()

    async def aclose(self) -> None:
        """Ends everything that it carries."""
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def running_proxy(target_port: int) -> AsyncIterator[Proxy]:
    """A proxy in front of a server of this machine, on a free port."""
    proxy = Proxy(target_port)
    server = await asyncio.start_server(proxy.serve_connection, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.aclose()
        await server.wait_closed()
