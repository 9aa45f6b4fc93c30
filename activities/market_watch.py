"""Tells open trades of an account when trading hours change, or a symbol halts or resumes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from temporalio import activity

from activities.doorbell import Doorbell
from activities.services import Services
from domain.account import MarketClock
from domain.errors import HoldfastError
from domain.facts import Fact, SessionChanged, TradingHalted, TradingResumed
from ledger.records import TradeRecord


def hours_cursor(account: str) -> str:
    """Ledger cursor with the `MarketClock` that every open trade has heard; else empty."""
    return f"hours-told/{account}"


class MarketWatch:
    """Polls the venue's clock; rings only what differs from what the trades have heard.

    What all have heard outlives the process: a new streamer that rang it again woke every trade
    of the account, each a cold replay before those that had to act. `on_clock` gets every reading.
    """

    def __init__(
        self, services: Services, doorbell: Doorbell, on_clock: Callable[[MarketClock], None]
    ) -> None:
        self._services = services
        self._on_clock = on_clock
        self._doorbell = doorbell
        self._known: MarketClock | None = None
        self._is_kept = False
        self._one_look = asyncio.Lock()

    async def run(self, interval_s: float) -> None:
        """Looks for ever, every `interval_s` wall seconds."""
        # Another streamer may have led since: only the ledger knows what was told by whom.
        self._known = None
        while True:
            try:
                await self.look()
            except HoldfastError as error:
                activity.logger.warning("market clock: %s", error)
            await asyncio.sleep(interval_s)

    async def look(self) -> None:
        """One look; it tells everybody where nobody knows what was told before."""
        async with self._one_look:
            await self._look()

    async def _look(self) -> None:
        services = self._services
        clock = await services.broker.market_clock()
        self._on_clock(clock)
        before = await self._told() if self._known is None else self._known
        if before is not None and _same(before, clock):
            self._known = clock
            await self._keep(clock)
            return
        trades = await services.ledger.list_trades(account=services.account, open_only=True)
        # Before the first ring: who dies between two rings leaves nothing that says "told".
        await services.ledger.set_cursor(hours_cursor(services.account), "")
        self._is_kept = False
        for trade in trades:
            self._doorbell.ring(trade.trade_id, *self._facts(trade, clock, before))
        self._known = clock

    async def _told(self) -> MarketClock | None:
        text = await self._services.ledger.get_cursor(hours_cursor(self._services.account))
        self._is_kept = bool(text)
        return MarketClock.model_validate_json(text) if text else None

    async def _keep(self, clock: MarketClock) -> None:
        """Once every trade has heard it, and not before."""
        if self._is_kept or self._doorbell.has_news_waiting:
            return
        name = hours_cursor(self._services.account)
        await self._services.ledger.set_cursor(name, clock.model_dump_json())
        self._is_kept = True

    def _facts(
        self, trade: TradeRecord, clock: MarketClock, before: MarketClock | None
    ) -> list[Fact]:
        now = self._services.now()
        facts: list[Fact] = []
        if before is None or _hours(before) != _hours(clock):
            facts.append(
                SessionChanged(
                    at=now,
                    is_open=clock.is_open,
                    next_open=clock.next_open,
                    next_close=clock.next_close,
                )
            )
        was = frozenset[str]() if before is None else frozenset(before.halted_symbols)
        for leg in trade.plan.legs:
            symbol = leg.instrument.symbol
            halted = symbol in clock.halted_symbols
            if halted and symbol not in was:
                facts.append(TradingHalted(at=now, symbol=symbol))
            if not halted and (before is None or symbol in was):
                facts.append(TradingResumed(at=now, symbol=symbol))
        return facts


def _hours(clock: MarketClock) -> tuple[object, ...]:
    return (clock.is_open, clock.next_open, clock.next_close)


def _same(one: MarketClock, other: MarketClock) -> bool:
    halts = set(one.halted_symbols) == set(other.halted_symbols)
    return halts and _hours(one) == _hours(other)
