"""One trade, one trace: signal, gate, orders, requests to the broker, settlement (OTLP)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from temporalio.client import Client

from domain.messages import OperatorSignal
from ledger.repository import Ledger
from observability.activity_watch import ActivityWatch
from observability.calls import watch_calls
from observability.metrics import ProcessMeter
from observability.plugin import holdfast_plugin
from observability.tracing import (
    otlp_exporter,
    tracer_provider,
    trade_ids,
    trade_tracer,
)
from tests.conftest import TEST_MODULES, TemporalServer
from tests.rig import Rig, running_rig
from tests.workflow.test_session import STRATEGY, start
from workflows.session import SessionWorkflow


class Collector:
    """A real OTLP end point on this machine, and the spans it was sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []

    def of_trade(self, trade_id: str) -> list[Span]:
        trace_id = trade_ids(trade_id)[0].to_bytes(16)
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    collector.spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}/v1/traces")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
async def traced(
    temporal_server: TemporalServer, ledger: Ledger, unique: str
) -> AsyncIterator[tuple[Rig, Collector, ProcessMeter]]:
    """The rig with the process's own interceptor and watch, exporting to a collector."""
    with collecting() as collector:
        provider = tracer_provider(otlp_exporter(collector.url), role="all")
        tracer, meter = trade_tracer(provider), ProcessMeter("all")
        plugin = holdfast_plugin(
            interceptors=[ActivityWatch(meter, tracer)],
            sandboxed_for=TEST_MODULES,
        )
        client = await Client.connect(
            temporal_server.address, namespace=temporal_server.namespace, plugins=[plugin]
        )
        account = f"acct-{unique}"
        watch = watch_calls(meter.of(account), tracer)
        async with running_rig(client, ledger, account, watch=watch) as rig:
            rig.quote("ESX", "99.75", "100.25")
            yield rig, collector, meter
        await asyncio.to_thread(provider.shutdown)


async def test_trade_of_a_session_is_one_trace_from_signal_to_settlement(
    traced: tuple[Rig, Collector, ProcessMeter], tmp_path: Path
) -> None:
    rig, collector, meter = traced
    strategy = tmp_path / "on_second_bar.py"
    strategy.write_text(STRATEGY)
    session = await start(rig, strategy, tmp_path, open_end=True)
    await rig.until(lambda: any(o.stop_price for o in rig.exchange.open_orders), "protected")
    rig.quote("ESX", "90.00", "90.25")

    def ended() -> bool:
        return any(span.name.startswith("trade ") for span in collector.spans)

    await rig.until(ended, "the root span did not come")
    (trade,) = await rig.ledger.list_trades(session=session.spec.name)
    spans = collector.of_trade(trade.trade_id)
    names = {span.name for span in spans}
    assert {
        f"trade {trade.trade_id}",
        "signal",
        "reserve_risk",
        "place_order",
        "POST /v2/orders",
        "settle_trade",
    } <= names
    _assert_one_tree(spans, trade.trade_id)
    assert all(dict_of(span)["session"] == session.spec.name for span in spans if _is_step(span))
    root = next(span for span in spans if span.name.startswith("trade "))
    assert dict_of(root)["outcome"].startswith("-")
    signal = next(span for span in spans if span.name == "signal")
    assert dict_of(signal)["scan_id"].startswith(f"{session.spec.name}@")
    _assert_counted(meter, rig.services.account)
    await session.handle.signal(SessionWorkflow.stop, OperatorSignal(by="test"))
    await session.handle.result()


def _is_step(span: Span) -> bool:
    return "trade_id" in dict_of(span)


def dict_of(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


def _assert_one_tree(spans: list[Span], trade_id: str) -> None:
    """Every span hangs below the derived root, requests below their step; none twice."""
    root_id = trade_ids(trade_id)[1].to_bytes(8)
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    assert not by_id[root_id].parent_span_id
    for span in spans:
        if span.span_id == root_id:
            continue
        parent = by_id[span.parent_span_id]
        is_call = span.name.split(" ")[0] in ("GET", "POST", "PATCH", "DELETE")
        assert is_call is (parent.span_id != root_id), span.name


def _assert_counted(meter: ProcessMeter, account: str) -> None:
    """The same run, seen by the counters."""

    def value(name: str, **labels: str) -> float:
        every = {"role": "all", "account": account, **labels}
        return meter.registry.get_sample_value(f"holdfast_{name}", every) or 0.0

    assert value("orders_submitted_total", step="place_order") >= 1
    assert value("orders_accepted_total", step="place_order") >= 1
    assert value("order_step_seconds_count", step="place_order") >= 1
    assert value("risk_verdicts_total", verdict="reserved", code="") == 1
    assert value("bars_total") >= 2
    assert value("strategy_faults_total") >= 0
    assert value("broker_requests_total", method="POST", path="/v2/orders", outcome="200") >= 1
