"""Rows of flat positions leave the sums that the gate reads, and no position changes by it (I2)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from decimal import Decimal

import pytest
from sqlalchemy import text

from domain.facts import AdjustmentKind
from domain.order import Side
from ledger.errors import LockBusy
from ledger.records import EXTERNAL, AdjustmentRecord, IntentState
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, NOW, fill, intent, owner, plan, snapshot

TRADES = ("trade-1", "trade-2", "trade-3")
BATCH = 100


@pytest.fixture
async def trading(armed: Ledger) -> Ledger:
    """Three trades, each with an order that the broker has."""
    for number, trade_id in enumerate(TRADES, 1):
        await armed.create_trade(plan(trade_id))
        wanted = intent(trade_id)
        await armed.open_gate(wanted, owner(trade_id), "t1", NOW)
        seen = snapshot(f"b-{number}", client_id=wanted.client_id)
        await armed.record_answer(wanted.client_id, "t1", IntentState.ACCEPTED, snapshot=seen)
    return armed


async def held(ledger: Ledger) -> dict[str, Decimal]:
    return {row.trade_id: row.quantity for row in await ledger.positions_by_trade(ACCOUNT)}


async def counted(ledger: Ledger) -> int:
    """Rows that a reading still sums."""
    query = text(
        "SELECT (SELECT count(*) FROM fills WHERE NOT netted)"
        " + (SELECT count(*) FROM adjustments WHERE NOT netted)"
    )
    async with ledger._statement() as connection:
        return int((await connection.execute(query)).scalar_one())


async def net(ledger: Ledger, most: int = BATCH) -> int:
    """As the health watch does it: where a booking is at a row, later."""
    try:
        return await ledger.net_positions(ACCOUNT, most)
    except LockBusy:
        return 0


async def trade(ledger: Ledger, key: str, number: int, side: Side, quantity: int) -> None:
    told = fill(key, broker_order_id=f"b-{number}", side=side, quantity=str(quantity))
    await ledger.record_fill(ACCOUNT, told)


def moved(key: str, trade_id: str | None, quantity: int) -> AdjustmentRecord:
    return AdjustmentRecord(
        adjustment_id=key,
        account=ACCOUNT,
        trade_id=trade_id,
        symbol="AAPL",
        quantity=Decimal(quantity),
        kind=AdjustmentKind.BY_HAND,
        at=NOW,
    )


async def test_flat_rows_are_summed_no_more_and_late_ones_count_alone(trading: Ledger) -> None:
    """D3: a fill that comes after all were netted is the whole position."""
    await trade(trading, "f-1", 1, Side.BUY, 10)
    await trade(trading, "f-2", 1, Side.SELL, 4)
    await trade(trading, "f-3", 2, Side.BUY, 5)
    assert await trading.net_positions(ACCOUNT, BATCH) == 0, "nothing is flat"
    await trading.record_adjustment(moved("a-1", "trade-1", -6))
    assert await trading.net_positions(ACCOUNT, BATCH) == 1
    assert (await held(trading), await counted(trading)) == ({"trade-2": Decimal(5)}, 1)
    assert await trading.net_positions(ACCOUNT, BATCH) == 0
    await trade(trading, "f-4", 1, Side.SELL, 3)
    assert await held(trading) == {"trade-1": Decimal(-3), "trade-2": Decimal(5)}
    await trade(trading, "f-1", 1, Side.BUY, 10)
    assert await held(trading) == {"trade-1": Decimal(-3), "trade-2": Decimal(5)}, "told twice"


async def test_rows_without_a_trade_are_never_netted(trading: Ledger) -> None:
    """F3: one of them may find its trade later, and would take its part of a zero with it."""
    strange = "b-9"
    for key, side in (("f-1", Side.BUY), ("f-2", Side.SELL)):
        await trading.record_fill(ACCOUNT, fill(key, broker_order_id=strange, side=side))
    assert await trading.net_positions(ACCOUNT, BATCH) == 0
    await trading.record_adjustment(moved("a-1", None, 7))
    assert (await held(trading), await counted(trading)) == ({EXTERNAL: Decimal(7)}, 3)


async def test_positions_are_those_of_all_rows_however_often_they_are_netted(
    trading: Ledger,
) -> None:
    """Any order of rows and nettings, some of them side by side, gives the plain sums (I2)."""
    chance, sums = random.Random(7), Counter[str]()

    async def book(number: int) -> None:
        which = chance.randrange(len(TRADES))
        quantity = chance.choice((-2, -1, 1, 2))
        name = TRADES[which]
        sums[name] += quantity
        if chance.random() < 0.3:
            await trading.record_adjustment(moved(f"a-{number}", name, quantity))
        else:
            side = Side.BUY if quantity > 0 else Side.SELL
            await trade(trading, f"f-{number}", which + 1, side, abs(quantity))

    netted = 0
    for begin in range(0, 120, 4):
        booked = asyncio.gather(*(book(number) for number in range(begin, begin + 4)))
        netted += sum(await asyncio.gather(net(trading), net(trading, 1)))
        await booked
        expected = {name: Decimal(total) for name, total in sums.items() if total}
        assert await held(trading) == expected
    netted += await net(trading)
    assert netted > 0
    assert await counted(trading) < 120
