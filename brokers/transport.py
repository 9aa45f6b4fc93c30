"""The one HTTP door of every adapter: one attempt, one deadline, nothing hidden.

No retries, no redirects, no proxies or netrc from the environment. A later move from httpx to
another client is a change of this file only.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from urllib.parse import quote as percent_encode
from urllib.parse import urlencode

import httpx

from brokers.errors import BadBody, Lost, NotSent

REQUEST_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 2.0
# Shorter than the five seconds after which common servers close an idle connection: a request
# on a connection that the server is just closing would be an unknown outcome for nothing.
KEEPALIVE_EXPIRY_S = 2.0
BODY_BYTES_MAX = 32 * 1024 * 1024
# Requests a minute as the venues tell them: Alpaca, Tradier.
_BUDGET_HEADERS = ("x-ratelimit-limit", "x-ratelimit-allowed")
POOL_SIZE = 20
POOL_SIZE_RESERVED = 4

# httpcore asks for this module at every request, and what is not there is looked for on the whole
# import path each time: seven per cent of a busy worker.
if "sniffio" not in sys.modules and find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]

_JSON = json.JSONDecoder(parse_float=Decimal, parse_constant=str)

# The connection was never made, so nothing was sent.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


Watch = Callable[[str, str], AbstractContextManager[Callable[[str], None]]]
"""Entered with method and path of a call; what it yields is told the status, or how it failed."""


def _say_nothing(_outcome: str) -> None:
    """Nobody listens."""


_UNWATCHED = nullcontext(_say_nothing)


def unwatched(_method: str, _path: str) -> AbstractContextManager[Callable[[str], None]]:
    """Nobody looks on."""
    return _UNWATCHED


@dataclass(frozen=True)
class Reply:
    """An answer of the venue: HTTP status, lower-case headers and the raw body."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> object:
        """The body as JSON values with Decimals for fractions; NaN stays the text "NaN".

        Raises:
            BadBody: not JSON (HTML page, empty, cut, wrong charset, too deep).
        """
        return parse_json(self.content)


def parse_json(content: bytes | str) -> object:
    """Exact JSON: no number passes through a float.

    Raises:
        BadBody: the text was not JSON.
    """
    try:
        if isinstance(content, bytes):
            content = content.decode(json.detect_encoding(content), "surrogatepass")
        value: object = _JSON.decode(content)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise BadBody(f"the body was not JSON: {type(error).__name__}") from None
    return value


def path_segment(text: str) -> str:
    """A foreign id or symbol as one path segment: it can never climb out of its folder."""
    return percent_encode(text, safe="").replace(".", "%2E")


def _encoded(body: object, form: Mapping[str, str] | None) -> tuple[dict[str, str], bytes | None]:
    """Headers and content of a request with a body, or of one without."""
    if form is not None:
        return {"Content-Type": "application/x-www-form-urlencoded"}, urlencode(form).encode()
    if body is None:
        return {}, None
    return {"Content-Type": "application/json"}, json.dumps(body, separators=(",", ":")).encode()


@cache
def _certificates() -> ssl.SSLContext:
    """The authorities that are trusted, read once: a tenth of a second for each pool otherwise."""
    return httpx.create_ssl_context(trust_env=False)


class HttpTransport:
    """One connection pool to one venue host.

    Args:
        base_url: Scheme and host; every path is appended to it.
        headers: Sent with every request (keys).
        timeout_s: Deadline of one whole call, wall seconds.
        reserved: A small pool of its own for the kill path, so that slow ordinary calls can
            never hold its connections (faults.md F5).
        inner: Replaces the network (MockTransport, ASGITransport) in tests and simulation.
        watch: Looks on at every call, for metrics and traces.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float = REQUEST_TIMEOUT_S,
        reserved: bool = False,
        inner: httpx.AsyncBaseTransport | None = None,
        watch: Watch = unwatched,
    ) -> None:
        self._watch = watch
        size = POOL_SIZE_RESERVED if reserved else POOL_SIZE
        self._timeout_s = timeout_s
        self._in_flight: set[asyncio.Timeout] = set()
        self._quiet = asyncio.Event()
        self._closed = False
        self.told_requests_per_minute: int | None = None
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers=dict(headers),
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            limits=httpx.Limits(
                max_connections=size,
                max_keepalive_connections=size,
                keepalive_expiry=KEEPALIVE_EXPIRY_S,
            ),
            transport=inner,
            verify=_certificates(),
            follow_redirects=False,
            trust_env=False,
        )

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        form: Mapping[str, str] | None = None,
    ) -> Reply:
        """Makes exactly one attempt; `body` goes out as JSON, `form` URL-encoded.

        Raises:
            NotSent: no connection was made, or the transport is closed.
            Lost: anything else without a complete answer, the deadline included.
        """
        with self._watch(method, path) as say:
            try:
                reply = await self._attempt(method, path, params, body, form)
            except NotSent:
                say("not_sent")
                raise
            except Lost:
                say("lost")
                raise
            say(str(reply.status))
            return reply

    async def _attempt(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: object,
        form: Mapping[str, str] | None,
    ) -> Reply:
        if self._closed:
            raise NotSent("the transport was closed before anything was sent")
        headers, content = _encoded(body, form)
        request = self._client.build_request(
            method, path, params=params, content=content, headers=headers
        )
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                with self._counted(limit):
                    return await self._exchange(request)
        except _NOT_SENT as error:
            raise NotSent(f"{type(error).__name__} before anything was sent") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Lost(f"{type(error).__name__} after {method} was sent") from error
        except TimeoutError as error:
            until = "before the close" if self._closed else f"within {self._timeout_s} s"
            raise Lost(f"no answer to {method} {until}") from error
        except OSError as error:
            raise Lost(f"{type(error).__name__} after {method} was sent") from error

    async def _exchange(self, request: httpx.Request) -> Reply:
        response = await self._client.send(request, stream=True)
        try:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > BODY_BYTES_MAX:
                    raise Lost(f"the body was longer than {BODY_BYTES_MAX} bytes")
        finally:
            await response.aclose()
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._hear_budget(headers)
        return Reply(response.status_code, headers, bytes(content))

    def _hear_budget(self, headers: Mapping[str, str]) -> None:
        told = next((headers[name] for name in _BUDGET_HEADERS if name in headers), "")
        if told.isascii() and told.isdecimal():
            self.told_requests_per_minute = int(told)

    @contextmanager
    def _counted(self, limit: asyncio.Timeout) -> Iterator[None]:
        self._in_flight.add(limit)
        try:
            yield
        finally:
            self._in_flight.discard(limit)
            if not self._in_flight:
                self._quiet.set()

    async def aclose(self) -> None:
        """Ends the calls in flight as lost, then closes the pool.

        In this order: a call that is still connecting would keep its connection for ever, because
        the pool that is closed no longer knows it.
        """
        self._closed = True
        if self._in_flight:
            self._quiet.clear()
            now_s = asyncio.get_running_loop().time()
            for limit in self._in_flight:
                if not limit.expired():
                    limit.reschedule(now_s)
            await self._quiet.wait()
        await self._client.aclose()
