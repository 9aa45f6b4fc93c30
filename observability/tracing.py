"""One trace per trade, from the signal to the settlement.

Trace and root span are derived from the trade id. So everything that works for a trade is in its
trace without anything being handed on: sessions, workers of any role, a retry, a restart, a new
run after continue-as-new, a rebuilt Temporal store. Workflow code makes no spans, so that a replay
makes none either. The root span is written when the trade ends; what happened before shows below
it as it happens.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
)
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)

SERVICE = "holdfast"
EXPORT_TIMEOUT_S = 3
BATCH_EVERY_S = 1
TRACE_BITS, SPAN_BITS = 128, 64

_wanted: ContextVar[tuple[int, int] | None] = ContextVar("wanted_ids", default=None)


class _Ids(RandomIdGenerator):
    """Random ids, except inside `_with_ids`, where the root span of a trade is made."""

    def generate_trace_id(self) -> int:
        wanted = _wanted.get()
        return super().generate_trace_id() if wanted is None else wanted[0]

    def generate_span_id(self) -> int:
        wanted = _wanted.get()
        return super().generate_span_id() if wanted is None else wanted[1]


def trade_ids(trade_id: str) -> tuple[int, int]:
    """Trace id and root span id of a trade; the same in every process for ever."""
    digest = hashlib.sha256(f"holdfast/trade/{trade_id}".encode()).digest()
    # Zero is not a valid id.
    trace_id = int.from_bytes(digest[: TRACE_BITS // 8]) or 1
    return trace_id, int.from_bytes(digest[-SPAN_BITS // 8 :]) or 1


def trade_context(trade_id: str) -> Context:
    """The context below which a trade's spans are made."""
    trace_id, span_id = trade_ids(trade_id)
    root = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(1))
    return trace.set_span_in_context(NonRecordingSpan(root), Context())


class TradeTracer:
    """Makes spans of trades; everything else is a trace of its own."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def step(self, name: str, trade_id: str, attributes: Mapping[str, str]) -> Iterator[Span]:
        """A span around a block, below the trade's root if it is about a trade."""
        below = trade_context(trade_id) if trade_id else Context()
        with self._tracer.start_as_current_span(
            name,
            below,
            attributes=dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    @contextmanager
    def call(self, name: str, attributes: Mapping[str, str]) -> Iterator[Span]:
        """A span for a request to another system, below the step that makes it.

        Requests of no step, such as those of the fill stream, make none.
        """
        if not trace.get_current_span().get_span_context().is_valid:
            yield trace.INVALID_SPAN
            return
        with self._tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT,
            attributes=dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    def happened(
        self, name: str, trade_id: str, begin_ns: int, end_ns: int, attributes: Mapping[str, str]
    ) -> None:
        """A span of a trade that was not known to be one while it went on: its signal."""
        span = self._tracer.start_span(
            name, trade_context(trade_id), start_time=begin_ns, attributes=dict(attributes)
        )
        span.end(end_ns)

    def root(
        self, trade_id: str, begin: datetime, end_ns: int, attributes: Mapping[str, str]
    ) -> None:
        """The trade itself, once it has ended. A repeat has the same ids and says the same."""
        token = _wanted.set(trade_ids(trade_id))
        try:
            # A signal of a simulated day may be dated after the wall's clock.
            begin_ns = min(int(begin.timestamp() * 1e9), end_ns)
            span = self._tracer.start_span(
                f"trade {trade_id}", Context(), start_time=begin_ns, attributes=dict(attributes)
            )
        finally:
            _wanted.reset(token)
        span.end(end_ns)


def failed(span: Span, text: str) -> None:
    """Marks a span as failed; no stack trace, which could hold a secret (faults.md S21)."""
    span.set_status(Status(StatusCode.ERROR, text))


def file_exporter(path: Path) -> SpanExporter:
    """Spans as JSON lines, for a machine without a collector."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return ConsoleSpanExporter(service_name=SERVICE, out=path.open("a"), formatter=_line)


def console_exporter() -> SpanExporter:
    """Spans as JSON lines on standard output."""
    return ConsoleSpanExporter(service_name=SERVICE, formatter=_line)


def otlp_exporter(url: str) -> SpanExporter:
    """To a collector by OTLP over HTTP, for example `http://127.0.0.1:4318/v1/traces`.

    Further headers, such as a token, come from OTEL_EXPORTER_OTLP_HEADERS.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # It says again and again that a collector is away; once at ERROR is enough for that.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    exporter: SpanExporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S)
    return exporter


def _line(span: ReadableSpan) -> str:
    text: str = span.to_json(indent=None)
    return text + "\n"


def tracer_provider(*exporters: SpanExporter, role: str) -> TracerProvider:
    """Sends in batches from a thread of its own; what a dead collector does not take is dropped.

    Call `shutdown()` at the end of the process: it flushes.
    """
    resource = Resource.create({"service.name": SERVICE, "service.instance.role": role})
    provider = TracerProvider(resource=resource, id_generator=_Ids(), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                schedule_delay_millis=BATCH_EVERY_S * 1000,
                export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
            )
        )
    return provider


def trade_tracer(provider: TracerProvider) -> TradeTracer:
    return TradeTracer(provider.get_tracer(SERVICE))
