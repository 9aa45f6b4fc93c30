"""Tells open trades of an account when trading hours change, or a symbol halts or resumes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from temporalio import activity

from activities.doorbell import Doorbell
from activities.services import Services
from domain.account import MarketClock
from domain.errors import HoldfastError
from domain.facts import Fact, SessionChanged, TradingHalted, TradingResumed
from ledger.records import TradeRecord

AGAIN_EVERY_S = 600.0
# Per look, of which there is one in 5 s: a thousand trades take eight minutes.
AGAIN_AT_ONCE = 10


def hours_cursor(account: str) -> str:
    """Ledger cursor with the `MarketClock` that the open trades were told last; else empty.

    A hint, no proof: a trade whose workflow was away has not heard it, nor one whom another
    streamer told older news meanwhile. `tell_some_again` is for them.
    """
    return f"hours-told/{account}"


class MarketWatch:
    """Polls the venue's clock; rings what changed at once, and all of it anew bit by bit.

    What the trades were told outlives the process: a new streamer that rang it again at once woke
    every trade of the account, each a cold replay before those that had to act. Nobody knows what
    a trade believes, so each hears all of it every ten minutes, and soon after a new streamer
    leads, a few trades at a time. `on_clock` gets every reading.
    """

    def __init__(
        self, services: Services, doorbell: Doorbell, on_clock: Callable[[MarketClock], None]
    ) -> None:
        self._services = services
        self._on_clock = on_clock
        self._doorbell = doorbell
        self._known: MarketClock | None = None
        self._known_at = services.now()
        self._is_kept = False
        self._one_look = asyncio.Lock()
        self._again: Sequence[TradeRecord] = ()
        self._again_from_s = services.monotonic()

    async def run(self, interval_s: float) -> None:
        """Looks for ever, every `interval_s` wall seconds."""
        # Another streamer may have led since: only the ledger knows what was told by whom.
        self._known = None
        self._again, self._again_from_s = (), self._services.monotonic()
        while True:
            try:
                await self.look()
                await self.tell_some_again()
            except HoldfastError as error:
                activity.logger.warning("market clock: %s", error)
            await asyncio.sleep(interval_s)

    async def look(self) -> None:
        """One look; it tells everybody where nobody knows what was told before."""
        async with self._one_look:
            await self._look()

    async def tell_some_again(self) -> None:
        """Tells the next few trades what the last look read, whatever they were told before."""
        now_s = self._services.monotonic()
        if not self._again and now_s >= self._again_from_s:
            self._again = await self._open_trades()
            self._again_from_s = now_s + AGAIN_EVERY_S
        some, self._again = self._again[:AGAIN_AT_ONCE], self._again[AGAIN_AT_ONCE:]
        if self._known is None:
            return
        for trade in some:
            self._doorbell.ring(trade.trade_id, *_facts(trade, self._known, None, self._known_at))

    async def _look(self) -> None:
        services = self._services
        clock = await services.broker.market_clock()
        read_at = services.now()
        self._on_clock(clock)
        before = await self._told() if self._known is None else self._known
        if before is not None and clock.halts_unread:
            # What cannot be read has not ended: an exit would take the stop off in a halt (I4).
            halted = {*clock.halted_symbols, *before.halted_symbols}
            update = {"halted_symbols": tuple(halted), "halts_unread": before.halts_unread}
            clock = clock.model_copy(update=update)
        elif before is not None and before.halts_unread:
            before = None
        if before is not None and _same(before, clock):
            self._known, self._known_at = clock, read_at
            await self._keep(clock)
            return
        trades = await self._open_trades()
        # Before the first ring: who dies between two rings leaves nothing that says "told".
        await services.ledger.set_cursor(hours_cursor(services.account), "")
        self._is_kept = False
        for trade in trades:
            self._doorbell.ring(trade.trade_id, *_facts(trade, clock, before, read_at))
        self._known, self._known_at = clock, read_at

    async def _open_trades(self) -> tuple[TradeRecord, ...]:
        services = self._services
        return await services.ledger.list_trades(account=services.account, open_only=True)

    async def _told(self) -> MarketClock | None:
        text = await self._services.ledger.get_cursor(hours_cursor(self._services.account))
        self._is_kept = bool(text)
        return MarketClock.model_validate_json(text) if text else None

    async def _keep(self, clock: MarketClock) -> None:
        """Once the server has taken it for every trade, and not before."""
        if self._is_kept or self._doorbell.has_news_waiting:
            return
        name = hours_cursor(self._services.account)
        await self._services.ledger.set_cursor(name, clock.model_dump_json())
        self._is_kept = True


def _facts(
    trade: TradeRecord, clock: MarketClock, before: MarketClock | None, at: datetime
) -> list[Fact]:
    """What differs from `before`; all of it without one."""
    facts: list[Fact] = []
    if before is None or _hours(before) != _hours(clock):
        facts.append(
            SessionChanged(
                at=at,
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
            facts.append(TradingHalted(at=at, symbol=symbol))
        if not halted and not clock.halts_unread and (before is None or symbol in was):
            facts.append(TradingResumed(at=at, symbol=symbol))
    return facts


def _hours(clock: MarketClock) -> tuple[object, ...]:
    return (clock.is_open, clock.next_open, clock.next_close)


def _same(one: MarketClock, other: MarketClock) -> bool:
    halts = set(one.halted_symbols) == set(other.halted_symbols)
    return halts and _hours(one) == _hours(other)
