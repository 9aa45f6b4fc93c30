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


class MarketWatch:
    """Polls the venue's clock; rings only what differs from the poll before.

    `on_clock` gets every reading.
    """

    def __init__(
        self, services: Services, doorbell: Doorbell, on_clock: Callable[[MarketClock], None]
    ) -> None:
        self._services = services
        self._on_clock = on_clock
        self._doorbell = doorbell
        self._known: MarketClock | None = None

    async def run(self, interval_s: float) -> None:
        """Looks for ever, every `interval_s` wall seconds."""
        while True:
            try:
                await self.look()
            except HoldfastError as error:
                activity.logger.warning("market clock: %s", error)
            await asyncio.sleep(interval_s)

    async def look(self) -> None:
        """One look. The first one tells everybody: nobody knows what changed before it."""
        services = self._services
        clock, before = await services.broker.market_clock(), self._known
        self._on_clock(clock)
        if before is not None and _same(before, clock):
            return
        for trade in await services.ledger.list_trades(account=services.account, open_only=True):
            self._doorbell.ring(trade.trade_id, *self._facts(trade, clock, before))
        self._known = clock

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
