"""What the recorder plays of a single trade: how it enters, is protected, commanded and ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from temporalio.client import WorkflowHandle

from activities.adoption import adopt, prepare
from activities.restore import Restorer
from domain.adoption import AdoptionRequest
from domain.ids import trade_workflow_id
from domain.instrument import Instrument
from domain.messages import OperatorRequest, OperatorSignal, TradeResult, VersionSignal
from domain.plan import (
    EntryStyle,
    ExitRule,
    PlanPrice,
    RuleKind,
    SlicePlan,
    StopPlan,
    WalkStart,
)
from simulator.config import ExchangeConfig, Listing
from tests import trade_scenarios as play
from tests.rig import Rig
from tests.workflow import test_combo_trades as combo_play
from tests.workflow.test_operator import buy_by_hand
from workflows.trade import TradeWorkflow

Handle = WorkflowHandle[TradeWorkflow, TradeResult]
Shape = Callable[[Rig], Awaitable[Handle]]


async def ratcheted(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.ratcheted_out(rig)
    return handle


async def all_targets(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    rig.quote(play.SYMBOL, "105.00", "105.25")
    return handle


async def not_filled(rig: Rig) -> Handle:
    return await rig.start_trade(play.plan_of(rig, "1", walk=play.walk_of(max_time_s="2")))


async def refused(rig: Rig) -> Handle:
    await rig.ledger.disarm(rig.services.account, "record", "refuse")
    return await rig.start_trade(play.plan_of(rig, "1"))


async def unknown_entry(rig: Rig) -> Handle:
    play.fault(rig, "drop_reply", {"method": "POST", "client_id": play.ENTRY_IDS})
    return await stopped_out(rig)


async def unknown_protection(rig: Rig) -> Handle:
    play.fault(rig, "drop_reply", {"method": "POST", "client_id": play.OCO_IDS})
    return await stopped_out(rig)


async def stopped_out(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    play.fall(rig)
    return handle


async def partly_filled(rig: Rig) -> Handle:
    play.fault(rig, "partial_fill", {"client_id": play.ENTRY_IDS}, quantity="4")
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.fill_entry(rig)
    play.calm_market(rig)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 3, "three tranches of four")
    play.fall(rig)
    return handle


async def killed_while_walking(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await rig.until(lambda: bool(play.own_orders(rig)), "the entry works")
    await handle.signal(TradeWorkflow.kill, _kill(rig, "block"))
    return handle


def _kill(rig: Rig, mode: str) -> OperatorSignal:
    """The id of a kill is one of the whole installation."""
    return OperatorSignal(command_id=f"k-{rig.services.account}", mode=mode)


async def killed_with_flatten(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    await handle.signal(TradeWorkflow.kill, _kill(rig, "flatten"))
    return handle


async def flattened(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    request = OperatorRequest(command_id="f-1", by="record")
    await handle.execute_update(TradeWorkflow.request_flatten, request)
    return handle


async def stop_moved(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    move = OperatorRequest(command_id="m-1", by="record", price=play.D(100))
    await handle.execute_update("move_stop", move)
    await rig.until(lambda: play.stops_at(rig, play.D(100)) == 3, "three stops moved")
    play.fall(rig)
    return handle


async def handed_over(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    await handle.signal(TradeWorkflow.version_changed, VersionSignal(build_id="same"))
    await play.wait_for_hand_over(rig, handle)
    play.fall(rig)
    return handle


# --- other entries, stops and exits ---------------------------------------------------------------


async def entered_in_slices(rig: Rig) -> Handle:
    """The first slice fills in part; the rest of it comes with the second one."""
    rig.quote(play.SYMBOL, "100.00", "100.50", "2")
    walk = play.walk_of(max_time_s="10").model_copy(update={"start": WalkStart.FAR})
    slices = SlicePlan(count=3, window_s=play.D(6), work_wall_s=play.D("0.5"))
    plan = play.plan_of(rig, "1", entry_style=EntryStyle.TWAP, slices=slices, walk=walk)
    handle = await rig.start_trade(plan)
    stop = play.D("98.5")
    await rig.until(lambda: play.stops_at(rig, stop) == 1, "the first part is protected")
    rig.quote(play.SYMBOL, "100.00", "100.50")
    await rig.until(lambda: play.stops_at(rig, stop) == 3, "three tranches of ten")
    rig.quote(play.SYMBOL, "98.00", "98.25")
    return handle


async def stop_unfilled(rig: Rig) -> Handle:
    """A gap through the limit of every stop: out by marketable orders."""
    stop = StopPlan(price=PlanPrice(offset=play.D(-2)), limit_offset=play.D("0.10"))
    handle = await rig.start_trade(play.plan_of(rig, "1", stop=stop))
    await play.enter_protected(rig)
    rig.quote(play.SYMBOL, "98.75", "98.95")
    return handle


async def exited_by_rule(rig: Rig) -> Handle:
    """The exit watch sees a spike."""
    rule = ExitRule(rule_id="spike", kind=RuleKind.VOLATILITY_SPIKE, threshold=play.D(10))
    stop = StopPlan(price=PlanPrice(offset=play.D(-20)))
    handle = await rig.start_trade(
        play.plan_of(rig, "1", targets=(), ratchet=(), rules=(rule,), stop=stop)
    )
    await play.fill_entry(rig)

    async def is_looked_at() -> bool:
        watches = await rig.ledger.list_watches(rig.services.account)
        return any(watch.evaluated_at for watch in watches)

    await rig.until_async(is_looked_at, "the rule is looked at")
    rig.quote(play.SYMBOL, "113.00", "113.25")
    return handle


async def combo_time_stopped(rig: Rig) -> Handle:
    """Two legs on one order, in and out."""
    for contract, (bid, ask) in combo_play.MARKET.items():
        rig.quote(contract.symbol, bid, ask)
    return await rig.start_trade(
        combo_play.plan_of(rig, combo_play.VERTICAL, time_stop_s=play.D(4))
    )


# --- what a person does ---------------------------------------------------------------------------


async def command(handle: Handle, verb: str, **values: Any) -> None:
    """The command of an operator; it is recorded when this returns."""
    request = OperatorRequest(command_id=f"{verb}-1", by="record", **values)
    await handle.execute_update(verb, request)


async def hand_is(rig: Rig, handle: Handle, word: str) -> None:
    """Waits until the trade is in these hands."""

    async def is_so() -> bool:
        return (await handle.query(TradeWorkflow.status)).hand == word

    await rig.until_async(is_so, f"the hand is {word or 'nobody'}")


async def closed_in_part(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    await command(handle, "close", fraction=play.D("0.5"))
    await rig.until(lambda: play.position(rig) == 5, "half is closed")
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 2, "the rest is protected")
    play.fall(rig)
    return handle


async def target_moved(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    aim = play.D("102.50")
    await command(handle, "move_target", target=1, price=aim)
    await rig.until(
        lambda: any(order.limit_price == aim for order in rig.exchange.open_orders), "moved"
    )
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 3, "three stops stand")
    play.fall(rig)
    return handle


async def paused_and_resumed(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await rig.until(lambda: bool(play.own_orders(rig)), "the entry works")
    await command(handle, "pause")
    await hand_is(rig, handle, "paused")
    await command(handle, "resume")
    await play.enter_protected(rig)
    play.fall(rig)
    return handle


async def taken_over_and_resumed(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    await command(handle, "take_over")
    await hand_is(rig, handle, "taken_over")
    await command(handle, "resume")
    await hand_is(rig, handle, "")
    play.fall(rig)
    return handle


async def released(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    await command(handle, "release")
    return handle


async def adopted(rig: Rig) -> Handle:
    """Five shares of somebody else get a stop and two targets."""
    await buy_by_hand(rig)
    rig.quote(play.SYMBOL, "101.00", "101.25")
    request = AdoptionRequest(
        symbol=play.SYMBOL,
        account=rig.services.account,
        trade_id=f"adopted-{rig.services.account}",
        command_id="a-1",
        stop=play.STOP,
        targets=(play.D("103"), play.D("104")),
    )
    adoption = await prepare(rig.services, request, rig.clock)
    restorer = Restorer(rig.services, rig.client, rig.queue)
    await adopt(rig.services, restorer, adoption, rig.clock)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 2, "both tranches are protected")
    play.fall(rig)
    return rig.client.get_workflow_handle_for(
        TradeWorkflow.run, trade_workflow_id(request.trade_id)
    )


SHAPES: dict[str, Shape] = {
    "ratcheted_stop": ratcheted,
    "all_targets": all_targets,
    "stopped_out": stopped_out,
    "not_filled": not_filled,
    "refused_by_risk": refused,
    "entry_answer_lost": unknown_entry,
    "protection_answer_lost": unknown_protection,
    "partial_fill": partly_filled,
    "killed_while_walking": killed_while_walking,
    "killed_with_flatten": killed_with_flatten,
    "flattened": flattened,
    "stop_moved": stop_moved,
    "entered_in_slices": entered_in_slices,
    "stop_unfilled": stop_unfilled,
    "exited_by_rule": exited_by_rule,
    "combo_time_stopped": combo_time_stopped,
    "closed_in_part": closed_in_part,
    "target_moved": target_moved,
    "paused_and_resumed": paused_and_resumed,
    "taken_over_and_resumed": taken_over_and_resumed,
    "released": released,
    "adopted": adopted,
    "continued_as_new": handed_over,
}

# Of shapes that need more than the exchange's own stock.
EXCHANGES = {
    "combo_time_stopped": ExchangeConfig(
        listings=(
            Listing(Instrument(symbol=play.SYMBOL)),
            Listing(Instrument(symbol="SPY")),
            *(Listing(contract) for contract in combo_play.CONTRACTS),
        ),
        requests_per_minute=None,
    )
}
