"""Executions as a set, reversals as rows, exact numbers (I2, I5, I7, D9, M20)."""

from __future__ import annotations

import asyncio
import random
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
    await trading.record_fill(ACCOUNT, fill(fee=Decimal("0.35")))
    first = await trading.bust_fill(ACCOUNT, "f-1", "venue bust")
    again = await trading.bust_fill(ACCOUNT, "f-1", "venue bust")
    assert (first.is_new, again.is_new) == (True, False)
    original, reversal = await trading.fills_of_trade("trade-1")
    assert not original.is_reversal
    assert (reversal.reverses, reversal.fill.side) == ("f-1", Side.SELL)
    assert reversal.fill.fee == Decimal("-0.35")
    assert await trading.positions_by_trade(ACCOUNT) == ()
    for key, code in (("nothing", "FILL_UNKNOWN"), ("f-1/bust", "FILL_IS_REVERSAL")):
        with pytest.raises(Refused) as raised:
            await trading.bust_fill(ACCOUNT, key, "why")
        assert raised.value.code == code


async def test_correction_reverses_and_books_the_right_one(trading: Ledger) -> None:
    await trading.record_fill(ACCOUNT, fill(quantity="10"))
    right = fill("f-1c", quantity="7", price="100.20")
    assert (await trading.correct_fill(ACCOUNT, "f-1", right)).is_new
    assert not (await trading.correct_fill(ACCOUNT, "f-1", right)).is_new
    assert len(await trading.fills_of_trade("trade-1")) == 3
    assert (await trading.positions_by_trade(ACCOUNT))[0].quantity == Decimal(7)
    with pytest.raises(Refused) as raised:
        await trading.correct_fill(ACCOUNT, "f-1", fill("f-1"))
    assert raised.value.code == "FILL_KEY_SAME"


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
