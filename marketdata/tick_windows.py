"""Indicators over ticks in windows of time: a tick costs O(1), a reading two binary searches.

All ticks that the longest window needs are kept once with running sums; every window of every
indicator is a difference of two sums. Inside are whole numbers only – microseconds, prices and
sizes in units of 1e-12 – so that sums never drift (ADR 0014). Bounded: what no window needs any
more is cut away in blocks, and never more than `ticks_max` are kept.

A price is known from its tick until the next one, but not longer than `hold_s`: after that there
is no data, and the confidence of every window over it falls. Windows are (now - t1, now - t2].
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from domain.errors import BadInput
from domain.money import ONE, ZERO, divide
from marketdata.indicators import NO_DATA, WINDOW_S_MAX, Reading, Window, check_window

TICKS_MAX = 200_000  # some 60 MB of whole numbers
HOLD_S = 60
UNITS = 10**12  # the finest price that domain.money.exact lets in
MICROSECONDS = 1_000_000
DOUBLED_SEARCH_MAX = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SCALE = Decimal(UNITS)
_FIRST_CUT = 1024


class TickOutcome(StrEnum):
    """What became of a tick. Whatever is not TAKEN changes nothing and is counted by its name.

    LATE: older than the newest tick. DOUBLED: time, price and size of a tick of that instant.
    NOT_FINITE: NaN or infinite. NOT_POSITIVE: a price <= 0 or a size < 0.
    """

    TAKEN = "taken"
    LATE = "late"
    DOUBLED = "doubled"
    NOT_FINITE = "not_finite"
    NOT_POSITIVE = "not_positive"


class _Edge(NamedTuple):
    """Sums up to one instant: ticks until then, price x time, time with a price."""

    at_us: int
    ticks: int
    area: int
    held_us: int


def microseconds_of(at: datetime) -> int:
    """Whole microseconds since 1970; TypeError for a time without zone."""
    return (at - _EPOCH) // _MICROSECOND


class TickWindows:
    """Ticks of one symbol and the readings of any window up to `keep_s` seconds back.

    Args:
        keep_s: how far back windows reach.
        hold_s: how long one tick counts as data.
        ticks_max: how many ticks are kept at most; when more lie in `keep_s`, the oldest go,
            `overwritten` counts them and the confidence of long windows tells.
    """

    def __init__(self, keep_s: int, *, hold_s: int = HOLD_S, ticks_max: int = TICKS_MAX) -> None:
        for field, number, most in (
            ("keep_s", keep_s, WINDOW_S_MAX),
            ("hold_s", hold_s, WINDOW_S_MAX),
            ("ticks_max", ticks_max, 50 * TICKS_MAX),
        ):
            if type(number) is not int or not 1 <= number <= most:
                raise BadInput("INDICATOR_WINDOW", field, number, f"1..{most}")
        self.keep_s = keep_s
        self.overwritten = 0
        self.refused: Counter[TickOutcome] = Counter()
        self._hold_us = hold_s * MICROSECONDS
        self._ticks_max = ticks_max
        self._cut_at = min(_FIRST_CUT, ticks_max)
        self._cut_away = 0
        # One item per tick: its time and price, and price x time and time known before it.
        self._times: list[int] = []
        self._prices: list[int] = []
        self._areas: list[int] = []
        self._helds: list[int] = []
        # One item more than ticks: sums over the ticks before.
        self._price_sums = [0]
        self._volumes = [0]
        self._turnovers = [0]

    @property
    def taken(self) -> int:
        """How many ticks were taken since the beginning."""
        return self._cut_away + len(self._times)

    def __len__(self) -> int:
        return len(self._times)

    def add(self, at: datetime, price: Decimal, size: Decimal = ZERO) -> TickOutcome:
        """Takes one tick, or says why not. O(1) amortised.

        Args:
            at: market time with zone.
            price: as `domain.money.Price` holds it.
            size: traded quantity; zero for a quote's mid.
        """
        try:
            units, volume = int(price * _SCALE), int(size * _SCALE)
        except (ValueError, ArithmeticError):
            return self._refuse(TickOutcome.NOT_FINITE)
        if units <= 0 or volume < 0:
            return self._refuse(TickOutcome.NOT_POSITIVE)
        at_us = (at - _EPOCH) // _MICROSECOND
        times = self._times
        if times:
            elapsed_us = at_us - times[-1]
            if elapsed_us <= 0:
                if elapsed_us < 0:
                    return self._refuse(TickOutcome.LATE)
                if self._is_doubled(at_us, units, volume):
                    return self._refuse(TickOutcome.DOUBLED)
            known_us = elapsed_us if elapsed_us < self._hold_us else self._hold_us
            self._areas.append(self._areas[-1] + self._prices[-1] * known_us)
            self._helds.append(self._helds[-1] + known_us)
        else:
            self._areas.append(0)
            self._helds.append(0)
        times.append(at_us)
        self._prices.append(units)
        self._price_sums.append(self._price_sums[-1] + units)
        self._volumes.append(self._volumes[-1] + volume)
        self._turnovers.append(self._turnovers[-1] + units * volume)
        if len(times) >= self._cut_at:
            self._cut()
        return TickOutcome.TAKEN

    def time_weighted_average(self, window: Window, now: datetime) -> Reading:
        """Time-weighted average price over the time in which a price is known."""
        begin, end = self._edges(window, now)
        held_us = end.held_us - begin.held_us
        if held_us == 0:
            return NO_DATA
        return self._reading(end.area - begin.area, held_us * UNITS, begin, end)

    def velocity(self, window: Window, now: datetime) -> Reading:
        """Price change per second between the first and the last instant with a known price."""
        begin, end = self._edges(window, now)
        if end.held_us == begin.held_us:
            return NO_DATA
        times, prices = self._times, self._prices
        first, last = begin.ticks - 1, end.ticks - 1
        begin_us = begin.at_us
        if first < 0 or begin_us - times[first] >= self._hold_us:
            begin_us = times[first + 1]
            # Of several ticks in that instant the last one is the price.
            first = bisect_right(times, begin_us) - 1
        end_us = min(end.at_us, times[last] + self._hold_us)
        change = prices[last] - prices[first]
        return self._reading(change * MICROSECONDS, (end_us - begin_us) * UNITS, begin, end)

    def sma(self, window: Window, now: datetime) -> Reading:
        """Mean of the prices of the ticks inside the window, each tick counted once."""
        begin, end = self._edges(window, now)
        count = end.ticks - begin.ticks
        if count == 0 or end.held_us == begin.held_us:
            return NO_DATA
        prices = self._price_sums[end.ticks] - self._price_sums[begin.ticks]
        return self._reading(prices, count * UNITS, begin, end)

    def vwap(self, window: Window, now: datetime) -> Reading:
        """Mean price of the traded volume inside the window."""
        begin, end = self._edges(window, now)
        volume = self._volumes[end.ticks] - self._volumes[begin.ticks]
        if volume == 0 or end.held_us == begin.held_us:
            return NO_DATA
        turnover = self._turnovers[end.ticks] - self._turnovers[begin.ticks]
        return self._reading(turnover, volume * UNITS, begin, end)

    def volume_surge(self, window: Window, reference: Window, now: datetime) -> Reading:
        """Volume per second of the window over that of the reference, seconds with data only.

        Confidence is the smaller of the two windows'.
        """
        begin, end = self._edges(window, now)
        before, until = self._edges(reference, now, "reference")
        held_us, usual_held_us = end.held_us - begin.held_us, until.held_us - before.held_us
        usual = self._volumes[until.ticks] - self._volumes[before.ticks]
        if held_us == 0 or usual_held_us == 0 or usual == 0:
            return NO_DATA
        volume = self._volumes[end.ticks] - self._volumes[begin.ticks]
        ratio = divide(Decimal(volume * usual_held_us), Decimal(usual * held_us))
        return Reading(ratio, min(_share(begin, end), _share(before, until)))

    def _edges(self, window: Window, now: datetime, field: str = "window") -> tuple[_Edge, _Edge]:
        check_window(window, field)
        if window[0] > self.keep_s:
            raise BadInput("INDICATOR_WINDOW", field, window, f"t1 <= keep_s {self.keep_s}")
        now_us = (now - _EPOCH) // _MICROSECOND
        begin_us, end_us = now_us - window[0] * MICROSECONDS, now_us - window[1] * MICROSECONDS
        return self._edge(begin_us), self._edge(end_us)

    def _edge(self, at_us: int) -> _Edge:
        ticks = bisect_right(self._times, at_us)
        if ticks == 0:
            # Before the first tick that is kept: the sums stand where that one begins.
            first = (self._areas[0], self._helds[0]) if self._times else (0, 0)
            return _Edge(at_us, 0, *first)
        index = ticks - 1
        known_us = min(at_us - self._times[index], self._hold_us)
        area = self._areas[index] + self._prices[index] * known_us
        return _Edge(at_us, ticks, area, self._helds[index] + known_us)

    @staticmethod
    def _reading(dividend: int, divisor: int, begin: _Edge, end: _Edge) -> Reading:
        return Reading(divide(Decimal(dividend), Decimal(divisor)), _share(begin, end))

    def _is_doubled(self, at_us: int, units: int, volume: int) -> bool:
        """True if a tick of this instant is the same; looks at the newest 64 of it."""
        index = len(self._times) - 1
        oldest = max(0, index - DOUBLED_SEARCH_MAX + 1)
        while index >= oldest and self._times[index] == at_us:
            same_volume = self._volumes[index + 1] - self._volumes[index] == volume
            if self._prices[index] == units and same_volume:
                return True
            index -= 1
        return False

    def _refuse(self, outcome: TickOutcome) -> TickOutcome:
        self.refused[outcome] += 1
        return outcome

    def _cut(self) -> None:
        """Cuts off what no window reaches; then, if too many are left, the oldest quarter."""
        oldest_us = self._times[-1] - self.keep_s * MICROSECONDS - self._hold_us
        useless = bisect_right(self._times, oldest_us)
        too_many = len(self._times) - useless - self._ticks_max * 3 // 4
        if too_many > 0 and len(self._times) >= self._ticks_max:
            self.overwritten += too_many
            useless += too_many
        self._cut_away += useless
        for column in (
            self._times,
            self._prices,
            self._areas,
            self._helds,
            self._price_sums,
            self._volumes,
            self._turnovers,
        ):
            del column[:useless]
        self._cut_at = min(self._ticks_max, max(_FIRST_CUT, 2 * len(self._times)))


def _share(begin: _Edge, end: _Edge) -> Decimal:
    held_us, width_us = end.held_us - begin.held_us, end.at_us - begin.at_us
    return ONE if held_us == width_us else divide(Decimal(held_us), Decimal(width_us))
