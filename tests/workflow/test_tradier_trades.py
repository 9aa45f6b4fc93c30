"""The standard trade at a broker without ids that are unique, executions or replaced orders.

The same workflow, the same script, the opposite broker: the exchange speaks Tradier here, and its
journal is the oracle (issue 4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from temporalio.client import Client

from domain.messages import OperatorRequest
from domain.plan import EntryStyle
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, WireFace
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig
from workflows.trade import TradeWorkflow

D = Decimal


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    config = ExchangeConfig(requests_per_minute=None, face=WireFace.TRADIER)
    async with running_rig(temporal_client, ledger, f"acct-{unique}", config=config) as made:
        play.calm_market(made)
        yield made


def assert_each_tag_once(rig: Rig) -> None:
    """I1 where nobody but us keeps it: a change is an order of the exchange, not of the venue."""
    sent = Counter(row["client_id"] for row in play.own_orders(rig) if not row.get("replaces"))
    assert max(sent.values(), default=0) <= 1, sent


def filled(rig: Rig, side: str) -> Decimal:
    rows = [row for row in rig.journal("fill") if row["side"] == side]
    return sum((Decimal(row["quantity"]) for row in rows), Decimal(0))


async def booked(rig: Rig, trade_id: str) -> Decimal:
    """What the ledger has bought and sold for the trade, together."""
    rows = await rig.ledger.fills_of_trade(trade_id)
    return sum((row.fill.quantity for row in rows), Decimal(0))


async def test_walk_pairs_ratchet_and_stop_as_at_any_other_broker(rig: Rig) -> None:
    plan = play.plan_of(rig, "1")
    handle = await rig.start_trade(plan)
    await play.ratcheted_out(rig)
    result = await handle.result()
    assert result.outcome == "closed"
    assert (result.exit_reason, result.realised) == ("ratcheted_stop", D("-1.00"))
    play.assert_nothing_left(rig)
    assert_each_tag_once(rig)
    assert filled(rig, "buy") == filled(rig, "sell") == 10
    assert await booked(rig, plan.trade_id) == 20
    # The walk changed its one order in place: three steps, one number at the venue.
    entries = [row for row in play.own_orders(rig) if row["side"] == "buy"]
    assert len({row["client_id"] for row in entries}) == 1


async def test_part_fills_read_at_different_times_are_booked_once(rig: Rig) -> None:
    """I7, ADR 0017: stream, reads and the compare pass all see other sums."""
    plan = play.plan_of(rig, "1")
    handle = await rig.start_trade(plan)
    await rig.until(
        lambda: bool(play.accepted(rig, limit_price=str(play.WORST), side="buy")), "walked"
    )
    for size in ("3", "2", "5"):
        rig.quote(play.SYMBOL, "101.00", str(play.WORST), size)
        await rig.breathe()
    await rig.until(lambda: play.position(rig) == 10, "all of it is there")
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 3, "protected")
    rows = await rig.ledger.fills_of_trade(plan.trade_id)
    assert sum(row.fill.quantity for row in rows) == 10
    play.fall(rig)
    await handle.result()
    play.assert_nothing_left(rig)
    assert await booked(rig, plan.trade_id) == 20


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_lost_reply_is_never_sent_again_before_it_is_known(rig: Rig, method: str) -> None:
    """C2, C11, D1: found by its tag, or by the prices of the order itself."""
    match = {"method": method, "path": "*/orders*", "client_id": play.ENTRY_IDS}
    play.fault(rig, "drop_reply", match)
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    play.fall(rig)
    result = await handle.result()
    assert result.outcome == "closed"
    assert_each_tag_once(rig)
    play.assert_nothing_left(rig)


async def test_exit_that_is_rejected_after_its_ok_is_placed_again(rig: Rig) -> None:
    """C10: usual at this venue; the position does not stay bare."""
    play.fault(rig, "late_reject", {"client_id": play.OCO_IDS}, delay_s=0)
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.fill_entry(rig)
    rig.server.step_s(0.1)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 3, "three tranches are protected")
    play.fall(rig)
    await handle.result()
    play.assert_nothing_left(rig)


async def test_flatten_takes_the_pairs_back_and_sells(rig: Rig) -> None:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    request = OperatorRequest(command_id="f-1", by="test")
    await handle.execute_update(TradeWorkflow.request_flatten, request)
    result = await handle.result()
    assert result.exit_reason == "flatten"
    assert_each_tag_once(rig)
    play.assert_nothing_left(rig)


async def test_bracket_goes_out_as_one_otoco(rig: Rig) -> None:
    targets = play.plan_of(rig, "0").targets[:1]
    whole = (targets[0].model_copy(update={"fraction": D(1)}),)
    plan = play.plan_of(
        rig, "1", entry_style=EntryStyle.ONCE, targets=whole, ratchet=(), walk=play.walk_of("30")
    )
    handle = await rig.start_trade(plan)
    await rig.until(lambda: bool(play.accepted(rig, order_class="bracket")), "it is sent")
    rig.quote(play.SYMBOL, "100.00", "100.50")
    await rig.until(lambda: play.position(rig) == 10, "the entry fills")
    rig.quote(play.SYMBOL, "97.00", "97.25")
    result = await handle.result()
    assert result.outcome == "closed"
    assert_each_tag_once(rig)
    play.assert_nothing_left(rig)
