"""Trades that live for weeks: days that pass in a moment, and what each run left in history.

Temporal's virtual time of one workflow, the exchange's clock in step mode and the activities'
clock move together (architecture §11), so a day costs what happens in it.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import TimeSkipper
from temporalio.worker import (
    ContinueAsNewInput,
    Interceptor,
    Replayer,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

import worker
from domain.messages import OperatorRequest, TradeInput, TradeResult
from domain.plan import PlanPrice, TargetPlan
from domain.trade_state import TradeState
from observability.plugin import holdfast_plugin
from tests import trade_scenarios as play
from tests.rig import Rig

D = Decimal
DAYS = 30
CLOCKS_APART_MAX = timedelta(minutes=1)
AnyHandle = WorkflowHandle[Any, TradeResult]
EVENTS_OF_A_RUN_MAX = 2_000
BYTES_OF_A_RUN_MAX = 2_000_000
PAYLOAD_BYTES_MAX = 64_000
"""Bounds of faults.md I16 and M13."""


@dataclass
class Days:
    """The clock of the activities: the machine's, plus all days that were skipped."""

    skipped: timedelta = field(default=timedelta(0))

    def now(self) -> datetime:
        return datetime.now(UTC) + self.skipped

    async def skip(
        self, rig: Rig, skipper: TimeSkipper, handle: AnyHandle, duration: timedelta
    ) -> None:
        """Lets this much time pass for the exchange, the activities and the trade."""
        self._pass(rig, duration)
        assert await skipper.fast_forward(handle, duration), "the trade has ended"
        # A trade that hands over within a skip may go through it once more in its next run.
        ahead = await skipper.get_current_time(handle) - self.now()
        if ahead > CLOCKS_APART_MAX:
            self._pass(rig, ahead)

    def _pass(self, rig: Rig, duration: timedelta) -> None:
        self.skipped += duration
        rig.exchange.advance_to(rig.exchange.now + duration)


ONE_TARGET = (TargetPlan(price=PlanPrice(offset=D(1)), fraction=D(1)),)


async def move_stop(rig: Rig, handle: AnyHandle, number: int, price: Decimal) -> None:
    """A person's move of the stop, sent twice under one command id: often in two runs (A9)."""
    request = OperatorRequest(command_id=f"move-{number}", by="ann", price=price, widen=True)
    await handle.execute_update("move_stop", request)
    stops = sum(order.stop_price is not None for order in rig.exchange.open_orders)
    await rig.until(lambda: play.stops_at(rig, price) == stops, f"every stop at {price}")
    await handle.execute_update("move_stop", request)


async def live_a_month(
    rig: Rig, skipper: TimeSkipper, days: Days, moves_a_day: int, **changes: Any
) -> AnyHandle:
    """Enters, holds for thirty days while the stop moves, and leaves by the targets.

    `changes` are those of the standard plan with its three tranches.
    """
    plan = play.plan_of(rig, "month", **changes)
    handle: AnyHandle = await rig.start_trade(plan)
    await play.fill_entry(rig)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == len(plan.targets), "protected")
    newest = play.newest_run(rig, handle)
    for day in range(DAYS):
        for number in range(day * moves_a_day, (day + 1) * moves_a_day):
            await move_stop(rig, newest, number, D("99.30") + D(number % 50) / 100)
        await days.skip(rig, skipper, newest, timedelta(days=1))
    rig.quote(play.SYMBOL, "106.00", "106.25")
    return newest


@dataclass(frozen=True)
class Run:
    """One run of a chain, measured."""

    run_id: str
    events: int
    size_bytes: int
    payload_bytes_max: int
    cold_replay_s: float
    history: WorkflowHistory = field(repr=False)
    carried_in: TradeState | None = field(repr=False, default=None)
    handed_over: TradeState | None = field(repr=False, default=None)


async def runs_of(client: Client, workflow_id: str) -> list[Run]:
    """Every run of the chain, the first one first, each replayed cold by this code."""
    newest: AnyHandle = client.get_workflow_handle(workflow_id)
    run_id = (await newest.describe()).raw_description.workflow_execution_info.first_run_id
    found: list[Run] = []
    while run_id:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        history = await handle.fetch_history()
        size = (await handle.describe()).raw_description.workflow_execution_info.history_size_bytes
        found.append(await _measured(run_id, history, size))
        last = history.events[-1]
        run_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return found


async def _measured(run_id: str, history: WorkflowHistory, size_bytes: int) -> Run:
    handed: list[TradeState] = []
    replayer = Replayer(
        workflows=list(worker.WORKFLOWS), plugins=[holdfast_plugin(interceptors=[_watch(handed)])]
    )
    began_s = time.perf_counter()
    await replayer.replay_workflow(history)
    took_s = time.perf_counter() - began_s
    started = history.events[0].workflow_execution_started_event_attributes
    [given] = await pydantic_data_converter.decode(started.input.payloads, [TradeInput])
    return Run(
        run_id=run_id,
        events=len(history.events),
        size_bytes=size_bytes,
        payload_bytes_max=max(_payloads(history), default=0),
        cold_replay_s=took_s,
        history=history,
        carried_in=given.state,
        handed_over=handed[-1] if handed else None,
    )


def _watch(handed: list[TradeState]) -> Interceptor:
    """Notes the state that a replayed run hands over: rebuilt from its history alone."""

    class Outbound(WorkflowOutboundInterceptor):
        def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
            state = input.args[0].state
            assert state is not None
            handed.append(state)
            self.next.continue_as_new(input)

    class Inbound(WorkflowInboundInterceptor):
        def init(self, outbound: WorkflowOutboundInterceptor) -> None:
            super().init(Outbound(outbound))

    class Watching(Interceptor):
        def workflow_interceptor_class(
            self, input: WorkflowInterceptorClassInput
        ) -> type[WorkflowInboundInterceptor] | None:
            return Inbound

    return Watching()


def _payloads(history: WorkflowHistory) -> list[int]:
    """Sizes of everything that was passed in or answered."""
    sizes: list[int] = []
    for event in history.events:
        sizes += _sizes(event)
    return sizes


def _sizes(message: Any) -> list[int]:
    """Sizes of the `Payloads` anywhere in a protobuf message."""
    sizes: list[int] = []
    for kind, value in message.ListFields():
        if kind.message_type is None or kind.message_type.GetOptions().map_entry:
            continue
        for each in value if kind.is_repeated else (value,):
            if kind.message_type.full_name == "temporal.api.common.v1.Payloads":
                sizes.append(each.ByteSize())
            else:
                sizes += _sizes(each)
    return sizes


def state_hash(state: TradeState | None) -> str:
    """SHA-256 of the state as JSON; empty for none."""
    return "" if state is None else hashlib.sha256(state.model_dump_json().encode()).hexdigest()


def count(runs: Sequence[Run], kind: EventType.ValueType) -> int:
    """Events of one kind in all runs."""
    return sum(event.event_type == kind for run in runs for event in run.history.events)


def assert_small(runs: Sequence[Run], say: Callable[[str], None] = print) -> None:
    """I16, M13: every run is within its bounds; prints what was measured."""
    for number, run in enumerate(runs, 1):
        say(
            f"run {number}: {run.events} events, {run.size_bytes} bytes, largest payload "
            f"{run.payload_bytes_max}, cold replay {run.cold_replay_s:.2f} s"
        )
    assert max(run.events for run in runs) <= EVENTS_OF_A_RUN_MAX
    assert max(run.size_bytes for run in runs) < BYTES_OF_A_RUN_MAX
    assert max(run.payload_bytes_max for run in runs) < PAYLOAD_BYTES_MAX


def assert_handed_over(runs: Sequence[Run]) -> None:
    """M13: what a run's history rebuilds is, to the hash, what the next run began with."""
    for before, after in itertools.pairwise(runs):
        assert before.handed_over is not None
        assert state_hash(before.handed_over) == state_hash(after.carried_in)
