"""Trend by two moving averages with a trailing stop. An example, no advice.

When the fast average crosses the slow one, what is open leaves (E1); if the cross still stands
one bar later, the trend is entered (S1). A stop rests `stop_ranges` average ranges away; the exit
watch follows the best price at `trail_ranges` and closes the position when it comes back.
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
from domain.signal import Decision, PlanDraft, Signal, SignalKind, StrategyContext
from marketdata.indicators import atr, sma

PACE_S = Decimal(60)  # between two steps of the walking limit


class Parameters(Frozen):
    """Periods in bars; fractions are of the capital; times in market seconds."""

    fast: int = 8
    slow: int = 34
    range_periods: int = 14
    stop_ranges: Number = Decimal(3)
    trail_ranges: Number = Decimal(4)
    risk_fraction: Number = Decimal("0.01")
    position_fraction: Number = Decimal("0.5")
    long_only: bool = False
    quiet_before_close_s: int = 1800
    flat_before_close_s: int = 300
    signal_max_age_s: Number = Decimal(300)


PARAMETERS = Parameters


def generate_signal(bars: Sequence[Bar], context: StrategyContext) -> Decision:
    """E1 on the bar of a cross, S1 on the bar after it if the cross stands."""
    asked = Parameters.model_validate(context.parameters)
    if len(bars) < asked.slow + 2:
        return Decision.none(context, "the slow average is forming")
    older, before, now = (_trend(bars[: len(bars) - back], asked) for back in (2, 1, 0))
    if now * before < 0:
        side = Side.BUY if now > 0 else Side.SELL
        leave = Signal.derive(
            context, side, draft=None, kind=SignalKind.EXIT_FULL, reason="the averages crossed"
        )
        return Decision.take(leave)
    close = context.session_close
    if close is not None and context.now > close - timedelta(seconds=asked.quiet_before_close_s):
        return Decision.none(context, "too close to the end of the session")
    if not now * before > 0 or not before * older < 0 or (now < 0 and asked.long_only):
        return Decision.none(context, f"no new trend, fast above slow by {now:.2f}")
    side = Side.BUY if now > 0 else Side.SELL
    draft = _draft(asked, side, bars, context)
    return Decision.take(Signal.derive(context, side, draft=draft, reason=f"trend {now:+.2f}"))


def _trend(bars: Sequence[Bar], asked: Parameters) -> Decimal:
    """Fast average over the slow one; 0 where one of them has no value."""
    fast, slow = sma(bars, asked.fast).value, sma(bars, asked.slow).value
    return Decimal(0) if fast is None or slow is None else fast - slow


def _draft(
    asked: Parameters, side: Side, bars: Sequence[Bar], context: StrategyContext
) -> PlanDraft:
    tick, close = context.instrument.tick_size, context.session_close
    size = atr(bars[-2 * asked.range_periods :], asked.range_periods).value or tick
    stop, trail = (
        max(size * count // tick, Decimal(2)) * tick
        for count in (asked.stop_ranges, asked.trail_ranges)
    )
    return PlanDraft(
        size=plan.CapitalSize(
            risk_fraction=asked.risk_fraction, position_fraction=asked.position_fraction
        ),
        walk=plan.WalkPlan(
            step=tick, interval_s=PACE_S, steps_max=3, worst_offset=4 * tick, max_time_s=4 * PACE_S
        ),
        stop=plan.StopPlan(price=plan.PlanPrice(offset=-side.sign * stop)),
        rules=(plan.ExitRule(rule_id="trail", kind=plan.RuleKind.STOP_TRAIL, threshold=trail),),
        flat_by=None if close is None else close - timedelta(seconds=asked.flat_before_close_s),
        signal_max_age_s=asked.signal_max_age_s,
        note="moving average trend",
    )
