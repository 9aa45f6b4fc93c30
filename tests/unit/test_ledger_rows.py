"""A row of the ledger comes back as what went in, field by field (M5)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from sqlalchemy import RowMapping

from domain.control import KillMode, KillScopeKind
from domain.order import BrokerOrderStatus, Side
from ledger.connection import async_url, plain_dsn
from ledger.records import FillRecord, IntentState, OrderOwner
from ledger.rows import (
    NEVER,
    child_of,
    fill_columns,
    fill_of,
    intent_of,
    kill_of,
    unarmed,
    working_of,
)
from tests.ledger.samples import ACCOUNT, NOW, fill, intent, kill, snapshot

D = Decimal


def as_row(**columns: Any) -> RowMapping:
    return cast(RowMapping, columns)


def test_fill_comes_back_with_every_number_and_id() -> None:
    """I5, I7."""
    booked = fill(
        client_id="ours",
        fee=D("0.35"),
        execution_id="x-1",
        cumulative_quantity=D(30),
        side=Side.SELL,
    )
    columns = fill_columns("alpaca", ACCOUNT, booked)
    assert (columns["broker"], columns["account"], columns["side"]) == ("alpaca", ACCOUNT, "sell")
    at = NOW + timedelta(seconds=1)
    row = as_row(**columns, trade_id="trade-1", reverses="f-0", booked_at=at)
    assert fill_of(row) == FillRecord(
        fill=booked,
        account=ACCOUNT,
        broker="alpaca",
        trade_id="trade-1",
        reverses="f-0",
        booked_at=at,
    )


@pytest.mark.parametrize("is_known", [True, False])
def test_intent_comes_back_with_all_that_happened_to_it(is_known: bool) -> None:
    """I12: what was wished, by whom, how often it was tried, what the broker said."""
    wished, seen = intent(), snapshot(client_id=intent().client_id)
    row = as_row(
        intent=wished.model_dump(mode="json"),
        account=ACCOUNT,
        strategy="sma",
        symbols=["AAPL", "MSFT"],
        trade_id="trade-1",
        state=IntentState.ACCEPTED,
        attempt_token="token",
        attempts=3,
        gate_at=NOW,
        sent_at=NOW + timedelta(seconds=1),
        answered_at=NOW + timedelta(seconds=2),
        broker_order_id="b-1",
        status=BrokerOrderStatus.WORKING,
        filled_quantity=D(7),
        snapshot=seen.model_dump(mode="json") if is_known else None,
        code="CODE",
        text="words",
        build_id="build",
        config_hash="hash",
    )
    record = intent_of(row)
    assert record.intent == wished
    assert record.owner == OrderOwner(
        account=ACCOUNT, strategy="sma", symbols=("AAPL", "MSFT"), trade_id="trade-1"
    )
    assert record.snapshot == (seen if is_known else None)
    for name in (
        *("state", "attempt_token", "attempts", "gate_at", "sent_at", "answered_at", "status"),
        *("broker_order_id", "filled_quantity", "code", "text", "build_id", "config_hash"),
    ):
        assert getattr(record, name) == row[name], name


@pytest.mark.parametrize(
    ("filled", "remaining"), [("0", "100"), ("99.5", "0.5"), ("100", "0"), ("101", "0")]
)
@pytest.mark.parametrize("limit", ["100.25", None])
def test_working_order_binds_what_it_may_still_fill_and_never_less_than_nothing(
    filled: str, remaining: str, limit: str | None
) -> None:
    row = as_row(
        body={"symbol": "AAPL", "side": "sell", "quantity": "100", "limit_price": limit},
        filled_quantity=D(filled),
        client_id="ours",
        trade_id="trade-1",
        increasing=True,
    )
    order = working_of(row)
    assert (order.remaining, order.limit_price) == (
        D(remaining),
        None if limit is None else D(limit),
    )
    assert (order.client_id, order.trade_id, order.symbol) == ("ours", "trade-1", "AAPL")
    assert (order.side, order.increasing) == (Side.SELL, True)


def test_child_of_the_broker_comes_back_with_both_its_parents() -> None:
    seen = snapshot("b-2")
    child = child_of(
        as_row(
            broker_order_id="b-2",
            parent_client_id="ours",
            parent_broker_id="b-1",
            client_id="theirs",
            snapshot=seen.model_dump(mode="json"),
        )
    )
    assert (child.broker_order_id, child.parent_client_id) == ("b-2", "ours")
    assert (child.parent_broker_id, child.client_id) == ("b-1", "theirs")
    assert child.snapshot == seen


def test_kill_comes_back_with_its_scope_and_who_said_so() -> None:
    said = kill(kind=KillScopeKind.SYMBOL, value="AAPL", mode=KillMode.FLATTEN)
    row = {
        "scope_kind": "symbol",
        "scope_value": "AAPL",
        "mode": "flatten",
        "reason": said.reason,
        "by": said.by,
        "command_id": said.command_id,
        "engaged_at": said.engaged_at,
    }
    assert kill_of(row) == said


def test_account_that_nobody_knows_is_disarmed() -> None:
    control = unarmed("new")
    assert (control.account, control.armed, control.version) == ("new", False, 0)
    assert control.updated_at == NEVER


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:p@h:1/postgresql", "postgresql+asyncpg://u:p@h:1/postgresql"]
)
def test_address_of_the_ledger_is_taken_in_either_form(dsn: str) -> None:
    assert plain_dsn(dsn) == "postgresql://u:p@h:1/postgresql"
    assert async_url(dsn) == "postgresql+asyncpg://u:p@h:1/postgresql"
