"""Beats of the order lane: they come while a step runs, and what has begun ends by itself."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from observability import beating
from observability.beating import Beating


class Step(ActivityInboundInterceptor):
    """The body of an activity that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.began = asyncio.Event()

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        self.began.set()
        await self.goes_on.wait()
        return "told"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beating, "BEAT_EVERY_S", 0.001)


def environment(beats: list[object], timeout_s: float | None = 1) -> ActivityEnvironment:
    made = ActivityEnvironment()
    timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
    made.info = dataclasses.replace(made.info, heartbeat_timeout=timeout)
    made.on_heartbeat = lambda *_: beats.append(1)
    return made


async def run(step: Step) -> str:
    interceptor = Beating().intercept_activity(step)
    told = await interceptor.execute_activity(None)  # type: ignore[arg-type]
    return str(told)


@pytest.mark.covers("E1")
async def test_step_beats_while_it_runs_and_no_longer() -> None:
    step, made, beats = Step(), environment([]), asyncio.Semaphore(0)
    made.on_heartbeat = lambda *_: beats.release()
    running = asyncio.create_task(made.run(run, step))
    async with asyncio.timeout(30):
        for _ in range(3):
            await beats.acquire()
    step.goes_on.set()
    assert await running == "told"
    while not beats.locked():
        await beats.acquire()
    await asyncio.sleep(0.01)
    assert beats.locked()


async def test_activity_without_a_heartbeat_timeout_never_beats() -> None:
    beats: list[object] = []
    step = Step()
    running = asyncio.create_task(environment(beats, None).run(run, step))
    await step.began.wait()
    await asyncio.sleep(0.01)
    step.goes_on.set()
    assert await running == "told"
    assert beats == []


@pytest.mark.covers("C8")
async def test_step_that_is_taken_back_after_it_began_tells_what_came_of_it() -> None:
    """Cancelled must stay a proof that nothing was sent."""
    step, made = Step(), environment([])
    running = asyncio.create_task(made.run(run, step))
    await step.began.wait()
    made.cancel(ActivityCancellationDetails(cancel_requested=True))
    await asyncio.sleep(0.01)
    step.goes_on.set()
    assert await running == "told"


async def test_worker_that_shuts_down_ends_its_steps() -> None:
    step, made = Step(), environment([])
    running = asyncio.create_task(made.run(run, step))
    await step.began.wait()
    made.cancel(ActivityCancellationDetails(worker_shutdown=True))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 30)
