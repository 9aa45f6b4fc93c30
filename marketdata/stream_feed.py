"""The feed of a session whose bars come from the market-data stream of another process.

The venue allows one connection: the streams worker reads it and stores whole bars, this feed says
which symbols it wants and reads them. Bars survive a restart of either side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from domain.bar import Bar
from domain.errors import PriceUnavailable
from domain.order import Quote
from marketdata.feed import BAR_INTERVAL_S, bar_start
from marketdata.port import BarPage

WANT_EVERY_S = 20.0
SEAL_WAIT_S = 3.0
POLL_S = 0.1

SayWanted = Callable[[Sequence[str]], Awaitable[None]]
ReadSealed = Callable[[], Awaitable[datetime | None]]
ReadBars = Callable[[Sequence[str], datetime | None, datetime], Awaitable[Sequence[Bar]]]
ReadQuotes = Callable[[Sequence[str]], Awaitable[dict[str, Quote]]]


class StreamFeed:
    """Bars out of the ledger, quotes from the broker.

    Args:
        want: says for a while that these symbols are needed.
        sealed: market instant up to which all bars are stored; None before the first one.
        read_bars: whole bars with after < end <= until, oldest first.
        read_quotes: the broker's quotes now.
        wait_s: wall seconds to wait for a bar that has just ended.
    """

    def __init__(
        self,
        want: SayWanted,
        sealed: ReadSealed,
        read_bars: ReadBars,
        read_quotes: ReadQuotes,
        *,
        interval_s: int = BAR_INTERVAL_S,
        wait_s: float = SEAL_WAIT_S,
    ) -> None:
        self._want = want
        self._sealed = sealed
        self._read_bars = read_bars
        self._read_quotes = read_quotes
        self._interval_s = interval_s
        self._wait_s = wait_s
        self._wanted: tuple[str, ...] = ()
        self._wanted_at_s = 0.0

    async def bars(self, symbols: Sequence[str], cursor: datetime | None, now: datetime) -> BarPage:
        """`MarketDataFeed.bars`; without a stream there are none, and none are made up."""
        await self._say_wanted(symbols)
        sealed = await self._sealed_until(bar_start(now, self._interval_s))
        if sealed is None:
            return BarPage(cursor=cursor)
        found = tuple(await self._read_bars(symbols, cursor, min(now, sealed)))
        return BarPage(bars=found, cursor=found[-1].end if found else cursor)

    async def quotes(self, symbols: Sequence[str], now: datetime) -> dict[str, Quote]:
        """`MarketDataFeed.quotes`: all of them, or PriceUnavailable."""
        found = await self._read_quotes(symbols)
        missing = [symbol for symbol in symbols if symbol not in found]
        if missing:
            raise PriceUnavailable(f"no quote of {', '.join(missing)}")
        return found

    async def _say_wanted(self, symbols: Sequence[str]) -> None:
        """Now and then, and at once when a symbol is new."""
        now_s = asyncio.get_running_loop().time()
        is_known = set(symbols) <= set(self._wanted)
        if is_known and now_s - self._wanted_at_s < WANT_EVERY_S:
            return
        self._wanted = tuple(dict.fromkeys((*self._wanted, *symbols)))
        self._wanted_at_s = now_s
        await self._want(self._wanted)

    async def _sealed_until(self, end: datetime) -> datetime | None:
        """The mark; a bar that ends just now is given a moment to be stored."""
        deadline_s = asyncio.get_running_loop().time() + self._wait_s
        while True:
            sealed = await self._sealed()
            is_over = asyncio.get_running_loop().time() >= deadline_s
            if is_over or (sealed is not None and sealed >= end):
                return sealed
            await asyncio.sleep(POLL_S)
