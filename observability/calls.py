"""Looks on at requests to the broker: how long, how they ended, for which trade."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry.trace import Span

from observability.metrics import AccountMeter
from observability.tracing import TradeTracer, failed

PATH_PARTS = 3


def short_path(path: str) -> str:
    """The path without what is an id or a symbol, so that its values are few: `/v2/orders`."""
    parts = path.split("?")[0].split(":")[0].strip("/").split("/")
    kept = [part for part in parts[:PATH_PARTS] if part.islower() and len(part) <= 16]
    named = [part for part in kept if part.replace("_", "").isalpha() or part in ("v1", "v2")]
    return "/" + "/".join(named)


def watch_calls(
    meter: AccountMeter | None, tracer: TradeTracer | None
) -> Callable[[str, str], AbstractContextManager[Callable[[str], None]]]:
    """What an adapter's transport enters around each call (`brokers.transport.Watch`)."""

    @contextmanager
    def watch(method: str, path: str) -> Iterator[Callable[[str], None]]:
        outcome, began_s, short = "cancelled", time.perf_counter(), short_path(path)
        name, told = f"{method} {short}", {"http.request.method": method, "url.path": path}
        span_of: AbstractContextManager[Span | None] = (
            nullcontext() if tracer is None else tracer.call(name, told)
        )

        def say(word: str) -> None:
            nonlocal outcome
            outcome = word

        with span_of as span:
            try:
                yield say
            finally:
                if span is not None:
                    span.set_attribute("http.response.status_code", outcome)
                    if not outcome.isdecimal():
                        failed(span, outcome)
                if meter is not None:
                    took_s = time.perf_counter() - began_s
                    meter.observe("broker_request_seconds", took_s, method=method, path=short)
                    meter.count("broker_requests", method=method, path=short, outcome=outcome)

    return watch
