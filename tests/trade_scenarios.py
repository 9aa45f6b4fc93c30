"""Whole trades as scripts: what the market, the venue and people do, step by step.

One script serves the workflow tests, the replay recorder and the crash tests. A script waits for
a row of the exchange's journal before it moves the market, so it does not depend on how fast the
system under test is. The trade: buy 10 ESX, walk 100.50 → 101.25 (the worst price), filled there,
three tranches of 3, 3 and 4 with targets 102.25, 103.25 and 104.25, stop 99.25.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from temporalio.client import WorkflowHandle

from domain.ids import parse_client_order_id
from domain.instrument import Instrument
from domain.messages import TradeResult
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
from tests.rig import Rig
from workflows.trade import TradeWorkflow

D = Decimal
SYMBOL = "ESX"
WORST = D("101.25")
STOP = D("99.25")
BREAK_EVEN = D("101.25")
FIRST_TARGET = D("102.25")
ENTRY_IDS = "??????????????????01*"
OCO_IDS = "??????????????????04*"
EXIT_IDS = "??????????????????0[56]*"
"""Shell patterns of client order ids: the purpose is at the 19th character (domain/ids.py)."""


def plan_of(rig: Rig, name: str, *, interval_s: str = "0.4", **changes: Any) -> TradePlan:
    """The standard trade: a walk of three steps, three tranches, a stop that follows."""
    instrument = Instrument(symbol=SYMBOL, tick_size=D("0.01"))
    values: dict[str, Any] = {
        "trade_id": f"{rig.services.account}-{name}",
        "session": "scenarios",
        "account": rig.services.account,
        "strategy": "scripted",
        "symbol": SYMBOL,
        "legs": (PlanLeg(instrument=instrument, side=Side.BUY),),
        "side": Side.BUY,
        "size": FixedSize(quantity=D(10)),
        "walk": walk_of(interval_s),
        "stop": StopPlan(price=PlanPrice(offset=D(-2))),
        "targets": (
            TargetPlan(price=PlanPrice(offset=D(1)), fraction=D("0.3")),
            TargetPlan(price=PlanPrice(offset=D(2)), fraction=D("0.3")),
            TargetPlan(price=PlanPrice(offset=D(3)), fraction=D("0.4")),
        ),
        "ratchet": (
            RatchetStep(after_target=1, kind=RatchetKind.BREAK_EVEN),
            RatchetStep(after_target=2, kind=RatchetKind.PREVIOUS_TARGET),
        ),
        "signal_id": f"signal-{name}",
        "signal_time": rig.clock.market0,
        "signal_max_age_s": D(600),
    }
    return TradePlan.model_validate(values | changes)


def walk_of(interval_s: str = "0.4", max_time_s: str = "60") -> WalkPlan:
    return WalkPlan(
        step=D("0.25"),
        interval_s=D(interval_s),
        steps_max=3,
        worst_offset=D("0.75"),
        max_time_s=D(max_time_s),
    )


def calm_market(rig: Rig) -> None:
    """So wide that nothing of the walk trades; the middle is 100.50."""
    rig.quote(SYMBOL, "99.00", "102.00")


def fault(rig: Rig, kind: str, match: Mapping[str, Any], **params: Any) -> None:
    """Plants one fault of the venue; it strikes once unless the match says otherwise."""
    rig.exchange.state.faults.add({"kind": kind, "match": dict(match), "params": params})


# --- what the journal shows -----------------------------------------------------------------------


def accepted(rig: Rig, **wanted: str) -> list[dict[str, Any]]:
    """Accepted orders, children included, whose fields have these values."""
    rows = rig.journal("accepted")
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def own_orders(rig: Rig) -> list[dict[str, Any]]:
    """Accepted orders that we sent ourselves; children that the venue made are left out."""
    return [row for row in accepted(rig) if parse_client_order_id(row["client_id"]) is not None]


def assert_one_order_per_intent(rig: Rig) -> None:
    """I1: no intent key has two accepted orders; one that was changed in its place is one."""
    rows = own_orders(rig)
    named = {row["order_id"]: row["client_id"] for row in rows}
    new = [row for row in rows if named.get(row.get("replaces")) != row["client_id"]]
    keys = [row["client_id"][:24] for row in new]
    assert len(keys) == len(set(keys)), keys


def assert_nothing_left(rig: Rig) -> None:
    """I3: no working order and no position."""
    assert rig.exchange.open_orders == []
    assert position(rig) == 0


def stops_at(rig: Rig, price: Decimal) -> int:
    """Live stops at this price."""
    return sum(order.stop_price == price for order in rig.exchange.open_orders)


def position(rig: Rig) -> Decimal:
    return rig.exchange.state.account.quantity(SYMBOL)


# --- steps of the script --------------------------------------------------------------------------


async def fill_entry(rig: Rig) -> None:
    """Lets the walk reach its worst price, then comes to meet it."""
    await rig.until(
        lambda: bool(accepted(rig, limit_price=str(WORST), side="buy")), "the walk is at its end"
    )
    rig.quote(SYMBOL, "101.00", str(WORST))
    await rig.until(lambda: position(rig) != 0, "the entry fills")


async def enter_protected(rig: Rig) -> None:
    """The position stands behind three stops."""
    await fill_entry(rig)
    await rig.until(lambda: stops_at(rig, STOP) == 3, "three tranches are protected")


async def take_first_target(rig: Rig) -> None:
    rig.quote(SYMBOL, "102.25", "102.50")
    await rig.until(lambda: stops_at(rig, BREAK_EVEN) == 2, "two stops are at break-even")


async def take_second_target(rig: Rig) -> None:
    rig.quote(SYMBOL, "103.25", "103.50")
    await rig.until(lambda: stops_at(rig, FIRST_TARGET) == 1, "the last stop followed")


def fall(rig: Rig) -> None:
    """Below every stop that the ratchet can have reached."""
    rig.quote(SYMBOL, "98.75", "99.00")


async def ratcheted_out(rig: Rig) -> None:
    """The standard trade: both targets, the stop follows twice, the rest is stopped out."""
    await enter_protected(rig)
    await take_first_target(rig)
    await take_second_target(rig)
    fall(rig)


async def wait_for_hand_over(rig: Rig, handle: WorkflowHandle[TradeWorkflow, TradeResult]) -> None:
    """Waits until the first run has handed over to a second one."""

    async def moved() -> bool:
        newest = await rig.client.get_workflow_handle(handle.id).describe()
        return newest.run_id != handle.first_execution_run_id

    await rig.until_async(moved, "a new run goes on")


def newest_run(
    rig: Rig, handle: WorkflowHandle[TradeWorkflow, TradeResult]
) -> WorkflowHandle[Any, TradeResult]:
    """The trade as it is now; the handle of a start keeps to its chain of runs."""
    return rig.client.get_workflow_handle(handle.id, result_type=TradeResult)
