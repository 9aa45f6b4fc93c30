"""Log fields and spans of activities: ids on every line, one trace per trade in every process."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.services import ReserveInput, TradeRef
from activities.session import DecideInput
from domain.clock import real_time
from domain.facts import FactBatch, RiskRefused
from domain.session import SessionSpec
from observability.activity_watch import ActivityWatch
from observability.calls import short_path, watch_calls
from observability.logs import configure_logging
from observability.metrics import ProcessMeter
from observability.subject import subject_of
from observability.tracing import TradeTracer, tracer_provider, trade_ids, trade_tracer
from tests.unit.test_trade_fold import make_plan

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
PLAN = make_plan()
TRADE = TradeRef.of(PLAN, real_time(NOW))
RESERVE = ReserveInput(trade=TRADE, plan=PLAN)


class Body(ActivityInboundInterceptor):
    """Stands for the activity's own code at the end of the chain."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        return self._work()


def watched(
    work: Callable[[], Any], *arguments: Any, watch: ActivityWatch, step: str, workflow_id: str
) -> Any:
    """Runs `work` as the activity `step`, as a worker would."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(
        environment.info, activity_type=step, workflow_id=workflow_id
    )

    async def run() -> Any:
        given = ExecuteActivityInput(fn=work, args=arguments, executor=None, headers={})
        return await watch.intercept_activity(Body(work)).execute_activity(given)

    return asyncio.run(environment.run(run))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_every_line_inside_an_activity_names_trade_session_and_signal(log: io.StringIO) -> None:
    def work() -> None:
        logging.getLogger("brokers.anything").warning("asked")

    at = f"trade/{PLAN.trade_id}"
    watched(work, RESERVE, watch=ActivityWatch(), step="reserve_risk", workflow_id=at)
    logging.getLogger("brokers.anything").warning("later")
    first, second = (json.loads(line) for line in log.getvalue().splitlines())
    assert first["trade_id"] == PLAN.trade_id
    assert first["session"] == PLAN.session
    assert first["signal_id"] == PLAN.signal_id
    assert first["account"] == PLAN.account
    assert "trade_id" not in second, "the fields end with the activity"


def test_scan_of_a_session_names_session_and_market_instant() -> None:
    spec = SessionSpec(
        name="s-1", account="demo", strategies=(), universe=(), opens_at=NOW, installation="ab12"
    )
    look = DecideInput(spec=spec, clock=real_time(NOW), cursor=None, market_now=NOW)
    subject = subject_of("session/s-1", [look])
    assert subject.fields == {
        "account": "demo",
        "session": "s-1",
        "scan_id": "s-1@20260302T150000Z",
    }


def test_workflow_line_of_a_session_names_the_session(log: io.StringIO) -> None:
    context = {"workflow_id": "session/s-1", "run_id": "r"}
    logging.getLogger("temporalio").info("bar", extra={"temporal_workflow": context})
    assert json.loads(log.getvalue())["session"] == "s-1"


def tracing() -> tuple[TradeTracer, InMemorySpanExporter]:
    """A tracer as a process has it, writing at once into memory."""
    exporter = InMemorySpanExporter()
    provider = tracer_provider(role="test")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return trade_tracer(provider), exporter


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def test_two_processes_and_two_runs_write_into_one_trace() -> None:
    spans: list[ReadableSpan] = []
    for step in ("place_order", "settle_trade"):
        tracer, exporter = tracing()
        watched(
            FactBatch,
            RESERVE,
            watch=ActivityWatch(tracer=tracer),
            step=step,
            workflow_id=f"trade/{PLAN.trade_id}",
        )
        spans += exporter.get_finished_spans()
    root = trade_ids(PLAN.trade_id)
    assert [span.name for span in spans] == ["place_order", "settle_trade"]
    assert {ids(span)[0] for span in spans} == {root[0]}
    assert {span.parent.span_id for span in spans if span.parent} == {root[1]}
    assert trade_ids("another") != root


def test_refused_trade_ends_its_trace_with_the_root_and_a_repeat_says_the_same() -> None:
    tracer, exporter = tracing()
    refused = FactBatch(facts=(RiskRefused(at=NOW, code="DAILY_LOSS", text="-5 %"),))
    for _ in range(2):
        watched(
            lambda: refused,
            RESERVE,
            watch=ActivityWatch(ProcessMeter("all"), tracer),
            step="reserve_risk",
            workflow_id=f"trade/{PLAN.trade_id}",
        )
    roots = [s for s in exporter.get_finished_spans() if s.name.startswith("trade ")]
    assert [ids(span) for span in roots] == [trade_ids(PLAN.trade_id)] * 2
    assert all(span.parent is None for span in roots)
    assert {dict(span.attributes or {})["outcome"] for span in roots} == {"DAILY_LOSS"}


def test_failed_step_is_marked_without_its_message() -> None:
    """S21: an error text may hold what was sent; the span names its kind only."""
    tracer, exporter = tracing()

    def work() -> None:
        raise ApplicationError("canary-secret", type="OrderRefused")

    with pytest.raises(ApplicationError):
        watched(
            work,
            RESERVE,
            watch=ActivityWatch(tracer=tracer),
            step="place_order",
            workflow_id="trade/t",
        )
    (span,) = exporter.get_finished_spans()
    assert (span.status.is_ok, span.status.description) == (False, "OrderRefused")
    assert "canary" not in span.to_json()


def test_request_hangs_below_its_step_and_makes_no_span_without_one() -> None:
    tracer, exporter = tracing()
    meter = ProcessMeter("gateway")
    watch = watch_calls(meter.of("demo"), tracer)
    with watch("GET", "/v2/orders") as say:
        say("200")
    assert exporter.get_finished_spans() == ()
    with tracer.step("place_order", "t-1", {}) as step, watch("POST", "/v2/orders") as say:
        say("lost")
    call, _step = exporter.get_finished_spans()
    assert call.parent is not None
    assert call.parent.span_id == step.get_span_context().span_id
    assert not call.status.is_ok
    labels = {"role": "gateway", "account": "demo", "method": "POST", "path": "/v2/orders"}
    counted = meter.registry.get_sample_value(
        "holdfast_broker_requests_total", {**labels, "outcome": "lost"}
    )
    assert counted == 1


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("/v2/orders", "/v2/orders"),
        ("/v2/orders/61e69015-8549-4bfd-b9c3-01e75843f47d", "/v2/orders"),
        ("/v2/orders:by_client_order_id", "/v2/orders"),
        ("/v2/positions/AAPL", "/v2/positions"),
        ("/v2/account/activities", "/v2/account/activities"),
        ("/v2/stocks/quotes/latest?symbols=AAPL", "/v2/stocks/quotes"),
        ("/v1beta1/options/quotes", "/options/quotes"),
    ],
)
def test_paths_are_counted_without_ids_and_symbols(path: str, short: str) -> None:
    assert short_path(path) == short
