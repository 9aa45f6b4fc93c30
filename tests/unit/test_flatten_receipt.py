"""The receipt of a flatten: every execution of its orders counts, and flat means flat (K2)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from activities.emergency import FlattenLine
from activities.flatten import FlattenReceipt, _by_symbol
from activities.kill import KillReceipt
from cli.kill import KillOutcome
from domain.ids import Purpose
from domain.order import Side
from ledger.records import EXTERNAL, IntentRecord, IntentState
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


@pytest.mark.parametrize(
    ("done", "pending", "left", "is_flat"),
    [
        (True, "", "0", True),
        (False, "HALTED", "0", False),
        (True, "", "42", False),
        (True, "of no trade, left alone: 42 AAPL", "0", False),
    ],
)
def test_flatten_that_leaves_what_is_of_no_trade_does_not_end_well(
    done: bool, pending: str, left: str, is_flat: bool
) -> None:
    """A script that asks for the exit code believed that the account was flat."""
    words = {"command_id": "f", "by": "ann", "reason": "drill", "at": NOW}
    line = FlattenLine(
        symbol="AAPL", found=Decimal(left), left=Decimal(left), why="", trade_id=EXTERNAL
    )
    receipt = FlattenReceipt.model_validate(
        words
        | {"scope": "all", "done": done, "pending": pending, "lines": (line,), "started_at": NOW}
    )
    kill = KillReceipt.model_validate(
        words | {"account": "a", "scope": "all", "mode": "flatten", "final": True}
    )
    outcome = KillOutcome(
        engaged_in="ledger", engaged_at=NOW, swept_by="gateway", receipt=kill, flatten=receipt
    )
    assert receipt.is_flat is is_flat
    assert outcome.is_clean is is_flat
