"""Indicators over ticks equal a naive recomputation exactly; bad ticks are named; memory ends."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bar import Bar
from domain.errors import BadInput
from domain.money import ONE, ZERO, divide
from marketdata import indicators
from marketdata.events import EventKind, TapeEvent
from marketdata.feed import OpenBar, TapeFeed, close_bar, fold_price
from marketdata.indicators import NO_DATA, Reading, Window
from marketdata.tick_indicators import BarAverages, TickIndicators
from marketdata.tick_windows import TickOutcome, TickWindows

OPEN = datetime(2026, 3, 9, 13, 30, tzinfo=UTC)
HOLD_S = 20


class Tick(NamedTuple):
    at: datetime
    price: Decimal
    size: Decimal


def after(seconds: float) -> datetime:
    return OPEN + timedelta(seconds=seconds)


def tick(seconds: float, price: str = "100", size: str = "1") -> Tick:
    return Tick(after(seconds), Decimal(price), Decimal(size))


# Irregular on purpose: many in an instant, microseconds apart, and gaps longer than the hold.
gaps_us = st.one_of(
    st.just(0), st.integers(1, 10), st.integers(1, 5_000_000), st.integers(1, 90_000_000)
)
prices = st.decimals("0.0001", "5000", places=4)
sizes = st.one_of(st.just(ZERO), st.decimals("0.001", "1000", places=3))


@st.composite
def tick_series(draw: st.DrawFn) -> list[Tick]:
    at, series = OPEN, []
    for gap_us, price, size in draw(st.lists(st.tuples(gaps_us, prices, sizes), max_size=40)):
        at += timedelta(microseconds=gap_us)
        one = Tick(at, price, size)
        # The same tick twice in an instant is one tick; see the test of doubled ticks.
        if one not in series:
            series.append(one)
    return series


@st.composite
def windows(draw: st.DrawFn) -> Window:
    t2 = draw(st.integers(0, 100))
    return (t2 + draw(st.integers(1, 120)), t2)


# --- the naive way: every stretch between two ticks, looked at one by one ----------------------


def stretches(
    ticks: Sequence[Tick], window: Window, now: datetime
) -> list[tuple[datetime, datetime, Decimal]]:
    """(begin, end, price) of everything inside the window in which a price is known."""
    begin, end = now - timedelta(seconds=window[0]), now - timedelta(seconds=window[1])
    found = []
    for index, one in enumerate(ticks):
        until = one.at + timedelta(seconds=HOLD_S)
        if index + 1 < len(ticks):
            until = min(until, ticks[index + 1].at)
        if max(one.at, begin) < min(until, end):
            found.append((max(one.at, begin), min(until, end), one.price))
    return found


def inside(ticks: Sequence[Tick], window: Window, now: datetime) -> list[Tick]:
    begin, end = now - timedelta(seconds=window[0]), now - timedelta(seconds=window[1])
    return [one for one in ticks if begin < one.at <= end]


def seconds(begin: datetime, end: datetime) -> Fraction:
    return Fraction((end - begin) // timedelta(microseconds=1), 10**6)


def known_s(ticks: Sequence[Tick], window: Window, now: datetime) -> Fraction:
    return sum((seconds(a, b) for a, b, _ in stretches(ticks, window, now)), Fraction())


def reading(value: Fraction | None, confidence: Fraction) -> Reading:
    if value is None or confidence == 0:
        return NO_DATA
    return Reading(decimal(value), decimal(confidence))


def decimal(number: Fraction) -> Decimal:
    return divide(Decimal(number.numerator), Decimal(number.denominator))


def naive_average(ticks: Sequence[Tick], window: Window, now: datetime) -> Reading:
    held = known_s(ticks, window, now)
    area = sum(seconds(a, b) * Fraction(price) for a, b, price in stretches(ticks, window, now))
    return reading(area / held if held else None, held / (window[0] - window[1]))


def naive_velocity(ticks: Sequence[Tick], window: Window, now: datetime) -> Reading:
    pieces = stretches(ticks, window, now)
    if not pieces:
        return NO_DATA
    # A tick at the very end of the window is known there, though for no time yet.
    end = now - timedelta(seconds=window[1])
    last = [one.price for one in ticks if one.at <= end][-1]
    end_at = pieces[-1][1]
    if [one for one in ticks if one.at == end]:
        end_at = end
    change = Fraction(last) - Fraction(pieces[0][2])
    held = known_s(ticks, window, now)
    return reading(change / seconds(pieces[0][0], end_at), held / (window[0] - window[1]))


def naive_mean(ticks: Sequence[Tick], window: Window, now: datetime, *, by_volume: bool) -> Reading:
    weighted = [
        (Fraction(one.price), Fraction(one.size) if by_volume else Fraction(1))
        for one in inside(ticks, window, now)
    ]
    weight = sum((weight for _, weight in weighted), Fraction())
    held = known_s(ticks, window, now)
    mean = sum((p * w for p, w in weighted), Fraction()) / weight if weight else None
    return reading(mean, held / (window[0] - window[1]))


def naive_surge(ticks: Sequence[Tick], window: Window, reference: Window, now: datetime) -> Reading:
    rates, shares = [], []
    for each in (window, reference):
        held = known_s(ticks, each, now)
        volume = sum((Fraction(one.size) for one in inside(ticks, each, now)), Fraction())
        rates.append(volume / held if held else Fraction())
        shares.append(held / (each[0] - each[1]))
    return reading(rates[0] / rates[1] if rates[1] else None, min(shares))


def compare(store: TickWindows, ticks: Sequence[Tick], window: Window, now: datetime) -> None:
    reference = (window[0] + 60, window[0])
    assert store.time_weighted_average(window, now) == naive_average(ticks, window, now)
    assert store.velocity(window, now) == naive_velocity(ticks, window, now)
    assert store.sma(window, now) == naive_mean(ticks, window, now, by_volume=False)
    assert store.vwap(window, now) == naive_mean(ticks, window, now, by_volume=True)
    surge = store.volume_surge(window, reference, now)
    assert surge == naive_surge(ticks, window, reference, now)


# --- properties -------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(tick_series(), windows(), st.integers(-60_000_000, 120_000_000))
def test_every_window_equals_the_naive_recomputation(
    ticks: list[Tick], window: Window, offset_us: int
) -> None:
    store = TickWindows(300, hold_s=HOLD_S)
    for one in ticks:
        assert store.add(*one) is TickOutcome.TAKEN
    newest = ticks[-1].at if ticks else OPEN
    for now in (newest, newest + timedelta(microseconds=offset_us)):
        compare(store, ticks, window, now)


def test_windows_stay_exact_while_old_ticks_are_cut_away() -> None:
    random = Random(3)
    store, ticks, at = TickWindows(120, hold_s=HOLD_S), [], OPEN
    for number in range(6000):
        at += timedelta(microseconds=random.choice((1, 900, 40_000, 150_000, 25_000_000 // 50)))
        one = Tick(
            at, Decimal(random.randint(9000, 11000)).scaleb(-2), Decimal(random.randint(0, 9))
        )
        ticks.append(one)
        assert store.add(*one) is TickOutcome.TAKEN
        if number % 500 == 499:
            begin = bisect_left(ticks, at - timedelta(seconds=200), key=lambda each: each.at)
            compare(store, ticks[begin:], (60, 0), at)
            compare(store, ticks[begin:], (45, 30), at)
    assert store.taken == 6000
    assert len(store) < 4000
    assert store.overwritten == 0


@settings(max_examples=60, deadline=None)
@given(tick_series(), st.integers(1, 8), st.integers(0, 30_000_000))
def test_averages_over_bars_equal_those_of_the_feeds_bars(
    ticks: list[Tick], periods: int, offset_us: int
) -> None:
    averages = BarAverages(5, ema_periods=(periods,), atr_periods=(periods,))
    growing: OpenBar | None = None
    bars: list[Bar] = []
    for at, price, _ in ticks:
        averages.add(at, price)
        growing, done = fold_price(growing, "ACME", at, price, interval_s=5)
        bars.extend([done] if done is not None else [])
    now = (ticks[-1].at if ticks else OPEN) + timedelta(microseconds=offset_us)
    if growing is not None and growing.start + timedelta(seconds=5) <= now:
        bars.append(close_bar(growing, 5))
    count = recent(bars, now, periods)
    for found, expected in (
        (averages.ema(periods, now), indicators.ema(bars, periods)),
        (averages.atr(periods, now), indicators.atr(bars, periods)),
    ):
        if count == 0:
            assert found == NO_DATA
        else:
            assert found.value == expected.value
            assert found.confidence == divide(Decimal(count), Decimal(periods))


def recent(bars: Sequence[Bar], now: datetime, periods: int) -> int:
    """Bars in the last whole intervals before `now`."""
    since = (now - OPEN) % timedelta(seconds=5)
    begin = now - since - timedelta(seconds=5 * periods)
    return sum(1 for bar in bars if bar.start >= begin)


# --- bad ticks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "outcome"),
    [
        (tick(9), TickOutcome.LATE),
        (tick(10, "100", "5"), TickOutcome.DOUBLED),
        (tick(11, "NaN"), TickOutcome.NOT_FINITE),
        (tick(11, "sNaN"), TickOutcome.NOT_FINITE),
        (tick(11, "Infinity"), TickOutcome.NOT_FINITE),
        (tick(11, "100", "NaN"), TickOutcome.NOT_FINITE),
        (tick(11, "0"), TickOutcome.NOT_POSITIVE),
        (tick(11, "-1"), TickOutcome.NOT_POSITIVE),
        (tick(11, "100", "-1"), TickOutcome.NOT_POSITIVE),
    ],
    ids=lambda each: f"{each.price} {each.size}" if isinstance(each, Tick) else str(each),
)
def test_bad_tick_is_named_and_changes_nothing(bad: Tick, outcome: TickOutcome) -> None:
    good = (tick(0, "90", "2"), tick(10, "100", "5"), tick(10, "100", "6"))
    store, clean = (
        TickIndicators(300, bar_s=5, ema_periods=(2,), atr_periods=(2,)) for _ in range(2)
    )
    for one in good:
        store.add(*one)
        clean.add(*one)
    assert store.add(*bad) is outcome
    assert store.windows.refused == {outcome: 1}
    assert store.windows.taken == len(good)
    assert readings(store, after(30)) == readings(clean, after(30))
    assert store.add(*tick(12)) is TickOutcome.TAKEN


def readings(store: TickIndicators, now: datetime) -> list[Reading]:
    windows_ = store.windows
    return [
        windows_.time_weighted_average((30, 0), now),
        windows_.velocity((30, 0), now),
        windows_.sma((30, 0), now),
        windows_.vwap((30, 0), now),
        windows_.volume_surge((15, 0), (30, 15), now),
        store.averages.ema(2, now),
        store.averages.atr(2, now),
    ]


def test_two_trades_of_an_instant_that_differ_both_count() -> None:
    store = TickWindows(60)
    ticks = (tick(1, "100", "1"), tick(1, "100", "2"), tick(1, "101", "1"))
    assert [store.add(*one) for one in ticks] == [TickOutcome.TAKEN] * 3
    assert store.add(*ticks[0]) is TickOutcome.DOUBLED
    assert store.vwap((60, 0), after(2)).value == Decimal("100.25")


# --- no data ------------------------------------------------------------------------------------


def test_no_tick_gives_no_value_and_no_confidence() -> None:
    store = TickIndicators(300, ema_periods=(2,), atr_periods=(2,))
    assert readings(store, OPEN) == [NO_DATA] * 7


def test_silence_takes_the_confidence_and_then_the_value() -> None:
    store = TickIndicators(100, hold_s=10, bar_s=5, ema_periods=(2,), atr_periods=(2,))
    for second in range(100):
        store.add(*tick(second, size=str(second % 3 + 1)))
    full = store.windows.time_weighted_average((50, 0), after(100))
    assert full == Reading(Decimal(100), ONE)
    assert store.windows.time_weighted_average((50, 0), after(129)).confidence == Decimal("0.6")
    assert readings(store, after(300)) == [NO_DATA] * 7


def test_price_is_not_carried_on_longer_than_the_hold() -> None:
    store = TickWindows(100, hold_s=10)
    store.add(*tick(0, "100"))
    store.add(*tick(90, "200"))
    average = store.time_weighted_average((100, 0), after(100))
    assert average == (Decimal(150), Decimal("0.2"))


def test_velocity_begins_where_a_price_is_known_again() -> None:
    store = TickWindows(100, hold_s=10)
    for one in (tick(0, "100"), tick(30, "130"), tick(35, "140")):
        store.add(*one)
    # The window begins in the very instant in which the first price is no data any more.
    assert store.velocity((30, 0), after(40)).value == 1
    assert store.velocity((31, 0), after(40)).value == divide(Decimal(40), Decimal(31))


@pytest.mark.parametrize("window", [(0, 0), (301, 0), (60, 60), (60, -1)])
def test_window_that_is_none_or_reaches_too_far_is_refused(window: Window) -> None:
    with pytest.raises(BadInput) as caught:
        TickWindows(300).sma(window, OPEN)
    assert caught.value.code == "INDICATOR_WINDOW"


def test_average_that_was_not_named_at_the_start_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        BarAverages(60, ema_periods=(9,)).ema(10, OPEN)
    assert caught.value.code == "INDICATOR_PERIODS"


# --- bounds -------------------------------------------------------------------------------------


def test_memory_ends_at_ticks_max_and_the_confidence_tells() -> None:
    store = TickWindows(600, ticks_max=100)
    longest = 0
    for number in range(5000):
        assert store.add(*tick(number / 100, str(100 + number % 7))) is TickOutcome.TAKEN
        longest = max(longest, len(store))
    assert longest <= 100
    assert store.taken == 5000 == store.overwritten + len(store)
    whole = store.time_weighted_average((50, 0), after(50))
    assert whole.confidence == Decimal(len(store)) / 5000
    assert store.sma((1, 0), after(49.99)).confidence == Decimal(len(store) - 1) / 100


def test_five_sessions_with_three_strategies_lose_no_tick_of_a_thousand_a_second() -> None:
    random = Random(5)
    ticks = [
        Tick(
            after(number / 1000),
            Decimal(random.randint(9900, 10100)).scaleb(-2),
            Decimal(random.randint(1, 9)),
        )
        for number in range(5000)
    ]
    events = [
        TapeEvent(time=one.at, symbol="ACME", kind=EventKind.TRADE, price=one.price, size=one.size)
        for one in ticks
    ]
    volume = sum((one.size for one in ticks), ZERO)
    for _session in range(5):
        feed = TapeFeed(events, interval_s=1)
        bars = feed.completed(["ACME"], None, after(10)).bars
        assert sum((bar.volume for bar in bars), ZERO) == volume
        consumers = [
            TickIndicators(30, bar_s=1, ema_periods=(3,), atr_periods=(3,))
            for _strategy in range(3)
        ]
        for one in ticks:
            for consumer in consumers:
                consumer.add(*one)
        for consumer in consumers:
            assert consumer.windows.taken == len(ticks)
            assert not consumer.windows.refused
            assert consumer.windows.overwritten == 0
            assert consumer.averages.ema(3, after(5)) == indicators.ema(bars, 3)
            assert consumer.averages.atr(3, after(5)) == indicators.atr(bars, 3)
