"""What stands in front of the endpoints: keys, request budget, and the faults of replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simulator.clock import SimClock
from simulator.config import ExchangeConfig
from simulator.exchange import Exchange
from simulator.faults import FaultKind, FaultRule

WINDOW_S = 60.0
HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"


class Keys:
    """Which key pairs may come in, and whether they belong to this venue's mode."""

    def __init__(self, config: ExchangeConfig) -> None:
        self._modes = {(key.key, key.secret): key.mode for key in config.keys}
        self._mode = config.mode

    def status(self, key: str, secret: str) -> int:
        """200, 401 for an unknown pair, 403 for a pair of the other mode (paper/live)."""
        mode = self._modes.get((key, secret))
        if mode is None:
            return 401
        return 200 if mode == self._mode else 403

    def allows(self, key: str, secret: str) -> bool:
        return self.status(key, secret) == 200


class Voice(Protocol):
    """What a face says of itself to the gate in front of it."""

    def refused(self, scope: Scope) -> Response | None:
        """The answer to wrong keys; None lets the request in."""
        ...

    def too_many(self, headers: dict[str, str]) -> Response: ...

    def server_error(self, status: int) -> Response: ...

    def budget(self, scope: Scope) -> tuple[str, int]:
        """Which of the venue's budgets a request counts in, and how many times the number it is."""
        ...

    def budget_headers(self, limit: int, used: int, rest_s: float) -> dict[str, str]: ...

    def facts(self, scope: Scope, body: bytes) -> dict[str, str]:
        """Method, path, client id and symbol of a request: what fault rules match on."""
        ...


class Window:
    """One budget of requests, by the minute."""

    def __init__(self) -> None:
        self.end_s = 0.0
        self.used = 0

    def count(self, now_s: float) -> int:
        """How many with this one."""
        if now_s >= self.end_s:
            self.end_s, self.used = now_s + WINDOW_S, 0
        self.used += 1
        return self.used


class Gate:
    """ASGI wrapper around a face's endpoints; `voice` says no in the face's own words.

    `drop_error` is raised instead of cutting the connection where there is none (in-process use
    through an ASGI transport): pass the error that the HTTP client raises for a cut connection.
    """

    def __init__(
        self,
        app: ASGIApp,
        exchange: Exchange,
        clock: SimClock,
        voice: Voice,
        drop_error: Callable[[], Exception],
    ) -> None:
        self._app = app
        self._exchange = exchange
        self._clock = clock
        self._voice = voice
        self._drop_error = drop_error
        self._windows: dict[str, Window] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive)
        facts = self._voice.facts(scope, body)
        self._exchange.advance_to(max(self._clock.now(), self._exchange.now))
        early = self._refused_early(scope) or await self._failed_before(facts)
        if early is not None:
            await early(scope, receive, send)
            return
        answer = await self._spoiled(await _Captured.run(self._app, scope, body), facts)
        if answer is None:
            await self._drop(scope, receive)
            return
        await answer.with_headers(self._budget_headers(scope)).replay(send)

    def _refused_early(self, scope: Scope) -> Response | None:
        """Wrong keys or an empty request budget."""
        refused = self._voice.refused(scope)
        if refused is not None:
            return refused
        limit = self._budget(scope)
        if limit is None:
            return None
        now_s = asyncio.get_running_loop().time()
        window = self._window(scope)
        if window.count(now_s) <= limit:
            return None
        rest_s = max(1, round(window.end_s - now_s))
        self._exchange.state.record("throttled", limit=limit)
        return self._voice.too_many({"Retry-After": str(rest_s), **self._budget_headers(scope)})

    def _window(self, scope: Scope) -> Window:
        name, _ = self._voice.budget(scope)
        return self._windows.setdefault(name, Window())

    def _budget(self, scope: Scope) -> int | None:
        """Requests per wall minute: the venue's number, scaled by speed; None in step mode."""
        limit, speed = self._exchange.config.requests_per_minute, self._clock.speed
        if limit is None or speed is None:
            return None
        _, times = self._voice.budget(scope)
        return max(limit, int(limit * speed)) * times

    def _budget_headers(self, scope: Scope) -> dict[str, str]:
        limit = self._budget(scope)
        if limit is None:
            return {}
        window = self._window(scope)
        rest_s = max(0.0, window.end_s - asyncio.get_running_loop().time())
        return self._voice.budget_headers(limit, window.used, rest_s)

    async def _failed_before(self, facts: dict[str, str]) -> Response | None:
        """Faults that strike before anything is done."""
        fault = self._exchange.state.fault
        slow = fault(FaultKind.SLOW, **facts)
        if slow is not None:
            await asyncio.sleep(slow.seconds("delay_s", 1.0))
        limited = fault(FaultKind.RATE_LIMITED, **facts)
        if limited is not None:
            after = limited.params.get("retry_after")
            return self._voice.too_many({} if after is None else {"Retry-After": str(after)})
        broken = fault(FaultKind.ERROR_BEFORE, **facts)
        return self._server_error(broken) if broken is not None else None

    async def _spoiled(self, answer: _Captured, facts: dict[str, str]) -> _Captured | None:
        """Faults that strike after it was done; None means: cut the connection."""
        fault = self._exchange.state.fault
        if fault(FaultKind.DROP_REPLY, **facts) is not None:
            return None
        late = fault(FaultKind.LATE_REPLY, **facts)
        if late is not None:
            await asyncio.sleep(late.seconds("delay_s", 5.0))
        broken = fault(FaultKind.ERROR_AFTER, **facts)
        if broken is not None:
            return await _Captured.of(self._server_error(broken))
        if fault(FaultKind.TRUNCATED, **facts) is not None:
            return answer.with_body(answer.body[: len(answer.body) // 2])
        if fault(FaultKind.HTML, **facts) is not None:
            return await _Captured.of(Response(HTML, 200, media_type="text/html"))
        return answer

    async def _drop(self, scope: Scope, receive: Receive) -> None:
        transport = scope.get("state", {}).get("transport")
        if transport is None:
            raise self._drop_error()
        transport.abort()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(receive(), timeout=1.0)

    def _server_error(self, rule: FaultRule) -> Response:
        return self._voice.server_error(int(rule.params.get("status", 503)))


class _Captured:
    """A finished answer that has not been sent yet."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @classmethod
    async def run(cls, app: ASGIApp, scope: Scope, body: bytes) -> _Captured:
        start: dict[str, Any] = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        await app(scope, receive, send)
        return cls(start["status"], list(start["headers"]), b"".join(parts))

    @classmethod
    async def of(cls, response: Response) -> _Captured:
        return cls(response.status_code, list(response.raw_headers), bytes(response.body))

    def with_body(self, body: bytes) -> _Captured:
        headers = [pair for pair in self.headers if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        return _Captured(self.status, headers, body)

    def with_headers(self, extra: dict[str, str]) -> _Captured:
        added = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
        return _Captured(self.status, [*self.headers, *added], self.body)

    async def replay(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


async def _read_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(parts)
