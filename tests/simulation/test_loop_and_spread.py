"""The virtual loop, work spread over processes, and a placement log that was cut."""

from __future__ import annotations

import asyncio
import operator
from pathlib import Path

import pytest

from tests.simulation.clock import Stuck, VirtualLoop, run_virtual
from tests.simulation.placements import _done
from tests.simulation.spread import spread


def test_timers_of_one_moment_run_in_the_order_of_arming() -> None:
    """The same calls give the same order: heaps alone would shuffle equal times."""
    told: list[int] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        handles = [loop.call_later(1.0, told.append, number) for number in range(20)]
        handles[7].cancel()
        loop.call_later(0.5, told.append, -1)
        await asyncio.sleep(1.0)

    run_virtual(play())
    assert told == [-1, *range(7), *range(8, 20)]


def test_time_jumps_to_the_next_timer_and_no_further() -> None:
    loop = VirtualLoop()

    async def play() -> tuple[float, float]:
        await asyncio.sleep(3600.0)
        before = loop.time()
        await asyncio.sleep(0)
        return before, loop.time()

    assert run_virtual(play(), loop) == (3600.0, 3600.0)


def test_waiting_for_nothing_is_told() -> None:
    loop = VirtualLoop()
    try:
        with pytest.raises(Stuck):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()


def test_an_error_in_a_callback_reaches_the_handler_and_the_loop_goes_on() -> None:
    loop = VirtualLoop()
    heard: list[object] = []
    loop.set_exception_handler(lambda _loop, context: heard.append(context.get("exception")))

    async def play() -> str:
        loop.call_soon(operator.truediv, 1, 0)
        await asyncio.sleep(1.0)
        return "went on"

    assert run_virtual(play(), loop) == "went on"
    assert [type(each) for each in heard] == [ZeroDivisionError]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_piece_is_done_once_wherever_it_runs(jobs: int) -> None:
    assert dict(spread(operator.neg, range(5), jobs)) == {n: -n for n in range(5)}


def test_a_log_whose_last_line_was_cut_is_continued(tmp_path: Path) -> None:
    log = tmp_path / "placements.jsonl"
    log.write_text('{"batch": 1, "broker": "alpaca"}\n{"batch": 1, "bro', encoding="utf-8")
    assert list(_done(log)) == [(1, "alpaca")]
    assert log.read_text(encoding="utf-8") == '{"batch": 1, "broker": "alpaca"}\n'
