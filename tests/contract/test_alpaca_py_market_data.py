"""The unmodified official SDK reads the simulated market-data stream over real sockets (§8)."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

with warnings.catch_warnings():
    # The SDK itself still imports the legacy client of websockets.
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.data.live.stock import StockDataStream
    from alpaca.data.models import Bar, Quote, Trade

from simulator.server import SimulatorServer
from tests.unit.simulator_rig import START, SYMBOL, equity, exchange, quote

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
KEY, SECRET = "SIM-PAPER-KEY", "sim-paper-secret"


async def wait_for(condition: Callable[[], bool]) -> None:
    """Polls with a deadline."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + 10
    while not condition():
        assert loop.time() < end_s, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def test_trades_quotes_bars_and_statuses_reach_the_handlers_of_the_sdk() -> None:
    venue = exchange(listings=(equity(),))
    seen: list[Any] = []

    async def keep(message: Any) -> None:
        seen.append(message)

    async with SimulatorServer(venue) as server:
        address = f"ws://127.0.0.1:{server.port}/v2/iex"
        stream = StockDataStream(KEY, SECRET, url_override=address)
        stream.subscribe_trades(keep, SYMBOL)
        stream.subscribe_quotes(keep, SYMBOL)
        stream.subscribe_bars(keep, SYMBOL)
        stream.subscribe_trading_statuses(keep, "*")
        running = asyncio.create_task(stream._run_forever())
        hub = server.alpaca.market
        try:
            await wait_for(lambda: any(each.wants("bars", SYMBOL) for each in hub.sessions))
            quote(venue, "100.25", "100.50", size=7)
            venue.trade(SYMBOL, Decimal("100.50"), Decimal(3))
            venue.trade(SYMBOL, Decimal("100.25"), Decimal(2))
            server.step_s(60)
            venue.trade(SYMBOL, Decimal("100.75"), Decimal(1))
            venue.halt(SYMBOL)
            await wait_for(lambda: len(seen) >= 6)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await stream.close()
    quoted = next(each for each in seen if isinstance(each, Quote))
    assert (quoted.symbol, quoted.bid_price, quoted.bid_size) == (SYMBOL, 100.25, 7)
    trades = [each for each in seen if isinstance(each, Trade)]
    assert [(each.price, each.size) for each in trades] == [(100.5, 3), (100.25, 2), (100.75, 1)]
    assert trades[-1].timestamp == START + timedelta(seconds=60)
    bar = next(each for each in seen if isinstance(each, Bar))
    assert (bar.open, bar.high, bar.low, bar.close) == (100.5, 100.5, 100.25, 100.25)
    assert (bar.volume, bar.timestamp) == (5, START)
    (halted,) = [each for each in seen if type(each).__name__ == "TradingStatus"]
    assert (halted.symbol, halted.status_code) == (SYMBOL, "H")


async def test_the_sdk_reports_wrong_keys_and_a_full_connection_limit() -> None:
    venue = exchange(listings=(equity(),))
    async with SimulatorServer(venue) as server:
        address = f"ws://127.0.0.1:{server.port}/v2/iex"
        wrong = StockDataStream(KEY, "wrong", url_override=address)
        with pytest.raises(ValueError, match="auth failed"):
            await wrong._start_ws()
        await wrong.close()
        first = StockDataStream(KEY, SECRET, url_override=address)
        await first._start_ws()
        second = StockDataStream(KEY, SECRET, url_override=address)
        with pytest.raises(ValueError, match="connection limit exceeded"):
            await second._start_ws()
        await second.close()
        await first.close()
