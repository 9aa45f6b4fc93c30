"""Spans of clients, activities and workflows (style.md §5c).

`TracingInterceptor` and not the newer plugin: a trade lives for days, and its spans must appear
while it runs. Workflow spans have zero length by nature.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
)
from temporalio.contrib.opentelemetry import TracingInterceptor

SERVICE = "holdfast"


def file_exporter(path: Path) -> SpanExporter:
    """Spans as JSON lines, for a machine without a collector."""

    def line(span: ReadableSpan) -> str:
        text: str = span.to_json(indent=None)
        return text + "\n"

    path.parent.mkdir(parents=True, exist_ok=True)
    return ConsoleSpanExporter(service_name=SERVICE, out=path.open("a"), formatter=line)


def tracing_interceptor(
    exporter: SpanExporter, *, role: str
) -> tuple[TracingInterceptor, Callable[[], None]]:
    """The interceptor for `holdfast_plugin(interceptors=…)` and the function that flushes it.

    Give it to the client only; workers inherit it, and twice would run twice.
    """
    resource = Resource.create({"service.name": SERVICE, "service.instance.role": role})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    interceptor = TracingInterceptor(
        provider.get_tracer(SERVICE), always_create_workflow_spans=True
    )
    return interceptor, provider.shutdown
