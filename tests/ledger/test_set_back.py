"""A trade that knows less than the ledger neither sends again nor ends (faults.md H3, K7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from temporalio.testing import ActivityEnvironment

from activities import trades
from activities.executions import book_executions
from activities.orders import OrderActivities
from activities.services import PlaceInput, SettleInput
from activities.trades import TradeActivities
from domain.commands import PlaceOrder, Settle, Urgency
from domain.facts import (
    DiscrepancyFound,
    Fact,
    FillBusted,
    FillReported,
    OrderNotSent,
    OrderUnknown,
    Settled,
)
from domain.ids import Purpose
from domain.knowledge import TradeKnowledge
from domain.order import OrderIntent, Side
from domain.trade_state import HISTORY_REWOUND
from ledger.fill_booking import execution_name
from ledger.records import GateCode
from ledger.repository import Ledger
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import plan

pytestmark = pytest.mark.covers("H3")
TRADE = "trade-1"
ENTRY, EXIT = order(), order(purpose=Purpose.EXIT, side=Side.SELL)


@pytest.fixture
async def lane(armed: Ledger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lane]:
    monkeypatch.setattr(trades, "TOLD_BEFORE_THE_END_S", 0.0)
    async with order_lane(armed) as opened:
        yield opened


async def settle(lane: Lane, known: TradeKnowledge, outcome: str = "closed") -> tuple[Fact, ...]:
    given = SettleInput(
        trade=lane.reference(),
        plan=plan(),
        command=Settle(outcome=outcome, exit_reason="", entry_quantity=Decimal(100)),
        stage=outcome,
        known=known,
    )
    batch = await ActivityEnvironment().run(TradeActivities(lane.services).settle_trade, given)
    return batch.facts


async def whole_trade(lane: Lane) -> TradeKnowledge:
    """Bought and sold; what a trade knows of it that has missed nothing."""
    await lane.open_trade()
    await lane.place(EXIT)
    await book_executions(lane.services, TRADE)
    fills = await lane.ledger.fills_of_trade(TRADE)
    return TradeKnowledge(
        orders=(ENTRY.client_id, EXIT.client_id), fills=tuple(row.fill.fill_key for row in fills)
    )


async def test_trade_that_knows_everything_ends(lane: Lane) -> None:
    (fact,) = await settle(lane, await whole_trade(lane))
    assert isinstance(fact, Settled)


async def test_trade_set_back_into_its_walk_does_not_end_beside_what_it_bought(lane: Lane) -> None:
    """I3: it ended as `not_filled`; nobody looked after 10 shares any more."""
    await lane.open_trade()
    (fact,) = await settle(lane, TradeKnowledge(), "not_filled")
    assert isinstance(fact, DiscrepancyFound)
    assert fact.code == HISTORY_REWOUND
    trade = await lane.ledger.trade(TRADE)
    assert trade is not None
    assert trade.closed_at is None


async def test_fill_that_overtook_the_end_is_told_before_it(lane: Lane) -> None:
    known = await whole_trade(lane)
    facts = await settle(lane, known.model_copy(update={"fills": known.fills[:1]}))
    assert [f.fill.fill_key for f in facts if isinstance(f, FillReported)] == [*known.fills[1:]]
    assert len(facts) == 1


async def test_end_that_is_booked_is_not_booked_again_on_less(lane: Lane) -> None:
    await settle(lane, await whole_trade(lane))
    before = await lane.ledger.trade(TRADE)
    assert before is not None
    (fact,) = await settle(lane, TradeKnowledge(), "not_filled")
    assert isinstance(fact, Settled)
    assert (fact.realised, fact.closed_at) == (before.realised, before.closed_at)
    assert await lane.ledger.trade(TRADE) == before


async def taken_back(lane: Lane) -> str:
    """Bought, and the venue took it back; the key of the execution."""
    await lane.open_trade()
    (row,) = await lane.ledger.fills_of_trade(TRADE)
    order_id, execution = row.fill.broker_order_id, execution_name(row.fill)
    assert await lane.ledger.take_back(lane.services.account, order_id, execution) is not None
    return row.fill.fill_key


async def test_trade_that_heard_neither_of_a_fill_nor_of_its_bust_ends(lane: Lane) -> None:
    """I2: it was told the fill alone, held for ever what nobody has, and protected it."""
    await taken_back(lane)
    (fact,) = await settle(lane, TradeKnowledge(orders=(ENTRY.client_id,), busted=()), "not_filled")
    assert isinstance(fact, Settled)


async def test_trade_set_back_behind_a_bust_is_told_it_before_its_end(lane: Lane) -> None:
    key = await taken_back(lane)
    known = TradeKnowledge(orders=(ENTRY.client_id,), fills=(key,), busted=())
    (fact,) = await settle(lane, known)
    assert isinstance(fact, FillBusted)
    assert fact.fill_key == key


async def place_at(
    lane: Lane, intent: OrderIntent, scheduled_at: datetime, started_at: datetime | None = None
) -> Fact:
    """As a step that the same run has scheduled then."""
    environment = ActivityEnvironment()
    environment.info = replace(
        environment.info, scheduled_time=scheduled_at, started_time=started_at or scheduled_at
    )
    command = PlaceOrder(intent=intent, urgency=Urgency.EXIT)
    given = PlaceInput(trade=lane.reference(), command=command)
    batch = await environment.run(OrderActivities(lane.services).place_order, given)
    return batch.facts[0]


class PowerCut(Exception):
    """The process is gone."""


async def test_step_that_the_store_forgot_sends_no_second_order_whose_first_has_no_answer(
    lane: Lane,
) -> None:
    """I1: the power went between send and answer, and the store lost that the step had begun. It
    comes again as the same attempt of the same run; its row said that this one may send."""

    def cut(point: str) -> None:
        if point == "after_response":
            raise PowerCut

    await lane.ledger.create_trade(plan(TRADE))
    began = datetime.now(UTC)
    cut_off = replace(lane, services=replace(lane.services, failpoint=cut))
    with pytest.raises(PowerCut):
        await place_at(cut_off, ENTRY, began)
    sent = lane.requests()
    fact = await place_at(lane, ENTRY, began, began + timedelta(seconds=5))
    assert isinstance(fact, OrderUnknown)
    assert lane.requests() == sent


async def test_order_that_was_sent_before_its_step_was_scheduled_ends_the_run(lane: Lane) -> None:
    """The same run, in a store that is older than the order: its history was set back."""
    await lane.open_trade()
    sent = lane.requests()
    fact = await place_at(lane, ENTRY, datetime.now(UTC) + timedelta(seconds=1))
    assert isinstance(fact, DiscrepancyFound)
    assert fact.code == HISTORY_REWOUND
    assert lane.requests() == sent


async def test_late_step_whose_order_was_sent_by_its_resolver_reports_that_order(
    lane: Lane,
) -> None:
    """C8: it was scheduled before; the trade is not to blame."""
    await lane.open_trade()
    sent = lane.requests()
    fact = await place_at(lane, ENTRY, datetime.now(UTC) - timedelta(seconds=10))
    assert not isinstance(fact, DiscrepancyFound)
    assert lane.requests() == sent


async def test_ended_trade_that_was_set_back_ends_as_it_had(lane: Lane) -> None:
    known = await whole_trade(lane)
    await settle(lane, known)
    fact = await place_at(lane, ENTRY, datetime.now(UTC) + timedelta(seconds=1))
    assert not isinstance(fact, DiscrepancyFound)


async def test_ended_trade_that_was_set_back_enters_no_more(lane: Lane) -> None:
    """A sliced entry, say, that was set back behind its first slice and was closed since: its next
    slice has no row yet."""
    known = await whole_trade(lane)
    await settle(lane, known)
    sent = lane.requests()
    fact = await place_at(lane, order(sequence=2), datetime.now(UTC))
    assert isinstance(fact, OrderNotSent)
    assert fact.code == GateCode.TRADE_ENDED
    assert lane.requests() == sent
    assert not (await lane.ledger.read_control(lane.services.account)).kills, "nobody's fault"


async def test_order_in_a_place_that_another_one_has_taken_ends_the_run(lane: Lane) -> None:
    """Set back to another day, it decides otherwise: refused under this sequence it sent the same
    under the next one, and at a venue that reserves nothing two stops covered one position (I4)."""
    await lane.open_trade()
    await lane.place(order(purpose=Purpose.STOP, side=Side.SELL, price="98"))
    sent = lane.requests()
    other = order(purpose=Purpose.STOP, side=Side.SELL, price="97.5")
    fact = await place_at(lane, other, datetime.now(UTC))
    assert isinstance(fact, DiscrepancyFound)
    assert fact.code == HISTORY_REWOUND
    assert lane.requests() == sent


async def test_ended_trade_that_decides_otherwise_is_refused_and_ends_as_it_had(lane: Lane) -> None:
    known = await whole_trade(lane)
    await settle(lane, known)
    fact = await place_at(lane, order(price="100.5"), datetime.now(UTC))
    assert isinstance(fact, OrderNotSent)
    assert fact.code == GateCode.INTENT_BODY_DIFFERS
