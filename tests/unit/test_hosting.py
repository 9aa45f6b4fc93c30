"""Long work that ends as a whole: by an error, by its own end, and by a cancellation always."""

from __future__ import annotations

import asyncio

import pytest

from activities.hosting import run_until_one_ends
from activities.lease import LeaseLost


async def endless(log: list[str], name: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        log.append(name)


async def lost_at(moment: asyncio.Event) -> None:
    await moment.wait()
    raise LeaseLost("lease")


async def lead_for_ever(log: list[str], moment: asyncio.Event) -> None:
    """As a streamer does: a lost lease is no end."""
    while True:
        try:
            await run_until_one_ends([lost_at(moment), endless(log, "job")])
        except LeaseLost:
            log.append("lost")
            moment.clear()


async def test_error_of_one_takes_the_others_back_and_is_raised() -> None:
    log: list[str] = []
    moment = asyncio.Event()
    moment.set()
    with pytest.raises(LeaseLost):
        await run_until_one_ends([endless(log, "a"), lost_at(moment), endless(log, "b")])
    assert log == ["a", "b"]


@pytest.mark.parametrize("turns", range(5))
async def test_cancellation_in_the_moment_of_an_error_ends_the_work(turns: int) -> None:
    """F1: both at once, and the cancellation some turns of the loop after the error."""
    log: list[str] = []
    moment = asyncio.Event()
    leading = asyncio.create_task(lead_for_ever(log, moment))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    moment.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    leading.cancel()
    done, _ = await asyncio.wait({leading}, timeout=5)
    assert done, "it leads on although it was cancelled"
    assert leading.cancelled()
    assert "job" in log
