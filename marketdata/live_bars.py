"""Bars that grow from a live stream; only bars that were seen whole are handed out.

From trades; for a symbol that has not traded, from the mid of its quotes (as `TapeFeed`). After
a lost connection the growing bars are dropped: half a bar is a wrong one (requirements #167).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from domain.bar import Bar
from domain.money import ZERO
from domain.order import Quote
from domain.tick import TradePrint
from marketdata.feed import OpenBar, bar_start, close_bar, fold_price

# Market time that ticks of a finished bar may still be under way.
GRACE = timedelta(seconds=1)


class LiveBars:
    """The growing bars of one length. All instants are market time.

    `late` counts ticks that came after their bar had been handed out; they change nothing.
    """

    def __init__(self, interval_s: int) -> None:
        self.interval_s = interval_s
        self.late = 0
        self._by_trades: dict[tuple[datetime, str], OpenBar] = {}
        self._by_quotes: dict[tuple[datetime, str], OpenBar] = {}
        self._whole_from: dict[str, datetime] = {}
        self._traded: set[str] = set()
        self._sealed_to: datetime | None = None

    def began(self, symbol: str, at: datetime) -> None:
        """From `at` on every tick of the symbol comes; its first whole bar starts after that."""
        self._whole_from.setdefault(symbol, at)

    def ended(self, symbol: str) -> None:
        """Ticks of the symbol may be missing from here on."""
        self._whole_from.pop(symbol, None)
        for bars in (self._by_trades, self._by_quotes):
            for key in [key for key in bars if key[1] == symbol]:
                del bars[key]

    def take(self, tick: TradePrint | Quote) -> None:
        """Adds a tick to its bar."""
        if tick.symbol not in self._whole_from:
            return
        start = bar_start(tick.venue_time, self.interval_s)
        if self._sealed_to is not None and start < self._sealed_to:
            self.late += 1
        elif isinstance(tick, TradePrint):
            self._traded.add(tick.symbol)
            self._grow(self._by_trades, start, tick, tick.price, tick.size)
        elif tick.bid is not None and tick.ask is not None and tick.bid <= tick.ask:
            self._grow(self._by_quotes, start, tick, (tick.bid + tick.ask) / 2, ZERO)

    def seal(self, now: datetime) -> tuple[tuple[Bar, ...], datetime] | None:
        """The bars that are over at `now`, and up to when all are told; None when nothing is new.

        What is told is final: a bar that a later tick belongs to is not told again.
        """
        sealed_to = bar_start(now - GRACE, self.interval_s)
        if self._sealed_to is not None and sealed_to <= self._sealed_to:
            return None
        self._sealed_to = sealed_to
        keys = {key for key in (*self._by_trades, *self._by_quotes) if key[0] < sealed_to}
        found = []
        for key in sorted(keys):
            quoted, traded = self._by_quotes.pop(key, None), self._by_trades.pop(key, None)
            start, symbol = key
            grown = traded if symbol in self._traded else quoted
            if grown is None or start < self._whole_from[symbol]:
                continue
            bid_ask = {} if quoted is None else {"bid": quoted.bid, "ask": quoted.ask}
            found.append(close_bar(grown.model_copy(update=bid_ask), self.interval_s))
        return tuple(found), sealed_to

    def _grow(
        self,
        bars: dict[tuple[datetime, str], OpenBar],
        start: datetime,
        tick: TradePrint | Quote,
        price: Decimal,
        size: Decimal,
    ) -> None:
        key = (start, tick.symbol)
        bid, ask = (tick.bid, tick.ask) if isinstance(tick, Quote) else (None, None)
        bars[key], _ = fold_price(
            bars.get(key),
            tick.symbol,
            tick.venue_time,
            price,
            size=size,
            bid=bid,
            ask=ask,
            interval_s=self.interval_s,
        )
