"""The ledger of the simulation beside the one on PostgreSQL: same calls, same answers (I7, I10)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest

from domain.fold_orders import PROVEN_ABSENT
from domain.ids import Purpose
from domain.order import BrokerOrderStatus, OrderSnapshot, Side
from ledger.records import IntentState
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, INSTALLATION, NOW, fill, intent, owner, plan, snapshot
from tests.simulation.ledger import MemoryLedger

LOST = NOW + timedelta(seconds=3)
CLOCK_OF_THE_BOOKS = {"booked_at", "created_at", "updated_at"}


@pytest.fixture
def both(armed: Ledger) -> tuple[Ledger, Ledger]:
    """The real one and the one in memory, of one armed account."""
    memory = MemoryLedger(ACCOUNT, "alpaca", INSTALLATION, lambda: datetime.now(UTC))
    return armed, cast(Ledger, memory)


def plain(answer: Any) -> Any:
    """An answer as values; the moment of booking is the machine's."""
    if isinstance(answer, tuple | list):
        return [plain(each) for each in answer]
    if hasattr(answer, "model_dump"):
        return answer.model_dump(exclude=CLOCK_OF_THE_BOOKS)
    return answer


def seen_pair(client_id: str, status: BrokerOrderStatus) -> OrderSnapshot:
    leg = snapshot("b-3", parent_broker_id="b-2", status=status, updated_at=NOW)
    return snapshot("b-2", client_id=client_id, status=status, legs=(leg,), updated_at=NOW)


async def place_and_lose_the_second_answer(books: Ledger) -> list[Any]:
    """An entry with its answer, doubled; a pair without one, which a snapshot then proves."""
    entry, pair = intent(), intent(purpose=Purpose.OCO, increasing=False)
    await books.create_trade(plan())
    taken = snapshot("b-1", client_id=entry.client_id, updated_at=NOW)
    given = [
        await books.open_gate(entry, owner(), "t1", NOW),
        await books.open_gate(entry, owner(), "t2", NOW),
        await books.record_answer(
            entry.client_id, "t1", IntentState.ACCEPTED, snapshot=taken, at=NOW
        ),
        await books.record_answer(entry.client_id, "t9", IntentState.REJECTED, code="LATE"),
        await books.open_gate(pair, owner(), "t3", NOW),
        await books.record_answer(pair.client_id, "t3", IntentState.UNKNOWN, at=LOST),
        await books.unresolved_intents(ACCOUNT),
        await books.record_fill(ACCOUNT, fill("child", broker_order_id="b-3", side=Side.SELL)),
        await books.untold_fills(ACCOUNT),
        await books.record_snapshot(ACCOUNT, seen_pair(pair.client_id, BrokerOrderStatus.WORKING)),
        await books.unresolved_intents(ACCOUNT),
        await books.open_children(ACCOUNT),
        await books.open_orders(ACCOUNT),
        *await call_absent_and_find(books),
    ]
    return [plain(each) for each in given]


async def call_absent_and_find(books: Ledger) -> list[Any]:
    """An exit that the broker's lists showed only after it was called absent (C5)."""
    sold = intent(purpose=Purpose.EXIT, increasing=False)
    shown = snapshot("b-9", client_id=sold.client_id, updated_at=LOST)
    return [
        await books.open_gate(sold, owner(), "t5", NOW),
        await books.record_answer(
            sold.client_id, None, IntentState.NOT_SENT, code=PROVEN_ABSENT, at=LOST
        ),
        await books.absent_intents(ACCOUNT, LOST),
        await books.absent_intents(ACCOUNT, LOST + timedelta(seconds=1)),
        await books.record_snapshot(ACCOUNT, shown),
        await books.absent_intents(ACCOUNT, LOST),
        await books.intent(sold.client_id),
        *await look_after_the_end(books),
    ]


async def look_after_the_end(books: Ledger) -> list[Any]:
    """Rows that still say working while the trade's row says ended, children included."""
    before = await books.open_after_the_end(ACCOUNT)
    await books.update_trade("trade-1", closed=True)
    during = await books.open_after_the_end(ACCOUNT)
    await books.update_trade("trade-1", closed=False)
    return [before, during, await books.open_after_the_end(ACCOUNT)]


async def fill_and_tell(books: Ledger) -> list[Any]:
    """Executions that come twice, with other numbers and as sums; told once each."""
    bought = fill("f-1", quantity="4", client_id=intent().client_id, execution_id="x-1")
    total = fill("f-2", quantity="10", price="100.30", cumulative_quantity=Decimal(10))
    whole = fill("b-7:2", broker_order_id="b-7", quantity="2", price="99.84", is_sum=True)
    later = {"price": Decimal("100.33"), "venue_time": LOST}
    revised = whole.model_copy(update=later)
    given = [
        await books.record_fills(ACCOUNT, (bought, bought)),
        await books.record_fill(ACCOUNT, bought.model_copy(update={"price": Decimal("99")})),
        await books.record_fill(ACCOUNT, total.model_copy(update={"is_sum": True})),
        await books.record_fill(ACCOUNT, total.model_copy(update={"is_sum": True})),
        await books.record_fill(ACCOUNT, whole),
        await books.record_fill(ACCOUNT, fill("nobody", broker_order_id="zzz")),
        await books.record_fills(ACCOUNT, (fill("f-3", execution_id="t::x-3"),), told_to="trade-1"),
        await books.untold_fills(ACCOUNT),
    ]
    await books.mark_fills_told(ACCOUNT, ["f-1", "unheard-of"])
    given += [
        await books.untold_fills(ACCOUNT),
        await books.take_back(ACCOUNT, "b-1", "x-1"),
        await books.untold_fills(ACCOUNT),
        await books.take_back(ACCOUNT, "b-1", "x-3", fill("f-3/corrected", price="100.10")),
        await books.take_back(ACCOUNT, "b-1", "x-4", fill("f-4/corrected", price="100.20")),
        await books.take_back(ACCOUNT, "b-1", "x-5"),
        await books.record_fills(
            ACCOUNT,
            (fill("f-4", execution_id="t::x-4"), fill("f-5", execution_id="t::x-5")),
            told_to="trade-1",
        ),
        await books.untold_fills(ACCOUNT),
        await books.record_fill(ACCOUNT, revised),
        await books.record_fill(ACCOUNT, revised),
        await books.record_fill(ACCOUNT, whole),
        await books.fills_of_trade("trade-1"),
        await books.fills_of_account(ACCOUNT),
        await books.unattributed_fills(ACCOUNT),
        await books.traded_symbols(ACCOUNT),
        await books.booked_cash(ACCOUNT, {}),
        await books.positions_by_trade(ACCOUNT),
    ]
    return [plain(each) for each in given]


async def test_orders_are_answered_alike(both: tuple[Ledger, Ledger]) -> None:
    real, memory = [await place_and_lose_the_second_answer(books) for books in both]
    for step, (one, other) in enumerate(zip(real, memory, strict=True)):
        assert other == one, f"answer {step}"


async def test_executions_are_answered_alike(both: tuple[Ledger, Ledger]) -> None:
    for books in both:
        await place_and_lose_the_second_answer(books)
    real, memory = [await fill_and_tell(books) for books in both]
    for step, (one, other) in enumerate(zip(real, memory, strict=True)):
        assert other == one, f"answer {step}"
