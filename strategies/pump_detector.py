"""Pump detector with the five-signal vocabulary. An example, no advice.

O1 volume and price rise (watched only) · S1 the pump is entered · Z1 it fades (watched only) ·
ZE1 half of it is given back: half is closed · E1 all of it is given back, or its time is over:
everything is closed. What happened before is told again from the bars at every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from domain import plan
from domain.bar import Bar
from domain.base import Frozen
from domain.money import Number
from domain.order import Side
from domain.signal import Decision, PlanDraft, Signal, SignalKind, StrategyContext
from marketdata.indicators import volume_surge

PACE_S = Decimal(60)  # between two steps of the walking limit


class Parameters(Frozen):
    """`rise_ticks` within `rise_bars` bars; surge: volume over the usual volume, 1 is usual."""

    rise_bars: int = 3
    rise_ticks: int = 3
    surge: Number = Decimal("1.5")
    surge_watched: Number = Decimal("1.2")
    usual_bars: int = 20
    bars_max: int = 20
    risk_fraction: Number = Decimal("0.01")
    position_fraction: Number = Decimal("0.5")
    time_stop_s: Number = Decimal(1800)
    signal_max_age_s: Number = Decimal(300)


PARAMETERS = Parameters


def generate_signal(bars: Sequence[Bar], context: StrategyContext) -> Decision:
    """What the newest bar means for the pump that is on, or begins one."""
    asked = Parameters.model_validate(context.parameters)
    tick = context.instrument.tick_size
    kind, base, begun = None, Decimal(0), 0
    told: set[SignalKind] = set()
    for index in range(asked.usual_bars, len(bars)):
        if not begun:
            kind, told = _begins(bars[: index + 1], asked, tick), set()
            base = bars[index - asked.rise_bars].close
            begun = index if kind is SignalKind.ENTRY else 0
            continue
        most = max(bar.high for bar in bars[begun : index + 1]) - base
        kind = _fades(bars[index].close - base, most, late=index - begun >= asked.bars_max)
        kind = None if kind is None or kind in told else kind
        told = told if kind is None else {*told, kind}
        begun = 0 if kind is SignalKind.EXIT_FULL else begun
    if kind is None:
        return Decision.none(context, "the pump goes on" if begun else "no pump")
    stop = max((bars[-1].close - base) // tick, Decimal(4)) * tick
    draft = _draft(asked, stop, tick) if kind is SignalKind.ENTRY else None
    side = Side.BUY if kind in (SignalKind.ENTRY, SignalKind.WATCH_OPEN) else Side.SELL
    reason = f"{kind} at {bars[-1].close}, the pump began at {base}"
    return Decision.take(Signal.derive(context, side, draft=draft, kind=kind, reason=reason))


def _begins(bars: Sequence[Bar], asked: Parameters, tick: Decimal) -> SignalKind | None:
    rise = bars[-1].close - bars[-1 - asked.rise_bars].close
    if rise <= 0:
        return None
    step_s = int((bars[-1].end - bars[-1].start).total_seconds())
    usual = ((asked.usual_bars + 1) * step_s, step_s)
    surge = volume_surge(bars, (step_s, 0), usual).value or Decimal(0)
    if rise >= asked.rise_ticks * tick and surge >= asked.surge:
        return SignalKind.ENTRY
    return SignalKind.WATCH_OPEN if surge >= asked.surge_watched else None


def _fades(kept: Decimal, most: Decimal, *, late: bool) -> SignalKind | None:
    if late or kept <= 0:
        return SignalKind.EXIT_FULL
    if 2 * kept <= most:
        return SignalKind.EXIT_PARTIAL
    return SignalKind.WATCH_CLOSE if 4 * kept <= 3 * most else None


def _draft(asked: Parameters, stop: Decimal, tick: Decimal) -> PlanDraft:
    return PlanDraft(
        size=plan.CapitalSize(
            risk_fraction=asked.risk_fraction, position_fraction=asked.position_fraction
        ),
        walk=plan.WalkPlan(
            step=tick, interval_s=PACE_S, steps_max=1, worst_offset=2 * tick, max_time_s=2 * PACE_S
        ),
        stop=plan.StopPlan(price=plan.PlanPrice(offset=-stop)),
        time_stop_s=asked.time_stop_s,
        signal_max_age_s=asked.signal_max_age_s,
        note="pump",
    )
