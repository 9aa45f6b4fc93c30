"""Bars out of a tape or out of polled quotes, handed out only once they are complete.

Nothing here keeps state that a restart could lose: cursor in, cursor out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from pydantic import AwareDatetime

from domain.bar import Bar
from domain.base import Frozen
from domain.errors import PriceUnavailable
from domain.money import ZERO, NetPrice, Quantity
from domain.order import Quote
from marketdata.events import EventKind, TapeEvent, read_tape
from marketdata.port import BarPage

BAR_INTERVAL_S = 60
QUOTE_AGE_S_MAX = 300
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OpenBar(Frozen):
    """A bar that is still growing; a live session carries it in its state."""

    symbol: str
    start: AwareDatetime
    open: NetPrice
    high: NetPrice
    low: NetPrice
    close: NetPrice
    volume: Quantity = ZERO
    bid: NetPrice | None = None
    ask: NetPrice | None = None


def bar_start(at: datetime, interval_s: int = BAR_INTERVAL_S) -> datetime:
    """Start of the interval that contains the instant; intervals are aligned to UTC midnight."""
    since_s = int((at - _EPOCH).total_seconds())
    return _EPOCH + timedelta(seconds=since_s - since_s % interval_s)


def fold_price(
    current: OpenBar | None,
    symbol: str,
    at: datetime,
    price: Decimal,
    *,
    size: Decimal = ZERO,
    bid: Decimal | None = None,
    ask: Decimal | None = None,
    interval_s: int = BAR_INTERVAL_S,
) -> tuple[OpenBar, Bar | None]:
    """Adds one price to the growing bar; returns it and the bar that it completed, if any.

    A price older than the growing bar changes nothing (late news cannot rewrite the past).
    """
    start = bar_start(at, interval_s)
    if current is not None and start < current.start:
        return current, None
    if current is None or start > current.start:
        grown = OpenBar(
            symbol=symbol,
            start=start,
            open=price,
            high=price,
            low=price,
            close=price,
            volume=size,
            bid=bid,
            ask=ask,
        )
        return grown, close_bar(current, interval_s) if current is not None else None
    grown = OpenBar(
        symbol=symbol,
        start=start,
        open=current.open,
        high=max(current.high, price),
        low=min(current.low, price),
        close=price,
        volume=current.volume + size,
        bid=bid if bid is not None else current.bid,
        ask=ask if ask is not None else current.ask,
    )
    return grown, None


def close_bar(current: OpenBar, interval_s: int = BAR_INTERVAL_S) -> Bar:
    """The finished bar."""
    end = current.start + timedelta(seconds=interval_s)
    return Bar(end=end, **current.model_dump())


class TapeFeed:
    """Bars and quotes of a tape as of any market instant; never looks ahead.

    Bars come from trades; where a symbol has none, from the mid of its quotes. `bar` rows of the
    tape are handed out as they are, or put together where they are shorter (one a second).
    Built once per process; every answer depends on the arguments only, so that a restarted
    session continues exactly where its cursor stands.
    """

    def __init__(
        self,
        events: Iterable[TapeEvent],
        *,
        interval_s: int = BAR_INTERVAL_S,
        quote_age_s_max: int = QUOTE_AGE_S_MAX,
    ) -> None:
        self._quote_age_s_max = quote_age_s_max
        self._quotes: dict[str, list[TapeEvent]] = {}
        self._last: dict[str, list[TapeEvent]] = {}
        by_trades: dict[str, _BarGrower] = {}
        by_quotes: dict[str, _BarGrower] = {}
        ready: dict[str, list[Bar]] = {}
        for event in events:
            if event.kind is EventKind.BAR:
                _add_bar(ready.setdefault(event.symbol, []), event, interval_s)
                continue
            if event.kind is EventKind.QUOTE:
                self._quotes.setdefault(event.symbol, []).append(event)
                grower = by_quotes.setdefault(event.symbol, _BarGrower(event.symbol, interval_s))
                grower.quote(event)
                if event.symbol in by_trades:
                    by_trades[event.symbol].note_quote(event)
                continue
            self._last.setdefault(event.symbol, []).append(event)
            grower = by_trades.setdefault(event.symbol, _BarGrower(event.symbol, interval_s))
            grower.trade(event)
        bars: list[Bar] = []
        for symbol in sorted({*by_trades, *by_quotes, *ready}):
            source = by_trades.get(symbol) or by_quotes.get(symbol)
            bars.extend(ready.get(symbol) or (source.finish() if source is not None else ()))
        self._bars = sorted(bars, key=lambda bar: (bar.end, bar.symbol))
        self._ends = [bar.end for bar in self._bars]

    @classmethod
    def open(cls, path: Path, *, interval_s: int = BAR_INTERVAL_S) -> TapeFeed:
        """The feed of a tape file."""
        return cls(read_tape(path), interval_s=interval_s)

    def completed(self, symbols: Sequence[str], cursor: datetime | None, now: datetime) -> BarPage:
        """Bars with cursor < end <= now, oldest first; the same arguments, the same answer."""
        begin = 0 if cursor is None else bisect_right(self._ends, cursor)
        end = bisect_right(self._ends, now)
        wanted = frozenset(symbols)
        bars = tuple(bar for bar in self._bars[begin:end] if bar.symbol in wanted)
        newest = self._ends[end - 1] if end > begin else cursor
        return BarPage(bars=bars, cursor=newest)

    def quote(self, symbol: str, now: datetime) -> Quote:
        """The newest quote as of `now`.

        Raises:
            PriceUnavailable: none yet, one-sided, crossed or older than the limit (market time).
        """
        event = _newest(self._quotes.get(symbol, []), now)
        if event is None:
            raise PriceUnavailable(f"no quote of {symbol} before {now.isoformat()}")
        age_s = (now - event.time).total_seconds()
        if age_s > self._quote_age_s_max:
            raise PriceUnavailable(f"quote of {symbol} was {age_s:.0f} s old", code="QUOTE_STALE")
        if event.bid is None or event.ask is None:
            raise PriceUnavailable(f"quote of {symbol} had one side", code="QUOTE_ONE_SIDED")
        if event.bid > event.ask:
            text = f"quote of {symbol} was {event.bid} x {event.ask}"
            raise PriceUnavailable(text, code="QUOTE_CROSSED")
        trade = _newest(self._last.get(symbol, []), now)
        return Quote(
            symbol=symbol,
            bid=event.bid,
            ask=event.ask,
            bid_size=event.bid_size,
            ask_size=event.ask_size,
            last=trade.price if trade is not None else None,
            venue_time=event.time,
        )

    async def bars(self, symbols: Sequence[str], cursor: datetime | None, now: datetime) -> BarPage:
        """`MarketDataFeed.bars`."""
        return self.completed(symbols, cursor, now)

    async def quotes(self, symbols: Sequence[str], now: datetime) -> dict[str, Quote]:
        """`MarketDataFeed.quotes`: all of them, or PriceUnavailable."""
        return {symbol: self.quote(symbol, now) for symbol in symbols}


class _BarGrower:
    """Mutable twin of `fold_price` for whole tapes: the same bars, without a model per tick."""

    def __init__(self, symbol: str, interval_s: int) -> None:
        self._symbol = symbol
        self._interval = timedelta(seconds=interval_s)
        self._interval_s = interval_s
        self._start: datetime | None = None
        self._prices: list[Decimal] = []
        self._volume = ZERO
        self._quote: TapeEvent | None = None
        self._bars: list[Bar] = []

    def trade(self, event: TapeEvent) -> None:
        assert event.price is not None
        self._add(event.time, event.price, event.size or ZERO)

    def quote(self, event: TapeEvent) -> None:
        if event.bid is not None and event.ask is not None and event.bid <= event.ask:
            self._add(event.time, (event.bid + event.ask) / 2, ZERO)
            self.note_quote(event)

    def note_quote(self, event: TapeEvent) -> None:
        """Keeps the quote if it lies inside the growing bar."""
        if self._start is not None and event.time < self._start + self._interval:
            self._quote = event

    def finish(self) -> list[Bar]:
        self._close()
        return self._bars

    def _add(self, at: datetime, price: Decimal, size: Decimal) -> None:
        if self._start is None or at >= self._start + self._interval:
            self._close()
            self._start = bar_start(at, self._interval_s)
        self._prices.append(price)
        self._volume += size

    def _close(self) -> None:
        if self._start is None or not self._prices:
            return
        quote = self._quote
        self._bars.append(
            Bar(
                symbol=self._symbol,
                start=self._start,
                end=self._start + self._interval,
                open=self._prices[0],
                high=max(self._prices),
                low=min(self._prices),
                close=self._prices[-1],
                volume=self._volume,
                bid=quote.bid if quote is not None else None,
                ask=quote.ask if quote is not None else None,
            )
        )
        self._prices, self._volume, self._quote = [], ZERO, None


def _add_bar(bars: list[Bar], event: TapeEvent, interval_s: int) -> None:
    """Adds a `bar` row, which stands at its end, to the bar of its interval."""
    instant = timedelta(microseconds=1)
    end = bar_start(event.time - instant, interval_s) + timedelta(seconds=interval_s)
    added = Bar(
        symbol=event.symbol,
        start=end - timedelta(seconds=interval_s),
        end=end,
        open=_given(event.open),
        high=_given(event.high),
        low=_given(event.low),
        close=_given(event.close),
        volume=event.volume or ZERO,
    )
    if not bars or bars[-1].end < end:
        bars.append(added)
        return
    before = bars[-1]
    bars[-1] = before.model_copy(
        update={
            "high": max(before.high, added.high),
            "low": min(before.low, added.low),
            "close": added.close,
            "volume": before.volume + added.volume,
        }
    )


def _given(price: Decimal | None) -> Decimal:
    if price is None:
        raise PriceUnavailable("a bar of the tape had no price")
    return price


def _newest(events: Sequence[TapeEvent], now: datetime) -> TapeEvent | None:
    index = bisect_right(events, now, key=lambda event: event.time)
    return events[index - 1] if index else None
