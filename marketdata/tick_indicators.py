"""All indicators of one symbol, fed tick by tick: windows of time, and averages over bars.

`TickIndicators` is what a consumer of ticks holds: one per symbol. The averages over bars are
those of `marketdata.indicators`, folded as each bar of `bar_s` completes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import takewhile

from domain.errors import BadInput
from domain.money import ZERO, divide
from marketdata.indicators import (
    NO_DATA,
    WINDOW_S_MAX,
    Reading,
    atr_step,
    check_periods,
    ema_step,
)
from marketdata.tick_windows import (
    HOLD_S,
    MICROSECONDS,
    TICKS_MAX,
    TickOutcome,
    TickWindows,
    microseconds_of,
)


@dataclass(slots=True)
class _Growing:
    """The bar that ticks go into now; starts are aligned to UTC midnight as in the feeds."""

    start_us: int
    high: Decimal
    low: Decimal
    close: Decimal


class BarAverages:
    """EMA of closes and ATR over the bars that ticks make; an interval without a tick is no bar.

    A bar counts from its end on. A reading looks at the bars completed by `now`, which is not
    before the newest tick; its confidence is the share of the last `periods` intervals that have
    a bar.
    """

    def __init__(
        self, bar_s: int, *, ema_periods: Sequence[int] = (), atr_periods: Sequence[int] = ()
    ) -> None:
        if type(bar_s) is not int or not 1 <= bar_s <= WINDOW_S_MAX:
            raise BadInput("INDICATOR_WINDOW", "bar_s", bar_s, f"1..{WINDOW_S_MAX}")
        self._bar_us = bar_s * MICROSECONDS
        self._emas: dict[int, Decimal] = {check_periods(each): ZERO for each in ema_periods}
        self._atrs: dict[int, Decimal] = {check_periods(each): ZERO for each in atr_periods}
        self._starts: deque[int] = deque(maxlen=max((*ema_periods, *atr_periods), default=1))
        self._bars = 0
        self._close_before = ZERO
        self._growing: _Growing | None = None
        self._end_us = 0

    def add(self, at: datetime, price: Decimal) -> None:
        """Takes a tick that is not older than the one before. O(1)."""
        at_us = microseconds_of(at)
        growing = self._growing
        if growing is not None and at_us < self._end_us:
            growing.close = price
            if price > growing.high:
                growing.high = price
            elif price < growing.low:
                growing.low = price
            return
        if growing is not None:
            self._complete(growing)
        start_us = at_us - at_us % self._bar_us
        self._growing = _Growing(start_us, price, price, price)
        self._end_us = start_us + self._bar_us

    def ema(self, periods: int, now: datetime) -> Reading:
        """Exponential moving average of the closes as of `now`."""
        value = self._registered(self._emas, periods)
        done = self._done_by(now)
        if done is not None:
            value = self._ema_after(value, periods, done)
        return self._reading(value, periods, now, done)

    def atr(self, periods: int, now: datetime) -> Reading:
        """Average true range as of `now`, in price units."""
        value = self._registered(self._atrs, periods)
        done = self._done_by(now)
        if done is not None:
            value = self._atr_after(value, periods, done)
        return self._reading(value, periods, now, done)

    def _complete(self, bar: _Growing) -> None:
        for periods, value in self._emas.items():
            self._emas[periods] = self._ema_after(value, periods, bar)
        for periods, value in self._atrs.items():
            self._atrs[periods] = self._atr_after(value, periods, bar)
        self._bars += 1
        self._close_before = bar.close
        self._starts.append(bar.start_us)

    def _ema_after(self, value: Decimal, periods: int, bar: _Growing) -> Decimal:
        return ema_step(value, bar.close, periods) if self._bars else bar.close

    def _atr_after(self, value: Decimal, periods: int, bar: _Growing) -> Decimal:
        if not self._bars:
            return bar.high - bar.low
        newest = max(bar.high, self._close_before) - min(bar.low, self._close_before)
        return atr_step(value, newest, self._bars + 1, periods)

    def _done_by(self, now: datetime) -> _Growing | None:
        """The growing bar if `now` has reached its end: complete, though no tick came since."""
        is_done = self._growing is not None and microseconds_of(now) >= self._end_us
        return self._growing if is_done else None

    def _reading(
        self, value: Decimal, periods: int, now: datetime, done: _Growing | None
    ) -> Reading:
        now_us = microseconds_of(now)
        begin_us = now_us - now_us % self._bar_us - periods * self._bar_us
        recent = takewhile(lambda start_us: start_us >= begin_us, reversed(self._starts))
        count = sum(1 for _ in recent)
        if done is not None and done.start_us >= begin_us:
            count += 1
        if count == 0:
            return NO_DATA
        return Reading(value, divide(Decimal(min(count, periods)), Decimal(periods)))

    @staticmethod
    def _registered(values: dict[int, Decimal], periods: int) -> Decimal:
        if periods not in values:
            known = ", ".join(str(each) for each in values)
            raise BadInput("INDICATOR_PERIODS", "periods", periods, f"named at the start: {known}")
        return values[periods]


class TickIndicators:
    """Windows and averages of one symbol from one stream of ticks.

    Every tick is either taken by all or refused by name: `windows.taken` plus the counts in
    `windows.refused` are the ticks that came.
    """

    def __init__(
        self,
        keep_s: int,
        *,
        bar_s: int = 60,
        ema_periods: Sequence[int] = (),
        atr_periods: Sequence[int] = (),
        hold_s: int = HOLD_S,
        ticks_max: int = TICKS_MAX,
    ) -> None:
        self.windows = TickWindows(keep_s, hold_s=hold_s, ticks_max=ticks_max)
        self.averages = BarAverages(bar_s, ema_periods=ema_periods, atr_periods=atr_periods)

    def add(self, at: datetime, price: Decimal, size: Decimal = ZERO) -> TickOutcome:
        """Takes one tick; `TickWindows.add` tells the outcomes."""
        outcome = self.windows.add(at, price, size)
        if outcome is TickOutcome.TAKEN:
            self.averages.add(at, price)
        return outcome
