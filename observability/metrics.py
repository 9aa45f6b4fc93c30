"""Two scrape targets: Temporal's SDK core, and Holdfast's own numbers (style.md §5c).

The SDK core serves its end point itself, on a port of its own, and needs its runtime before the
first client. Ours come from two places: counters and durations from the code paths of this
process, and the state of the account from the ledger, read when somebody scrapes. So a restarted
process shows the truth at once, and nothing is read when nobody looks. Every name is declared
below; `docs/metrics.md` is made from these tables. No label holds an id: their values are few.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

NAME_PREFIX = "holdfast_"
LOOPBACK = "127.0.0.1"
READING_KEPT_S = 2.0
READING_TIMEOUT_S = 3.0
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_log = logging.getLogger(__name__)


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: name without prefix, unit last; counters get `_total` from the library."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def shown_name(self) -> str:
        """As a scrape shows it."""
        total = "_total" if self.kind is MetricKind.COUNTER else ""
        return f"{NAME_PREFIX}{self.name}{total}"


def _counter(name: str, help: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, MetricKind.COUNTER, help, labels)


def _gauge(name: str, help: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, MetricKind.GAUGE, help, labels)


def _histogram(name: str, help: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, MetricKind.HISTOGRAM, help, labels)


PROCESS_METRICS = (
    _counter("orders_submitted", "order steps that began", "step"),
    _counter("orders_accepted", "orders that the broker took", "step"),
    _counter("orders_rejected", "orders that the broker refused", "step", "code"),
    _counter("orders_not_sent", "orders that our last gate or the transport stopped", "code"),
    _counter("orders_unanswered", "sends whose outcome was unknown at first", "step"),
    _histogram("order_step_seconds", "an order step: last gate, send, booking", "step"),
    _counter("risk_verdicts", "decisions of the risk gate", "verdict", "code"),
    _counter("broker_requests", "HTTP requests to the broker", "method", "path", "outcome"),
    _histogram("broker_request_seconds", "an HTTP request to the broker", "method", "path"),
    _histogram("ledger_transaction_seconds", "a transaction of the ledger", "outcome"),
    _counter("bars", "bars that strategies were shown"),
    _counter("strategy_decisions", "answers of strategies, those without a signal included"),
    _counter("strategy_faults", "answers that were refused: a raise, a hang, nonsense"),
    _counter("signals", "signals by what became of them", "verdict"),
    _counter("ticks", "prices read: stream ticks and quotes of the exit watch", "source"),
    _gauge("fill_stream_connected", "1 while the fill stream is connected"),
    _gauge("fill_stream_silence_seconds", "since the last frame of the fill stream"),
    _counter("fill_stream_frames", "frames of the fill stream"),
    _counter("fill_stream_reconnects", "connections of the fill stream that ended"),
    _counter("alerts_sent", "messages to channels", "channel", "outcome"),
    _gauge("equity_amount", "equity as the broker says it, account currency"),
    _gauge("daily_result_amount", "equity against the baseline of the roll, account currency"),
    _gauge("unrealised_amount", "open positions at bid or ask against their average price"),
)
LEDGER_METRICS = (
    _gauge("trades_open", "trades that have not ended", "stage"),
    _gauge("trades_protected", "open trades by class of protection", "protection"),
    _gauge("trades_closed_today", "trades that ended since the roll: won, lost, even", "result"),
    _gauge("realised_today_amount", "result of the trades that ended since the roll, after fees"),
    _gauge("fees_today_amount", "fees of the trades that ended since the roll"),
    _gauge("naked_today_seconds", "unprotected time of the trades that ended since the roll"),
    _gauge("positions_open", "symbols held: by trades, or by nobody we know", "owner"),
    _gauge("orders_working", "live orders of the ledger", "purpose"),
    _gauge("orders_unknown", "orders without proof of what became of them"),
    _gauge("orders_today", "orders since the roll by their last word", "status"),
    _gauge("fills_untold", "booked fills that their trade has not heard of"),
    _gauge("account_armed", "1 if entries are allowed"),
    _gauge("kills_engaged", "latched kills", "scope"),
    _gauge("conditions_active", "conditions that block entries", "kind"),
    _gauge("risk_breaker_tripped", "1 if tripped or missing"),
    _gauge("api_breaker_open", "0 closed, 0.5 half-open, 1 open or missing"),
    _gauge("reconcile_age_seconds", "since the last good comparison with the broker"),
    _gauge("reservations_held", "reservations of risk that are held"),
    _gauge("reserved_notional_amount", "what they may be worth"),
    _gauge("reserved_loss_amount", "what they may lose"),
    _gauge("exit_watches", "exit rules that are watched"),
    _gauge("exit_watch_age_seconds", "the longest since a rule was evaluated"),
    _gauge("alerts_unacknowledged", "critical alerts that nobody acknowledged"),
    _gauge("alerts_today", "alerts raised since the roll", "severity"),
    _gauge("alert_deliveries_pending", "messages that wait for their channel", "channel"),
    _gauge("audit_rows", "rows of the audit chain"),
    _gauge("ledger_up", "1 if the ledger answered this scrape"),
)


# On every metric of ours.
COMMON_LABELS = ("role", "account")


class ProcessMeter:
    """The counters and durations of this process; safe in any thread."""

    def __init__(self, role: str) -> None:
        # One more series for each counter that nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types here
        self.role = role
        self.registry = CollectorRegistry()
        self._specs = {spec.name: spec for spec in PROCESS_METRICS}
        self._made = {spec.name: self._make(spec) for spec in PROCESS_METRICS}

    def of(self, account: str) -> AccountMeter:
        """The meter for `Services.meter` of an account."""
        return AccountMeter(self, account)

    def _make(self, spec: MetricSpec) -> Counter | Gauge | Histogram:
        name, labels = NAME_PREFIX + spec.name, (*COMMON_LABELS, *spec.labels)
        match spec.kind:
            case MetricKind.COUNTER:
                return Counter(name, spec.help, labels, registry=self.registry)
            case MetricKind.GAUGE:
                return Gauge(name, spec.help, labels, registry=self.registry)
            case MetricKind.HISTOGRAM:
                return Histogram(name, spec.help, labels, registry=self.registry, buckets=BUCKETS_S)

    def child(
        self, name: str, account: str, labels: Mapping[str, str]
    ) -> Counter | Gauge | Histogram:
        """The metric with its labels; KeyError for a name or label that is not declared."""
        own = (labels[label] for label in self._specs[name].labels)
        return self._made[name].labels(self.role, account, *own)


class AccountMeter:
    """A process's meter with the account filled in."""

    def __init__(self, process: ProcessMeter, account: str) -> None:
        self._process = process
        self._account = account

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        found = self._process.child(name, self._account, labels)
        assert isinstance(found, Counter)
        found.inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        found = self._process.child(name, self._account, labels)
        assert isinstance(found, Gauge)
        found.set(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        found = self._process.child(name, self._account, labels)
        assert isinstance(found, Histogram)
        found.observe(seconds)


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of the ledger: the label value is empty for a metric without a label."""

    name: str
    label: str
    value: float


ReadLedger = Callable[[], Awaitable[Iterable[Reading]]]


class LedgerMetrics(Collector):
    """The state of accounts at a scrape, kept for two seconds; the reading runs on `loop`.

    A ledger that does not answer shows as `ledger_up` 0 and no other number: an old one would
    look like the truth.
    """

    def __init__(
        self, reads: Mapping[str, ReadLedger], loop: asyncio.AbstractEventLoop, role: str
    ) -> None:
        """`reads` by account."""
        self._reads = dict(reads)
        self._loop = loop
        self._role = role
        self._kept: dict[str, tuple[Reading, ...]] = {}
        self._kept_at_s: float | None = None

    def describe(self) -> Sequence[Metric]:
        """Nothing beforehand: registering must not ask the ledger."""
        return []

    def collect(self) -> Iterator[Metric]:
        specs = {spec.name: spec for spec in LEDGER_METRICS}
        families: dict[str, GaugeMetricFamily] = {}
        for account, readings in self._readings().items():
            for reading in readings:
                spec = specs[reading.name]
                family = families.get(spec.name)
                if family is None:
                    labels = [*COMMON_LABELS, *spec.labels]
                    family = GaugeMetricFamily(spec.shown_name, spec.help, labels=labels)
                    families[spec.name] = family
                own = [reading.label] if spec.labels else []
                family.add_metric([self._role, account, *own], reading.value)
        yield from families.values()

    def _readings(self) -> dict[str, tuple[Reading, ...]]:
        now_s = time.monotonic()
        if self._kept_at_s is None or now_s - self._kept_at_s >= READING_KEPT_S:
            self._kept = {account: self._read(account) for account in self._reads}
            self._kept_at_s = time.monotonic()
        return self._kept

    def _read(self, account: str) -> tuple[Reading, ...]:
        try:
            asked = asyncio.run_coroutine_threadsafe(_collected(self._reads[account]), self._loop)
            return (*asked.result(READING_TIMEOUT_S), Reading("ledger_up", "", 1))
        except Exception as error:
            # A scrape never disturbs the process, whatever the ledger or the loop does.
            _log.warning("the ledger was not read for a scrape: %r", error)
            return (Reading("ledger_up", "", 0),)


async def _collected(read: ReadLedger) -> tuple[Reading, ...]:
    return tuple(await read())


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


def serve_metrics(
    port: int, meter: ProcessMeter, ledger: LedgerMetrics | None = None
) -> Callable[[], None]:
    """Serves `/metrics` on the loopback interface; returns the function that ends it."""
    if ledger is not None:
        meter.registry.register(ledger)
    server, thread = start_http_server(port, addr=LOOPBACK, registry=meter.registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
