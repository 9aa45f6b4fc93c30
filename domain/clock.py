"""Wall time and market time: one linear map, constant within a session.

Strategy durations (walk interval, time stop, grace, bars) are market time. Machine durations
(quote freshness, naked seconds, timeouts, kill latency) are wall time (architecture §9).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.money import Number

STRATEGY_DURATION_WALL_S_MIN = 0.3


class ClockMap(Frozen):
    """`market = market0 + (wall - wall0) x speed`; all instants aware UTC."""

    wall0: AwareDatetime
    market0: AwareDatetime
    speed: Number = Decimal(1)

    def market(self, wall: datetime) -> datetime:
        """Market instant at the wall instant."""
        return self.market0 + (wall - self.wall0) * float(self.speed)

    def wall(self, market: datetime) -> datetime:
        """Wall instant at which the market instant is reached."""
        return self.wall0 + (market - self.market0) / float(self.speed)

    def wall_duration_s(self, market_duration_s: float) -> float:
        return market_duration_s / float(self.speed)

    def allows_strategy_duration(self, market_duration_s: float) -> bool:
        """Shorter than 0.3 s of wall time is refused: the machine could not keep it."""
        return self.wall_duration_s(market_duration_s) >= STRATEGY_DURATION_WALL_S_MIN

    def wall_age_s(self, wall_now: datetime, market_time: datetime) -> float:
        """Age of a market timestamp in wall seconds; negative if it lies ahead."""
        return (wall_now - self.wall(market_time)) / timedelta(seconds=1)


def real_time(now: datetime) -> ClockMap:
    """The map of live trading: market time is wall time."""
    return ClockMap(wall0=now, market0=now)
