"""Ticks a second through ten indicators on one core, and fifteen consumers of one feed.

No servers: pure computation of this process. Rates are ticks per second of CPU time, so that other
load on the machine disturbs little; the wall time stands beside it.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

from domain.bar import Bar
from domain.money import total
from domain.tick import TradePrint
from marketdata.indicators import Reading
from marketdata.live_bars import LiveBars
from marketdata.tick_indicators import TickIndicators

TICKS = 200_000
TICKS_PER_S = 1_000
RATE_TARGET = 100_000
RUNS = 3
SESSIONS, STRATEGIES, SHARED_S = 5, 3, 20
KEEP_S = 660
OPEN = datetime(2026, 3, 9, 13, 30, tzinfo=UTC)

Tick = tuple[datetime, Decimal, Decimal]


def measure_indicators() -> list[str]:
    """The lines of this part.

    Raises:
        AssertionError: a tick was lost.
    """
    ticks = _ticks(TICKS)
    rates, walls = [], []
    for _run in range(RUNS):
        cpu_s, wall_s = _play(ticks, every=TICKS_PER_S)
        rates.append(len(ticks) / cpu_s)
        walls.append(len(ticks) / wall_s)
    median = statistics.median(rates)
    met = "met" if median >= RATE_TARGET else "MISSED"
    each = ticks[: TICKS // 10]
    each_cpu_s, _ = _play(each, every=1)
    shown = " · ".join(f"{rate:,.0f}" for rate in rates)
    return [
        f"{met}: {median:,.0f} ticks/s of CPU through ten indicators (target ≥ {RATE_TARGET:,})",
        f"runs {shown}; by the wall clock {statistics.median(walls):,.0f} ticks/s",
        f"a tick updates all ten; all ten are read once a market second ({TICKS_PER_S:,} ticks)",
        f"all ten read after every single tick: {len(each) / each_cpu_s:,.0f} ticks/s",
        _memory(ticks[:100_000]),
        _shared(),
        _live_bars(),
    ]


def _ticks(count: int) -> list[Tick]:
    """Irregular in time, about a thousand a second; a random walk in cents."""
    random, at_us, cents, ticks = Random(7), 0, 10_000, []
    for _ in range(count):
        at_us += random.randint(1, 2 * 1_000_000 // TICKS_PER_S)
        cents = max(1, cents + random.randint(-2, 2))
        size = Decimal(random.randint(1, 300))
        ticks.append((OPEN + timedelta(microseconds=at_us), Decimal(cents).scaleb(-2), size))
    return ticks


def _consumer() -> TickIndicators:
    return TickIndicators(KEEP_S, ema_periods=(9, 21), atr_periods=(14,), ticks_max=1_000_000)


def _read_ten(consumer: TickIndicators, now: datetime) -> list[Reading]:
    windows, averages = consumer.windows, consumer.averages
    return [
        windows.time_weighted_average((300, 0), now),
        windows.time_weighted_average((600, 300), now),
        windows.velocity((60, 0), now),
        windows.velocity((300, 0), now),
        windows.volume_surge((60, 0), (660, 60), now),
        windows.sma((60, 0), now),
        windows.vwap((300, 0), now),
        averages.ema(9, now),
        averages.ema(21, now),
        averages.atr(14, now),
    ]


def _play(ticks: Sequence[Tick], *, every: int) -> tuple[float, float]:
    """(CPU, wall) seconds for the ticks, all ten read after every so many."""
    consumer = _consumer()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for number, (at, price, size) in enumerate(ticks, start=1):
        consumer.add(at, price, size)
        if number % every == 0:
            _read_ten(consumer, at)
    spent = time.process_time() - cpu_s, time.perf_counter() - wall_s
    _assert_nothing_lost(consumer, len(ticks))
    return spent


def _memory(ticks: Sequence[Tick]) -> str:
    tracemalloc.start()
    consumer = _consumer()
    for at, price, size in ticks:
        consumer.add(at, price, size)
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = len(consumer.windows)
    return f"memory {size_bytes / kept:.0f} bytes a tick kept ({kept:,} ticks in {KEEP_S} s)"


def _shared() -> str:
    """Every strategy of every session with indicators of its own, all from one feed."""
    ticks = _ticks(TICKS_PER_S * SHARED_S)
    consumers = [_consumer() for _ in range(SESSIONS * STRATEGIES)]
    begun_s = time.process_time()
    for number, (at, price, size) in enumerate(ticks, start=1):
        for consumer in consumers:
            consumer.add(at, price, size)
        if number % TICKS_PER_S == 0:
            for consumer in consumers:
                _read_ten(consumer, at)
    cpu_s = time.process_time() - begun_s
    for consumer in consumers:
        _assert_nothing_lost(consumer, len(ticks))
    market_s = (ticks[-1][0] - OPEN).total_seconds()
    came, met = len(ticks) * len(consumers), "met" if cpu_s <= market_s else "MISSED"
    return (
        f"{met}: {SESSIONS} sessions x {STRATEGIES} strategies at {TICKS_PER_S:,} ticks/s:"
        f" {came:,} in, {came:,} taken, 0 dropped, {cpu_s / market_s:.0%} of a core"
    )


def _live_bars() -> str:
    """The way of a live session: prints of the stream become bars, once for all its sessions."""
    ticks = _ticks(TICKS_PER_S * SHARED_S)
    prints = [
        TradePrint(symbol="ACME", price=price, size=size, venue_time=at)
        for at, price, size in ticks
    ]
    live, bars = LiveBars(1), list[Bar]()
    live.began("ACME", OPEN)
    begun_s = time.process_time()
    for number, one in enumerate(prints, start=1):
        live.take(one)
        if number % TICKS_PER_S == 0:
            sealed = live.seal(one.venue_time)
            bars.extend(() if sealed is None else sealed[0])
    cpu_s = time.process_time() - begun_s
    sealed = live.seal(prints[-1].venue_time + timedelta(seconds=5))
    bars.extend(() if sealed is None else sealed[0])
    came, told = total(size for _, _, size in ticks), total(bar.volume for bar in bars)
    assert (live.late, told) == (0, came), f"volume in {came}, in bars {told}, late {live.late}"
    market_s = (ticks[-1][0] - OPEN).total_seconds()
    return (
        f"bars out of the live stream: volume in {came}, in bars {told}, late 0,"
        f" {cpu_s / market_s:.0%} of a core at {TICKS_PER_S:,} ticks/s"
    )


def _assert_nothing_lost(consumer: TickIndicators, came: int) -> None:
    windows = consumer.windows
    refused = sum(windows.refused.values())
    assert windows.taken == came, f"{came} ticks came, {windows.taken} taken, {refused} refused"
    assert windows.overwritten == 0, f"{windows.overwritten} ticks overwritten"
