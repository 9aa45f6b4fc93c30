"""Bars out of quotes that are asked for now: the feed of a live or paper session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from domain.bar import Bar
from domain.errors import PriceUnavailable
from domain.order import Quote
from marketdata.feed import BAR_INTERVAL_S, OpenBar, bar_start, close_bar, fold_price
from marketdata.port import BarPage

BARS_KEPT_MAX = 2_000

ReadQuotes = Callable[[Sequence[str]], Awaitable[dict[str, Quote]]]


class PolledFeed:
    """Every question reads the quotes once and adds their mids to the growing bars.

    Bars live in this process: after a restart the history begins anew, and a strategy that
    needs more of it waits. A symbol without a two-sided quote adds nothing; nothing is made up.
    """

    def __init__(self, read_quotes: ReadQuotes, *, interval_s: int = BAR_INTERVAL_S) -> None:
        self._read_quotes = read_quotes
        self._interval_s = interval_s
        self._open: dict[str, OpenBar] = {}
        self._bars: list[Bar] = []

    async def bars(self, symbols: Sequence[str], cursor: datetime | None, now: datetime) -> BarPage:
        """`MarketDataFeed.bars`."""
        if not self._bars or now > self._bars[-1].end:
            await self._poll(symbols, now)
        found = tuple(
            bar
            for bar in self._bars
            if bar.symbol in symbols and (cursor is None or bar.end > cursor) and bar.end <= now
        )
        return BarPage(bars=found, cursor=found[-1].end if found else cursor)

    async def quotes(self, symbols: Sequence[str], now: datetime) -> dict[str, Quote]:
        """`MarketDataFeed.quotes`: all of them, or PriceUnavailable."""
        found = await self._read_quotes(symbols)
        missing = [symbol for symbol in symbols if symbol not in found]
        if missing:
            raise PriceUnavailable(f"no quote of {', '.join(missing)}")
        return found

    async def _poll(self, symbols: Sequence[str], now: datetime) -> None:
        for symbol, quote in sorted((await self._read_quotes(symbols)).items()):
            growing = self._open.get(symbol)
            mid = quote.mid
            if mid is not None:
                grown, done = fold_price(
                    growing,
                    symbol,
                    now,
                    mid,
                    bid=quote.bid,
                    ask=quote.ask,
                    interval_s=self._interval_s,
                )
                self._open[symbol] = grown
                self._keep(done)
            elif growing is not None and bar_start(now, self._interval_s) > growing.start:
                self._keep(close_bar(self._open.pop(symbol), self._interval_s))
        self._bars.sort(key=lambda bar: (bar.end, bar.symbol))
        del self._bars[:-BARS_KEPT_MAX]

    def _keep(self, bar: Bar | None) -> None:
        if bar is not None:
            self._bars.append(bar)
