"""What every open trade hears of trading hours and halts, once, whoever leads (I4, G3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from activities.doorbell import Doorbell
from activities.market_watch import MarketWatch
from domain.account import MarketClock
from domain.errors import Transient
from domain.facts import FactEnvelope, SessionChanged, TradingHalted, TradingResumed
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order_lane

OPEN = MarketClock(market_now=MARKET_NOW, is_open=True, next_close=MARKET_NOW + timedelta(hours=2))
HALTED = OPEN.model_copy(update={"halted_symbols": ("AAPL",)})
CLOSED = MarketClock(
    market_now=MARKET_NOW, is_open=False, next_open=MARKET_NOW + timedelta(hours=20)
)


class Streamer:
    """One process that leads: its watch, its doorbell, and what its trades heard."""

    def __init__(self, lane: Lane, *, reaches: bool = True) -> None:
        self.heard: list[str] = []
        self.rang = asyncio.Semaphore(0)
        self._reaches = reaches
        self._lane = lane
        self.doorbell = Doorbell(self._send, sender="test", now=lane.services.now)
        self.watch = MarketWatch(lane.services, self.doorbell, lambda _clock: None)

    async def _send(self, trade_id: str, _signal: str, envelope: FactEnvelope) -> bool:
        if not self._reaches:
            raise Transient("the server is away")
        for fact in envelope.as_facts(self._lane.services.now()):
            self.heard.append(f"{trade_id} {_words(fact)}")
        self.rang.release()
        return True

    async def look(self, clock: MarketClock) -> list[str]:
        """What came of one look at this clock, and of the next one, which finds it delivered."""
        _shows(self._lane, clock)
        self.heard.clear()
        await self.watch.look()
        if self._reaches:
            await self.doorbell.drain()
        await self.watch.look()
        return sorted(self.heard)


def _words(fact: object) -> str:
    match fact:
        case SessionChanged():
            return "open" if fact.is_open else "closed"
        case TradingHalted():
            return "halted"
        case TradingResumed():
            return "resumed"
    raise AssertionError(fact)


def _shows(lane: Lane, clock: MarketClock) -> None:
    broker: Any = lane.services.broker

    async def shown() -> MarketClock:
        return clock

    broker.market_clock = shown


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    async with order_lane(armed) as opened:
        await opened.open_trade("trade-1")
        await opened.open_trade("trade-2")
        yield opened


@asynccontextmanager
async def leads(lane: Lane, *, reaches: bool = True) -> AsyncIterator[Streamer]:
    streamer = Streamer(lane, reaches=reaches)
    try:
        yield streamer
    finally:
        await streamer.doorbell.aclose()


async def test_first_streamer_tells_everybody_and_the_next_one_nobody(lane: Lane) -> None:
    async with leads(lane) as first:
        told = ["trade-1 open", "trade-1 resumed", "trade-2 open", "trade-2 resumed"]
        assert await first.look(OPEN) == told
        assert await first.look(OPEN) == []
    async with leads(lane) as second:
        assert await second.look(OPEN) == []
        assert await second.look(CLOSED) == ["trade-1 closed", "trade-2 closed"]
    async with leads(lane) as third:
        assert await third.look(OPEN) == ["trade-1 open", "trade-2 open"]


async def test_news_that_was_not_delivered_is_told_again_by_the_next_streamer(lane: Lane) -> None:
    async with leads(lane) as first:
        await first.look(OPEN)
    async with leads(lane, reaches=False) as dies:
        assert await dies.look(CLOSED) == []
    async with leads(lane) as second:
        assert {"trade-1 closed", "trade-2 closed"} <= set(await second.look(CLOSED))


async def test_halt_that_ended_before_it_was_told_to_all_leaves_nobody_halted(lane: Lane) -> None:
    """What was told before must not pass for what is known: some heard the halt."""
    async with leads(lane) as first:
        await first.look(OPEN)
    async with leads(lane, reaches=False) as dies:
        await dies.look(HALTED)
    async with leads(lane) as second:
        assert {"trade-1 resumed", "trade-2 resumed"} <= set(await second.look(OPEN))


async def test_streamer_that_leads_again_goes_by_what_the_other_one_told(lane: Lane) -> None:
    async with leads(lane) as first, leads(lane) as other:
        await first.look(OPEN)
        assert await other.look(HALTED) == ["trade-1 halted", "trade-2 halted"]
        _shows(lane, OPEN)
        first.heard.clear()
        first.rang = asyncio.Semaphore(0)
        leading = asyncio.create_task(first.watch.run(60))
        async with asyncio.timeout(60):
            for _trade in ("trade-1", "trade-2"):
                await first.rang.acquire()
        leading.cancel()
        assert sorted(first.heard) == ["trade-1 resumed", "trade-2 resumed"]
