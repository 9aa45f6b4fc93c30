"""An option that expired worthless is a leg of a trade's result like any other (R4)."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from activities.by_hand import with_adjustments
from domain.facts import AdjustmentKind
from domain.money_law import trade_result
from domain.occ import option_instrument
from domain.order import Fill, Side
from ledger.records import AdjustmentRecord

D = Decimal
CALL = option_instrument("ESX130903C00095000")
BOUGHT_AT = datetime(2013, 9, 3, 14, 0, 2, tzinfo=UTC)
ROW_AT = datetime(2013, 9, 3, tzinfo=UTC)
"""A statement row has a date only: it may lie before the execution."""


@pytest.mark.covers("R4")
def test_option_that_expired_worthless_costs_its_premium() -> None:
    """Its price of zero is no execution's, and must not keep the trade from being settled."""
    bought = Fill(
        fill_key="f-1",
        broker_order_id="o-1",
        symbol=CALL.symbol,
        side=Side.BUY,
        quantity=D(2),
        price=D("6.57"),
        fee=D("0.02"),
        venue_time=BOUGHT_AT,
    )
    expired = AdjustmentRecord(
        adjustment_id="event/1/OPEXP",
        account="a",
        trade_id="t",
        symbol=CALL.symbol,
        quantity=D(-2),
        price=D(0),
        kind=AdjustmentKind.EXPIRY,
        at=ROW_AT,
    )
    result = trade_result([CALL], with_adjustments([bought], [expired], Side.BUY))
    assert result.gross == D("-1314.00")
    assert result.open_quantities == {}
