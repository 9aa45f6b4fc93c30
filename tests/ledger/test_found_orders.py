"""An exit that went out while the ledger was away, and whose process then died (H5, C8)."""

from __future__ import annotations

from decimal import Decimal

import pytest
from temporalio.testing import ActivityEnvironment

from activities.executions import book_executions
from activities.orders import OrderActivities
from activities.services import ResolveInput
from brokers.port import Accepted
from domain.commands import ResolveOrder, Urgency
from domain.facts import OrderResolved
from domain.ids import IntentKey, Purpose
from domain.order import OrderBody, OrderClass, OrderIntent, OrderType, Side, TimeInForce
from ledger.records import IntentState
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import order_lane
from tests.ledger.samples import ACCOUNT, INSTALLATION

D = Decimal


def pair() -> OrderIntent:
    """Target 102 and stop 98 for all that the trade has bought."""
    body = OrderBody(
        symbol="AAPL",
        side=Side.SELL,
        quantity=D(100),
        order_class=OrderClass.OCO,
        order_type=OrderType.LIMIT,
        limit_price=D(102),
        stop_loss_price=D(98),
        time_in_force=TimeInForce.GTC,
        intent_date=MARKET_NOW.date(),
    )
    key = IntentKey(trade_id="trade-1", purpose=Purpose.OCO, sequence=1)
    return OrderIntent.derive(INSTALLATION, key, body, increasing=False, reason="test")


@pytest.mark.covers("H5")
async def test_pair_that_is_found_without_a_row_gets_one_and_its_stop_is_its_trades(
    armed: Ledger,
) -> None:
    """I7, I11, I12: seed 88717; its stop's fill was called an outsider's, the trade never ended."""
    async with order_lane(armed) as lane:
        await lane.open_trade()
        sent_at = lane.services.now()
        outcome = await lane.services.broker.place(pair())
        assert isinstance(outcome, Accepted)
        command = ResolveOrder(
            intent=pair(), sent_at=sent_at, may_repost=True, urgency=Urgency.PROTECT
        )
        given = ResolveInput(trade=lane.reference(), command=command)
        lookup = OrderActivities(lane.services).resolve_order
        (found, *_) = (await ActivityEnvironment().run(lookup, given)).facts
        assert isinstance(found, OrderResolved)
        assert found.order is not None
        row = await armed.intent(pair().client_id)
        assert row is not None
        assert (row.state, row.broker_order_id) == (
            IntentState.ACCEPTED,
            outcome.order.broker_order_id,
        )
        assert lane.requests() == 2, "the entry and the pair: nothing is posted twice"
        lane.quote("97.50", "97.60")
        await book_executions(lane.services, "trade-1")
    held = {r.trade_id: r.quantity for r in await armed.positions_by_trade(ACCOUNT)}
    assert held.get("trade-1", D(0)) == 0
    assert await armed.unattributed_fills(ACCOUNT) == ()
