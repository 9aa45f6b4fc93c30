"""The receipt of a flatten counts every execution of its orders, however it was learned (K2)."""

from __future__ import annotations

from decimal import Decimal

from activities.flatten import _by_symbol
from domain.ids import Purpose
from domain.order import Side
from ledger.records import IntentRecord, IntentState
from tests.ledger.samples import NOW, fill, intent, owner, snapshot


def test_execution_that_was_read_counts_like_the_streamed_one() -> None:
    """A broker's list of executions names no client id; such a fill was missing in `filled`."""
    sent = intent(purpose=Purpose.FLATTEN, increasing=False)
    order = snapshot("b-9", client_id=sent.client_id, filled_quantity=Decimal(93))
    exits = [
        IntentRecord(
            intent=sent,
            owner=owner(),
            state=IntentState.ACCEPTED,
            attempt_token="t",
            attempts=1,
            gate_at=NOW,
            broker_order_id="b-9",
            filled_quantity=Decimal(93),
            snapshot=order,
        )
    ]
    fills = [
        fill("f-1", broker_order_id="b-9", quantity="57", side=Side.SELL, client_id=sent.client_id),
        fill("f-2", broker_order_id="b-9", quantity="36", side=Side.SELL),
        fill("f-3", broker_order_id="b-1", quantity="100"),
    ]
    assert _by_symbol(exits, fills) == {"AAPL": Decimal(93)}
    assert _by_symbol([], fills) == {}
