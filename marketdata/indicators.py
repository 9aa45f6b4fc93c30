"""Indicators over completed bars, one line each in a strategy: `sma(bars, 20).value`.

Pure functions of the bars given; the same bars give the same answer. Numbers are Decimal with
28 or more digits: an indicator is a statistic and no price (ADR 0014). What becomes a price of an
order goes through `domain.money.round_down_to_step` or `round_up_to_step` with the tick size
first.

Every answer is a `Reading`: the value, and how much of the window has data. Where there is
nothing to compute, value is None and confidence 0; nothing is filled in. Windows in seconds are
`(t1, t2)` back from now: `(300, 0)` the last five minutes, `(600, 300)` the five before. A bar
counts in such a window when it lies whole inside.

Errors of all functions, as `domain.errors.BadInput`: BARS_ORDER where bars are doubled or not in
order of time, BARS_MIXED for two symbols, INDICATOR_PERIODS and INDICATOR_WINDOW for a window
that is none. A bar cannot hold NaN: its types refuse it (faults.md §3 rows 1 and 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

from domain.bar import Bar
from domain.errors import BadInput
from domain.money import ONE, ZERO, divide, multiply, total

PERIODS_MAX = 100_000
WINDOW_S_MAX = 7 * 24 * 3600

Window = tuple[int, int]
"""Seconds back from now: from `t1` (exclusive) to `t2` (inclusive), t1 > t2 >= 0."""


class Reading(NamedTuple):
    """An indicator's value and the share of its window that has data, 0 to 1."""

    value: Decimal | None
    confidence: Decimal


NO_DATA = Reading(None, ZERO)


def sma(bars: Sequence[Bar], periods: int) -> Reading:
    """Simple moving average of the closes in the last `periods` bar intervals."""
    used = _newest(bars, periods)
    if not used:
        return NO_DATA
    mean = divide(total(bar.close for bar in used), Decimal(len(used)))
    return Reading(mean, _share(len(used), periods))


def ema(bars: Sequence[Bar], periods: int) -> Reading:
    """Exponential moving average of the closes, factor 2 / (periods + 1), begun at the first bar.

    Goes over all bars given; a missing interval is no step. Confidence is the share of the last
    `periods` intervals that have a bar.
    """
    used = _newest(bars, periods)
    if not used:
        return NO_DATA
    _check(bars)
    value = bars[0].close
    for bar in bars[1:]:
        value = ema_step(value, bar.close, periods)
    return Reading(value, _share(len(used), periods))


def atr(bars: Sequence[Bar], periods: int) -> Reading:
    """Average true range by Wilder: the mean of the first `periods` ranges, then smoothed.

    The first bar has no close before it; its range is high minus low. In price units, >= 0.
    """
    used = _newest(bars, periods)
    if not used:
        return NO_DATA
    _check(bars)
    value = bars[0].high - bars[0].low
    for count, (before, bar) in enumerate(pairwise(bars), start=2):
        value = atr_step(value, true_range(bar, before.close), count, periods)
    return Reading(value, _share(len(used), periods))


def vwap(bars: Sequence[Bar], periods: int | None = None) -> Reading:
    """Volume-weighted average of (high + low + close) / 3; without `periods` over all bars given.

    No volume, no value: a tape of quotes alone has none. Confidence counts the intervals that
    have volume.
    """
    if not bars:
        return NO_DATA
    if periods is None:
        _check(bars)
        used = bars
        periods = (bars[-1].end - bars[0].start) // (bars[-1].end - bars[-1].start)
    else:
        used = _newest(bars, periods)
    traded = [bar for bar in used if bar.volume > ZERO]
    if not traded:
        return NO_DATA
    volume = total(bar.volume for bar in traded)
    money = total(multiply(bar.high + bar.low + bar.close, bar.volume) for bar in traded)
    return Reading(divide(money, 3 * volume), _share(len(traded), periods))


def time_weighted_average(
    bars: Sequence[Bar], window: Window = (300, 0), now: datetime | None = None
) -> Reading:
    """Time-weighted average price; a bar stands for its time with (open+high+low+close) / 4.

    `now` is the end of the newest bar unless given.
    """
    used = _inside(bars, window, now)
    if not used:
        return NO_DATA
    seconds = _seconds(used)
    area = total(
        multiply(bar.open + bar.high + bar.low + bar.close, _seconds((bar,))) for bar in used
    )
    return Reading(divide(area, 4 * seconds), _covered(seconds, window))


def velocity(bars: Sequence[Bar], window: Window = (60, 0), now: datetime | None = None) -> Reading:
    """Price change per second: from the first open to the last close inside the window."""
    used = _inside(bars, window, now)
    if not used:
        return NO_DATA
    elapsed = used[-1].end - used[0].start
    change = divide(used[-1].close - used[0].open, _in_seconds(elapsed))
    return Reading(change, _covered(_seconds(used), window))


def volume_surge(
    bars: Sequence[Bar],
    window: Window = (60, 0),
    reference: Window = (660, 60),
    now: datetime | None = None,
) -> Reading:
    """Volume per second of the window over that of the reference window; 1 is no surge.

    Seconds are those that have bars, so that a reference half filled does not look like a surge.
    No value where the reference had no volume. Confidence is the smaller of the two windows'.
    """
    recent, before = _inside(bars, window, now), _inside(bars, reference, now)
    usual = total(bar.volume for bar in before)
    if not recent or usual == ZERO:
        return NO_DATA
    seconds, usual_seconds = _seconds(recent), _seconds(before)
    traded = total(bar.volume for bar in recent)
    ratio = divide(multiply(traded, usual_seconds), multiply(usual, seconds))
    return Reading(ratio, min(_covered(seconds, window), _covered(usual_seconds, reference)))


def ema_step(value: Decimal, close: Decimal, periods: int) -> Decimal:
    """The exponential average after one more close."""
    return value + divide(2 * (close - value), Decimal(periods + 1))


def atr_step(value: Decimal, newest_range: Decimal, count: int, periods: int) -> Decimal:
    """The average true range after its `count`-th range."""
    return value + divide(newest_range - value, Decimal(min(count, periods)))


def true_range(bar: Bar, close_before: Decimal) -> Decimal:
    """The largest of high - low and the distances of both from the close before."""
    return max(bar.high, close_before) - min(bar.low, close_before)


def check_window(window: Window, field: str = "window") -> Window:
    """The window itself.

    Raises:
        BadInput: INDICATOR_WINDOW unless both are whole seconds and week >= t1 > t2 >= 0.
    """
    whole = len(window) == 2 and type(window[0]) is int and type(window[1]) is int
    if not whole or not WINDOW_S_MAX >= window[0] > window[1] >= 0:
        allowed = f"(t1, t2) in whole seconds, {WINDOW_S_MAX} >= t1 > t2 >= 0"
        raise BadInput("INDICATOR_WINDOW", field, window, allowed)
    return window


def check_periods(periods: int) -> int:
    """The number itself.

    Raises:
        BadInput: INDICATOR_PERIODS outside 1..100000.
    """
    if type(periods) is not int or not 1 <= periods <= PERIODS_MAX:
        raise BadInput("INDICATOR_PERIODS", "periods", periods, f"1..{PERIODS_MAX}")
    return periods


def _newest(bars: Sequence[Bar], periods: int) -> Sequence[Bar]:
    """Bars of the last `periods` intervals; an interval is as long as the newest bar."""
    check_periods(periods)
    if not bars:
        return ()
    newest = bars[-1]
    begin = newest.end - periods * (newest.end - newest.start)
    return _between(bars, begin, newest.end)


def _inside(bars: Sequence[Bar], window: Window, now: datetime | None) -> Sequence[Bar]:
    """Bars that lie whole inside the window."""
    check_window(window)
    if not bars:
        return ()
    at = bars[-1].end if now is None else now
    return _between(bars, at - timedelta(seconds=window[0]), at - timedelta(seconds=window[1]))


def _between(bars: Sequence[Bar], begin: datetime, end: datetime) -> Sequence[Bar]:
    """Looks from the newest bar backwards: a day of bars is not read for the last five."""
    last = len(bars)
    while last and bars[last - 1].end > end:
        last -= 1
    first = last
    while first and bars[first - 1].start >= begin:
        first -= 1
    used = bars[first:last]
    _check(used)
    return used


def _check(bars: Sequence[Bar]) -> None:
    for before, bar in pairwise(bars):
        if bar.symbol != before.symbol:
            raise BadInput("BARS_MIXED", "bars", bar.symbol, f"all of {before.symbol}")
        if bar.start < before.end:
            raise BadInput("BARS_ORDER", "bars", bar.start.isoformat(), "in order, each once")


def _seconds(bars: Sequence[Bar]) -> Decimal:
    return total(_in_seconds(bar.end - bar.start) for bar in bars)


def _in_seconds(duration: timedelta) -> Decimal:
    return divide(Decimal(duration // timedelta(microseconds=1)), Decimal(1_000_000))


def _covered(seconds: Decimal, window: Window) -> Decimal:
    return divide(seconds, Decimal(window[0] - window[1]))


def _share(count: int, periods: int) -> Decimal:
    return min(ONE, divide(Decimal(count), Decimal(periods)))
