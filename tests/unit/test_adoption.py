"""A foreign position is planned as a trade, or refused by name, before anything is written."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from domain import trade_state as ts
from domain.adoption import (
    AdoptionRequest,
    Foreign,
    adopted_plan,
    adopted_state,
    adoption_fact,
    orders_to_come,
)
from domain.clock import ClockMap
from domain.entry import EntryTicket, RiskApproved
from domain.errors import BadInput
from domain.instrument import Instrument
from domain.order import Quote, Side
from tests.unit.toy_broker import ALPACA_LIKE

D = Decimal
NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)


def foreign(quantity: str = "10", **changes: Any) -> Foreign:
    values: dict[str, Any] = {
        "instrument": Instrument(symbol="AAPL"),
        "external": D(quantity),
        "average_price": D(100),
        "available": None,
        "quote": Quote(symbol="AAPL", bid=D("101.00"), ask=D("101.10"), venue_time=NOW),
    }
    return Foreign(**(values | changes))


def request(**changes: Any) -> AdoptionRequest:
    values: dict[str, Any] = {"symbol": "AAPL", "account": "paper", "trade_id": "adopted-1"}
    values |= {"command_id": "1", "stop": D(98), "targets": (D(104), D(106), D(108))}
    return AdoptionRequest(**(values | changes))


@pytest.mark.parametrize(
    ("asked", "found", "code"),
    [
        (request(), foreign("0"), "NOTHING_EXTERNAL"),
        (request(quantity=D(11)), foreign(), "QTY_ABOVE_MAX"),
        (request(quantity=D("1.5")), foreign(), "QTY_NOT_WHOLE"),
        (request(), foreign(available=D(4)), "QTY_HELD"),
        (request(), foreign(average_price=None), "PRICE_UNAVAILABLE"),
        (request(stop=D("101.00")), foreign(), "STOP_WRONG_SIDE"),
        (request(targets=(D(100),)), foreign(), "TARGETS_INVALID"),
        (request(targets=(D(104), D(103))), foreign(), "TARGETS_INVALID"),
        (request(), foreign("-10"), "STOP_WRONG_SIDE"),
    ],
)
def test_position_that_cannot_be_adopted_is_named(
    asked: AdoptionRequest, found: Foreign, code: str
) -> None:
    with pytest.raises(BadInput) as refused:
        adopted_plan(asked, found, NOW)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("found", "asked", "side"),
    [
        (foreign("10"), request(), Side.BUY),
        (foreign("-10"), request(stop=D(104), targets=(D(98), D(96), D(94))), Side.SELL),
    ],
)
def test_preview_shows_exits_that_cover_the_whole_position_at_its_own_price(
    found: Foreign, asked: AdoptionRequest, side: Side
) -> None:
    plan = adopted_plan(asked, found, NOW)
    assert plan.side is side
    ticket = EntryTicket(
        approved=RiskApproved(
            reservation_id="r",
            trade_id=plan.trade_id,
            quantity=D(10),
            worst_price=D(100),
            reserved_notional=D(1000),
            reserved_loss=D(20),
            approved_at=NOW,
        ),
        start_price=D(100),
        arrival=found.quote,
        capabilities=ALPACA_LIKE,
    )
    clock = ClockMap(wall0=NOW, market0=NOW)
    state = adopted_state(plan, ticket, adoption_fact(plan, found, NOW), "abcd", clock)
    assert (ts.held_units(state), ts.average_price(state, ts.Role.ENTRY)) == (D(10), D(100))
    assert ts.stage(state) is ts.Stage.OPEN
    exits = orders_to_come(state)
    assert [each.quantity for each in exits] == [3, 3, 4]
    assert [each.target_price for each in exits] == list(asked.targets)
    assert {each.stop_price for each in exits} == {asked.stop}
