"""Scripts of the golden trades in shares. The calm market stands at 99.00 to 102.00, mid 100.50."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

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
)
from tests import trade_scenarios as standard
from tests.golden.playing import Play
from tests.rig import Rig

D = Decimal
SYMBOL = standard.SYMBOL
FIRST_LIMIT = D("100.5")
SLOW = standard.walk_of("120", "600")
"""A walk that never steps: its first limit waits for the market."""
COLLAR = D("102.51")
FIRST_DAY_END = timedelta(hours=6, minutes=31)
NEXT_OPEN = timedelta(hours=24, minutes=1)


def single_target(offset: str = "1") -> dict[str, Any]:
    """Changes of the standard plan: one tranche with this target and no ratchet."""
    target = TargetPlan(price=PlanPrice(offset=D(offset)), fraction=D(1))
    return {"targets": (target,), "ratchet": ()}


def plan_of(play: Play, name: str = "1", **changes: Any) -> TradePlan:
    return standard.plan_of(play.rig, name, interval_s=play.interval_s, **changes)


def simple_plan(play: Play, name: str = "1", **changes: Any) -> TradePlan:
    """Ten shares at the first limit, one target, one stop."""
    return plan_of(play, name, **({"walk": SLOW} | single_target() | changes))


async def fill_first_limit(play: Play, plan: TradePlan) -> None:
    """The market comes to the entry that works at 100.50."""
    await play.when_works(plan)
    play.quote(SYMBOL, "100.25", str(FIRST_LIMIT))
    await play.when(plan, lambda: play.held(plan) != 0, "the entry fills")


async def walked_to(play: Play, plan: TradePlan, price: Decimal) -> None:
    """Waits until the walk has reached this price."""
    await play.when(
        plan, lambda: any(o.limit_price == price for o in play.entries(plan)), f"at {price}"
    )


async def hold_protected(play: Play, plan: TradePlan) -> None:
    """In at the first limit and behind stops."""
    await fill_first_limit(play, plan)
    await play.when_protected(plan)


# --- GT1, GT13 ------------------------------------------------------------------------------------


async def target_at_first_limit(play: Play) -> None:
    plan = await play.start(simple_plan(play))
    await hold_protected(play, plan)
    play.quote(SYMBOL, "101.50", "101.75")


def one_entry_order(play: Play) -> list[str]:
    sent = len(play.entries(play.plans[0]))
    return [] if sent == 1 else [f"{sent} entries were accepted"]


def lose_the_reply(rig: Rig) -> None:
    """The broker takes the entry and nobody hears of it."""
    standard.calm_market(rig)
    match = {"method": "POST", "path": "*/orders*", "client_id": standard.ENTRY_IDS}
    standard.fault(rig, "drop_reply", match)


# --- GT2 ------------------------------------------------------------------------------------------


async def short_in_parts(play: Play) -> None:
    plan = plan_of(play)
    leg = PlanLeg(instrument=plan.instrument, side=Side.SELL)
    targets = tuple(
        TargetPlan(price=PlanPrice(offset=D(-number)), fraction=D(share))
        for number, share in ((1, "0.3"), (2, "0.3"), (3, "0.4"))
    )
    short = plan.model_copy(
        update={
            "side": Side.SELL,
            "legs": (leg,),
            "stop": StopPlan(price=PlanPrice(offset=D(2))),
            "targets": targets,
            "walk": plan.walk.model_copy(update={"partial_wait_s": D(30)}),
        }
    )
    await play.start(short)
    await walked_to(play, short, D("99.75"))
    for size, held in (("3", 3), ("2", 5), ("5", 10)):
        play.quote(SYMBOL, "99.75", "100.00", size)
        await holds(play, short, held)
    await play.when_protected(short)
    play.quote(SYMBOL, "102.00", "102.25")


async def holds(play: Play, plan: TradePlan, units: int) -> None:
    """Waits until the trade knows so many, or has stopped waiting for more."""
    await play.when_it_says(
        plan, lambda now: now.held >= units or now.stage != "entering", f"{units} are known"
    )


def walked_down(play: Play) -> list[str]:
    limits = [order.limit_price for order in play.entries(play.plans[0])]
    wanted = [D("100.5"), D("100.25"), D("100"), D("99.75")]
    return [] if limits == wanted else [f"the walk was {limits}"]


# --- GT3 ------------------------------------------------------------------------------------------


def wide_market(rig: Rig) -> None:
    """The collar of 2 % round 100.50 ends at 102.51, far from any seller."""
    rig.quote(SYMBOL, "97.50", "103.50")


async def never_filled(play: Play) -> None:
    walk = WalkPlan(
        step=D("0.67"),
        interval_s=D(play.interval_s),
        steps_max=9,
        worst_offset=D("2.01"),
        max_time_s=D(12),
    )
    await play.start(plan_of(play, walk=walk))


def stopped_at_the_collar(play: Play) -> list[str]:
    limits = [order.limit_price for order in play.entries(play.plans[0])]
    wanted = [D("100.5"), D("101.17"), D("101.84"), COLLAR]
    return [] if limits == wanted else [f"the walk was {limits}"]


# --- GT4, GT20 ------------------------------------------------------------------------------------


def four_at_most(rig: Rig) -> None:
    """The next time the market meets an entry, four of it are filled."""
    standard.calm_market(rig)
    standard.fault(rig, "partial_fill", {"client_id": standard.ENTRY_IDS}, quantity="4")


def four_at_most_and_two_late(rig: Rig) -> None:
    """Two more were traded before the cancel; they are told a second after it (D9)."""
    four_at_most(rig)
    standard.fault(rig, "late_fill", {"client_id": standard.ENTRY_IDS}, quantity="2", delay_s=1)


async def part_until_time(play: Play) -> None:
    walk = SLOW.model_copy(update={"partial_wait_s": D("0.5")})
    plan = await play.start(simple_plan(play, walk=walk, time_stop_s=D(15)))
    await fill_first_limit(play, plan)
    standard.calm_market(play.rig)
    await play.when_protected(plan)


def pair_on_the_part(play: Play) -> list[str]:
    stops = [order.quantity for order in play.seen.orders.values() if order.is_stop]
    return [] if stops == [D(4)] else [f"stops were for {stops}"]


async def part_and_late_fill(play: Play) -> None:
    walk = SLOW.model_copy(update={"partial_wait_s": D("0.5")})
    plan = await play.start(simple_plan(play, walk=walk))
    await fill_first_limit(play, plan)
    standard.calm_market(play.rig)
    await play.when_protected(plan)
    play.rig.server.step_s(2)
    await play.when_protected(plan)
    play.quote(SYMBOL, "101.50", "101.75")


def no_order_refused(play: Play) -> list[str]:
    """No stop went beside a working buy, none for shares that another one holds."""
    refusals = (row for row in play.seen.refusals if row["action"] != "cancel")
    return [f"the venue refused: {row}" for row in refusals]


# --- GT5 ------------------------------------------------------------------------------------------


async def ratcheted(play: Play) -> None:
    """The stop goes to break-even after the first target and trails by 0.50 after the second."""
    ratchet = (
        RatchetStep(after_target=1, kind=RatchetKind.BREAK_EVEN),
        RatchetStep(after_target=2, kind=RatchetKind.TRAIL, distance=D("0.5")),
    )
    plan = await play.start(plan_of(play, ratchet=ratchet))
    await walked_to(play, plan, standard.WORST)
    play.quote(SYMBOL, "101.00", str(standard.WORST))
    await play.when_protected(plan)
    play.quote(SYMBOL, "102.25", "102.50")
    await play.when_protected(plan, at=standard.BREAK_EVEN)
    play.quote(SYMBOL, "103.25", "103.50")
    await play.when_protected(plan, at=D("102.75"))
    play.quote(SYMBOL, "102.25", "102.50")


# --- GT9 ------------------------------------------------------------------------------------------


def reject_late(rig: Rig) -> None:
    standard.calm_market(rig)
    standard.fault(rig, "late_reject", {"client_id": standard.ENTRY_IDS}, delay_s=1)


async def rejected_late(play: Play) -> None:
    plan = await play.start(simple_plan(play))
    await play.when_works(plan)
    play.rig.server.step_s(2)


# --- GT10, GT14 -----------------------------------------------------------------------------------


async def gap_after_halt(play: Play) -> None:
    """What was a stop at 98.50 is sold at 96.00, the first price there is."""
    plan = await play.start(simple_plan(play))
    await hold_protected(play, plan)
    await play.when_settled(plan)
    exchange = play.rig.exchange
    opened = exchange.now
    exchange.halt(SYMBOL)
    play.advance_to(opened + FIRST_DAY_END)
    play.advance_to(opened + NEXT_OPEN)
    play.quote(SYMBOL, "96.00", "96.25")
    exchange.resume(SYMBOL)


async def three_weeks(play: Play) -> None:
    """A target in each week; after it a new run goes on."""
    plan = await play.start(plan_of(play, walk=SLOW))
    await hold_protected(play, plan)
    first_day = play.rig.exchange.now
    await play.hand_over(plan)
    await play.when_settled(plan)
    for week, (bid, ask, stop) in enumerate(
        (("101.50", "101.75", FIRST_LIMIT), ("102.50", "102.75", D("101.5"))), start=1
    ):
        play.advance_to(first_day + timedelta(weeks=week))
        play.quote(SYMBOL, bid, ask)
        await play.when_protected(plan, at=stop)
        await play.hand_over(plan)
        await play.when_settled(plan)
    play.advance_to(first_day + timedelta(weeks=3))
    play.quote(SYMBOL, "103.50", "103.75")


# --- GT18 -----------------------------------------------------------------------------------------


async def two_strategies(play: Play) -> None:
    first = simple_plan(play, "1", strategy="first", **single_target("3"))
    second = simple_plan(
        play,
        "2",
        strategy="second",
        size=FixedSize(quantity=D(6)),
        stop=StopPlan(price=PlanPrice(offset=D(-3))),
    )
    for plan in (first, second):
        await play.start(plan)
        await play.when_works(plan)
    play.quote(SYMBOL, "100.25", str(FIRST_LIMIT))
    for plan in (first, second):
        await play.when_protected(plan)
    play.quote(SYMBOL, "98.25", "98.50")
    await play.ended(first)
    play.quote(SYMBOL, "101.50", "101.75")
