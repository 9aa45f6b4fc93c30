"""Market time: stepped by the control plane, or running at a speed against wall time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal


class SimClock:
    """Gives market time.

    `speed=None` is step mode: time stands until `step_to`. Otherwise market time is
    `market0 + (wall - wall0) * speed` from the moment of creation or the last `step_to`.
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
        self._market0 = market0
        self._wall_s = wall_s
        self._wall0_s = wall_s()

    @property
    def is_stepped(self) -> bool:
        return self.speed is None

    def now(self) -> datetime:
        if self.speed is None:
            return self._market0
        elapsed_s = (self._wall_s() - self._wall0_s) * float(self.speed)
        return self._market0 + timedelta(seconds=elapsed_s)

    def step_to(self, market_time: datetime) -> None:
        """Moves market time forward.

        Raises:
            ValueError: the time lies before the present market time.
        """
        if market_time < self.now():
            raise ValueError(f"time was {market_time}, allowed: not before {self.now()}")
        self._market0 = market_time
        self._wall0_s = self._wall_s()
