"""The network between the real adapter and the exchange's wire face, without sockets.

`Wire` stands where `HttpTransport` has its httpx client, so that deadlines, the classing of
errors and the reading of bodies are the adapter's own. A request travels by itself: a client that
gave up or died does not take it back. `Wire.through_httpx` puts the whole httpx client and
ASGI transport between instead, which costs three times as much; some seeds do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

import httpx
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@lru_cache(maxsize=1024)
def _query_text(params: tuple[tuple[str, str], ...]) -> str:
    return urlencode(params)


@lru_cache(maxsize=1024)
def _query_params(text: bytes) -> QueryParams:
    return QueryParams(text)


@lru_cache(maxsize=64)
def _header_lines(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower().encode(), value.encode()) for name, value in headers)


@dataclass(slots=True)
class Call:
    """One request as the adapter wants it sent."""

    method: str
    path: str
    query: str
    content: bytes
    headers: Mapping[str, str]


@dataclass(slots=True)
class Reply:
    """What `HttpTransport` needs of an answer."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        yield self.content

    async def aclose(self) -> None:
        return None


@dataclass
class Weather:
    """What the network does to one request; all of it seconds of the virtual clock.

    `out_s` before the venue has it, `back_s` until the answer is there. `cut`: the answer never
    comes. `refused`: no connection was made.
    """

    out_s: float = 0.002
    back_s: float = 0.002
    cut: bool = False
    refused: bool = False


class Routes:
    """Starlette's routes without its middle layers: the endpoints themselves are the face's."""

    def __init__(self, app: Any) -> None:
        self._routes = [route for route in app.routes if isinstance(route, Route)]
        self._found: dict[tuple[str, str], Route] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        for route in self._routes:
            match = route.path_regex.match(path)
            if match is None or method not in (route.methods or ()):
                continue
            scope["path_params"] = match.groupdict()
            request = Request(scope, receive)
            request._query_params = _query_params(scope["query_string"])
            response = await route.endpoint(request)
            await response(scope, receive, send)
            return
        await PlainTextResponse("Not Found", 404)(scope, receive, send)


@dataclass
class Wire:
    """Carries requests to `app`; `weather` decides the fate of each one."""

    app: ASGIApp
    weather: Callable[[Call], Weather]
    on_sent: Callable[[Call], None] = field(default=lambda call: None)
    under_way: set[asyncio.Task[Reply]] = field(default_factory=set)

    def client(self, headers: Mapping[str, str]) -> Client:
        return Client(self, headers)

    async def carry(self, call: Call) -> Reply:
        """One attempt. The venue's part lives on when the caller gives up."""
        weather = self.weather(call)
        if weather.refused:
            raise httpx.ConnectError("the simulated network refused the connection")
        self.on_sent(call)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._deliver(call, weather.out_s))
        self.under_way.add(task)
        task.add_done_callback(self._arrived)
        reply = await asyncio.shield(task)
        if weather.cut:
            raise httpx.ReadError("the simulated network cut the connection")
        await asyncio.sleep(weather.back_s)
        return reply

    def _arrived(self, task: asyncio.Task[Reply]) -> None:
        self.under_way.discard(task)
        if not task.cancelled():
            task.exception()

    async def _deliver(self, call: Call, out_s: float) -> Reply:
        await asyncio.sleep(out_s)
        start: dict[str, Any] = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": call.content, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        scope: Scope = {
            "type": "http",
            "method": call.method,
            "path": call.path,
            "query_string": call.query.encode(),
            "headers": list(_header_lines(tuple(call.headers.items()))),
            "server": ("exchange.test", 80),
            "scheme": "http",
            "root_path": "",
        }
        await self.app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return Reply(start["status"], headers, b"".join(parts))


class Client:
    """As much of `httpx.AsyncClient` as `HttpTransport` uses."""

    def __init__(self, wire: Wire, headers: Mapping[str, str]) -> None:
        self._wire = wire
        self._headers = headers

    def build_request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None,
        content: bytes | None,
        headers: Mapping[str, str],
    ) -> Call:
        query = _query_text(tuple(params.items())) if params else ""
        plain = path.replace("%2E", ".") if "%" in path else path
        return Call(method, plain, query, content or b"", {**self._headers, **headers})

    async def send(self, request: Call, *, stream: bool) -> Reply:
        assert stream, "bodies are read by the transport, with its limit"
        return await self._wire.carry(request)

    async def aclose(self) -> None:
        return None


class HttpxTransport(httpx.AsyncBaseTransport):
    """The same network under a whole httpx client."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = Call(
            request.method,
            request.url.path,
            request.url.query.decode(),
            await request.aread(),
            dict(request.headers),
        )
        reply = await self._wire.carry(call)
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)
