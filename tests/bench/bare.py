"""A bare workflow with the steps of the standard trade and nothing behind them: the yardstick.

Same server, same worker kinds (versioned workflow worker with its own bookkeeping queue, an
unversioned lane of its own for order steps), same number of activities, timers and signals, same
things side by side. Its activities return at once: no ledger, no broker, no decision.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import (
    RetryPolicy,
    VersioningBehavior,
    WorkerDeploymentVersion,
)
from temporalio.worker import Worker, WorkerDeploymentConfig

from deploy.temporal.versions import set_current_version
from domain.base import Frozen
from tests.bench.figures import until

LANE = "bench-bare-lane"
QUEUE = "bench-bare"
DEADLINE_S = 30.0
STEP_TIMEOUT = timedelta(seconds=5)
# A step that is lost on a busy machine comes again, where one attempt would leave a hole for ever.
RETRIED = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1)


class Step(Frozen):
    """What happens side by side: a wait for a signal first, then activities and a timer."""

    lane: int = 0
    bookkeeping: int = 0
    timer_s: float = 0.0
    after_signal: bool = False


class BareInput(Frozen):
    name: str
    steps: tuple[Step, ...]


class BareNote(Frozen):
    """Stands for the order that an activity takes and the facts that it answers."""

    name: str
    text: str = ""


def standard_steps(interval_s: float) -> tuple[Step, ...]:
    """Gate, order, three walk steps, three exits, two ratchets of 2 and 1 orders, close."""
    walked = Step(lane=1, timer_s=interval_s)
    return (
        Step(lane=1),
        walked,
        walked,
        walked,
        Step(lane=1),
        Step(lane=3),
        Step(lane=2, after_signal=True),
        Step(lane=1, after_signal=True),
        Step(lane=1, after_signal=True),
        Step(bookkeeping=1),
    )


@workflow.defn(name="BenchBare", versioning_behavior=VersioningBehavior.PINNED)
class BareWorkflow:
    """Runs the steps in order."""

    def __init__(self) -> None:
        self._signals = 0

    @workflow.run
    async def run(self, input: BareInput) -> str:
        used = 0
        for step in input.steps:
            if step.after_signal:
                used += 1
                await self._signalled(used)
            waits = [self._activity(input.name, LANE) for _ in range(step.lane)]
            waits += [self._activity(input.name, None) for _ in range(step.bookkeeping)]
            if step.timer_s:
                waits.append(asyncio.create_task(workflow.sleep(step.timer_s)))
            await asyncio.gather(*waits)
        return input.name

    async def _signalled(self, times: int) -> None:
        await workflow.wait_condition(lambda: self._signals >= times)

    def _activity(self, name: str, queue: str | None) -> asyncio.Task[None]:
        async def call() -> None:
            await workflow.execute_activity(
                "bench_bare_step",
                BareNote(name=name),
                task_queue=queue,
                start_to_close_timeout=STEP_TIMEOUT,
                retry_policy=RETRIED,
                result_type=BareNote,
            )

        return asyncio.create_task(call())

    @workflow.signal
    def go(self, note: BareNote) -> None:
        self._signals += 1


class BareRunner:
    """Starts bare workflows and rings them when their steps before a signal are done."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._done: Counter[str] = Counter()

    @activity.defn(name="bench_bare_step")
    async def step(self, note: BareNote) -> BareNote:
        self._done[note.name] += 1
        return note

    async def run(self, name: str, steps: tuple[Step, ...]) -> float:
        """Wall seconds from start to result."""
        started = time.perf_counter()
        handle = await self._client.start_workflow(
            BareWorkflow.run,
            BareInput(name=name, steps=steps),
            id=f"bench-bare/{name}",
            task_queue=QUEUE,
            task_timeout=timedelta(seconds=3),
        )
        before = 0
        for step in steps:
            if step.after_signal:
                await self._until_done(name, before)
                await handle.signal(BareWorkflow.go, BareNote(name=name))
            before += step.lane + step.bookkeeping
        async with asyncio.timeout(DEADLINE_S):
            await handle.result()
        return time.perf_counter() - started

    async def _until_done(self, name: str, count: int) -> None:
        await until(lambda: self._done[name] >= count, f"{count} steps of {name}")


@asynccontextmanager
async def running_bare(
    client: Client, runner: BareRunner | None = None
) -> AsyncIterator[BareRunner]:
    """Workers of the same kinds as a trade has."""
    runner = runner or BareRunner(client)
    version = WorkerDeploymentVersion(deployment_name="bench-bare", build_id="1")
    deployment = WorkerDeploymentConfig(version=version, use_worker_versioning=True)
    workflows = Worker(
        client,
        task_queue=QUEUE,
        workflows=[BareWorkflow],
        activities=[runner.step],
        deployment_config=deployment,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )
    async with workflows, Worker(client, task_queue=LANE, activities=[runner.step]):
        await set_current_version(client, "1", deployment="bench-bare")
        yield runner
