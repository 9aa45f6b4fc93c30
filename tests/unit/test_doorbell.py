"""The bounded sender: one signal in flight, facts coalesce, nothing is lost or hurried."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from activities.doorbell import (
    NEWS,
    NEWS_AT_ONCE,
    SIGNAL_INTERVAL_S,
    SIGNALS_AT_ONCE,
    WAITING_FACTS_MAX,
    Doorbell,
)
from domain.errors import Transient
from domain.facts import (
    DeadlinePassed,
    DiscrepancyFound,
    Fact,
    FactEnvelope,
    SessionChanged,
    TradingHalted,
    TradingResumed,
)

NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)


def fact(number: int) -> DeadlinePassed:
    return DeadlinePassed(at=NOW, name=str(number))


class Recorder:
    """Takes what is sent; `gate` holds the wire, `failures` are refused first."""

    def __init__(self, *, is_open: bool = True, failures: int = 0) -> None:
        self.sent: list[tuple[str, str, tuple[Fact, ...]]] = []
        self.at: list[float] = []
        self.gate = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)
        self.gate.set()
        self.is_open = is_open
        self.failures = failures
        self.in_flight = 0
        self.in_flight_max = 0

    async def until_in_flight(self, count: int) -> None:
        """Waits, with a deadline, until so many signals have been on their way."""
        async with asyncio.timeout(2):
            for _ in range(count):
                await self.arrived.acquire()

    async def __call__(self, trade_id: str, signal: str, envelope: FactEnvelope) -> bool:
        self.in_flight += 1
        self.arrived.release()
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        await self.gate.wait()
        self.in_flight -= 1
        if self.failures:
            self.failures -= 1
            raise Transient("the server is away")
        self.at.append(asyncio.get_running_loop().time())
        self.sent.append((trade_id, signal, envelope.as_facts(NOW)))
        return self.is_open


def bell(send: Recorder, **callbacks: object) -> Doorbell:
    return Doorbell(send, sender="test", now=lambda: NOW, **callbacks)  # type: ignore[arg-type]


async def test_facts_that_arrive_while_a_signal_is_on_its_way_travel_in_the_next_one() -> None:
    wire = Recorder()
    wire.gate.clear()
    doorbell = bell(wire)
    doorbell.ring("t1", fact(0))
    await wire.until_in_flight(1)
    for number in range(1, 10):
        doorbell.ring("t1", fact(number))
        await asyncio.sleep(0)
    wire.gate.set()
    await doorbell.drain()
    assert [len(facts) for _, _, facts in wire.sent] == [1, 9]
    told = [f.name for _, _, facts in wire.sent for f in facts if isinstance(f, DeadlinePassed)]
    assert told == [str(number) for number in range(10)]
    assert wire.in_flight_max == 1


async def test_a_trade_hears_at_most_twenty_signals_a_second() -> None:
    wire = Recorder()
    doorbell = bell(wire)
    for number in range(200):
        doorbell.ring("t1", fact(number))
        await asyncio.sleep(0.001)
    await doorbell.drain()
    gaps = [later - earlier for earlier, later in pairwise(wire.at)]
    assert len(wire.sent) > 1
    assert min(gaps) >= SIGNAL_INTERVAL_S * 0.9
    assert sum(len(facts) for _, _, facts in wire.sent) == 200


async def test_trades_do_not_wait_for_each_other() -> None:
    wire = Recorder()
    wire.gate.clear()
    doorbell = bell(wire)
    for trade_id in ("t1", "t2", "t3"):
        doorbell.ring(trade_id, fact(1))
    await wire.until_in_flight(3)
    assert wire.in_flight_max == 3
    wire.gate.set()
    await doorbell.drain()


@pytest.mark.parametrize(("is_open", "told"), [(True, "delivered"), (False, "closed")])
async def test_caller_learns_whether_the_trade_took_it(is_open: bool, told: str) -> None:
    seen: list[tuple[str, str, int]] = []

    async def delivered(trade_id: str, facts: tuple[Fact, ...]) -> None:
        seen.append(("delivered", trade_id, len(facts)))

    async def closed(trade_id: str, facts: tuple[Fact, ...]) -> None:
        seen.append(("closed", trade_id, len(facts)))

    doorbell = bell(Recorder(is_open=is_open), on_delivered=delivered, on_closed=closed)
    doorbell.ring("t1", fact(1), fact(2))
    await doorbell.drain()
    assert seen == [(told, "t1", 2)]


async def test_refused_signal_is_sent_again_with_the_same_facts() -> None:
    wire = Recorder(failures=2)
    doorbell = bell(wire)
    doorbell.ring("t1", fact(1))
    await doorbell.drain()
    assert [facts for _, _, facts in wire.sent] == [(fact(1),)]


async def test_overflow_becomes_one_fact_that_makes_the_trade_look() -> None:
    wire = Recorder()
    wire.gate.clear()
    doorbell = bell(wire)
    for number in range(WAITING_FACTS_MAX + 1):
        doorbell.ring("t1", fact(number))
    wire.gate.set()
    await doorbell.drain()
    last = wire.sent[-1][2][-1]
    assert isinstance(last, DiscrepancyFound)
    assert last.code == "DOORBELL_FULL"


async def test_overflow_keeps_the_newest_news_of_each_kind() -> None:
    """A look at the broker brings back what befell orders, and tells nobody trading hours (I4)."""
    wire = Recorder()
    wire.gate.clear()
    doorbell = bell(wire)
    opened, closed = (SessionChanged(at=NOW, is_open=is_open) for is_open in (True, False))
    halted = TradingHalted(at=NOW, symbol="AAPL")
    resumed = TradingResumed(at=NOW, symbol="AAPL")
    other = TradingHalted(at=NOW, symbol="MSFT")
    doorbell.ring("t1", opened, halted, other, closed, resumed)
    for number in range(WAITING_FACTS_MAX * 2):
        doorbell.ring("t1", fact(number))
    assert doorbell.has_news_waiting
    wire.gate.set()
    await doorbell.drain()
    told = [fact for _, _, facts in wire.sent for fact in facts]
    assert [fact for fact in told if isinstance(fact, NEWS)] == [closed, resumed, other]


async def test_news_for_every_trade_goes_out_a_few_at_a_time_and_a_fact_of_one_overtakes_it() -> (
    None
):
    """F5: a thousand signals at once all ran into their time limit, and were sent again."""
    wire = Recorder()
    wire.gate.clear()
    doorbell = bell(wire)
    hours = SessionChanged(at=NOW, is_open=True, next_open=None, next_close=None)
    for number in range(100):
        doorbell.ring(f"t{number}", hours)
    await wire.until_in_flight(NEWS_AT_ONCE)
    for number in range(100):
        doorbell.ring(f"f{number}", fact(number))
    await wire.until_in_flight(SIGNALS_AT_ONCE - NEWS_AT_ONCE)
    wire.gate.set()
    await doorbell.drain()
    assert wire.in_flight_max == SIGNALS_AT_ONCE
    assert len(wire.sent) == 200
    first = [facts for _, _, facts in wire.sent[:SIGNALS_AT_ONCE]]
    news = sum(isinstance(one, SessionChanged) for facts in first for one in facts)
    assert news == NEWS_AT_ONCE


@pytest.mark.covers("F5")
async def test_fact_of_one_does_not_wait_behind_the_news_that_its_trade_has_yet_to_hear() -> None:
    """I4: at the open a stop fills; its trade stood in the queue of a thousand that hear hours."""
    wire = Recorder()
    wire.gate.clear()
    doorbell = bell(wire)
    hours = SessionChanged(at=NOW, is_open=True, next_open=None, next_close=None)
    for number in range(100):
        doorbell.ring(f"t{number}", hours)
    await wire.until_in_flight(NEWS_AT_ONCE)
    doorbell.ring("t99", fact(1))
    await wire.until_in_flight(1)
    wire.gate.set()
    await doorbell.drain()
    assert ("t99", "facts", (hours, fact(1))) in wire.sent[: NEWS_AT_ONCE + 1]
    assert len(wire.sent) == 100
