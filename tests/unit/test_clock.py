"""Wall time and market time are one linear map (architecture §9)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.clock import ClockMap, real_time

WALL = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
MARKET = datetime(2013, 9, 3, 13, 30, tzinfo=UTC)


def clock(speed: str) -> ClockMap:
    return ClockMap(wall0=WALL, market0=MARKET, speed=Decimal(speed))


def test_market_time_runs_at_its_speed() -> None:
    fast = clock("60")
    assert fast.market(WALL + timedelta(seconds=1)) == MARKET + timedelta(minutes=1)
    assert fast.wall(MARKET + timedelta(minutes=1)) == WALL + timedelta(seconds=1)
    assert fast.wall_duration_s(90) == 1.5


def test_real_time_is_the_identity() -> None:
    later = WALL + timedelta(hours=3)
    assert real_time(WALL).market(later) == later


@pytest.mark.parametrize(("market_s", "allowed"), [(17.9, False), (18.0, True), (18.1, True)])
def test_durations_under_a_third_of_a_wall_second_are_refused(
    market_s: float, allowed: bool
) -> None:
    assert clock("60").allows_strategy_duration(market_s) is allowed


def test_age_is_wall_time_and_negative_ahead() -> None:
    fast = clock("60")
    assert fast.wall_age_s(WALL + timedelta(seconds=5), MARKET) == 5
    assert fast.wall_age_s(WALL, MARKET + timedelta(seconds=60)) == -1


@given(st.integers(0, 86_400), st.sampled_from(["0.5", "1", "30", "60", "240"]))
def test_there_and_back_is_the_same_instant(seconds: int, speed: str) -> None:
    wall = WALL + timedelta(seconds=seconds)
    back = clock(speed).wall(clock(speed).market(wall))
    assert abs(back - wall) <= timedelta(microseconds=1)
