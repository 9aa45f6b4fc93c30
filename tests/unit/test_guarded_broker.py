"""The API breaker behind the broker port: what counts, what it blocks, how it heals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from brokers.guarded import GuardedBroker
from brokers.port import Broker, PlaceOutcome, Rejected, UnknownOutcome
from domain.account import MarketClock
from domain.control import ApiBreakerState
from domain.errors import Transient
from domain.order import OrderIntent
from domain.risk.breakers import FAILURES_TO_OPEN


class Scripted:
    """Only the two calls that the test needs; the port is satisfied by shape."""

    def __init__(self, outcome: PlaceOutcome) -> None:
        self.outcome = outcome
        self.reads_fail = False

    async def place(self, intent: OrderIntent) -> PlaceOutcome:
        return self.outcome

    async def positions(self) -> tuple[Any, ...]:
        if self.reads_fail:
            raise Transient("cut")
        return ()


class Halting(Scripted):
    """A venue whose clock names one halt of its own."""

    async def market_clock(self) -> MarketClock:
        now = datetime(2026, 3, 2, tzinfo=UTC)
        return MarketClock(market_now=now, is_open=True, halted_symbols=("BBB",))


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def guarded(outcome: PlaceOutcome) -> tuple[GuardedBroker, Scripted, list[ApiBreakerState], Clock]:
    states: list[ApiBreakerState] = []

    async def on_change(state: ApiBreakerState, failures: int) -> None:
        states.append(state)

    clock, inner = Clock(), Scripted(outcome)
    return GuardedBroker(cast(Broker, inner), on_change, clock), inner, states, clock


INTENT = cast(OrderIntent, None)


async def test_five_unknown_answers_open_the_breaker_and_an_answer_after_30_s_closes_it() -> None:
    broker, _, states, clock = guarded(UnknownOutcome(reason="timeout"))
    for _ in range(FAILURES_TO_OPEN):
        await broker.place(INTENT)
    assert states == [ApiBreakerState.OPEN]
    await broker.positions()
    assert states == [ApiBreakerState.OPEN], "an answer inside the 30 s does not close it"
    clock.now += timedelta(seconds=31)
    await broker.positions()
    assert states[-1:] == [ApiBreakerState.CLOSED]


async def test_probe_that_fails_opens_it_anew_and_is_told_so_that_others_wait_as_well() -> None:
    """The row in the ledger is what a restart and the risk gate of other processes go by."""
    broker, inner, states, clock = guarded(UnknownOutcome(reason="timeout"))
    for _ in range(FAILURES_TO_OPEN):
        await broker.place(INTENT)
    clock.now += timedelta(seconds=31)
    inner.reads_fail = True
    for _ in range(3):
        with pytest.raises(Transient):
            await broker.positions()
    assert states == [ApiBreakerState.OPEN] * 2, "the first is the probe, the others say nothing"
    inner.reads_fail = False
    clock.now += timedelta(seconds=29)
    await broker.positions()
    assert states[-1:] == [ApiBreakerState.OPEN], "thirty seconds from the probe, not from before"
    clock.now += timedelta(seconds=2)
    await broker.positions()
    assert states[-1] is ApiBreakerState.CLOSED


async def test_a_hundred_business_rejects_leave_the_breaker_closed() -> None:
    broker, _, states, _ = guarded(Rejected(code="40310000"))
    for _ in range(100):
        await broker.place(INTENT)
    assert states == []


async def test_failing_reads_count_and_still_raise() -> None:
    broker, inner, states, _ = guarded(Rejected(code="1"))
    inner.reads_fail = True
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(Transient):
            await broker.positions()
    assert states == [ApiBreakerState.OPEN]


async def test_halts_told_elsewhere_come_with_the_clock_and_a_dead_ledger_hides_no_clock() -> None:
    told: list[tuple[str, ...]] = [("CCC", "AAA")]

    async def halted() -> tuple[str, ...]:
        if not told:
            raise Transient("the ledger is away")
        return told[0]

    async def on_change(state: ApiBreakerState, failures: int) -> None:
        raise AssertionError(f"the breaker changed to {state}")

    inner = cast(Broker, Halting(Rejected(code="X")))
    broker = GuardedBroker(inner, on_change, Clock(), halted=halted)
    clock = await broker.market_clock()
    assert (clock.halted_symbols, clock.halts_unread) == (("AAA", "BBB", "CCC"), False)
    told.clear()
    alone = await broker.market_clock()
    assert (alone.halted_symbols, alone.halts_unread) == (("BBB",), True)
