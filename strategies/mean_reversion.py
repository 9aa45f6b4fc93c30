"""Mean reversion with a time stop. An example, no advice.

A close further than `deviations` standard deviations from its moving average is expected to come
back: the target is the average, the stop rests as far away on the other side, and a trade that
has not worked after `time_stop_s` is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from statistics import pstdev

from domain import plan
from domain.bar import Bar
from domain.base import Frozen
from domain.money import Number
from domain.order import Side
from domain.signal import Decision, PlanDraft, Signal, StrategyContext
from marketdata.indicators import sma

PACE_S = Decimal(60)  # between two steps of the walking limit


class Parameters(Frozen):
    """Periods in bars; fractions are of the capital; times in market seconds."""

    periods: int = 20
    deviations: Number = Decimal(2)
    distance_ticks_min: int = 4
    risk_fraction: Number = Decimal("0.01")
    position_fraction: Number = Decimal("0.5")
    long_only: bool = False
    time_stop_s: Number = Decimal(900)
    quiet_before_close_s: int = 1800
    flat_before_close_s: int = 300
    signal_max_age_s: Number = Decimal(300)


PARAMETERS = Parameters


def generate_signal(bars: Sequence[Bar], context: StrategyContext) -> Decision:
    """An entry against the move on the first close that is too far from its average."""
    asked = Parameters.model_validate(context.parameters)
    if len(bars) <= asked.periods:
        return Decision.none(context, "the average is forming")
    close = context.session_close
    if close is not None and context.now > close - timedelta(seconds=asked.quiet_before_close_s):
        return Decision.none(context, "too close to the end of the session")
    away, limit = _away(bars, asked)
    away_before, limit_before = _away(bars[:-1], asked)
    if abs(away) <= limit or abs(away_before) > limit_before:
        return Decision.none(context, f"{away:+.2f} from the average, allowed {limit:.2f}")
    side = Side.SELL if away > 0 else Side.BUY
    if side is Side.SELL and asked.long_only:
        return Decision.none(context, "above the average, and only long is allowed")
    tick = context.instrument.tick_size
    distance = max(abs(away) // tick, Decimal(asked.distance_ticks_min)) * tick
    draft = _draft(asked, side.sign * distance, context)
    reason = f"{away:+.2f} from the average of {asked.periods} bars, allowed {limit:.2f}"
    return Decision.take(Signal.derive(context, side, draft=draft, reason=reason))


def _away(bars: Sequence[Bar], asked: Parameters) -> tuple[Decimal, Decimal]:
    """How far the newest close is from its average, and how far it may be."""
    mean = sma(bars, asked.periods).value
    if mean is None:
        return Decimal(0), Decimal(0)
    deviation = pstdev([bar.close for bar in bars[-asked.periods :]])
    return bars[-1].close - mean, asked.deviations * deviation


def _draft(asked: Parameters, distance: Decimal, context: StrategyContext) -> PlanDraft:
    """The plan; `distance` to the average, signed in the direction of the trade."""
    tick, close = context.instrument.tick_size, context.session_close
    return PlanDraft(
        size=plan.CapitalSize(
            risk_fraction=asked.risk_fraction, position_fraction=asked.position_fraction
        ),
        walk=plan.WalkPlan(
            step=tick, interval_s=PACE_S, steps_max=1, worst_offset=2 * tick, max_time_s=2 * PACE_S
        ),
        stop=plan.StopPlan(price=plan.PlanPrice(offset=-distance)),
        targets=(plan.TargetPlan(price=plan.PlanPrice(offset=distance), fraction=Decimal(1)),),
        time_stop_s=asked.time_stop_s,
        flat_by=None if close is None else close - timedelta(seconds=asked.flat_before_close_s),
        signal_max_age_s=asked.signal_max_age_s,
        note="mean reversion",
    )
