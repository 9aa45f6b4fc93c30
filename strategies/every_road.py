"""Breakouts that show every road a trade can take. For the demonstration, no advice.

A bar that closes beyond the `LOOKBACK` bars before it is a signal, one in `COOL_DOWN` bars. They
walk through `MIX`: three tranches with a ratchet, entries that the market leaves behind, more
than is displayed, short time stops, and a wish too large for the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple

from domain import plan
from domain.bar import Bar
from domain.order import Side, TimeInForce
from domain.plan import WalkStart
from domain.signal import Decision, PlanDraft, Signal, StrategyContext

LOOKBACK, COOL_DOWN = 5, 6
QUIET_BEFORE_CLOSE, FLAT_BEFORE_CLOSE = timedelta(minutes=35), timedelta(minutes=4)
WALK_INTERVAL_S = Decimal(60)
FRACTIONS = (Decimal("0.5"), Decimal("0.25"), Decimal("0.25"))
RATCHET = (
    plan.RatchetStep(after_target=1, kind=plan.RatchetKind.BREAK_EVEN),
    plan.RatchetStep(after_target=2, kind=plan.RatchetKind.PREVIOUS_TARGET),
)


class Variation(NamedTuple):
    """One kind of trade of the mix; distances are in ticks, times in market seconds."""

    name: str
    quantity: int
    start: WalkStart
    steps: int
    stop: int
    targets: tuple[int, ...]
    time_stop_s: int = 1200
    tif: TimeInForce = TimeInForce.DAY


STANDARD = Variation("three tranches", 8, WalkStart.MID, 4, 10, (4, 7, 11))
TAKER = Variation("taker, three tranches", 8, WalkStart.FAR, 2, 10, (3, 6, 9))
PASSIVE = Variation("passive entry, may not fill", 8, WalkStart.NEAR, 0, 10, (4, 8, 12))
LARGE = Variation("no waiting", 14, WalkStart.FAR, 0, 10, (3, 6, 9), tif=TimeInForce.IOC)
IMPATIENT = Variation("short time stop", 8, WalkStart.FAR, 2, 16, (24, 32, 40), 480)
OVERSIZED = Variation("oversized, for the risk gate", 5000, WalkStart.MID, 2, 8, (4, 8, 14))
MIX = (TAKER, LARGE, STANDARD, PASSIVE, TAKER, IMPATIENT, STANDARD, OVERSIZED, LARGE, PASSIVE)


def generate_signal(bars: Sequence[Bar], context: StrategyContext) -> Decision:
    """A breakout signal for the newest bar, or why there is none. A function of its bars only."""
    close = context.session_close
    if close and context.now > close - QUIET_BEFORE_CLOSE:
        return Decision.none(context, "too close to the end of the session")
    signals: list[tuple[int, Side]] = []
    for index in range(2 * LOOKBACK, len(bars)):
        if signals and index - signals[-1][0] < COOL_DOWN:
            continue
        before = bars[index - LOOKBACK : index]
        if bars[index].close > max(bar.high for bar in before):
            signals.append((index, Side.BUY))
        elif bars[index].close < min(bar.low for bar in before):
            signals.append((index, Side.SELL))
    if not signals or signals[-1][0] != len(bars) - 1:
        return Decision.none(context, "no breakout")
    kind, side = MIX[(len(signals) - 1) % len(MIX)], signals[-1][1]
    draft, reason = _draft(kind, side, context), f"{side} breakout of {LOOKBACK} bars: {kind.name}"
    return Decision.take(Signal.derive(context, side, draft=draft, reason=reason))


def _draft(kind: Variation, side: Side, context: StrategyContext) -> PlanDraft:
    step, close = context.instrument.tick_size, context.session_close
    offsets = [side.sign * step * ticks for ticks in (-kind.stop, *kind.targets)]
    prices = [plan.PlanPrice(offset=offset) for offset in offsets]
    return PlanDraft(
        size=plan.FixedSize(quantity=Decimal(kind.quantity)),
        walk=plan.WalkPlan(
            start=kind.start,
            step=step,
            interval_s=WALK_INTERVAL_S,
            steps_max=kind.steps,
            worst_offset=step * (kind.steps + 1),
            max_time_s=WALK_INTERVAL_S * (kind.steps + 1),
            time_in_force=kind.tif,
            partial_wait_s=Decimal("0.5"),  # wall time without protection for what is held
        ),
        stop=plan.StopPlan(price=prices[0]),
        targets=tuple(
            plan.TargetPlan(price=price, fraction=fraction)
            for price, fraction in zip(prices[1:], FRACTIONS, strict=True)
        ),
        ratchet=RATCHET,
        time_stop_s=Decimal(kind.time_stop_s),
        flat_by=None if close is None else close - FLAT_BEFORE_CLOSE,
        signal_max_age_s=Decimal(900),  # market time: 6 s on the wall at demo speed
        note=kind.name,
    )
