"""Executions as a set, reversals as rows, exact numbers (I2, I5, I7, D9, M20)."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import update

from domain.errors import Refused
from domain.facts import AdjustmentKind
from domain.order import Side
from ledger.records import EXTERNAL, AdjustmentRecord, FeeRecord, TradePosition
from ledger.repository import Ledger
from ledger.tables import orders
from tests.ledger.samples import ACCOUNT, NOW, fill, intent, owner, snapshot


@pytest.fixture
async def trading(armed: Ledger) -> Ledger:
    """An accepted order `b-1` of trade-1."""
    await armed.open_gate(intent(), owner(), "t1", NOW)
    await armed.record_snapshot(ACCOUNT, snapshot(client_id=intent().client_id))
    return armed


@pytest.mark.parametrize(
    ("quantity", "price"),
    [
        ("100", "187.21"),
        ("0.000000000001", "0.000000000001"),
        ("999999999999999", "1000000000000000"),
        ("0.10", "1.10000"),
        ("123456789.123456789012", "0.5001"),
    ],
)
async def test_numbers_come_back_digit_for_digit(
    trading: Ledger, quantity: str, price: str
) -> None:
    told = fill(quantity=quantity, price=price, fee=Decimal("0.0100"))
    await trading.record_fill(ACCOUNT, told)
    (stored,) = await trading.fills_of_trade("trade-1")
    assert stored.fill == told
    assert (str(stored.fill.quantity), str(stored.fill.price)) == (
        str(told.quantity),
        str(told.price),
    )
    assert str(stored.fill.fee) == "0.0100"


async def test_sums_are_exact_where_floats_are_not(trading: Ledger) -> None:
    for number in range(10):
        await trading.record_fill(ACCOUNT, fill(f"f-{number}", quantity="0.1"))
    assert await trading.positions_by_trade(ACCOUNT) == (
        TradePosition(trade_id="trade-1", symbol="AAPL", quantity=Decimal("1.0")),
    )


@pytest.mark.covers("F2", "F3")
async def test_any_order_and_any_repeats_give_one_result(trading: Ledger) -> None:
    """I7."""
    fills = [fill(f"f-{number}", quantity=str(number + 1)) for number in range(8)]
    stream = fills * 3
    random.Random(7).shuffle(stream)
    booked = await asyncio.gather(*(trading.record_fill(ACCOUNT, one) for one in stream))
    assert sum(one.is_new for one in booked) == 8
    assert not any(one.differs for one in booked)
    stored = {one.fill.fill_key: one.fill for one in await trading.fills_of_trade("trade-1")}
    assert stored == {one.fill_key: one for one in fills}
    assert (await trading.positions_by_trade(ACCOUNT))[0].quantity == Decimal(36)


@pytest.mark.covers("C9")
async def test_fill_with_other_numbers_under_a_known_key_is_reported(trading: Ledger) -> None:
    await trading.record_fill(ACCOUNT, fill(price="100.25"))
    again = await trading.record_fill(ACCOUNT, fill(price="100.26"))
    assert (again.is_new, again.differs) == (False, True)
    (stored,) = await trading.fills_of_trade("trade-1")
    assert stored.fill.price == Decimal("100.25")


async def test_fee_told_later_completes_the_row_once(trading: Ledger) -> None:
    await trading.record_fill(ACCOUNT, fill())
    await trading.record_fill(ACCOUNT, fill(fee=Decimal("0.35")))
    await trading.record_fill(ACCOUNT, fill(fee=Decimal("9.99")))
    (stored,) = await trading.fills_of_trade("trade-1")
    assert stored.fill.fee == Decimal("0.35")


@pytest.mark.covers("D9")
async def test_bust_is_a_row_that_reverses_once(trading: Ledger) -> None:
    """D9."""
    await trading.record_fill(ACCOUNT, fill(fee=Decimal("0.35"), execution_id="x-1"))
    first = await trading.take_back(ACCOUNT, "b-1", "x-1")
    again = await trading.take_back(ACCOUNT, "b-1", "x-1")
    assert first is not None
    assert again is not None
    assert (first.is_new, again.is_new) == (True, False)
    original, reversal = await trading.fills_of_trade("trade-1")
    assert not original.is_reversal
    assert (reversal.reverses, reversal.fill.side) == ("f-1", Side.SELL)
    assert reversal.fill.fee == Decimal("-0.35")
    assert await trading.positions_by_trade(ACCOUNT) == ()


async def test_correction_reverses_and_books_the_right_one(trading: Ledger) -> None:
    """REST names an execution by time and id, the stream by its id alone."""
    await trading.record_fill(ACCOUNT, fill(quantity="10", execution_id="20260304::x-1"))
    right = fill("f-1c", quantity="7", price="100.20")
    first = await trading.take_back(ACCOUNT, "b-1", "x-1", right)
    again = await trading.take_back(ACCOUNT, "b-1", "x-1", right)
    assert first is not None
    assert again is not None
    assert (first.is_new, again.is_new) == (True, False)
    rows = await trading.fills_of_trade("trade-1")
    assert [row.corrected_by for row in rows] == ["", "f-1c", ""]
    assert (await trading.positions_by_trade(ACCOUNT))[0].quantity == Decimal(7)
    with pytest.raises(Refused) as raised:
        await trading.take_back(ACCOUNT, "b-1", "x-1", fill("f-1"))
    assert raised.value.code == "FILL_KEY_SAME"


@pytest.mark.covers("D9", "F3")
@pytest.mark.parametrize("price", [None, "100.00"])
async def test_execution_taken_back_before_it_is_booked_ends_as_in_the_other_order(
    trading: Ledger, price: str | None
) -> None:
    """I5, I7: the frame of a bust or correction may come before the fill (nautilus #4491).

    Found by the simulation (alpaca seed 430): the word was dropped, the cash stayed apart.
    """
    bought = fill("b-1:10", execution_id="20260304::x-1")
    right = None if price is None else fill("b-1/corrected/x-2", price=price, execution_id="x-2")
    for _ in range(2):
        assert await trading.take_back(ACCOUNT, "b-1", "x-1", right) is None
    assert await trading.take_back(ACCOUNT, "b-2", "x-1") is None, "an order of its own"
    booked = await trading.record_fill(ACCOUNT, bought)
    assert (booked.is_new, booked.took_back) == (True, True)
    again = await trading.record_fill(ACCOUNT, bought)
    assert (again.is_new, again.took_back) == (False, False)
    rows = await trading.fills_of_trade("trade-1")
    expected = ["b-1:10", "b-1:10/bust", *(["b-1/corrected/x-2"] if right else [])]
    assert [row.fill.fill_key for row in rows] == expected
    assert [row.fill.fill_key for row in await trading.untold_fills(ACCOUNT)] == expected
    spent = sum(row.fill.signed_quantity * row.fill.price for row in rows)
    assert spent == (Decimal(1000) if right else 0)


async def test_fill_and_its_bust_booked_side_by_side_find_each_other(trading: Ledger) -> None:
    """D9: neither transaction sees the other's row; a lock decides who comes first."""
    keys = [str(number) for number in range(8)]

    async def both(key: str) -> None:
        bought = fill(f"b-1:{key}", quantity="1", execution_id=f"t::{key}")
        taken = trading.take_back(ACCOUNT, "b-1", key)
        await asyncio.gather(trading.record_fill(ACCOUNT, bought), taken)

    await asyncio.gather(*(both(key) for key in keys))
    assert await trading.positions_by_trade(ACCOUNT) == ()
    assert len(await trading.fills_of_trade("trade-1")) == 2 * len(keys)


async def test_batch_is_booked_whole_or_not_at_all(trading: Ledger) -> None:
    with pytest.raises(Refused) as raised:
        await trading.record_fills("nobody", [fill()])
    assert raised.value.code == "ACCOUNT_UNKNOWN"
    booked = await trading.record_fills(ACCOUNT, [fill("f-1"), fill("f-2"), fill("f-1")])
    assert [one.is_new for one in booked] == [True, True, False]
    assert len(await trading.fills_of_account(ACCOUNT, since=NOW)) == 2


async def test_foreign_fill_counts_as_external(trading: Ledger) -> None:
    """I20."""
    booked = await trading.record_fill(ACCOUNT, fill("f-9", broker_order_id="foreign"))
    assert booked.trade_id is None
    (lonely,) = await trading.unattributed_fills(ACCOUNT)
    assert lonely.fill.fill_key == "f-9"
    assert [one.trade_id for one in await trading.positions_by_trade(ACCOUNT)] == [EXTERNAL]


@pytest.mark.covers("F3", "E1")
@pytest.mark.parametrize("is_sum", [False, True])
async def test_fill_that_crossed_the_answer_of_its_order_finds_its_trade_when_read_again(
    armed: Ledger, is_sum: bool
) -> None:
    """Two transactions side by side: neither the fill nor the broker's id sees the other.

    Found by `make chaos` (gt05): the trade stood bare for ever, its fill nobody's.
    """
    sent = intent()
    await armed.open_gate(sent, owner(), "t1", NOW)
    told = fill(client_id=None, broker_order_id="b-1", is_sum=is_sum)
    async with armed._work() as answer:
        await answer.execute(
            update(orders)
            .where(orders.c.client_id == sent.client_id)
            .values(broker_order_id="b-1", state="accepted")
        )
        crossed = await armed.record_fill(ACCOUNT, told)
        assert crossed.trade_id is None
    again = await armed.record_fill(ACCOUNT, told)
    assert (again.trade_id, again.told, again.is_new) == ("trade-1", False, False)
    (mine,) = await armed.fills_of_trade("trade-1")
    assert mine.fill.quantity == told.quantity
    assert [row.fill.fill_key for row in await armed.untold_fills(ACCOUNT)] == [mine.fill.fill_key]


@pytest.mark.covers("F3")
async def test_fills_stay_untold_until_their_trade_has_heard_of_them(trading: Ledger) -> None:
    """Told is what the trade asked for itself, or what was marked by name."""
    own = await trading.record_fills(ACCOUNT, [fill("own")], told_to="trade-1")
    assert [one.told for one in own] == [True]
    await trading.record_fills(ACCOUNT, [fill("a"), fill("b"), fill("c")], told_to="trade-2")
    await trading.record_fill(ACCOUNT, fill("foreign", broker_order_id="foreign"))
    await trading.ensure_account("second", "alpaca")

    async def untold() -> list[str]:
        return [row.fill.fill_key for row in await trading.untold_fills(ACCOUNT)]

    assert await untold() == ["a", "b", "c"]
    await trading.mark_fills_told("second", ["a"])
    assert await untold() == ["a", "b", "c"]
    for _ in range(2):
        await trading.mark_fills_told(ACCOUNT, ["a", "c"])
        assert await untold() == ["b"]


async def test_adjustment_moves_the_position_once(trading: Ledger) -> None:
    await trading.record_fill(ACCOUNT, fill(quantity="10"))
    split = AdjustmentRecord(
        adjustment_id="a-1",
        account=ACCOUNT,
        trade_id="trade-1",
        symbol="AAPL",
        quantity=Decimal("-0.001"),
        kind=AdjustmentKind.BASE_COIN_FEE,
        at=NOW,
    )
    assert await trading.record_adjustment(split)
    assert not await trading.record_adjustment(split)
    assert (await trading.positions_by_trade(ACCOUNT))[0].quantity == Decimal("9.999")
    assert await trading.adjustments(ACCOUNT, "trade-1") == (split,)


async def test_fee_row_is_booked_once_and_finds_its_trade(trading: Ledger) -> None:
    fee = FeeRecord(
        activity_id="act-1",
        account=ACCOUNT,
        amount=Decimal("0.0123"),
        broker_order_id="b-1",
        venue_time=NOW,
    )
    assert await trading.record_fee(fee)
    assert not await trading.record_fee(fee)
    (stored,) = await trading.fees(ACCOUNT, "trade-1")
    assert str(stored.amount) == "0.0123"


async def test_sums_seen_at_different_times_are_booked_once(trading: Ledger) -> None:
    """ADR 0017: every reader tells what an order has filled so far, nobody single executions."""
    sums = [
        fill(f"b-1:{done}", quantity=done, price=average, is_sum=True)
        for done, average in (("3", "100.00"), ("5", "100.40"), ("10", "100.70"))
    ]
    stream = sums * 3
    random.Random(7).shuffle(stream)
    booked = await asyncio.gather(*(trading.record_fills(ACCOUNT, (one,)) for one in stream))
    assert not any(one.differs for (one,) in booked)
    rows = await trading.fills_of_trade("trade-1")
    assert sum(row.fill.quantity for row in rows) == 10
    assert sum(row.fill.quantity * row.fill.price for row in rows) == Decimal("1007.00")
    assert not any(row.fill.is_sum for row in rows)


async def test_part_of_a_sum_has_the_price_of_what_is_new(trading: Ledger) -> None:
    """I5: booked value is the venue's value; a reader is told the row, never the sum."""
    await trading.record_fill(ACCOUNT, fill("b-1:3", quantity="3", price="100", is_sum=True))
    more = await trading.record_fill(
        ACCOUNT, fill("b-1:10", quantity="10", price="100.7", is_sum=True)
    )
    assert more.fill is not None
    assert (more.fill.quantity, more.fill.price) == (Decimal(7), Decimal(101))
    late = await trading.record_fill(ACCOUNT, fill("b-1:3", quantity="3", is_sum=True))
    assert (late.is_new, late.fill) == (False, more.fill)


async def test_newer_sum_of_equal_quantity_and_other_value_replaces_the_rows(
    trading: Ledger,
) -> None:
    """D9, I5: a venue without execution ids takes two shares back and fills two anew.

    Found by the simulation (tradier seed 514): the sum is the same, its average is not.
    """
    first = fill("b-1:2", quantity="2", price="99.84", is_sum=True)
    later = {"price": Decimal("100.33"), "venue_time": NOW + timedelta(seconds=2)}
    anew = first.model_copy(update=later)
    await trading.record_fill(ACCOUNT, first)
    both = await asyncio.gather(*(trading.record_fill(ACCOUNT, anew) for _ in range(3)))
    assert sorted(one.took_back for one in both) == [False, False, True]
    stale = await trading.record_fill(ACCOUNT, first)
    assert (stale.is_new, stale.took_back) == (False, False), "overtaken on its way"
    rows = await trading.fills_of_trade("trade-1")
    keys = ["b-1:2", "b-1:2/bust", "b-1:2/revised/1"]
    assert [row.fill.fill_key for row in rows] == keys
    assert rows[1].corrected_by == keys[2]
    assert sum(row.fill.signed_quantity * row.fill.price for row in rows) == Decimal("200.66")
    more = fill("b-1:5", quantity="5", price="100.33", is_sum=True)
    part = await trading.record_fill(ACCOUNT, more)
    assert part.fill is not None
    assert (part.fill.quantity, part.fill.price) == (Decimal(3), Decimal("100.33"))


@pytest.mark.parametrize("price", ["100.33", "100.333", "100.33333333"])
async def test_average_with_other_digits_is_the_same_sum(trading: Ledger, price: str) -> None:
    """I5: an average is as exact as its digits; a shorter one is no news."""
    exact = fill("b-1:3", quantity="3", price="100.33333333", is_sum=True)
    await trading.record_fill(ACCOUNT, exact)
    later = {"price": Decimal(price), "venue_time": NOW + timedelta(seconds=2)}
    again = await trading.record_fill(ACCOUNT, exact.model_copy(update=later))
    assert (again.is_new, again.took_back) == (False, False)
    assert len(await trading.fills_of_trade("trade-1")) == 1


async def test_sum_whose_new_part_would_cost_nothing_replaces_the_rows(trading: Ledger) -> None:
    """I5: rows that the venue has taken back cannot be averaged with."""
    await trading.record_fill(ACCOUNT, fill("b-1:2", quantity="2", price="99", is_sum=True))
    await trading.record_fill(ACCOUNT, fill("b-1:3", quantity="3", price="50", is_sum=True))
    rows = await trading.fills_of_trade("trade-1")
    assert sum(row.fill.signed_quantity for row in rows) == 3
    assert sum(row.fill.signed_quantity * row.fill.price for row in rows) == 150
