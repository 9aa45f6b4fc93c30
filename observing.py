"""Metrics, traces and log fields of one process, wired from the settings.

Composition code beside `worker`. Nothing here is on the way of an order: counters are look-ups,
spans leave in batches from a thread, and state is read from the ledger when somebody scrapes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import temporalio.worker
from opentelemetry.sdk.trace.export import SpanExporter
from temporalio.runtime import Runtime

from activities.risk import last_roll
from activities.services import Services, wall_now
from brokers.transport import Watch
from ledger.repository import Ledger
from observability.activity_watch import ActivityWatch
from observability.calls import watch_calls
from observability.metrics import (
    LedgerMetrics,
    ProcessMeter,
    Reading,
    serve_metrics,
    temporal_runtime,
)
from observability.tracing import (
    TradeTracer,
    console_exporter,
    file_exporter,
    otlp_exporter,
    tracer_provider,
    trade_tracer,
)
from settings import ObservabilitySection, Settings

# Workers of several roles on one machine read one file: each has a port of its own.
PORT_OFFSET = {"all": 0, "trade": 0, "gateway": 1, "streams": 2}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """What looks on in this process."""

    role: str
    runtime: Runtime
    meter: ProcessMeter
    interceptor: temporalio.worker.Interceptor
    tracer: TradeTracer | None

    def calls(self, account: str) -> Watch:
        """For the transport of the account's adapter."""
        return watch_calls(self.meter.of(account), self.tracer)


def observe(role: str, settings: Settings, stack: AsyncExitStack) -> Observed:
    """Meter, tracer and the SDK's runtime; before the first client and the first adapter."""
    watched = settings.observability
    labels = {"role": role, "account": settings.account.name}
    sdk_port = _port_of(watched.temporal_metrics_port, role)
    tracer = _tracer(watched, role, stack)
    meter = ProcessMeter(role)
    return Observed(
        role=role,
        runtime=temporal_runtime(sdk_port, labels),
        meter=meter,
        interceptor=ActivityWatch(meter, tracer),
        tracer=tracer,
    )


def serve(
    observed: Observed, settings: Settings, served: Mapping[str, Services], stack: AsyncExitStack
) -> None:
    """Serves `/metrics` if a port is set; the role with the streams serves the ledger's numbers.

    A port that is taken costs the metrics of this process, not its trading.
    """
    port = _port_of(settings.observability.metrics_port, observed.role)
    if not port:
        return
    first = next(iter(served.values()))
    meter = observed.meter.of(first.account)
    first.ledger.on_transaction = lambda took_s, outcome: meter.observe(
        "ledger_transaction_seconds", took_s, outcome=outcome
    )
    ledger: LedgerMetrics | None = None
    if observed.role in ("streams", "all"):
        reads = {name: partial(read_ledger, each.ledger, name) for name, each in served.items()}
        ledger = LedgerMetrics(reads, asyncio.get_running_loop(), observed.role)
    try:
        stop = serve_metrics(port, observed.meter, ledger)
    except OSError as error:
        _log.error("port %d serves no metrics: %s", port, error)
        return
    stack.push_async_callback(asyncio.to_thread, stop)


async def read_ledger(ledger: Ledger, account: str) -> list[Reading]:
    """The state of an account; "today" begins at the last roll of the wall's clock."""
    found = await ledger.measure(account, last_roll(wall_now()))
    return [Reading(each.name, each.label, each.value) for each in found]


def _port_of(first: int, role: str) -> int:
    return first + PORT_OFFSET[role] if first else 0


def _tracer(watched: ObservabilitySection, role: str, stack: AsyncExitStack) -> TradeTracer | None:
    exporters: list[SpanExporter] = []
    if watched.tracing_file:
        exporters.append(file_exporter(Path(watched.tracing_file)))
    if watched.tracing_otlp_url:
        exporters.append(otlp_exporter(watched.tracing_otlp_url))
    if watched.tracing_console:
        exporters.append(console_exporter())
    if not exporters:
        return None
    provider = tracer_provider(*exporters, role=role)
    stack.push_async_callback(asyncio.to_thread, provider.shutdown)
    return trade_tracer(provider)
