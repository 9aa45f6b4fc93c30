"""The trades that are measured, and the market that moves them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from domain.clock import ClockMap
from domain.instrument import Instrument
from domain.order import Side
from domain.plan import (
    FixedSize,
    PlanLeg,
    PlanPrice,
    RatchetKind,
    RatchetStep,
    StopPlan,
    TargetPlan,
    TradePlan,
    WalkPlan,
    WalkStart,
)

D = Decimal
SYMBOL = "ESX"
WALK_SYMBOL = "SPY"
STEP_INTERVAL_S = D("0.4")
# Mid 100, walk 100.00 -> 100.10 -> 100.20 -> 100.30: the third step meets the ask.
ENTRY_QUOTE = ("99.70", "100.30")
TARGET_QUOTES = (("101.30", "101.60"), ("102.30", "102.60"), ("103.30", "103.60"))
FAR_QUOTE = ("96.00", "104.00")


@dataclass(frozen=True)
class TradeBook:
    """Whose trades these are, and how their market time runs."""

    account: str
    clock: ClockMap


def standard_plan(book: TradeBook, name: str) -> TradePlan:
    """Three walk steps, three tranches at +1, +2, +3, break-even and trailing ratchet."""
    walk = WalkPlan(
        step=D("0.10"),
        interval_s=STEP_INTERVAL_S,
        steps_max=3,
        worst_offset=D(1),
        max_time_s=D(60),
    )
    return _plan(book, name, SYMBOL, walk)


def resting_plan(book: TradeBook, name: str, symbol: str = SYMBOL) -> TradePlan:
    """The standard exits behind an entry that fills at once."""
    walk = WalkPlan(
        start=WalkStart.FAR,
        step=D("0.10"),
        interval_s=STEP_INTERVAL_S,
        steps_max=3,
        worst_offset=D(1),
        max_time_s=D(60),
    )
    return _plan(book, name, symbol, walk)


def endless_walk_plan(
    book: TradeBook, name: str, interval_s: Decimal, symbol: str = SYMBOL
) -> TradePlan:
    """Walks a cent at a time below a far ask: it never fills."""
    walk = WalkPlan(
        step=D("0.01"),
        interval_s=interval_s,
        steps_max=10_000,
        worst_offset=D("1.90"),
        max_time_s=D(3600),
    )
    return _plan(book, name, symbol, walk)


def small_plan(book: TradeBook, name: str, symbol: str = SYMBOL) -> TradePlan:
    """One share that is bought at once, one stop, one target: a cheap open trade."""
    whole = TargetPlan(price=PlanPrice(offset=D(1)), fraction=D(1))
    changes = {"size": FixedSize(quantity=D(1)), "targets": (whole,), "ratchet": ()}
    return TradePlan.model_validate({**dict(resting_plan(book, name, symbol)), **changes})


def parked_entry_plan(book: TradeBook, name: str) -> TradePlan:
    """One share of the walk symbol; its entry rests and takes its next step in an hour."""
    plan = endless_walk_plan(book, name, D(3600), WALK_SYMBOL)
    return TradePlan.model_validate({**dict(plan), "size": FixedSize(quantity=D(1))})


def _plan(book: TradeBook, name: str, symbol: str, walk: WalkPlan) -> TradePlan:
    third = D(1) / D(4)
    return TradePlan(
        trade_id=f"{book.account}-{name}",
        session="bench",
        account=book.account,
        strategy="bench",
        symbol=symbol,
        legs=(PlanLeg(instrument=Instrument(symbol=symbol, tick_size=D("0.01")), side=Side.BUY),),
        side=Side.BUY,
        size=FixedSize(quantity=D(12)),
        walk=walk,
        stop=StopPlan(price=PlanPrice(offset=D(-2))),
        targets=(
            TargetPlan(price=PlanPrice(offset=D(1)), fraction=third),
            TargetPlan(price=PlanPrice(offset=D(2)), fraction=third),
            TargetPlan(price=PlanPrice(offset=D(3)), fraction=D(1) - third - third),
        ),
        ratchet=(
            RatchetStep(after_target=1, kind=RatchetKind.BREAK_EVEN),
            RatchetStep(after_target=2, kind=RatchetKind.PREVIOUS_TARGET),
        ),
        signal_id=f"signal-{name}",
        signal_time=book.clock.market0,
        signal_max_age_s=D(3600),
    )
