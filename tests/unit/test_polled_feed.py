"""Bars from polled quotes: complete ones only, nothing made up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from domain.errors import PriceUnavailable
from domain.order import Quote
from marketdata.polled import PolledFeed

D = Decimal
BEGIN = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)


class Market:
    """Quotes that a test sets; a side of None is a market without that side."""

    def __init__(self) -> None:
        self.bid: Decimal | None = D(100)
        self.ask: Decimal | None = D(101)

    async def read(self, symbols: Sequence[str]) -> dict[str, Quote]:
        return {
            symbol: Quote(symbol=symbol, bid=self.bid, ask=self.ask, venue_time=BEGIN)
            for symbol in symbols
            if symbol == "ESX"
        }


def at(seconds: int) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


async def test_bar_comes_out_once_it_is_complete_and_only_once() -> None:
    market = Market()
    feed = PolledFeed(market.read)
    assert (await feed.bars(["ESX"], None, at(0))).bars == ()
    market.bid, market.ask = D(102), D(103)
    assert (await feed.bars(["ESX"], None, at(30))).bars == ()
    page = await feed.bars(["ESX"], None, at(60))
    (bar,) = page.bars
    assert (bar.open, bar.high, bar.low, bar.close) == (
        D("100.5"),
        D("102.5"),
        D("100.5"),
        D("102.5"),
    )
    assert (bar.start, bar.end, page.cursor) == (at(0), at(60), at(60))
    assert (await feed.bars(["ESX"], page.cursor, at(65))).bars == ()


async def test_market_without_one_side_adds_no_price_and_ends_the_bar() -> None:
    market = Market()
    feed = PolledFeed(market.read)
    await feed.bars(["ESX"], None, at(10))
    market.ask = None
    (bar,) = (await feed.bars(["ESX"], None, at(70))).bars
    assert (bar.low, bar.high) == (D("100.5"), D("100.5"))
    assert (await feed.bars(["ESX"], bar.end, at(130))).bars == ()


async def test_symbol_without_a_quote_is_an_error_not_a_price() -> None:
    with pytest.raises(PriceUnavailable, match="NOPE"):
        await PolledFeed(Market().read).quotes(["ESX", "NOPE"], at(0))
