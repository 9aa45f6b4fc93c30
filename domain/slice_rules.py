"""Rules of a sliced entry (TWAP): its numbers fit each other and what ends the trade (ADR 0016)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from domain.errors import BadInput
from domain.instrument import InstrumentKind
from domain.plan import EntryStyle, FixedSize, TradePlan
from domain.plan_context import PlanContext

SLICES_MAX = 100
SLICE_WORK_S_MAX = 60


def slice_faults(plan: TradePlan, context: PlanContext) -> Iterator[BadInput]:
    """A sliced entry: all numbers fit each other, and the window fits what ends the trade."""
    slices, walk = plan.slices, plan.walk
    is_twap = plan.entry_style is EntryStyle.TWAP
    if is_twap != (slices is not None):
        allowed = (
            "count and window_s" if is_twap else f"none unless entry_style is {EntryStyle.TWAP}"
        )
        yield BadInput("SLICES_INVALID", "slices", "" if slices is None else "given", allowed)
    if slices is None or not is_twap:
        return
    window_s, work_s = slices.window_s, slices.work_wall_s
    if not 2 <= slices.count <= SLICES_MAX:
        yield BadInput("SLICES_INVALID", "slices.count", slices.count, f"2..{SLICES_MAX}")
        return
    if not 0 < window_s <= walk.max_time_s:
        # The gate's check that there is time left to get out goes by the walk's longest time.
        allowed = f"0 < window_s <= {walk.max_time_s} (walk.max_time_s)"
        yield BadInput("SLICES_INVALID", "slices.window_s", window_s, allowed)
        return
    interval_s = window_s / slices.count
    if not 0 < work_s <= SLICE_WORK_S_MAX or not _outlasts(interval_s, work_s, context):
        allowed = f"0 < work <= {SLICE_WORK_S_MAX} and < window_s / count in wall time"
        yield BadInput("SLICES_INVALID", "slices.work_wall_s", work_s, allowed)
    if plan.time_stop_s is not None and plan.time_stop_s <= window_s:
        yield BadInput(
            "SLICES_INVALID", "time_stop_s", plan.time_stop_s, f"> {window_s} (slices.window_s)"
        )
    ends_at = context.market_now + timedelta(seconds=float(window_s))
    if plan.flat_by is not None and plan.flat_by <= ends_at:
        yield BadInput("SLICES_INVALID", "flat_by", plan.flat_by.isoformat(), "after the window")
    yield from _slices_close(plan, context, ends_at)
    yield from _slice_sizes(plan, slices.count)


def _slices_close(plan: TradePlan, context: PlanContext, ends_at: datetime) -> Iterator[BadInput]:
    clock = context.market_clock
    closes = clock.next_close if clock is not None and clock.is_open else None
    if closes is not None and closes <= ends_at and plan.instrument.kind != InstrumentKind.CRYPTO:
        assert plan.slices is not None
        allowed = f"a window that ends before {closes.isoformat()} (next close)"
        yield BadInput("SLICES_INVALID", "slices.window_s", plan.slices.window_s, allowed)


def _slice_sizes(plan: TradePlan, count: int) -> Iterator[BadInput]:
    """What is held between two slices needs a stop that rests, and a slice the smallest size."""
    instrument = plan.instrument
    if plan.is_combo or instrument.kind is InstrumentKind.OPTION:
        yield BadInput("SLICES_INVALID", "legs", instrument.symbol, "one leg, not an option")
    if plan.stop is None:
        yield BadInput("STOP_MISSING", "stop", "", "a stop for what is held between two slices")
    smallest = max(instrument.lot_size, instrument.min_quantity)
    if isinstance(plan.size, FixedSize) and plan.size.quantity < count * smallest:
        allowed = f">= {count} slices x {smallest}"
        yield BadInput("SLICES_INVALID", "size.quantity", plan.size.quantity, allowed)


def _outlasts(interval_s: Decimal, work_wall_s: Decimal, context: PlanContext) -> bool:
    """True if a slice's time is over before the next one is due."""
    if context.clock_map is None:
        return interval_s > work_wall_s
    return context.clock_map.wall_duration_s(float(interval_s)) > float(work_wall_s)
