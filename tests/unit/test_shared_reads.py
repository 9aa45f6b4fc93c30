"""Reads that many make at once share a call and never see the past."""

from __future__ import annotations

import asyncio

import pytest

from brokers.shared_reads import SharedReads


class Venue:
    """Counts its calls; each answers its number when the gate opens."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()

    async def look(self) -> int:
        self.calls += 1
        number = self.calls
        await self.gate.wait()
        if number == 13:
            raise ConnectionError("unlucky")
        return number


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.covers("F8")
async def test_askers_during_a_running_call_share_the_next_one() -> None:
    shared, venue = SharedReads(), Venue()
    first = asyncio.create_task(shared.ask("orders", venue.look))
    await turns()
    assert venue.calls == 1
    later = [asyncio.create_task(shared.ask("orders", venue.look)) for _ in range(40)]
    await turns()
    assert venue.calls == 1, "the running call began before they asked"
    venue.gate.set()
    assert await first == 1
    assert await asyncio.gather(*later) == [2] * 40
    assert venue.calls == 2


async def test_different_questions_do_not_wait_for_each_other() -> None:
    shared, one, other = SharedReads(), Venue(), Venue()
    other.gate.set()
    waiting = asyncio.create_task(shared.ask("orders", one.look))
    await turns()
    assert await shared.ask("positions", other.look) == 1
    one.gate.set()
    assert await waiting == 1


async def test_answer_is_never_kept_for_the_next_asker() -> None:
    shared, venue = SharedReads(), Venue()
    venue.gate.set()
    assert [await shared.ask("orders", venue.look) for _ in range(3)] == [1, 2, 3]


async def test_one_who_leaves_does_not_end_the_call_for_the_others() -> None:
    shared, venue = SharedReads(), Venue()
    leaving = asyncio.create_task(shared.ask("orders", venue.look))
    staying = asyncio.create_task(shared.ask("orders", venue.look))
    await turns()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    venue.gate.set()
    assert await staying == 1


async def test_failure_is_told_to_all_who_share_and_the_next_call_is_fresh() -> None:
    shared, venue = SharedReads(), Venue()
    venue.calls = 12
    asking = [asyncio.create_task(shared.ask("orders", venue.look)) for _ in range(2)]
    await turns()
    venue.gate.set()
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in told] == [ConnectionError, ConnectionError]
    with pytest.raises(ConnectionError):
        await asking[0]
    assert await shared.ask("orders", venue.look) == 14
