"""Attacks on the whole stack; the exchange's journal is the oracle (faults.md I1-I20)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from domain.messages import OperatorRequest, OperatorSignal, TradeResult
from tests import trade_scenarios as play
from tests.rig import Rig
from workflows.trade import TradeWorkflow

D = Decimal
Handle = WorkflowHandle[TradeWorkflow, TradeResult]
REPLACE = {"method": "PATCH", "client_id": play.ENTRY_IDS}


@pytest.fixture
def rig(rig: Rig) -> Iterator[Rig]:
    """In the market in which the trades of `trade_scenarios` begin; no attack may miss."""
    play.calm_market(rig)
    yield rig
    missed = [
        f"{rule.kind} {rule.patterns}" for rule in rig.exchange.state.faults.rules if not rule.fired
    ]
    assert missed == [], "what never struck shows nothing"


def hide(rig: Rig, ids: str = "*", lag_s: float = 3600) -> None:
    """Look-ups by our id answer 404 although the order is there (C5)."""
    play.fault(
        rig,
        "lookup_lag",
        {"client_id": ids, "path": "*by_client*", "count": None},
        lag_s=lag_s,
    )


async def flatten(handle: Handle, command_id: str = "flat") -> None:
    await handle.execute_update(
        TradeWorkflow.request_flatten, OperatorRequest(command_id=command_id, by="test")
    )


def bought(rig: Rig) -> Decimal:
    return sum((D(r["quantity"]) for r in rig.journal("fill") if r["side"] == "buy"), D(0))


def sold(rig: Rig) -> Decimal:
    return sum((D(r["quantity"]) for r in rig.journal("fill") if r["side"] == "sell"), D(0))


def buys_working(rig: Rig) -> list[Any]:
    return [o for o in rig.exchange.open_orders if o.side == "buy"]


async def finish(rig: Rig, handle: Handle) -> TradeResult:
    async with asyncio.timeout(60):
        result = await handle.result()
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)
    return result


# --- one order per intent -------------------------------------------------------------------------


@pytest.mark.covers("C5", "K2")
async def test_flatten_while_the_entry_is_hidden_leaves_nothing_behind(rig: Rig) -> None:
    """C5, I10: the answer is lost, look-ups say 404; the order list is the proof."""
    play.fault(rig, "drop_reply", {"method": "POST", "client_id": play.ENTRY_IDS})
    hide(rig, play.ENTRY_IDS)
    handle = await rig.start_trade(play.plan_of(rig, "1", walk=play.walk_of(interval_s="20")))
    await rig.until(lambda: len(buys_working(rig)) == 1, "accepted")
    await flatten(handle)
    await finish(rig, handle)


@pytest.mark.covers("C5", "D1")
async def test_lost_walk_replace_with_lookup_lag_keeps_one_live_entry(rig: Rig) -> None:
    """D1 with C5: each replace loses its answer, and none can be looked up by our id."""
    play.fault(rig, "drop_reply", {**REPLACE, "count": 2})
    hide(rig, play.ENTRY_IDS, lag_s=5)
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await rig.until(lambda: rig.exchange.state.faults.fired["drop_reply"] >= 1, "lost")
    for _ in range(6):
        rig.server.step_s(1)
        assert len(buys_working(rig)) <= 1
    await play.enter_protected(rig)
    play.fall(rig)
    result = await finish(rig, handle)
    assert result.quantity == 10


@pytest.mark.covers("D1")
async def test_doubled_walk_replace_is_cut_back_to_one_entry(rig: Rig) -> None:
    """D1, nautilus #4564: old and new both live."""
    play.fault(rig, "replace_doubles", {"client_id": play.ENTRY_IDS})
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await rig.until(lambda: len(buys_working(rig)) == 2, "doubled")
    await rig.until(lambda: len(buys_working(rig)) == 1, "cut back")
    rig.quote(play.SYMBOL, "100.00", "101.00")
    await flatten(handle)
    await finish(rig, handle)
    assert bought(rig) <= 10


async def test_trade_id_used_again_is_refused(rig: Rig) -> None:
    """I1, I2: the intents and fills of the first life must not be taken for the second's."""
    plan = play.plan_of(rig, "1")
    handle = await rig.start_trade(plan)
    await play.enter_protected(rig)
    play.fall(rig)
    await finish(rig, handle)
    orders = len(play.own_orders(rig))
    play.calm_market(rig)
    again = await rig.start_trade(plan)
    result = await finish(rig, again)
    assert result.outcome == "refused"
    assert len(play.own_orders(rig)) == orders


# --- never bare -----------------------------------------------------------------------------------


async def test_price_gaps_through_the_stop_before_it_is_placed(rig: Rig) -> None:
    """I4: a stop beyond the market is at once an exit, by the venue or by us."""
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.fill_entry(rig)
    play.fall(rig)
    result = await finish(rig, handle)
    assert result.quantity == 10


@pytest.mark.covers("C4")
async def test_429_storm_on_protection_is_survived(rig: Rig) -> None:
    """C4, I4."""
    play.fault(
        rig,
        "rate_limited",
        {"method": "POST", "client_id": play.OCO_IDS, "count": 5},
        retry_after=1,
    )
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    play.fall(rig)
    await finish(rig, handle)


@pytest.mark.covers("D4")
async def test_cancel_lost_on_flatten_is_asked_again(rig: Rig) -> None:
    """D4, I11."""
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    play.fault(rig, "cancel_lost", {"count": 2})
    await flatten(handle)
    result = await finish(rig, handle)
    assert result.exit_reason == "flatten"
    assert sold(rig) == 10


async def test_kill_flatten_while_protection_is_unknown_sells_once(rig: Rig) -> None:
    """I1, K3."""
    play.fault(rig, "drop_reply", {"method": "POST", "client_id": play.OCO_IDS, "count": 2})
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.fill_entry(rig)
    await rig.until(lambda: rig.exchange.state.faults.fired["drop_reply"] >= 1, "lost")
    await handle.signal(TradeWorkflow.kill, OperatorSignal(command_id="k", mode="flatten"))
    await finish(rig, handle)
    assert sold(rig) == 10


@pytest.mark.covers("E4")
async def test_both_legs_fill_and_the_excess_is_closed_once(rig: Rig) -> None:
    """E4."""
    play.fault(rig, "oco_both", {})
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    rig.quote(play.SYMBOL, "102.25", "102.50")
    await rig.until(lambda: rig.exchange.state.faults.fired["oco_both"] >= 1, "both")
    await rig.until(lambda: sold(rig) >= 6, "six sold")
    await flatten(handle)
    await finish(rig, handle)
    assert sold(rig) == bought(rig) == 10


async def test_silent_and_doubled_stream_while_exits_fill(rig: Rig) -> None:
    """F1, F2."""
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    play.fault(rig, "stream_drop", {"count": None, "probability": 0.5})
    play.fault(rig, "stream_duplicate", {"count": None, "probability": 0.5})
    await play.take_first_target(rig)
    play.fall(rig)
    result = await finish(rig, handle)
    assert sold(rig) == 10
    assert result.quantity == 10


async def test_two_entries_on_one_symbol_do_not_leave_the_first_bare(rig: Rig) -> None:
    """I4, I20: the other trade's working buy is on the opposite side of every exit."""
    first = await rig.start_trade(play.plan_of(rig, "1", targets=()))
    second = await rig.start_trade(play.plan_of(rig, "2", targets=()))
    await rig.until(
        lambda: len(play.accepted(rig, limit_price=str(play.WORST), side="buy")) == 2, "both"
    )
    rig.quote(play.SYMBOL, "101.00", str(play.WORST), size="10")
    await rig.until(lambda: bought(rig) == 10, "one of them fills")
    rig.quote(play.SYMBOL, "101.00", "102.00")
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 1, "it is protected")
    play.fall(rig)
    outcomes = sorted([(await first.result()).outcome, (await second.result()).outcome])
    assert outcomes == ["closed", "not_filled"]
    assert bought(rig) == 10
    play.assert_nothing_left(rig)


async def test_storm_of_stop_moves_ends_at_the_last_one(rig: Rig) -> None:
    """I4, I11: more updates at once than the server takes in flight."""
    handle = await rig.start_trade(play.plan_of(rig, "1", targets=()))
    await play.fill_entry(rig)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 1, "protected")
    await asyncio.gather(
        *(
            handle.execute_update(
                "move_stop",
                OperatorRequest(command_id=f"m{n}", by="test", price=D("99.30") + D(n) / 100),
            )
            for n in range(30)
        ),
        return_exceptions=True,
    )
    await handle.execute_update(
        "move_stop", OperatorRequest(command_id="last", by="test", price=D("100.5"))
    )
    await rig.until(lambda: play.stops_at(rig, D("100.5")) == 1, "moved")
    assert len(rig.exchange.open_orders) == 1
    play.fall(rig)
    await finish(rig, handle)
