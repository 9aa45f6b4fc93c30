"""The HTTP door over real sockets: what was provably not sent, what was lost, what is bounded."""

from __future__ import annotations

import asyncio
import gc
import importlib
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from brokers import transport
from brokers.errors import BadBody, Lost, NotSent, retry_after_s, safe_text
from brokers.transport import HttpTransport, parse_json

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Venue:
    """A raw TCP server that counts requests and answers them byte by byte as told."""

    def __init__(self, answer: bytes | None, *, pause_s: float = 0.0) -> None:
        self.answer = answer
        self.pause_s = pause_s
        self.requests = 0
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                if self.answer is None:
                    break
                if self.pause_s:
                    for position in range(len(self.answer)):
                        writer.write(self.answer[position : position + 1])
                        await writer.drain()
                        await asyncio.sleep(self.pause_s)
                else:
                    writer.write(self.answer)
                    await writer.drain()
                if b"Content-Length: 99" in self.answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(venue: Venue) -> AsyncIterator[str]:
    server = await asyncio.start_server(venue.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()


@asynccontextmanager
async def door(url: str, **options: object) -> AsyncIterator[HttpTransport]:
    http = HttpTransport(url, headers={"X-Key": "k"}, **options)  # type: ignore[arg-type]
    try:
        yield http
    finally:
        await http.aclose()


async def closed_port() -> str:
    server = await asyncio.start_server(Venue(None).handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}"


@pytest.mark.covers("C1")
async def test_refused_connection_is_provably_not_sent() -> None:
    """C1."""
    async with door(await closed_port()) as http:
        with pytest.raises(NotSent):
            await http.send("POST", "/v2/orders", body={"qty": "1"})


@pytest.mark.covers("C1")
async def test_unknown_host_is_provably_not_sent() -> None:
    async with door("http://no-such-host.invalid") as http:
        with pytest.raises((NotSent, Lost)) as failed:
            await http.send("POST", "/v2/orders", body={})
    assert isinstance(failed.value, NotSent)


async def test_connection_cut_after_the_request_is_lost_and_not_repeated() -> None:
    """C2: exactly one attempt."""
    venue = Venue(None)
    async with serving(venue) as url, door(url) as http:
        with pytest.raises(Lost):
            await http.send("POST", "/v2/orders", body={"qty": "1"})
    assert venue.requests == 1


async def test_cut_body_is_lost() -> None:
    venue = Venue(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id":')
    async with serving(venue) as url, door(url) as http:
        with pytest.raises(Lost):
            await http.send("POST", "/v2/orders", body={})
    assert venue.requests == 1


@pytest.mark.covers("F5")
async def test_dripping_answer_ends_at_the_deadline_of_the_whole_call() -> None:
    """Each byte comes in time, the answer does not: the deadline holds for the call."""
    venue = Venue(GOOD, pause_s=0.05)
    async with serving(venue) as url, door(url, timeout_s=0.3) as http:
        started_s = time.monotonic()
        with pytest.raises(Lost):
            await http.send("POST", "/v2/orders", body={})
        assert time.monotonic() - started_s < 1.5
    assert venue.requests == 1


async def test_redirect_is_handed_back_not_followed() -> None:
    """S13: keys never travel to where an answer points."""
    venue = Venue(
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    async with serving(venue) as url, door(url) as http:
        reply = await http.send("POST", "/v2/orders", body={})
    assert (reply.status, venue.requests) == (307, 1)


async def test_server_error_is_handed_back_after_one_attempt() -> None:
    venue = Venue(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
    async with serving(venue) as url, door(url) as http:
        reply = await http.send("POST", "/v2/orders", body={})
    assert (reply.status, reply.headers["retry-after"], venue.requests) == (503, "1", 1)


async def test_endless_body_is_cut_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BODY_BYTES_MAX", 1000)
    body = b"[" + b"1," * 5000 + b"1]"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serving(Venue(head + body)) as url, door(url) as http:
        with pytest.raises(Lost, match="longer"):
            await http.send("GET", "/v2/orders")


async def test_proxy_of_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", await closed_port())
    async with serving(Venue(GOOD)) as url, door(url) as http:
        assert (await http.send("GET", "/v2/clock")).json() == {}


async def test_reserved_pool_answers_while_the_ordinary_one_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F5: the kill path never waits for a connection of ordinary calls."""
    monkeypatch.setattr(transport, "POOL_SIZE", 2)

    hanging = Venue(GOOD, pause_s=0.2)
    async with (
        serving(hanging) as slow_url,
        serving(Venue(GOOD)) as url,
        door(slow_url, timeout_s=1.0) as busy,
        door(url, reserved=True) as kill,
    ):
        calls = [asyncio.create_task(busy.send("GET", "/")) for _ in range(4)]
        started_s = time.monotonic()
        assert (await kill.send("DELETE", "/v2/orders/x")).status == 200
        assert time.monotonic() - started_s < 0.9
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    # Two calls had a connection and were lost; two never got one and were provably not sent.
    assert all(isinstance(outcome, NotSent | Lost) for outcome in outcomes)


async def test_close_ends_a_call_in_flight_and_leaves_no_connection() -> None:
    """Wherever the call is: a connection that is made after the close belongs to nobody."""
    venue = Venue(GOOD, pause_s=60)
    async with serving(venue) as url:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for turns in range(1, 25):
                http = HttpTransport(url, headers={}, timeout_s=60)
                call = asyncio.create_task(http.send("GET", "/v2/account"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await http.aclose()
                with pytest.raises((Lost, NotSent)):
                    await call
            gc.collect()
    assert [str(each.message) for each in told] == []


async def test_call_after_the_close_is_provably_not_sent() -> None:
    venue = Venue(GOOD)
    async with serving(venue) as url, door(url) as http:
        await http.aclose()
        with pytest.raises(NotSent):
            await http.send("GET", "/v2/account")
    assert venue.requests == 0


def test_json_numbers_never_pass_through_a_float() -> None:
    body = parse_json(b'{"a": 0.1, "b": 1650.25, "c": NaN, "d": 1e-7, "e": 7}')
    assert {name: str(value) for name, value in body.items()} == {  # type: ignore[attr-defined]
        "a": "0.1",
        "b": "1650.25",
        "c": "NaN",
        "d": "1E-7",
        "e": "7",
    }


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"{", b"\xff\xfe\x00\x00z", b"[" * 200_000, b"1" * 5000, b'{"a":1,}'],
)
def test_what_is_not_json_is_a_bad_body(content: bytes) -> None:
    with pytest.raises(BadBody):
        parse_json(content)


def test_foreign_text_is_cut_and_made_printable() -> None:
    assert safe_text("a\nb\x1b[31m\u202e") == "a b [31m "
    assert len(safe_text("x" * 10_000)) == 500
    safe_text("\ud800").encode()


def test_http_date_without_zone_counts_as_utc() -> None:
    now = datetime(2026, 3, 4, 15, 0, tzinfo=UTC)
    assert retry_after_s("Wed, 04 Mar 2026 15:00:05 -0000", now) == 5.0
    assert retry_after_s("inf", now) == 60.0
    assert retry_after_s("", now) is None


def test_module_that_is_not_installed_is_not_looked_for_at_every_request() -> None:
    """httpcore imports sniffio in each request; a failed import searches the whole path."""
    with pytest.raises(ImportError, match="halted"):
        importlib.import_module("sniffio")


@pytest.mark.parametrize("name", ["X-RateLimit-Limit", "X-Ratelimit-Allowed"])
async def test_request_limit_is_heard_from_answers_and_nonsense_is_not(name: str) -> None:
    """F8: settings that promise more than the venue takes are told before a busy minute does."""

    def answer(told: str) -> bytes:
        return f"HTTP/1.1 200 OK\r\n{name}: {told}\r\nContent-Length: 2\r\n\r\n{{}}".encode()

    venue = Venue(GOOD)
    async with serving(venue) as url:
        http = HttpTransport(url, headers={})
        heard = []
        for each in (GOOD, answer("200"), answer("many"), GOOD, answer("60")):
            venue.answer = each
            await http.send("GET", "/")
            heard.append(http.told_requests_per_minute)
        await http.aclose()
    assert heard == [None, 200, 200, 200, 60]
