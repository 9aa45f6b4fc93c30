"""Opening-range breakout with three tranches and a ratchet. An example, no advice.

The first bars of the session make a range; a close that leaves it is an entry in that direction.
The stop rests half a range away. Thirds are taken at half, one and one and a half ranges; after
the first the stop goes to the average entry, after the second to the first target.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

from domain import plan
from domain.bar import Bar
from domain.base import Frozen
from domain.money import Number
from domain.order import Side
from domain.signal import Decision, PlanDraft, Signal, StrategyContext

RATCHET = (
    plan.RatchetStep(after_target=1, kind=plan.RatchetKind.BREAK_EVEN),
    plan.RatchetStep(after_target=2, kind=plan.RatchetKind.PREVIOUS_TARGET),
)
TARGETS = ((1, Decimal("0.4")), (2, Decimal("0.3")), (3, Decimal("0.3")))

PACE_S = Decimal(60)  # between two steps of the walking limit


class Parameters(Frozen):
    """Times in market seconds; fractions are of the capital; distances in ticks."""

    opening_bars: int = 5
    risk_fraction: Number = Decimal("0.01")
    position_fraction: Number = Decimal("0.5")
    stop_ticks_min: int = 4
    long_only: bool = False
    time_stop_s: Number = Decimal(2700)
    quiet_before_close_s: int = 2100
    flat_before_close_s: int = 300
    signal_max_age_s: Number = Decimal(300)


PARAMETERS = Parameters


def generate_signal(bars: Sequence[Bar], context: StrategyContext) -> Decision:
    """An entry when the newest close leaves the opening range that the close before was inside."""
    asked = Parameters.model_validate(context.parameters)
    if len(bars) <= asked.opening_bars:
        return Decision.none(context, "the opening range is forming")
    close = context.session_close
    if close is not None and context.now > close - timedelta(seconds=asked.quiet_before_close_s):
        return Decision.none(context, "too close to the end of the session")
    opening = bars[: asked.opening_bars]
    high, low = max(bar.high for bar in opening), min(bar.low for bar in opening)
    before, now = bars[-2].close, bars[-1].close
    if before <= high < now:
        side = Side.BUY
    elif before >= low > now and not asked.long_only:
        side = Side.SELL
    else:
        return Decision.none(context, "inside, or already out of the opening range")
    tick = context.instrument.tick_size
    half = max((high - low) / 2 // tick, Decimal(asked.stop_ticks_min)) * tick
    reason = f"close {now} left the range {low}..{high}"
    draft = _draft(asked, side.sign * half, context)
    return Decision.take(Signal.derive(context, side, draft=draft, reason=reason))


def _draft(asked: Parameters, half: Decimal, context: StrategyContext) -> PlanDraft:
    """The plan; `half` is half the range, signed in the direction of the trade."""
    tick, close = context.instrument.tick_size, context.session_close
    return PlanDraft(
        size=plan.CapitalSize(
            risk_fraction=asked.risk_fraction, position_fraction=asked.position_fraction
        ),
        walk=plan.WalkPlan(
            step=tick, interval_s=PACE_S, steps_max=3, worst_offset=4 * tick, max_time_s=4 * PACE_S
        ),
        stop=plan.StopPlan(price=plan.PlanPrice(offset=-half)),
        targets=tuple(
            plan.TargetPlan(price=plan.PlanPrice(offset=half * count), fraction=fraction)
            for count, fraction in TARGETS
        ),
        ratchet=RATCHET,
        time_stop_s=asked.time_stop_s,
        flat_by=None if close is None else close - timedelta(seconds=asked.flat_before_close_s),
        signal_max_age_s=asked.signal_max_age_s,
        note="opening range breakout",
    )
