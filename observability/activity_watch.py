"""Looks on at every activity: log fields, spans and counters, from one place.

An interceptor, so that no activity has to think of it, and activities only, so that a replay logs,
traces and counts nothing twice. The work per activity is a few dictionary look-ups.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import structlog
import temporalio.activity
import temporalio.worker
from opentelemetry.trace import Span
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from domain.facts import FactBatch, RiskRefused, Settled
from domain.session import Evaluation
from observability.activity_meter import ORDER_STEPS, count_answer
from observability.metrics import ProcessMeter
from observability.subject import Subject, subject_of
from observability.tracing import TradeTracer, failed

# They run for a day; a span or a log field of theirs would say nothing.
HOSTED = frozenset({"run_fill_stream", "run_exit_watch"})


class ActivityWatch(temporalio.worker.Interceptor):
    """For `holdfast_plugin(interceptors=…)`; meter and tracer may be left out."""

    def __init__(
        self, meter: ProcessMeter | None = None, tracer: TradeTracer | None = None
    ) -> None:
        self._meter = meter
        self._tracer = tracer

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _WatchedActivity(next, self._meter, self._tracer)


class _WatchedActivity(ActivityInboundInterceptor):
    def __init__(
        self,
        next: ActivityInboundInterceptor,
        meter: ProcessMeter | None,
        tracer: TradeTracer | None,
    ) -> None:
        super().__init__(next)
        self._meter = meter
        self._tracer = tracer

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = temporalio.activity.info()
        subject = subject_of(info.workflow_id or "", input.args)
        with structlog.contextvars.bound_contextvars(**subject.fields):
            if self._tracer is None or info.activity_type in HOSTED:
                return await self._counted(input, info.activity_type, subject)
            return await self._traced(self._tracer, input, info, subject)

    async def _traced(
        self,
        tracer: TradeTracer,
        input: ExecuteActivityInput,
        info: temporalio.activity.Info,
        subject: Subject,
    ) -> Any:
        step, begin_ns = info.activity_type, time.time_ns()
        told = subject.fields | {
            "workflow_id": info.workflow_id or "",
            "run_id": info.workflow_run_id or "",
            "attempt": str(info.attempt),
        }
        with tracer.step(step, subject.trade_id, told) as span:
            try:
                answer = await self._counted(input, step, subject)
            except Exception as error:
                failed(span, _kind_of(error))
                raise
            _tell_outcome(span, answer)
        _tell_trades(tracer, answer, input.args, subject, begin_ns)
        return answer

    async def _counted(self, input: ExecuteActivityInput, step: str, subject: Subject) -> Any:
        if self._meter is None:
            return await super().execute_activity(input)
        meter = self._meter.of(subject.account)
        if step in ORDER_STEPS:
            meter.count("orders_submitted", step=step)
        began_s = time.perf_counter()
        try:
            answer = await super().execute_activity(input)
        finally:
            if step in ORDER_STEPS:
                meter.observe("order_step_seconds", time.perf_counter() - began_s, step=step)
        count_answer(meter, step, answer, input.args)
        return answer


def _kind_of(error: Exception) -> str:
    return (error.type or "") if isinstance(error, ApplicationError) else type(error).__name__


def _tell_outcome(span: Span, answer: Any) -> None:
    """The facts by name, and why something was refused."""
    if not isinstance(answer, FactBatch):
        return
    span.set_attribute("facts", [fact.kind for fact in answer.facts])
    for fact in answer.facts:
        code = getattr(fact, "code", "")
        if code:
            span.set_attribute("code", code)


def _tell_trades(
    tracer: TradeTracer, answer: Any, arguments: Sequence[Any], subject: Subject, begin_ns: int
) -> None:
    """Signals that became trades, and trades that ended: refused at the gate, or settled."""
    end_ns = time.time_ns()
    if isinstance(answer, Evaluation):
        for candidate in answer.candidates:
            signalled = candidate.plan
            told = subject.fields | {
                "trade_id": signalled.trade_id,
                "signal_id": candidate.signal_id,
                "strategy": signalled.strategy,
                "symbol": signalled.symbol,
            }
            tracer.happened("signal", signalled.trade_id, begin_ns, end_ns, told)
    if not isinstance(answer, FactBatch):
        return
    ended = [fact for fact in answer.facts if isinstance(fact, RiskRefused | Settled)]
    plan = getattr(arguments[0], "plan", None) if arguments else None
    if ended and plan is not None:
        last = ended[-1]
        outcome = last.code if isinstance(last, RiskRefused) else f"{last.realised:f}"
        told = subject.fields | {
            "strategy": plan.strategy,
            "symbol": plan.symbol,
            "signal_id": plan.signal_id,
            "outcome": outcome,
        }
        tracer.root(plan.trade_id, plan.signal_time, end_ns, told)
