"""The order lane's rate, kept by the gateway: a token bucket in front of its polls.

At the server a queue's rate has no memory: a lane that rested for an hour still let one step go in
3.3 s at Tradier's 60 requests a minute, and three stops of a new position stood 10 s bare (I4).
Here what was not used is kept, up to a burst. A step is asked for only when it may go at once, so
what waits waits in the server's queue, where priorities count and a timed-out entry is known to be
unsent.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from decimal import Decimal

from temporalio.worker import (
    CustomSlotSupplier,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
)

FULL_AGAIN_S = 0.02
"""How soon a lane whose slots are all at work is looked at again."""
LOOK_AGAIN_S = 1.0
"""How long at most nobody looks: a poll that brings nothing gives its permit back meanwhile."""


class LanePermit(SlotPermit):
    """One slot; `is_used` from the moment in which a step takes it."""

    def __init__(self) -> None:
        self.is_used = False


class LanePace(CustomSlotSupplier):
    """Lets `burst` steps go at once and then `per_second`, never more than `slots` at a time.

    A permit that a waiting poll holds is spoken for, but costs nothing until a step takes it. The
    SDK calls from its own threads.

    Args:
        per_second: steps a second that come back, wall time.
        burst: what the bucket holds, and begins with: exits must not wait for a new process.
        slots: steps that may run at the same time.
        monotonic: seconds, for tests.
    """

    def __init__(
        self,
        per_second: Decimal,
        burst: int,
        slots: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = float(per_second)
        self._burst = burst
        self._slots = slots
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._tokens = float(burst)
        self._filled_at_s = monotonic()
        self._held = 0
        self._used = 0

    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        """Waits until one more step may go."""
        while (wait_s := self._take()) > 0:  # noqa: ASYNC110 - tokens come with time alone
            await asyncio.sleep(wait_s)
        return LanePermit()

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        """Eager steps pass by the queue and its priorities: there are none."""
        return None

    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        """A step has come: it costs a token."""
        assert isinstance(ctx.permit, LanePermit)
        with self._lock:
            self._fill()
            ctx.permit.is_used = True
            self._held -= 1
            self._used += 1
            self._tokens -= 1

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """The step has ended, or its poll brought none."""
        assert isinstance(ctx.permit, LanePermit)
        with self._lock:
            if ctx.permit.is_used:
                self._used -= 1
            else:
                self._held -= 1

    def _take(self) -> float:
        """0 if one more is held now, else the seconds until it may be worth to ask again."""
        with self._lock:
            self._fill()
            if self._held + self._used >= self._slots:
                return FULL_AGAIN_S
            free = self._tokens - self._held
            if free < 1:
                return min(max((1 - free) / self._per_second, FULL_AGAIN_S), LOOK_AGAIN_S)
            self._held += 1
            return 0.0

    def _fill(self) -> None:
        now_s = self._monotonic()
        came = (now_s - self._filled_at_s) * self._per_second
        self._tokens = min(float(self._burst), self._tokens + came)
        self._filled_at_s = now_s
