"""A Temporal server for one simulation: histories, activities, timers, signals - in memory.

The workflow code is not copied. The real `TradeWorkflow` runs in the SDK's own workflow instance
(`temporalio.worker._workflow_instance`), which is plain Python: activations in, commands out. Here
is what stands behind it at a real server: at-least-once activities with time limits and retries,
timers, buffered messages, and the history from which a new process replays. A replay compares its
commands with the recorded ones, arguments included (I16).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import temporalio.activity
import temporalio.api.common.v1
import temporalio.bridge.proto.workflow_activation as activation
import temporalio.common
import temporalio.converter
import temporalio.workflow
from google.protobuf.duration_pb2 import Duration
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_commands import WorkflowCommand
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment
from temporalio.worker._workflow_instance import (
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
)

from activities.doorbell import FACTS_SIGNAL
from activities.late_answers import late_answer
from tests.simulation.clock import VirtualLoop
from tests.simulation.lane import RatedQueue
from tests.simulation.processes import Process

EVENTS_PER_ACTIVATION = 3
START_TO_CLOSE, SCHEDULE_TO_START, HEARTBEAT = 1, 2, 4
_DEFAULT_INFO = vars(ActivityEnvironment.default_info())


class NotDeterministic(AssertionError):
    """A replay gave other commands than the first run (I16)."""


@dataclass
class Run:
    """One run of one workflow and its history."""

    workflow_id: str
    run_id: str
    kind: str
    argument: Any
    instance: WorkflowInstance | None = None
    history: list[tuple[Any, tuple[Any, ...]]] = field(default_factory=list)
    jobs: list[Any] = field(default_factory=list)
    timers: dict[int, asyncio.TimerHandle] = field(default_factory=dict)
    steps: dict[int, Step] = field(default_factory=dict)
    is_woken: bool = False
    is_closed: bool = False
    result: Any = None
    failure: str = ""
    events: int = 0


@dataclass
class Step:
    """One scheduled activity of a run."""

    run: Run
    seq: int
    name: str
    queue: str
    scheduled_at: datetime
    argument: Any
    wait_s: float | None
    limit_s: float
    beat_s: float
    first_s: float
    longest_s: float
    factor: float
    attempts_max: int
    priority: int = 0
    task: asyncio.Task[None] | None = None
    is_started: bool = False
    is_done: bool = False


class Server:
    """One namespace.

    Args:
        loop: gives the time.
        workflows: classes by their registered names.
        converter: payloads of everything that travels.
        lag_s: draws the seconds of one hop; its argument names the occasion.
        on_closed: told when a run has ended for good.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        workflows: Mapping[str, type],
        converter: temporalio.converter.PayloadConverter,
        lag_s: Callable[[str], float],
        on_closed: Callable[[Run], None] = lambda run: None,
    ) -> None:
        self._loop = loop
        self._definitions = {
            name: temporalio.workflow._Definition.must_from_class(cls)
            for name, cls in workflows.items()
        }
        self.converter = converter
        self._lag_s = lag_s
        self._on_closed = on_closed
        self._runner = UnsandboxedWorkflowRunner()
        self.queues: dict[str, Process | None] = {}
        self.lanes: dict[str, RatedQueue] = {}
        self._up = asyncio.Event()
        self.runs: list[Run] = []
        self._open: dict[str, Run] = {}
        self.is_down = False
        self.replays = 0
        self.continued = 0
        self.history_wish = 0
        self.lose_task: Callable[[], bool] = lambda: False
        self.tasks_failed: list[str] = []

    # --- what clients ask -------------------------------------------------------------------------

    def start(self, kind: str, argument: Any, workflow_id: str) -> Run:
        """Starts a workflow.

        Raises:
            WorkflowAlreadyStartedError: there is an open run.
        """
        if workflow_id in self._open:
            raise WorkflowAlreadyStartedError(workflow_id, kind)
        return self._new_run(kind, argument, workflow_id)

    def _new_run(self, kind: str, argument: Any, workflow_id: str) -> Run:
        run = Run(workflow_id, f"run-{len(self.runs) + 1}", kind, argument)
        self.runs.append(run)
        self._open[workflow_id] = run
        job = activation.WorkflowActivationJob()
        job.initialize_workflow.workflow_type = kind
        job.initialize_workflow.workflow_id = workflow_id
        job.initialize_workflow.arguments.extend(self.converter.to_payloads([argument]))
        self._push(run, job)
        return run

    def is_open(self, workflow_id: str) -> bool:
        return workflow_id in self._open

    def newest(self, workflow_id: str) -> Run:
        return next(run for run in reversed(self.runs) if run.workflow_id == workflow_id)

    def signal(self, workflow_id: str, name: str, argument: Any) -> None:
        """Buffers a signal.

        Raises:
            RPCError: NOT_FOUND, no open run; UNAVAILABLE, the server is away.
        """
        if self.is_down:
            raise RPCError("the server is away", RPCStatusCode.UNAVAILABLE, b"")
        run = self._open.get(workflow_id)
        if run is None:
            raise RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")
        job = activation.WorkflowActivationJob()
        job.signal_workflow.signal_name = name
        job.signal_workflow.input.extend(self.converter.to_payloads([argument]))
        self._push(run, job)

    def update(self, workflow_id: str, name: str, argument: Any) -> None:
        """Sends an update; its answer is not waited for."""
        run = self._open.get(workflow_id)
        if run is None:
            return
        job = activation.WorkflowActivationJob()
        job.do_update.id = job.do_update.protocol_instance_id = f"update-{run.events}"
        job.do_update.name = name
        job.do_update.run_validator = True
        job.do_update.input.extend(self.converter.to_payloads([argument]))
        self._push(run, job)

    def fail_over(self, down: bool) -> None:
        """The server goes away, or comes back on its store: nothing is lost, nothing moves."""
        self.is_down = down
        if not down:
            self.wake_all()
            for lane in self.lanes.values():
                lane.wake()

    # --- workers ----------------------------------------------------------------------------------

    def limit(self, queue: str, gap_s: float, burst: int) -> None:
        """Whoever polls this queue keeps to a rate."""
        polled = partial(self._is_polled, queue)
        self.lanes[queue] = RatedQueue(self._loop, gap_s, burst, polled)

    def serve(self, queue: str, process: Process | None) -> None:
        """This process polls the queue from now on; None: nobody does."""
        self.queues[queue] = process
        if process is not None:
            self._up.set()
            self._up = asyncio.Event()
            self.wake_all()
            if queue in self.lanes:
                self.lanes[queue].wake()

    def forget_workflows(self) -> None:
        """The workflow process died or its cache was emptied: the next task replays."""
        for run in self._open.values():
            self._evict(run)

    def _evict(self, run: Run) -> None:
        instance, run.instance = run.instance, None
        if instance is None:
            return
        gone = activation.WorkflowActivation(run_id=run.run_id)
        job = gone.jobs.add()
        job.remove_from_cache.message = "simulated"
        self._activate_in(instance, gone)

    def wake_all(self) -> None:
        for run in list(self._open.values()):
            if run.jobs:
                self._wake(run)

    # --- workflow tasks ---------------------------------------------------------------------------

    def _push(self, run: Run, job: Any) -> None:
        run.jobs.append(job)
        run.events += 1
        self._wake(run)

    def _wake(self, run: Run) -> None:
        if not run.is_woken and not run.is_closed:
            run.is_woken = True
            self._loop.call_later(self._lag_s("workflow task"), self._workflow_task, run)

    def _workflow_task(self, run: Run) -> None:
        """One workflow task: activation in, commands out, both into the history."""
        run.is_woken = False
        if run.is_closed or not run.jobs or self.is_down or self.queues.get("trade") is None:
            return
        if run.instance is None:
            run.instance = self._replayed(run)
        act = activation.WorkflowActivation(run_id=run.run_id, jobs=run.jobs)
        now = self._loop.now()
        act.timestamp.seconds = int(now.timestamp())
        act.timestamp.nanos = now.microsecond * 1000
        act.history_length = run.events
        if self.lose_task():
            # The process dies with the answer in its hands: the server never heard of it.
            self._activate_in(run.instance, act)
            self._evict(run)
            self._wake(run)
            return
        run.jobs = []
        completion = self._activate_in(run.instance, act)
        if completion.HasField("failed"):
            self.tasks_failed.append(f"{run.workflow_id}: {completion.failed.failure.message}")
            run.is_closed = True
            return
        commands = tuple(completion.successful.commands)
        run.events += EVENTS_PER_ACTIVATION - 1 + len(commands)
        run.history.append((act, commands))
        for command in commands:
            self._obey(run, command)

    def _activate_in(self, instance: WorkflowInstance, act: Any) -> Any:
        """The instance is an event loop of its own; ours is put aside meanwhile."""
        ours = asyncio.get_running_loop()
        try:
            return instance.activate(act)
        finally:
            asyncio._set_running_loop(ours)

    def _replayed(self, run: Run) -> WorkflowInstance:
        """A new instance that has seen the whole history, with the same commands."""
        instance = self._runner.create_instance(self._details(run))
        if run.history:
            self.replays += 1
        for act, commands in run.history:
            again = activation.WorkflowActivation()
            again.CopyFrom(act)
            again.is_replaying = True
            completion = self._activate_in(instance, again)
            if completion.HasField("failed"):
                raise NotDeterministic(f"{run.workflow_id}: {completion.failed.failure.message}")
            now = [self._plain(command) for command in completion.successful.commands]
            then = [self._plain(command) for command in commands]
            if now != then:
                raise NotDeterministic(f"{run.workflow_id}: was {then}, replayed {now}")
        return instance

    def _plain(self, command: WorkflowCommand) -> tuple[Any, ...]:
        """A command with its arguments as values: references differ from run to run."""
        kind = command.WhichOneof("variant") or ""
        body = getattr(command, kind)
        if kind == "schedule_activity":
            arguments = self.converter.from_payloads(list(body.arguments))
            return kind, body.seq, body.activity_type, arguments
        if kind == "start_timer":
            return kind, body.seq, body.start_to_fire_timeout.ToNanoseconds()
        return kind, getattr(body, "seq", 0)

    def _details(self, run: Run) -> WorkflowInstanceDetails:
        now = self._loop.now()
        info = temporalio.workflow.Info(
            attempt=1,
            continued_run_id=None,
            cron_schedule=None,
            execution_timeout=None,
            first_execution_run_id=run.run_id,
            headers={},
            namespace="simulation",
            original_execution_run_id=run.run_id,
            parent=None,
            root=None,
            raw_memo={},
            retry_policy=None,
            run_id=run.run_id,
            run_timeout=None,
            search_attributes={},
            start_time=now,
            workflow_start_time=now,
            task_queue="trade",
            task_timeout=timedelta(seconds=3),
            typed_search_attributes=temporalio.common.TypedSearchAttributes([]),
            workflow_id=run.workflow_id,
            workflow_type=run.kind,
            priority=temporalio.common.Priority.default,
        )
        return WorkflowInstanceDetails(
            payload_converter_factory=lambda: self.converter,
            failure_converter_class=temporalio.converter.DefaultFailureConverter,
            interceptor_classes=(),
            defn=self._definitions[run.kind],
            info=info,
            randomness_seed=1,
            extern_functions={},
            disable_eager_activity_execution=False,
            worker_level_failure_exception_types=(),
            patch_activation_callback=None,
            last_completion_result=temporalio.api.common.v1.Payloads(),
            last_failure=None,
        )

    # --- commands ---------------------------------------------------------------------------------

    def _obey(self, run: Run, command: WorkflowCommand) -> None:
        kind = command.WhichOneof("variant")
        body: Any = getattr(command, kind or "")
        if kind == "schedule_activity":
            self._schedule(run, body)
        elif kind == "start_timer":
            wait_s = _seconds(body.start_to_fire_timeout)
            run.timers[body.seq] = self._loop.call_later(wait_s, self._fire, run, body.seq)
        elif kind == "cancel_timer":
            # One that fired in the same task is cancelled in vain, as at the real server.
            timer = run.timers.pop(body.seq, None)
            if timer is not None:
                timer.cancel()
        elif kind == "request_cancel_activity":
            self._cancel(run, body.seq)
        elif kind == "continue_as_new_workflow_execution":
            self._close(run)
            self.continued += 1
            types = self._definitions[run.kind].arg_types
            argument = self.converter.from_payloads(list(body.arguments), types)[0]
            self._new_run(run.kind, argument, run.workflow_id)
        elif kind == "complete_workflow_execution":
            kept = self._definitions[run.kind].ret_type
            types = None if kept is None else [kept]
            run.result = self.converter.from_payloads([body.result], types)[0]
            self._close(run)
            self._on_closed(run)
        elif kind == "fail_workflow_execution":
            run.failure = body.failure.message
            self._close(run)
            self._on_closed(run)

    def _close(self, run: Run) -> None:
        run.is_closed = True
        del self._open[run.workflow_id]
        for timer in run.timers.values():
            timer.cancel()
        self._evict(run)

    def _fire(self, run: Run, seq: int) -> None:
        del run.timers[seq]
        job = activation.WorkflowActivationJob()
        job.fire_timer.seq = seq
        self._push(run, job)

    def _cancel(self, run: Run, seq: int) -> None:
        """An activity that nobody has taken is cancelled at once; a running one never hears it."""
        step = run.steps[seq]
        if step.is_started or step.is_done:
            return
        assert step.task is not None
        step.task.cancel()
        failure = Failure(message="Activity cancelled")
        failure.cause.canceled_failure_info.SetInParent()
        failure.activity_failure_info.activity_type.name = step.name
        self._resolve(step, "cancelled", failure)

    # --- activities -------------------------------------------------------------------------------

    def _schedule(self, run: Run, body: Any) -> None:
        policy = body.retry_policy
        waits = body.HasField("schedule_to_start_timeout")
        step = Step(
            run=run,
            seq=body.seq,
            name=body.activity_type,
            queue=body.task_queue,
            scheduled_at=self._loop.now(),
            argument=self.converter.from_payloads(
                list(body.arguments), self._types.get(body.activity_type)
            )[0],
            wait_s=_seconds(body.schedule_to_start_timeout) if waits else None,
            limit_s=_seconds(body.start_to_close_timeout),
            beat_s=_seconds(body.heartbeat_timeout),
            first_s=_seconds(policy.initial_interval),
            longest_s=_seconds(policy.maximum_interval),
            factor=policy.backoff_coefficient,
            attempts_max=policy.maximum_attempts,
            priority=body.priority.priority_key,
        )
        run.steps[body.seq] = step
        step.task = self._loop.create_task(self._work(step))

    _types: Mapping[str, list[type]] = {}

    def knows_types(self, types: Mapping[str, list[type]]) -> None:
        """Argument types of activities, for the JSON converter."""
        self._types = types

    async def _work(self, step: Step) -> None:
        """Attempts until one answers, the policy ends, or nobody took it in time."""
        await asyncio.sleep(self._lag_s("activity"))
        attempt, backoff_s = 0, step.first_s
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(step.wait_s if attempt == 1 else None):
                    process = await self._taken(step)
            except TimeoutError:
                self._resolve(step, "failed", _timed_out(step, SCHEDULE_TO_START))
                return
            step.is_started = True
            answer = self._loop.create_future()
            task = process.spawn(self._attempt(process, step, attempt, answer))
            task.add_done_callback(partial(self._dead, step, answer))
            try:
                async with asyncio.timeout(step.limit_s):
                    done, error = await answer
            except TimeoutError:
                done, error = None, _timed_out(step, START_TO_CLOSE)
            while self.is_down:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.25)
            if error is None:
                self._resolve(step, "completed", done)
                return
            if attempt == step.attempts_max:
                self._resolve(step, "failed", error)
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * step.factor, step.longest_s or 100.0)

    async def _taken(self, step: Step) -> Process:
        """The process that takes the step, when its queue lets it go and somebody polls."""
        lane = self.lanes.get(step.queue)
        if lane is not None:
            await lane.turn(step.priority)
        while True:
            process = self._poller(step.queue)
            if process is not None:
                return process
            waiting = self._up
            if self.is_down:
                await asyncio.sleep(0.25)
            else:
                await waiting.wait()

    def _is_polled(self, queue: str) -> bool:
        return self._poller(queue) is not None

    def _poller(self, queue: str) -> Process | None:
        return None if self.is_down else self.queues.get(queue)

    async def _attempt(
        self, process: Process, step: Step, attempt: int, answer: asyncio.Future[Any]
    ) -> None:
        """Runs the real body in an activity context; a dead process answers nothing."""
        context = _context_of(step, attempt, Client(self))
        token = temporalio.activity._Context.set(context)
        try:
            process.failpoint("before_body")
            stall_s = process.stall_s()
            if stall_s:
                # The whole process is frozen: no beat of it is heard either.
                missed = self._loop.call_later(step.beat_s, self._miss, step, answer)
                await asyncio.sleep(stall_s)
                missed.cancel()
            result, error = await process.bodies[step.name](step.argument), None
            process.failpoint("before_complete")
        except Exception as raised:
            result, error = None, _failed(step, raised)
        finally:
            temporalio.activity._Context.reset(token)
        await asyncio.sleep(self._lag_s("completion"))
        if not process.is_alive:
            return
        if not answer.done():
            answer.set_result((result, error))
        elif step.run.kind == "Trade" and not self.is_down and self.is_open(step.run.workflow_id):
            # As the gateway's interceptor does for a step that the server has given up.
            late = late_answer(_info_of(step, attempt), self._loop.now())
            self.signal(step.run.workflow_id, FACTS_SIGNAL, late)

    def _dead(self, step: Step, answer: asyncio.Future[Any], _task: asyncio.Task[None]) -> None:
        """The attempt has ended. Without an answer its process has died: beats are due in vain."""
        if not answer.done():
            self._loop.call_later(step.beat_s, self._miss, step, answer)

    def _miss(self, step: Step, answer: asyncio.Future[Any]) -> None:
        """A process whose beats are not heard is missed long before its step is due."""
        if step.beat_s and not answer.done():
            answer.set_result((None, _timed_out(step, HEARTBEAT)))

    def _resolve(self, step: Step, how: str, value: Any) -> None:
        step.is_done = True
        if step.run.is_closed:
            return
        job = activation.WorkflowActivationJob()
        job.resolve_activity.seq = step.seq
        result = job.resolve_activity.result
        if how == "completed":
            result.completed.result.CopyFrom(self.converter.to_payloads([value])[0])
        elif how == "failed":
            result.failed.failure.CopyFrom(value)
        else:
            result.cancelled.failure.CopyFrom(value)
        self._push(step.run, job)


def _seconds(duration: Duration) -> float:
    return (duration.seconds * 1_000_000_000 + duration.nanos) / 1e9


def _timed_out(step: Step, kind: int) -> Failure:
    failure = Failure(message="activity timed out")
    failure.cause.message = "activity timed out"
    failure.cause.timeout_failure_info.timeout_type = kind  # type: ignore[assignment]
    failure.activity_failure_info.activity_type.name = step.name
    return failure


def _failed(step: Step, raised: Exception) -> Failure:
    failure = Failure(message="activity failed")
    failure.cause.message = str(raised)[:300]
    kind = raised.type if isinstance(raised, ApplicationError) else type(raised).__name__
    failure.cause.application_failure_info.type = kind or ""
    failure.activity_failure_info.activity_type.name = step.name
    return failure


_NEVER = temporalio.common._CompositeEvent(thread_event=threading.Event(), async_event=None)


def _context_of(step: Step, attempt: int, client: Any) -> temporalio.activity._Context:
    info = _info_of(step, attempt)
    return temporalio.activity._Context(
        info=lambda: info,
        heartbeat=None,
        cancelled_event=_NEVER,
        worker_shutdown_event=_NEVER,
        shield_thread_cancel_exception=None,
        payload_converter_class_or_instance=temporalio.converter.DefaultPayloadConverter,
        runtime_metric_meter=None,
        client=client,
        cancellation_details=temporalio.activity._ActivityCancellationDetailsHolder(),
    )


def _info_of(step: Step, attempt: int) -> temporalio.activity.Info:
    # Its own __init__ sets thirty frozen fields one by one, for each attempt.
    info = object.__new__(temporalio.activity.Info)
    vars(info).update(
        _DEFAULT_INFO,
        activity_id=str(step.seq),
        activity_type=step.name,
        attempt=attempt,
        workflow_id=step.run.workflow_id,
        workflow_run_id=step.run.run_id,
        scheduled_time=step.scheduled_at,
    )
    return info


# --- the client that activities get ---------------------------------------------------------------


class Handle:
    """As much of a workflow handle as activities use."""

    def __init__(self, server: Server, workflow_id: str, client: Client) -> None:
        self._server = server
        self.id = workflow_id
        self._client = client

    async def signal(self, name: str, argument: Any, **_options: Any) -> None:
        await asyncio.sleep(self._server._lag_s("signal"))
        self._client.check()
        self._server.signal(self.id, name, argument)

    async def describe(self) -> _Described:
        self._client.check()
        return _Described(self._server.is_open(self.id))

    async def query(self, name: Any, *_arguments: Any, **_options: Any) -> Any:
        """Queries are not simulated: as at a worker that does not answer."""
        raise RPCError("no answer", RPCStatusCode.DEADLINE_EXCEEDED, b"")

    async def fetch_history_events(self, **_options: Any) -> Any:
        """The first event of the newest run."""
        run = self._server.newest(self.id)
        yield _Started(run.argument)


class _Described:
    """Status and search attributes of a workflow."""

    def __init__(self, is_open: bool) -> None:
        status = WorkflowExecutionStatus
        self.status = status.RUNNING if is_open else status.COMPLETED
        self.typed_search_attributes = temporalio.common.TypedSearchAttributes.empty


class _Started:
    """A start event: its payloads are the argument itself, which the client decodes to itself."""

    def __init__(self, argument: Any) -> None:
        self.workflow_execution_started_event_attributes = self
        self.input = self
        self.payloads = [argument]


class Client:
    """As much of `temporalio.client.Client` as activities use; a dead process has no line."""

    def __init__(self, server: Server, process: Process | None = None) -> None:
        self._server = server
        self._process = process
        self.data_converter = self
        self.namespace = "simulation"

    def with_context(self, _context: object) -> Client:
        """What is read is the same everywhere: nothing is sealed here."""
        return self

    def check(self) -> None:
        """Raises RPCError UNAVAILABLE where nothing can be asked."""
        is_dead = self._process is not None and not self._process.is_alive
        if is_dead or self._server.is_down:
            raise RPCError("the server is away", RPCStatusCode.UNAVAILABLE, b"")

    def get_workflow_handle(self, workflow_id: str) -> Handle:
        return Handle(self._server, workflow_id, self)

    async def start_workflow(self, kind: str, argument: Any, *, id: str, **_options: Any) -> None:
        await asyncio.sleep(self._server._lag_s("start"))
        self.check()
        self._server.start(kind, argument, id)

    async def decode(self, payloads: Sequence[Any], _types: Sequence[type]) -> list[Any]:
        return list(payloads)
