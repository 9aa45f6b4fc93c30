"""Market time: stepped by the control plane, or running at a speed against wall time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal


class SimClock:
    """Gives market time.

    `speed=None` is step mode: time stands until `step_to`. Otherwise market time is
    `market0 + (wall - wall0) * speed`, anchored anew by `run`, `pause` and `step_to`. `wall_s` is
    a monotonic clock; `wall0` names the same anchor in UTC for those who map times themselves.
    """

    def __init__(
        self,
        market0: datetime,
        speed: Decimal | None = None,
        wall_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if speed is not None and speed <= 0:
            raise ValueError(f"speed was {speed}, allowed: > 0")
        self.speed = speed
        self._wall_s = wall_s
        self._anchor(market0)

    @property
    def is_stepped(self) -> bool:
        return self.speed is None

    def now(self) -> datetime:
        if self.speed is None:
            return self.market0
        elapsed_s = (self._wall_s() - self._wall0_s) * float(self.speed)
        return self.market0 + timedelta(seconds=elapsed_s)

    def run(self, speed: Decimal) -> None:
        """Runs from the present market time at `speed` market seconds per wall second."""
        if speed <= 0:
            raise ValueError(f"speed was {speed}, allowed: > 0")
        self._anchor(self.now())
        self.speed = speed

    def pause(self) -> None:
        """Stops at the present market time: step mode."""
        self._anchor(self.now())
        self.speed = None

    def step_to(self, market_time: datetime) -> None:
        """Moves market time forward.

        Raises:
            ValueError: the time lies before the present market time.
        """
        if market_time < self.now():
            raise ValueError(f"time was {market_time}, allowed: not before {self.now()}")
        self._anchor(market_time)

    def restart(self) -> None:
        """Anchors the first market time at this wall moment: what was spent on starting up does
        not count."""
        self._anchor(self.market0)

    def _anchor(self, market_time: datetime) -> None:
        self.market0 = market_time
        self._wall0_s = self._wall_s()
        self.wall0 = datetime.now(UTC)
