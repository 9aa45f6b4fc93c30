"""What a seed of an exhibit means: a calm day of the simulation, and the mishaps of its bug.

The storms of the simulation hold all of these too, but most seeds of a storm are about something
else: here the hunt is short enough for every build.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from domain.control import KillMode
from simulator.config import ReplaceQuantity
from tests.simulation.scenario import Mishap, Scenario, calm

Scene = Callable[[int, str], Scenario]


def fault(kind: str, params: dict[str, Any] | None = None, **match: Any) -> Mishap:
    """A rule of the exchange's fault board from the first moment on; half of its occasions."""
    match = {"probability": 0.5, "count": 3, **match}
    values = (("fault", kind), ("match", tuple(match.items())))
    return Mishap(0.0, "fault", (*values, ("params", tuple((params or {}).items()))))


def days(*mishaps: Mishap, linger_s: float = 0.5, matching: dict[str, Any] | None = None) -> Scene:
    """Calm days on which just this goes wrong, at a venue with these habits."""

    def scene(seed: int, broker: str) -> Scenario:
        knobs = matching or {}
        return replace(calm(seed, broker), mishaps=mishaps, linger_s=linger_s, matching=knobs)

    return scene


def crashes(seed: int, broker: str) -> Scenario:
    """The order lane dies once, right after the venue has answered."""
    dice = random.Random(f"crashes:{seed}")
    values = (("failpoint", "after_response"), ("nth", dice.randint(1, 4)), ("down_s", 0.3))
    return replace(calm(seed, broker), mishaps=(Mishap(0.0, "crash_at", values),))


def lively(seed: int, broker: str) -> Scenario:
    """A market that moves thrice as far: targets are reached, stops are ratcheted."""
    day = calm(seed, broker)
    wide = tuple(
        replace(
            each, bid=each.bid + 2 * (each.bid - 100), ask=each.bid * 3 - 200 + each.ask - each.bid
        )
        for each in day.market
    )
    return replace(day, market=wide)


def kills(mode: KillMode) -> Scene:
    """A kill at a moment of the entry or soon after it."""

    def scene(seed: int, broker: str) -> Scenario:
        dice = random.Random(f"kills:{seed}")
        at_s = round(0.4 + 4 * dice.random(), 3)
        values = (("verb", "kill"), ("mode", mode.value), ("twice", False))
        return replace(calm(seed, broker), mishaps=(Mishap(at_s, "operator", values),))

    return scene


LOST_REPLIES = days(fault("drop_reply", method="POST"))
LOST_AND_SLOW_TO_SHOW = days(
    fault("drop_reply", method="POST"),
    fault("lookup_lag", {"lag_s": 12.0}),
    fault("stream_drop", count=None, probability=1.0),
)
LOST_LATE_AND_REFUSED = days(
    fault("drop_reply", method="POST"),
    fault("lookup_lag", {"lag_s": 2.0}, method="GET", probability=1, count=None),
    fault("reject", {"text": "insufficient quantity"}),
)
LOST_AND_A_LITTLE_LATE = days(
    fault("drop_reply", method="POST"),
    fault("lookup_lag", {"lag_s": 3.0}, count=None, probability=1.0),
    fault("stream_drop", count=None, probability=1.0),
)
_IN_PARTS: dict[str, Any] = {"participation": Decimal("0.1"), "min_partial": Decimal(1)}
PARTIAL_FILLS = days(matching={**_IN_PARTS, "replace_quantity": ReplaceQuantity.FRESH})
LOST_CANCELS = days(fault("cancel_lost"))
LATE_FILLS = days(fault("late_fill", {"delay_s": 1.0}), linger_s=15.0)
FILLS_DURING_CANCELS = days(
    matching={"cancel_latency_s": Decimal("1.5"), "participation": Decimal("0.1")}
)
REFUSALS = days(fault("reject", {"text": "insufficient buying power"}, nth=2, probability=0.7))
LATE_REJECTIONS = days(fault("late_reject", {"delay_s": 0.5}, nth=2))
DEAF_STREAMS = days(fault("stream_drop", count=None, probability=1.0))
DOUBLED_STREAMS = days(fault("stream_duplicate", count=None))
