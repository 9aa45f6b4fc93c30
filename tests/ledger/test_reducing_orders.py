"""An order that says it reduces goes out unless ledger and broker both deny it (§7, ADR 0011)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from activities.executions import book_executions
from activities.reducing import why_not_reducing
from domain.errors import Transient
from domain.facts import OrderAccepted, OrderNotSent
from domain.ids import Purpose
from domain.order import OrderIntent, Position, Side
from ledger.errors import LedgerDown
from ledger.records import IntentState, TradeBook
from ledger.repository import Ledger
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import owner, plan


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    async with order_lane(armed) as opened:
        yield opened


def leave(quantity: str = "100", *, side: Side = Side.SELL, **changes: Any) -> OrderIntent:
    """An order that claims to take risk away."""
    return order(purpose=Purpose.EXIT, side=side, quantity=quantity, **changes)


async def refused(lane: Lane, intent: OrderIntent) -> str:
    """Why the order was not sent; the exchange has not heard of it."""
    before = lane.requests()
    (fact,) = await lane.place(intent)
    assert isinstance(fact, OrderNotSent)
    assert fact.code == "NOT_REDUCING"
    assert lane.requests() == before
    return fact.text


async def test_exit_of_what_is_held_goes_out(lane: Lane) -> None:
    await lane.open_trade()
    facts = await lane.place(leave())
    assert isinstance(facts[0], OrderAccepted)


@pytest.mark.parametrize(
    ("quantity", "side", "code"),
    [("101", Side.SELL, "CROSSES_ZERO"), ("1", Side.BUY, "LEG_INCREASES")],
)
async def test_increasing_order_that_claims_to_reduce_is_not_sent(
    lane: Lane, quantity: str, side: Side, code: str
) -> None:
    await lane.open_trade()
    assert code in await refused(lane, leave(quantity, side=side))


async def test_exit_of_a_trade_that_holds_nothing_is_not_sent(lane: Lane) -> None:
    await lane.open_trade()
    await lane.place(leave())
    await book_executions(lane.services, "trade-1")
    await lane.open_trade("trade-2")
    assert "LEG_INCREASES" in await refused(lane, leave(sequence=2))


@pytest.mark.covers("E8")
async def test_second_exit_beside_one_at_work_is_not_sent(lane: Lane) -> None:
    """E8: two exits of everything could both fill and turn the position round."""
    await lane.open_trade()
    await lane.place(leave(price="105"))
    assert "CROSSES_ZERO" in await refused(lane, leave(sequence=2, price="106"))


async def test_exit_after_one_that_died_unseen_by_the_ledger_goes_out(lane: Lane) -> None:
    """A cancel that was not booked must not lock the position in: the broker is asked."""
    await lane.open_trade()
    first = leave(price="105")
    await lane.place(first)
    known = await lane.ledger.intent(first.client_id)
    assert known is not None
    assert known.broker_order_id is not None
    await lane.services.broker.cancel(known.broker_order_id)
    facts = await lane.place(leave(sequence=2))
    assert isinstance(facts[0], OrderAccepted)


async def test_exit_of_a_fill_that_is_not_booked_yet_goes_out(lane: Lane) -> None:
    """The ledger knows of nothing, the broker holds it: an exit stays open."""
    await lane.ledger.create_trade(plan())
    await lane.services.broker.place(order())
    facts = await lane.place(leave())
    assert isinstance(facts[0], OrderAccepted)


async def test_what_another_trade_holds_is_not_this_ones_to_sell(lane: Lane) -> None:
    """I20: the account is long, but not by this trade."""
    await lane.open_trade("trade-2")
    await lane.open_trade("trade-1", quantity="10")
    assert "CROSSES_ZERO" in await refused(lane, leave("11"))


async def test_repeated_exit_hears_what_became_of_the_first(lane: Lane) -> None:
    """I1: the position is gone because the first attempt sold it; that is its answer."""
    await lane.open_trade()
    await lane.place(leave())
    await book_executions(lane.services, "trade-1")
    facts = await lane.place(leave())
    assert isinstance(facts[0], OrderAccepted)


class HalfBlind:
    """A broker whose positions cannot be read, or read as an empty page (R6)."""

    def __init__(self, broker: Any, *, empty: bool) -> None:
        self._broker, self._empty = broker, empty

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def positions(self) -> tuple[Position, ...]:
        if self._empty:
            return ()
        raise Transient("positions were away")


@pytest.mark.parametrize(
    "fault", ["ledger", "slow ledger", "positions", "empty positions", "order in doubt"]
)
async def test_exit_is_never_held_back_by_missing_knowledge(lane: Lane, fault: str) -> None:
    """ADR 0011: the order goes out; whether it is right is then the venue's to say."""
    await lane.open_trade()
    services = lane.services
    if fault == "ledger":

        async def away(trade_id: str) -> TradeBook | None:
            raise LedgerDown("the ledger was away")

        lane.ledger.trade_book = away  # type: ignore[method-assign]
    elif fault == "slow ledger":

        async def never(trade_id: str) -> TradeBook | None:
            await asyncio.Event().wait()
            raise AssertionError("nobody waited")

        lane.ledger.trade_book = never  # type: ignore[method-assign]
    elif fault == "order in doubt":
        doubtful = order(sequence=2)
        await lane.ledger.open_gate(doubtful, owner(), "t9", services.now())
        await lane.ledger.record_answer(doubtful.client_id, "t9", IntentState.UNKNOWN)
    else:
        broker: Any = HalfBlind(services.broker, empty=fault == "empty positions")
        lane.services = replace(services, broker=broker)
    before = lane.requests()
    await lane.place(leave("101"))
    assert lane.requests() == before + 1


@pytest.mark.covers("K8")
@pytest.mark.parametrize(("held", "goes_out"), [("100", True), ("40", False), ("0", False)])
async def test_ledger_away_and_kill_waiting_exit_sells_no_more_than_the_broker_holds(
    lane: Lane, held: str, goes_out: bool
) -> None:
    """A flatten without the ledger sold it already; the trade does not know that yet."""
    await lane.open_trade()
    sold = Decimal(100) - Decimal(held)
    if sold:
        await lane.services.broker.place(order("by-hand", side=Side.SELL, quantity=str(sold)))

    async def away(trade_id: str) -> TradeBook | None:
        raise LedgerDown("the ledger was away")

    lane.ledger.trade_book = away  # type: ignore[method-assign]
    services = replace(lane.services, entry_blocked=lambda: "a kill waits")
    why = await why_not_reducing(services, leave())
    assert (why == "") is goes_out, why
    assert await why_not_reducing(lane.services, leave()) == "", "no kill: nothing holds it back"
