"""What every open trade hears of trading hours and halts, once, whoever leads (I4, G3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import market_watch
from activities.doorbell import WAITING_FACTS_MAX, Doorbell
from activities.market_watch import AGAIN_EVERY_S, MarketWatch, hours_cursor
from activities.reads import ReadActivities
from activities.services import QuoteInput
from domain.account import MarketClock
from domain.commands import ReadQuote
from domain.errors import Transient
from domain.facts import (
    DiscrepancyFound,
    FactEnvelope,
    SessionChanged,
    TradingHalted,
    TradingResumed,
)
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order_lane
from tests.ledger.samples import plan

OPEN = MarketClock(market_now=MARKET_NOW, is_open=True, next_close=MARKET_NOW + timedelta(hours=2))
HALTED = OPEN.model_copy(update={"halted_symbols": ("AAPL",)})
UNREAD = OPEN.model_copy(update={"halts_unread": True})
CLOSED = MarketClock(
    market_now=MARKET_NOW, is_open=False, next_open=MARKET_NOW + timedelta(hours=20)
)


class Streamer:
    """One process that leads: its watch, its doorbell, and what its trades heard."""

    def __init__(self, lane: Lane, *, reaches: bool = True) -> None:
        self.heard: list[str] = []
        self.rang = asyncio.Semaphore(0)
        self.reaches = reaches
        self.finds = True
        self.now_s = 0.0
        self._lane = lane
        services = replace(lane.services, monotonic=lambda: self.now_s)
        self.doorbell = Doorbell(self._send, sender="test", now=services.now)
        self.watch = MarketWatch(services, self.doorbell, lambda _clock: None)

    async def _send(self, trade_id: str, _signal: str, envelope: FactEnvelope) -> bool:
        if not self.reaches:
            raise Transient("the server is away")
        if not self.finds:
            return False
        for fact in envelope.as_facts(self._lane.services.now()):
            self.heard.append(f"{trade_id} {_words(fact)}")
        self.rang.release()
        return True

    async def look(self, clock: MarketClock) -> list[str]:
        """What came of one look at this clock, and of the next one, which finds it delivered."""
        _shows(self._lane, clock)
        self.heard.clear()
        await self.watch.look()
        if self.reaches:
            await self.doorbell.drain()
        await self.watch.look()
        return sorted(self.heard)

    async def again(self) -> list[str]:
        """Who hears all of it anew in the next turn."""
        self.heard.clear()
        await self.watch.look()
        await self.watch.tell_some_again()
        await self.doorbell.drain()
        return sorted(self.heard)


def _words(fact: object) -> str:
    match fact:
        case SessionChanged():
            return "open" if fact.is_open else "closed"
        case TradingHalted():
            return "halted"
        case TradingResumed():
            return "resumed"
        case DiscrepancyFound():
            return fact.code
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


async def test_halts_that_cannot_be_read_have_not_ended(lane: Lane) -> None:
    """I4, H5: "resumed" let an exit take the stop off in the middle of the halt."""
    async with leads(lane) as first:
        await first.look(OPEN)
        assert await first.look(HALTED) == ["trade-1 halted", "trade-2 halted"]
        assert await first.look(UNREAD) == []
        assert not [word for word in await first.again() if "resumed" in word]
        assert await first.look(HALTED) == []
        assert await first.look(OPEN) == ["trade-1 resumed", "trade-2 resumed"]


@pytest.mark.parametrize(
    ("clock", "told"), [(OPEN, ["resumed"]), (HALTED, ["halted"]), (UNREAD, [])]
)
async def test_quote_of_an_exit_tells_no_end_of_a_halt_that_cannot_be_read(
    lane: Lane, clock: MarketClock, told: list[str]
) -> None:
    _shows(lane, clock)
    command = ReadQuote(legs=plan().legs)
    given = QuoteInput(trade=lane.reference(), command=command)
    batch = await ActivityEnvironment().run(ReadActivities(lane.services).read_quote, given)
    halts = [each for each in batch.facts if isinstance(each, TradingHalted | TradingResumed)]
    assert [_words(each) for each in halts] == told


async def test_first_look_without_halts_tells_them_as_soon_as_they_are_read(lane: Lane) -> None:
    async with leads(lane) as first:
        assert await first.look(UNREAD) == ["trade-1 open", "trade-2 open"]
        assert await first.again() == ["trade-1 open", "trade-2 open"]
        assert {"trade-1 resumed", "trade-2 resumed"} <= set(await first.look(OPEN))
        assert await first.look(OPEN) == []


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
        assert {"trade-1 resumed", "trade-2 resumed"} <= set(first.heard)


async def test_close_is_told_although_a_flood_of_facts_overtakes_it(lane: Lane) -> None:
    """F5: what `DOORBELL_FULL` replaces is found at the broker again; trading hours are not."""
    async with leads(lane) as first:
        await first.look(OPEN)
        first.heard.clear()
        first.reaches = False
        _shows(lane, CLOSED)
        await first.watch.look()
        flood = DiscrepancyFound(at=MARKET_NOW, code="FLOOD", text="")
        first.doorbell.ring("trade-1", *[flood] * WAITING_FACTS_MAX)
        first.reaches = True
        await first.doorbell.drain()
        assert {"trade-1 closed", "trade-1 DOORBELL_FULL", "trade-2 closed"} == set(first.heard)


async def test_trade_that_was_away_at_the_bell_hears_the_next_streamer(lane: Lane) -> None:
    """H3: Temporal's store was lost; `restore` builds the hours of the entry's ticket."""
    async with leads(lane) as first:
        await first.look(OPEN)
        first.finds = False
        assert await first.look(CLOSED) == []
    async with leads(lane) as second:
        assert await second.look(CLOSED) == []
        assert {"trade-1 closed", "trade-2 closed"} <= set(await second.again())


async def test_older_word_of_a_streamer_that_stalled_is_put_right(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once: one reads "open" and stalls, the other tells the close, then the first rings."""
    stalls, goes_on = asyncio.Event(), asyncio.Event()
    list_trades = lane.ledger.list_trades

    async def slow(**given: Any) -> Any:
        stalls.set()
        await goes_on.wait()
        return await list_trades(**given)

    async with leads(lane) as stalled, leads(lane) as other:
        await other.look(OPEN)
        # Not all have heard it, so that the next one to lead rings at its first look.
        await lane.ledger.set_cursor(hours_cursor(lane.services.account), "")
        with monkeypatch.context() as patched:
            patched.setattr(lane.ledger, "list_trades", slow)
            looking = asyncio.create_task(stalled.watch.look())
            await stalls.wait()
        assert await other.look(CLOSED) == ["trade-1 closed", "trade-2 closed"]
        goes_on.set()
        await looking
        await stalled.doorbell.drain()
        assert {"trade-1 open", "trade-2 open"} <= set(stalled.heard)
        other.now_s += AGAIN_EVERY_S
        assert {"trade-1 closed", "trade-2 closed"} <= set(await other.again())


async def test_everybody_hears_again_in_turn_and_never_all_at_once(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F5: a new streamer that told a thousand trades at once kept those from acting that had to."""
    monkeypatch.setattr(market_watch, "AGAIN_AT_ONCE", 1)
    async with leads(lane) as first:
        await first.look(OPEN)
    async with leads(lane) as second:
        assert await second.again() == ["trade-1 open", "trade-1 resumed"]
        assert await second.again() == ["trade-2 open", "trade-2 resumed"]
        assert await second.again() == []
        second.now_s += AGAIN_EVERY_S
        assert await second.again() == ["trade-1 open", "trade-1 resumed"]


async def test_streamer_that_leads_tells_again_without_being_asked(lane: Lane) -> None:
    async with leads(lane) as first:
        await first.look(HALTED)
    async with leads(lane) as second:
        leading = asyncio.create_task(second.watch.run(60))
        async with asyncio.timeout(60):
            for _trade in ("trade-1", "trade-2"):
                await second.rang.acquire()
        leading.cancel()
        assert {"trade-1 open", "trade-1 halted"} <= set(second.heard)
