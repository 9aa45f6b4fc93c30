"""Indicators over bars: known numbers, other people's formulas, windows, gaps, bad input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bar import Bar
from domain.errors import BadInput
from domain.money import ONE, ZERO, exact
from marketdata.indicators import (
    NO_DATA,
    Reading,
    Window,
    atr,
    ema,
    sma,
    time_weighted_average,
    velocity,
    volume_surge,
    vwap,
)

OPEN = datetime(2026, 3, 9, 13, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TINY = Decimal("1e-20")


def bar(minute: int, close: object, *, volume: object = 10, symbol: str = "ACME") -> Bar:
    """A bar around its close: open one below, high two above, low three below."""
    price = exact(close)
    return Bar(
        symbol=symbol,
        start=OPEN + minute * MINUTE,
        end=OPEN + (minute + 1) * MINUTE,
        open=price - 1,
        high=price + 2,
        low=price - 3,
        close=price,
        volume=exact(volume),
    )


def rising(count: int) -> list[Bar]:
    return [bar(minute, 100 + minute) for minute in range(count)]


closes = st.lists(st.decimals("1", "500", places=2), min_size=1, max_size=40)
minutes = st.lists(st.integers(0, 60), min_size=1, max_size=40, unique=True).map(sorted)


def near(reading: Reading, value: Decimal | int, confidence: Decimal | int = 1) -> bool:
    """Equal but for the last of some 28 digits."""
    found = reading.value
    return (
        found is not None
        and abs(found - value) < TINY
        and abs(reading.confidence - confidence) < TINY
    )


def test_known_bars_give_known_numbers() -> None:
    bars = rising(10)
    assert near(sma(bars, 4), Decimal("107.5"))
    assert near(atr(bars, 5), 5)
    assert near(vwap(bars, 2), Decimal("108.5") - ONE / 3)
    assert near(time_weighted_average(bars, (120, 0)), 108)
    assert near(velocity(bars, (120, 0)), Decimal(2) / 120)
    assert near(volume_surge(bars, (60, 0), (360, 60)), 1)


def test_window_back_from_now_leaves_the_newest_bars_out() -> None:
    bars = rising(10)
    assert time_weighted_average(bars, (600, 300)) == time_weighted_average(bars[:5], (300, 0))
    assert velocity(bars, (600, 300)) == velocity(bars[:5], (300, 0))


def test_surge_of_volume_is_a_ratio_of_rates() -> None:
    bars = [bar(minute, 100, volume=30 if minute == 9 else 10) for minute in range(10)]
    assert near(volume_surge(bars, (60, 0), (540, 60)), 3)
    assert near(volume_surge(bars[4:], (60, 0), (660, 60)), 3, Decimal("0.5"))


def test_volume_decides_a_vwap_and_none_means_no_value() -> None:
    heavy = [bar(0, 100, volume=30), bar(1, 200, volume=10)]
    # (high + low + close) / 3 of these bars lies a third below the close.
    assert near(vwap(heavy), 125 - ONE / 3)
    assert vwap([bar(0, 100, volume=0)]) == NO_DATA
    assert vwap([bar(0, 100, volume=0), bar(1, 100)]).confidence == Decimal("0.5")


def test_gap_lowers_the_confidence_and_is_not_filled() -> None:
    bars = [bar(0, 100), bar(1, 101), bar(9, 110)]
    assert near(sma(bars, 10), Decimal(311) / 3, Decimal("0.3"))
    assert near(sma(bars, 5), 110, Decimal("0.2"))
    assert ema(bars, 5).confidence == Decimal("0.2")
    assert velocity(bars, (300, 0)).confidence == Decimal("0.2")


def test_now_after_the_newest_bar_empties_the_window() -> None:
    bars = rising(10)
    later = bars[-1].end + timedelta(minutes=4)
    assert time_weighted_average(bars, (300, 0), later).confidence == Decimal("0.2")
    assert time_weighted_average(bars, (300, 0), later + MINUTE) == NO_DATA
    early = bars[4].end
    assert velocity(bars, (300, 0), early) == velocity(bars[:5], (300, 0))


CALLS: tuple[Callable[[Sequence[Bar]], Reading], ...] = (
    lambda bars: sma(bars, 5),
    lambda bars: ema(bars, 5),
    lambda bars: atr(bars, 5),
    lambda bars: vwap(bars),
    lambda bars: time_weighted_average(bars, (300, 0)),
    lambda bars: velocity(bars, (300, 0)),
    lambda bars: volume_surge(bars, (120, 0), (300, 120)),
)
NAMES = ("sma", "ema", "atr", "vwap", "time_weighted_average", "velocity", "volume_surge")


@pytest.mark.parametrize("call", CALLS, ids=NAMES)
def test_no_bars_give_no_value_and_no_confidence(call: Callable[[Sequence[Bar]], Reading]) -> None:
    assert call([]) == Reading(None, ZERO)


@pytest.mark.parametrize("call", CALLS, ids=NAMES)
@pytest.mark.parametrize(
    ("bars", "code"),
    [
        ([bar(0, 1), bar(2, 1), bar(1, 1)], "BARS_ORDER"),
        ([bar(0, 1), bar(1, 1), bar(1, 1)], "BARS_ORDER"),
        ([bar(0, 1), bar(1, 1, symbol="OTHER"), bar(2, 1)], "BARS_MIXED"),
    ],
    ids=["order", "doubled", "mixed"],
)
def test_bars_that_are_no_series_are_refused(
    call: Callable[[Sequence[Bar]], Reading], bars: list[Bar], code: str
) -> None:
    with pytest.raises(BadInput) as caught:
        call(bars)
    assert caught.value.code == code


@pytest.mark.parametrize("window", [(0, 0), (60, 60), (0, 60), (60, -1), (604801, 0), (True, 0)])
def test_window_that_is_none_is_refused(window: Window) -> None:
    with pytest.raises(BadInput) as caught:
        velocity(rising(3), window)
    assert caught.value.code == "INDICATOR_WINDOW"


@pytest.mark.parametrize("periods", [0, -1, 100_001, True])
def test_number_of_periods_out_of_range_is_refused(periods: int) -> None:
    with pytest.raises(BadInput) as caught:
        sma(rising(3), periods)
    assert caught.value.code == "INDICATOR_PERIODS"


@settings(max_examples=50, deadline=None)
@given(closes, st.integers(1, 30))
def test_averages_equal_those_of_pandas(prices: list[Decimal], periods: int) -> None:
    bars = [bar(minute, price) for minute, price in enumerate(prices)]
    series = pd.Series([float(price) for price in prices])
    expected = {
        sma(bars, periods): series.rolling(periods, min_periods=1).mean().iloc[-1],
        ema(bars, periods): series.ewm(span=periods, adjust=False).mean().iloc[-1],
    }
    for reading, value in expected.items():
        assert float(reading.value or 0) == pytest.approx(value, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(closes, st.integers(1, 30))
def test_true_range_equals_the_mean_until_periods_and_wilder_after(
    prices: list[Decimal], periods: int
) -> None:
    bars = [bar(minute, price) for minute, price in enumerate(prices)]
    ranges = [bars[0].high - bars[0].low]
    for index in range(1, len(bars)):
        before, this = bars[index - 1].close, bars[index]
        ranges.append(max(this.high - this.low, abs(this.high - before), abs(this.low - before)))
    expected = sum(ranges[:periods], ZERO) / len(ranges[:periods])
    for each in ranges[periods:]:
        expected = (expected * (periods - 1) + each) / periods
    assert abs((atr(bars, periods).value or ZERO) - expected) < TINY


@settings(max_examples=50, deadline=None)
@given(minutes, st.integers(1, 30))
def test_confidence_is_the_share_of_intervals_with_a_bar(at: list[int], periods: int) -> None:
    bars = [bar(minute, 100) for minute in at]
    present = sum(1 for minute in at if minute > at[-1] - periods)
    expected = Decimal(present) / periods
    assert abs(sma(bars, periods).confidence - expected) < TINY
    window = time_weighted_average(bars, (60 * periods, 0)).confidence
    assert abs(window - expected) < TINY
