"""What the session page draws out of orders: stops from answer to end, one line a tranche."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from cli.feed_report import unconfirmed_s
from cli.session_charts import stop_pieces
from domain.clock import real_time
from domain.fold_orders import AMENDED, PROVEN_ABSENT
from domain.ids import IntentKey, Purpose
from domain.order import (
    BrokerOrderStatus,
    OrderBody,
    OrderIntent,
    OrderSnapshot,
    OrderType,
    Side,
)
from ledger.records import IntentRecord, IntentState, OrderOwner

BEGIN = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
UNTIL = BEGIN + timedelta(hours=1)
CLOCK = real_time(BEGIN)


def at(second: int) -> datetime:
    return BEGIN + timedelta(seconds=second)


def stop(
    sequence: int,
    price: str,
    begin: int,
    end: int | None,
    *,
    tranche: int = 0,
    state: IntentState = IntentState.ACCEPTED,
    answered: bool = True,
    code: str = "",
) -> IntentRecord:
    body = OrderBody(
        symbol="ABC",
        side=Side.SELL,
        quantity=Decimal(5),
        order_type=OrderType.STOP,
        stop_price=Decimal(price),
        intent_date=date(2026, 3, 2),
    )
    key = IntentKey(trade_id="t1", purpose=Purpose.STOP, sequence=sequence)
    snapshot = OrderSnapshot(
        broker_order_id=f"b{sequence}",
        status=BrokerOrderStatus.WORKING if end is None else BrokerOrderStatus.REPLACED,
        submitted_at=at(begin),
        updated_at=None if end is None else at(end),
    )
    return IntentRecord(
        intent=OrderIntent.derive("ab12", key, body, increasing=False, tranche=tranche),
        owner=OrderOwner(account="a", strategy="s", symbols=("ABC",), trade_id="t1"),
        state=state,
        attempt_token="t",
        attempts=1,
        gate_at=at(begin) - timedelta(seconds=0.25),
        answered_at=at(begin) if answered else None,
        filled_quantity=Decimal(0),
        code=code,
        snapshot=snapshot,
    )


def test_moved_stop_ends_where_the_next_one_of_its_tranche_begins() -> None:
    orders = [stop(0, "98", 0, 50), stop(1, "99", 30, None), stop(2, "97", 10, 40, tranche=1)]
    pieces = stop_pieces(orders, CLOCK, UNTIL)["ABC"]
    assert [(p.stop_id, p.begin, p.end, p.price) for p in pieces] == [
        ("0/0", at(0), at(30), Decimal(98)),
        ("0/1", at(10), at(40), Decimal(97)),
        ("0/0", at(30), UNTIL, Decimal(99)),
    ]


def test_stop_that_the_broker_refused_never_stood() -> None:
    refused = stop(0, "98", 0, None, state=IntentState.REJECTED)
    assert stop_pieces([refused], CLOCK, UNTIL) == {}


def test_unanswered_stop_makes_the_seconds_unknown_and_not_zero() -> None:
    assert unconfirmed_s([stop(0, "98", 0, None), stop(1, "99", 5, None)]) == Decimal("0.5")
    assert unconfirmed_s([stop(0, "98", 0, None, answered=False)]) is None
    assert unconfirmed_s([stop(0, "98", 0, None, state=IntentState.NOT_SENT)]) == Decimal(0)


@pytest.mark.parametrize("code", [PROVEN_ABSENT, AMENDED])
def test_stop_without_an_order_of_its_own_was_unconfirmed_until_that_was_known(code: str) -> None:
    """C5, ADR 0017: nobody could tell until then whether it works."""
    order = stop(0, "98", 0, None, state=IntentState.NOT_SENT, code=code)
    assert unconfirmed_s([order]) == Decimal("0.25")
