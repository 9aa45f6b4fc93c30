"""Beats of the order lane: they come while a step runs, and what has begun ends by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
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


async def run(step: Step, late: list[str] | None = None) -> str:
    async def on_late(info: activity.Info) -> None:
        if late is not None:
            late.append(info.activity_type)

    interceptor = Beating(on_late).intercept_activity(step)
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


@pytest.mark.covers("C8")
@pytest.mark.parametrize("how", ["in time", "too long", "stood still", "not found"])
async def test_step_that_the_server_may_have_given_up_is_told(how: str) -> None:
    """I7: nobody hears its answer, and what it booked counts as told by it."""
    step, made = Step(), environment([], 0.04 if how == "stood still" else 60)
    late: list[str] = []
    limit_s = 0.02 if how == "too long" else 60
    made.info = dataclasses.replace(
        made.info, start_to_close_timeout=timedelta(seconds=limit_s), activity_type="walk_step"
    )
    running = asyncio.create_task(made.run(run, step, late))
    await step.began.wait()
    if how == "too long":
        await asyncio.sleep(0.03)
    elif how == "stood still":
        time.sleep(0.05)  # noqa: ASYNC251 - the whole process stands
    elif how == "not found":
        made.cancel(ActivityCancellationDetails(not_found=True))
        await asyncio.sleep(0)
    step.goes_on.set()
    assert await running == "told"
    await asyncio.sleep(0)
    assert late == ([] if how == "in time" else ["walk_step"])
