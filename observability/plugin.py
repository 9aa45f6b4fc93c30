"""One plugin builds the runtime (style.md rule 31).

Client, worker, replayer and tests all take `holdfast_plugin()`, so that none of them can differ
in data converter, sandbox or interceptors: a replay test with another converter proves nothing.
Give it to the client only; workers made from that client inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import temporalio.activity
import temporalio.client
import temporalio.worker
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import DataConverter
from temporalio.plugin import SimplePlugin
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
    WorkflowRunner,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy, _Definition

from observability.failpoints import Failpoints, parse_failpoints
from observability.payload_codec import HoldfastCodec
from observability.payload_converter import (
    HoldfastDataConverter,
    HoldfastFailureConverter,
    HoldfastPayloadConverter,
    SealingFailureConverter,
)
from observability.symbol_guard import SymbolGuard

PLUGIN_NAME = "holdfast"

# Pure or signature-only code: shared with the host instead of being imported again for every
# workflow run (measured: 39 -> 3 ms CPU per start, style.md §5b).
PASSED_THROUGH = ("domain", "activities", "brokers.port", "workflows._lifecycle")

AnyInterceptor = temporalio.client.Interceptor | temporalio.worker.Interceptor


def holdfast_plugin(
    *,
    interceptors: Sequence[AnyInterceptor] = (),
    failpoints: Failpoints | None = None,
    sandboxed_for: Sequence[str] | None = None,
    codec: HoldfastCodec | None = None,
) -> SimplePlugin:
    """The one runtime definition of Holdfast.

    Args:
        interceptors: For example the tracing interceptor of `observability.tracing`.
        failpoints: Test kill points; read from the environment when not given, and inert there
            unless `HOLDFAST_FAILPOINT` is set.
        sandboxed_for: None, as in production: workflows run without a sandbox (ADR 0018). Tests
            sandbox them and name the modules of a test framework that test workflows import.
        codec: Seals payloads if it has keys. Without one nothing is sealed.
    """
    sealing = HoldfastCodec() if codec is None else codec
    points = parse_failpoints(os.environ) if failpoints is None else failpoints
    all_interceptors: list[AnyInterceptor] = list(interceptors)
    runner: WorkflowRunner = (
        UnsandboxedWorkflowRunner() if sandboxed_for is None else sandboxed_runner(sandboxed_for)
    )
    if sealing.seals:
        all_interceptors.append(SymbolGuard())
    if points:
        all_interceptors.append(FailpointInterceptor(points))
        runner = _FailpointRunner(runner, points)
    return SimplePlugin(
        PLUGIN_NAME,
        data_converter=converter_of(sealing),
        interceptors=all_interceptors,
        workflow_runner=runner,
    )


def converter_of(codec: HoldfastCodec) -> DataConverter:
    """Pydantic, then the codec; with keys the texts and stacks of failures are sealed too."""
    return HoldfastDataConverter(
        payload_converter_class=HoldfastPayloadConverter,
        failure_converter_class=(
            SealingFailureConverter if codec.seals else HoldfastFailureConverter
        ),
        payload_codec=replace(codec, defers=True),
    )


def sandboxed_runner(also_passed_through: Sequence[str]) -> SandboxedWorkflowRunner:
    """The SDK's sandbox; a module that a workflow imports without passing it through is an error.

    What the sandbox refuses (clock, randomness, I/O of other modules) a test then sees.
    """
    restrictions = SandboxRestrictions.default.with_passthrough_modules(
        *PASSED_THROUGH, *also_passed_through
    ).with_import_notification_policy(
        SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
    )
    return SandboxedWorkflowRunner(restrictions=restrictions)


class FailpointInterceptor(temporalio.worker.Interceptor):
    """Passes `<activity>.enter` before and `<activity>.exit` after each activity body."""

    def __init__(self, failpoints: Failpoints) -> None:
        self._failpoints = failpoints

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _FailpointActivity(next, self._failpoints)


class _FailpointActivity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, failpoints: Failpoints) -> None:
        super().__init__(next)
        self._failpoints = failpoints

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        name = temporalio.activity.info().activity_type
        await self._failpoints.reach(f"{name}.enter")
        result = await super().execute_activity(input)
        # The work is done and nobody has been told yet: the classic place to die.
        await self._failpoints.reach(f"{name}.exit")
        return result


class _FailpointRunner(WorkflowRunner):
    """Counts activations around the real runner; only in use while a failpoint is set."""

    def __init__(self, inner: WorkflowRunner, failpoints: Failpoints) -> None:
        self._inner = inner
        self._failpoints = failpoints

    def prepare_workflow(self, defn: _Definition) -> None:
        self._inner.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        instance = self._inner.create_instance(det)
        activate: Callable[[WorkflowActivation], WorkflowActivationCompletion] = instance.activate

        def counted(act: WorkflowActivation) -> WorkflowActivationCompletion:
            place = _place_of(act)
            self._failpoints.hit(place)
            completion = activate(act)
            self._failpoints.hit(f"{place}.exit")
            return completion

        setattr(instance, "activate", counted)  # noqa: B010 - mypy forbids the plain form
        return instance

    def set_worker_level_failure_exception_types(
        self, types: Sequence[type[BaseException]]
    ) -> None:
        self._inner.set_worker_level_failure_exception_types(types)


def _place_of(act: WorkflowActivation) -> str:
    """What an activation is for: new work, work done again from history, or leaving the cache."""
    if all(job.HasField("remove_from_cache") for job in act.jobs):
        return "eviction"
    return "replay" if act.is_replaying else "activation"
