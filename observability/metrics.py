"""Two scrape targets: Temporal's SDK core, and Holdfast's own numbers (style.md §5c).

The SDK core serves its end point itself and needs its runtime before the first client. Our own
numbers are read when somebody scrapes: they come from the ledger, so a restarted process shows
the truth at once instead of counting from zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

NAME_PREFIX = "holdfast_"
LOOPBACK = "127.0.0.1"


class SampleKind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of Holdfast, for example open trades of a stage.

    `name` without prefix, unit last (`last_reconcile_age_seconds`).
    """

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: SampleKind = SampleKind.GAUGE


ReadSamples = Callable[[], Iterable[Sample]]


def temporal_runtime(port: int, labels: Mapping[str, str] | None = None) -> Runtime:
    """The runtime of this process; `port` 0 serves no metrics. One per process, before a client."""
    metrics = None
    if port:
        metrics = PrometheusConfig(
            bind_address=f"{LOOPBACK}:{port}",
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
        )
    return Runtime(telemetry=TelemetryConfig(metrics=metrics, global_tags=dict(labels or {})))


def serve_metrics(port: int, read_samples: ReadSamples) -> Callable[[], None]:
    """Serves `/metrics` on the loopback interface; returns the function that ends it."""
    registry = CollectorRegistry()
    registry.register(_Samples(read_samples))
    server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


class _Samples(Collector):
    def __init__(self, read_samples: ReadSamples) -> None:
        self._read_samples = read_samples

    def describe(self) -> Sequence[Metric]:
        """Nothing beforehand: registering must not ask the ledger."""
        return []

    def collect(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for sample in self._read_samples():
            name = NAME_PREFIX + sample.name
            label_names = sorted(sample.labels)
            family = families.get(name)
            if family is None:
                kind = GaugeMetricFamily if sample.kind is SampleKind.GAUGE else CounterMetricFamily
                family = families[name] = kind(name, sample.help, labels=label_names)
            family.add_metric([sample.labels[each] for each in label_names], sample.value)
        yield from families.values()
