"""The order lane's token bucket: a rest is kept, a burst is bounded, what polls costs nothing."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.temporal.lane_pace import LanePace
from tests.simulation.clock import VirtualLoop, run_virtual

D = Decimal
TRADIER = (D("0.25"), 6)


class Lane:
    """A lane in virtual time whose steps take no time unless told otherwise."""

    def __init__(self, loop: VirtualLoop, per_second: Decimal, burst: int, slots: int = 16) -> None:
        self.loop = loop
        self.pace = LanePace(per_second, burst, slots, monotonic=loop.time)
        self.began_s: list[float] = []

    async def hold(self) -> Any:
        return await self.pace.reserve_slot(cast(Any, None))

    def use(self, permit: Any) -> None:
        self.pace.mark_slot_used(_Context(permit))  # type: ignore[arg-type]
        self.began_s.append(round(self.loop.time(), 3))

    def release(self, permit: Any) -> None:
        self.pace.release_slot(_Context(permit))  # type: ignore[arg-type]

    async def step(self, takes_s: float = 0.0) -> None:
        permit = await self.hold()
        self.use(permit)
        await asyncio.sleep(takes_s)
        self.release(permit)


class _Context:
    def __init__(self, permit: Any) -> None:
        self.permit = permit


def play(work: Any, per_second: Decimal, burst: int, slots: int = 16) -> Lane:
    loop = VirtualLoop()
    lane = Lane(loop, per_second, burst, slots)
    run_virtual(work(lane), loop)
    return lane


@pytest.mark.covers("F8", "K3")
def test_rested_lane_lets_its_burst_go_at_once_and_then_keeps_the_rate() -> None:
    async def work(lane: Lane) -> None:
        await asyncio.gather(*(lane.step() for _ in range(9)))

    lane = play(work, *TRADIER)
    assert lane.began_s[:6] == [0.0] * 6
    assert lane.began_s[6:] == pytest.approx([4.0, 8.0, 12.0], abs=0.05)


def test_poll_that_brings_nothing_costs_nothing() -> None:
    async def work(lane: Lane) -> None:
        for _ in range(20):
            lane.release(await lane.hold())
        await asyncio.gather(*(lane.step() for _ in range(6)))

    assert play(work, *TRADIER).began_s == [0.0] * 6


def test_lane_is_not_deaf_until_its_next_token_when_a_poll_gives_its_permit_back() -> None:
    """At a step in a hundred seconds nobody polled for up to that long, a token in the bucket."""

    async def work(lane: Lane) -> None:
        await asyncio.gather(lane.step(), lane.step())
        await asyncio.sleep(150.0)
        polling = await lane.hold()
        waiting = asyncio.create_task(lane.hold())
        await asyncio.sleep(1.0)
        assert not waiting.done()
        lane.release(polling)
        await asyncio.sleep(1.1)
        assert waiting.done()
        waiting.cancel()

    play(work, D("0.01"), 2)


def test_waiting_polls_hold_no_more_than_may_go_at_once() -> None:
    async def work(lane: Lane) -> None:
        held = [asyncio.create_task(lane.hold()) for _ in range(10)]
        await asyncio.sleep(3600.0)
        assert sum(task.done() for task in held) == 6
        for task in held:
            if task.done():
                lane.use(task.result())
        await asyncio.sleep(4.1)
        assert sum(task.done() for task in held) == 7

    play(work, *TRADIER)


def test_no_more_steps_run_at_once_than_there_are_slots() -> None:
    async def work(lane: Lane) -> None:
        await asyncio.gather(*(lane.step(takes_s=1.0) for _ in range(6)))

    lane = play(work, D(100), 50, 2)
    assert [round(each) for each in lane.began_s] == [0, 0, 1, 1, 2, 2]


def test_nothing_goes_past_the_queue_as_an_eager_step() -> None:
    pace = LanePace(D(1), 5, 16)
    assert pace.try_reserve_slot(cast(Any, None)) is None


@given(
    per_second=st.sampled_from((D("0.25"), D("0.5"), D("0.8333"), D(5))),
    burst=st.integers(2, 20),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=40),
)
def test_no_minute_has_more_steps_than_the_burst_and_a_minute_of_the_rate(
    per_second: Decimal, burst: int, gaps: list[float]
) -> None:
    """F8: whatever comes when, the broker's limit holds."""

    async def work(lane: Lane) -> None:
        steps = []
        for gap_s in gaps:
            await asyncio.sleep(gap_s)
            steps += [asyncio.create_task(lane.step()) for _ in range(4)]
        await asyncio.gather(*steps)

    began_s = play(work, per_second, burst, 64).began_s
    most = max(sum(first <= each < first + 60 for each in began_s) for first in began_s)
    assert most <= burst + float(per_second) * 60 + 1
