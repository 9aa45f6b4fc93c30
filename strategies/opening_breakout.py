"""Momentum breakout after the opening range. Does nothing useful with real money; examples only.

Every completed minute bar that closes beyond the high or low of the `LOOKBACK` bars before it is
a breakout; one in `COOL_DOWN` bars becomes a signal. There is no edge in it: it exists to show
every road a trade can take. Its signals walk through `MIX`, and so a day has trades with three
tranches and a ratchet, passive entries that the market leaves behind, sizes larger than the
displayed quantity, short time stops, and now and then an oversized wish for the risk gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple

from domain.bar import Bar
from domain.order import Side, TimeInForce
from domain.plan import (
    FixedSize,
    PlanPrice,
    RatchetKind,
    RatchetStep,
    StopPlan,
    TargetPlan,
    WalkPlan,
    WalkStart,
)
from domain.signal import Decision, PlanDraft, Signal, StrategyContext

OPENING_BARS = 5
LOOKBACK = 5
COOL_DOWN = 6
QUIET_BEFORE_CLOSE = timedelta(minutes=35)
FLAT_BEFORE_CLOSE = timedelta(minutes=4)
# Late in market time: at demo speed 900 s are 6 s of wall time on a busy machine.
SIGNAL_AGE_S_MAX = Decimal(900)
WALK_INTERVAL_S = Decimal(60)
PARTIAL_WAIT_S = Decimal("0.5")  # wall time: what is held stands unprotected for so long


class Variation(NamedTuple):
    """One kind of trade of the mix; distances are in ticks, times in market seconds."""

    name: str
    quantity: int
    start: WalkStart
    steps: int
    stop_ticks: int
    target_ticks: tuple[int, ...]
    time_stop_s: int
    time_in_force: TimeInForce = TimeInForce.DAY


STANDARD = Variation("three tranches", 8, WalkStart.MID, 4, 10, (4, 7, 11), 1200)
TAKER = Variation("taker, three tranches", 8, WalkStart.FAR, 2, 10, (3, 6, 9), 1200)
PASSIVE = Variation("passive entry, may not fill", 8, WalkStart.NEAR, 0, 10, (4, 8, 12), 1200)
LARGE = Variation(
    "larger than displayed, no waiting", 14, WalkStart.FAR, 0, 10, (3, 6, 9), 1200, TimeInForce.IOC
)
IMPATIENT = Variation("short time stop", 8, WalkStart.FAR, 2, 16, (24, 32, 40), 480)
OVERSIZED = Variation("oversized, for the risk gate", 5000, WalkStart.MID, 2, 8, (4, 8, 14), 1200)
MIX = (TAKER, LARGE, STANDARD, PASSIVE, TAKER, IMPATIENT, STANDARD, OVERSIZED, LARGE, PASSIVE)
FRACTIONS = (Decimal("0.5"), Decimal("0.25"), Decimal("0.25"))


def generate_signal(bars: Sequence[Bar], context: StrategyContext) -> Decision:
    """A breakout signal for the newest bar, or why there is none. A function of its bars only."""
    if len(bars) <= OPENING_BARS + LOOKBACK:
        return Decision.none(context, "opening range is forming")
    close = context.session_close
    if close is not None and context.now > close - QUIET_BEFORE_CLOSE:
        return Decision.none(context, "too close to the end of the session")
    signals = _signals(bars)
    if not signals or signals[-1][0] != len(bars) - 1:
        return Decision.none(context, "no breakout")
    variation = MIX[(len(signals) - 1) % len(MIX)]
    side = signals[-1][1]
    signal = Signal.derive(
        context,
        side,
        draft=draft_of(variation, side, context),
        confidence=Decimal("0.6"),
        reason=f"{side} breakout of {LOOKBACK} bars at {bars[-1].close}: {variation.name}",
    )
    return Decision.take(signal)


def draft_of(variation: Variation, side: Side, context: StrategyContext) -> PlanDraft:
    """The plan of one kind of trade, in ticks of the instrument."""
    tick = context.instrument.tick_size
    targets = zip(variation.target_ticks, FRACTIONS, strict=True)
    close = context.session_close
    return PlanDraft(
        size=FixedSize(quantity=variation.quantity),
        walk=WalkPlan(
            start=variation.start,
            step=tick,
            interval_s=WALK_INTERVAL_S,
            steps_max=variation.steps,
            worst_offset=tick * (variation.steps + 1),
            max_time_s=WALK_INTERVAL_S * (variation.steps + 1),
            time_in_force=variation.time_in_force,
            partial_wait_s=PARTIAL_WAIT_S,
        ),
        stop=StopPlan(price=PlanPrice(offset=-side.sign * tick * variation.stop_ticks)),
        targets=tuple(
            TargetPlan(price=PlanPrice(offset=side.sign * tick * ticks), fraction=fraction)
            for ticks, fraction in targets
        ),
        ratchet=(
            RatchetStep(after_target=1, kind=RatchetKind.BREAK_EVEN),
            RatchetStep(after_target=2, kind=RatchetKind.PREVIOUS_TARGET),
        ),
        time_stop_s=variation.time_stop_s,
        flat_by=close - FLAT_BEFORE_CLOSE if close is not None else None,
        signal_max_age_s=SIGNAL_AGE_S_MAX,
        note=variation.name,
    )


def _signals(bars: Sequence[Bar]) -> list[tuple[int, Side]]:
    """All signals of the day so far: (index of the bar, side). Nothing is remembered."""
    signals: list[tuple[int, Side]] = []
    for index in range(OPENING_BARS + LOOKBACK, len(bars)):
        if signals and index - signals[-1][0] < COOL_DOWN:
            continue
        before = bars[index - LOOKBACK : index]
        if bars[index].close > max(bar.high for bar in before):
            signals.append((index, Side.BUY))
        elif bars[index].close < min(bar.low for bar in before):
            signals.append((index, Side.SELL))
    return signals
