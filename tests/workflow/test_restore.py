"""Trades that come back: a fill after the end (D9), and a lost Temporal store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

import pytest
from temporalio.client import Client

from activities.restore import Restorer, restore_lost
from domain.fold_orders import PROVEN_ABSENT
from domain.ids import IntentKey, Purpose
from domain.messages import TradeResult
from domain.order import OrderBody, OrderIntent, OrderType, Side
from domain.plan import TradePlan
from ledger.records import IntentState, OrderOwner
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, WireFace
from tests.rig import Rig, running_rig
from tests.workflow.test_trade_thread import plan_of
from workflows.trade import TradeWorkflow

D = Decimal


@pytest.fixture(params=[WireFace.ALPACA])
async def rig(
    temporal_client: Client, ledger: Ledger, unique: str, request: pytest.FixtureRequest
) -> AsyncIterator[Rig]:
    config = ExchangeConfig(requests_per_minute=None, face=request.param)
    async with running_rig(temporal_client, ledger, f"acct-{unique}", config=config) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made


def is_protected(rig: Rig) -> bool:
    return any(o.stop_price is not None for o in rig.exchange.open_orders)


@pytest.mark.covers("D9")
async def test_fill_after_the_end_reopens_the_trade_behind_its_stop(rig: Rig) -> None:
    """D9: the venue had traded before our cancel; the trade was already closed unfilled."""
    rig.exchange.state.faults.add({"kind": "late_fill", "params": {"delay_s": 5}})
    plan = plan_of(rig)
    walk = plan.walk.model_copy(update={"worst_offset": D(0), "max_time_s": D("0.5")})
    handle = await rig.start_trade(plan.model_copy(update={"walk": walk}))
    assert (await handle.result()).outcome == "not_filled"
    assert not rig.journal("fill")

    rig.exchange.advance_to(rig.exchange.now + timedelta(seconds=6))

    await rig.until(lambda: is_protected(rig), "reopened and protected")
    reopened = rig.client.get_workflow_handle(handle.id, result_type=TradeResult)
    status = await reopened.query(TradeWorkflow.status)
    assert status.held == 10
    row = await rig.ledger.trade(plan.trade_id)
    assert row is not None
    assert row.closed_at is None
    rig.quote("ESX", "103.50", "103.75")
    result = await reopened.result()
    assert (result.outcome, result.exit_reason) == ("closed", "target")
    assert rig.exchange.holdings() == []


async def hidden_entry(rig: Rig, plan: TradePlan) -> None:
    """An entry of the trade that was called absent and works at the broker all the same (C5)."""
    body = OrderBody(
        symbol="ESX",
        side=Side.BUY,
        quantity=D(10),
        order_type=OrderType.LIMIT,
        limit_price=D(90),
        intent_date=rig.exchange.now.date(),
    )
    key = IntentKey(trade_id=plan.trade_id, purpose=Purpose.ENTRY, sequence=7)
    intent = OrderIntent.derive(rig.services.installation, key, body, increasing=True)
    owner = OrderOwner(
        account=plan.account, strategy=plan.strategy, symbols=("ESX",), trade_id=plan.trade_id
    )
    now = rig.services.now()
    await rig.ledger.open_gate(intent, owner, "attempt", now)
    await rig.ledger.record_answer(
        intent.client_id, None, IntentState.NOT_SENT, code=PROVEN_ABSENT, at=now
    )
    await rig.broker.place(intent)


@pytest.mark.covers("C5")
@pytest.mark.parametrize("rig", [WireFace.ALPACA, WireFace.TRADIER], indirect=True)
async def test_entry_that_shows_up_after_the_end_is_cancelled_by_its_trade(rig: Rig) -> None:
    """C5: nobody owned it; the trade had ended, and reconcile knows the id."""
    plan = plan_of(rig)
    walk = plan.walk.model_copy(update={"worst_offset": D(0), "max_time_s": D("0.5")})
    handle = await rig.start_trade(plan.model_copy(update={"walk": walk}))
    assert (await handle.result()).outcome == "not_filled"

    await hidden_entry(rig, plan)

    assert len(rig.exchange.open_orders) == 1
    await rig.until(lambda: not rig.exchange.open_orders, "cancelled")
    again = rig.client.get_workflow_handle(handle.id, result_type=TradeResult)
    assert (await again.result()).outcome == "not_filled"
    row = await rig.ledger.trade(plan.trade_id)
    assert row is not None
    assert row.closed_at is not None
    told = await rig.ledger.list_alerts(account=rig.services.account)
    assert "TRADE_RESTORED" in {alert.code for alert in told}


@pytest.mark.covers("H3")
async def test_trade_lost_with_the_temporal_store_is_restored_and_ends_as_planned(rig: Rig) -> None:
    handle = await rig.start_trade(plan_of(rig))
    await rig.until(lambda: is_protected(rig), "protected")
    await handle.terminate("the store was lost")
    accepted = len(rig.journal("accepted"))
    restorer = Restorer(rig.services, rig.client, rig.queue)

    started = await restore_lost(restorer, rig.services)
    again = await restore_lost(restorer, rig.services)

    assert started == (plan_of(rig).trade_id,)
    assert again == ()
    rig.quote("ESX", "103.50", "103.75")
    restored = rig.client.get_workflow_handle(handle.id, result_type=TradeResult)
    assert (await restored.result()).exit_reason == "target"
    assert len(rig.journal("accepted")) == accepted, "nothing was sent twice"
    assert rig.exchange.holdings() == []
