"""Positions go from EXTERNAL to a trade and back once, and never more than is there (K6, I20)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal

import pytest

from domain.errors import Refused
from domain.facts import AdjustmentKind
from ledger.records import EXTERNAL, AdjustmentRecord
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, NOW

D = Decimal


def row(key: str, trade_id: str | None, quantity: str, symbol: str = "AAPL") -> AdjustmentRecord:
    return AdjustmentRecord(
        adjustment_id=key,
        account=ACCOUNT,
        trade_id=trade_id,
        symbol=symbol,
        quantity=D(quantity),
        kind=AdjustmentKind.ADOPTED,
        at=NOW,
    )


def adoption(trade_id: str, quantity: str) -> tuple[AdjustmentRecord, AdjustmentRecord]:
    """The two rows of one adoption, of the same size and opposite signs."""
    given = row(f"{trade_id}/from", None, str(-D(quantity)))
    return given, row(f"{trade_id}/to", trade_id, quantity)


async def held(ledger: Ledger) -> Mapping[tuple[str, str], Decimal]:
    found = await ledger.positions_by_trade(ACCOUNT)
    return {(each.trade_id, each.symbol): each.quantity for each in found}


async def with_external(ledger: Ledger, quantity: str) -> None:
    await ledger.record_adjustment(row("found", None, quantity))
    await ledger.record_adjustment(row("others", "trade-9", "50", "MSFT"))


@pytest.mark.parametrize("quantity", ["10", "-10"])
async def test_position_of_nobody_is_adopted_once_and_whole(armed: Ledger, quantity: str) -> None:
    await with_external(armed, quantity)
    rows, takes = adoption("trade-1", quantity), {"AAPL": D(quantity)}
    assert await armed.move_positions(ACCOUNT, rows, takes=takes)
    expected = {("trade-1", "AAPL"): D(quantity), ("trade-9", "MSFT"): D(50)}
    assert await held(armed) == expected
    assert not await armed.move_positions(ACCOUNT, rows, takes=takes)
    assert await held(armed) == expected


async def test_part_of_what_nobody_owns_leaves_the_rest_there(armed: Ledger) -> None:
    await with_external(armed, "10")
    assert await armed.move_positions(ACCOUNT, adoption("trade-1", "4"), takes={"AAPL": D(4)})
    assert (await held(armed))[EXTERNAL, "AAPL"] == 6


@pytest.mark.parametrize(
    ("has", "takes"),
    [
        ("10", {"AAPL": "10.001"}),
        ("10", {"AAPL": "-10"}),
        ("-10", {"AAPL": "10"}),
        ("10", {"MSFT": "50"}),
        ("10", {"AAPL": "10", "TSLA": "1"}),
    ],
)
async def test_more_than_nobody_has_is_refused_and_nothing_is_booked(
    armed: Ledger, has: str, takes: Mapping[str, str]
) -> None:
    """What another trade holds is not there to be taken."""
    await with_external(armed, has)
    before = await held(armed)
    wanted = {symbol: D(quantity) for symbol, quantity in takes.items()}
    with pytest.raises(Refused, match="EXTERNAL has") as raised:
        await armed.move_positions(ACCOUNT, adoption("trade-1", "10"), takes=wanted)
    assert raised.value.code == "EXTERNAL_MOVED"
    assert await held(armed) == before
    assert await armed.adjustments(ACCOUNT, "trade-1") == ()


async def test_two_people_cannot_adopt_the_same_position(armed: Ledger) -> None:
    """K6: the second waits for the first and finds less."""
    await with_external(armed, "10")

    moves = [
        armed.move_positions(ACCOUNT, adoption(f"trade-{number}", "10"), takes={"AAPL": D(10)})
        for number in range(8)
    ]
    done = await asyncio.gather(*moves, return_exceptions=True)
    assert done.count(True) == 1
    codes = [each.code for each in done if isinstance(each, Refused)]
    assert codes == ["EXTERNAL_MOVED"] * 7
    owners = {name for name, symbol in await held(armed) if symbol == "AAPL"}
    assert owners == {f"trade-{done.index(True)}"}


async def test_adjustments_are_listed_by_trade_in_the_order_of_their_time(armed: Ledger) -> None:
    await armed.ensure_account("second", "alpaca")
    first, second = adoption("trade-1", "3")
    elsewhere = first.model_copy(update={"account": "second"})
    for each in (second, first, elsewhere):
        assert await armed.record_adjustment(each)
    assert await armed.adjustments(ACCOUNT) == (first, second)
    assert await armed.adjustments(ACCOUNT, "trade-1") == (second,)
    assert await armed.adjustments("second") == (elsewhere,)
