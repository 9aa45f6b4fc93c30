"""An execution that the venue takes back (D9): what the order itself then says of it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain import trade_state as ts
from domain.facts import OrderReported
from domain.order import BrokerOrderStatus
from tests.unit.test_trade_fold import make_plan, start

D = Decimal


@pytest.mark.covers("D9", "F4")
@pytest.mark.parametrize(("later_s", "missing"), [(1, 0), (0, 1), (-1, 1)])
def test_only_a_later_word_on_an_ended_order_takes_its_quantity_back(
    later_s: int, missing: int
) -> None:
    """Taken back before it was booked it would be missing for ever, and the trade never ended."""
    trade, broker = start(make_plan(steps_max=0))
    trade.pass_time(1)
    known = broker.snapshot(broker.orders[0])
    seen = known.model_copy(
        update={
            "status": BrokerOrderStatus.CANCELED,
            "filled_quantity": D(4),
            "updated_at": trade.now,
        }
    )
    trade.tell(OrderReported(at=trade.now, order=seen))
    assert len(ts.missing_fills(trade.state)) == 1
    back = seen.model_copy(
        update={"filled_quantity": D(0), "updated_at": trade.now + timedelta(seconds=later_s)}
    )
    trade.tell(OrderReported(at=trade.now, order=back))
    assert len(ts.missing_fills(trade.state)) == missing
