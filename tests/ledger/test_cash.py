"""Cash of an account by its own rows, and which of them count (I5, R9)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain.errors import Refused
from domain.facts import AdjustmentKind
from domain.order import Side
from ledger.records import AdjustmentRecord, CashMovement, FeeRecord
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, NOW, fill, intent, owner, plan, snapshot

OTHER = "second"
D = Decimal


@pytest.fixture
async def two(armed: Ledger) -> Ledger:
    """A second account, whose rows are nobody else's."""
    await armed.ensure_account(OTHER, "alpaca")
    return armed


def wire(number: int = 1, amount: str = "500", account: str = ACCOUNT) -> CashMovement:
    return CashMovement(
        movement_id=f"wire-{number}",
        account=account,
        amount=D(amount),
        text="deposit",
        at=NOW - timedelta(hours=number),
        booked_by="alice",
    )


def moved(
    key: str, kind: AdjustmentKind, price: str | None, symbol: str = "AAPL"
) -> AdjustmentRecord:
    return AdjustmentRecord(
        adjustment_id=key,
        account=ACCOUNT,
        symbol=symbol,
        quantity=D(2),
        price=None if price is None else D(price),
        kind=kind,
        at=NOW,
    )


async def test_transfer_is_booked_once_under_the_name_of_who_did_it(two: Ledger) -> None:
    assert await two.book_cash(wire())
    assert not await two.book_cash(wire())
    (last, *_) = reversed(await two.list_audit())
    assert (last.actor, last.action, last.subject) == ("alice", "cash", ACCOUNT)
    assert last.details == f'{{"amount":"500","at":"{wire().at}","id":"wire-1"}}'
    assert len([row for row in await two.list_audit() if row.action == "cash"]) == 1


async def test_transfer_with_another_amount_or_of_nobody_is_refused(two: Ledger) -> None:
    await two.book_cash(wire())
    await two.book_cash(wire(amount="7", account=OTHER))
    for movement, code in (
        (wire(amount="501"), "CASH_DIFFERS"),
        (wire(account="nobody"), "ACCOUNT_UNKNOWN"),
    ):
        with pytest.raises(Refused) as raised:
            await two.book_cash(movement)
        assert raised.value.code == code
    assert await two.cash_movements(ACCOUNT) == (wire(),)


async def test_transfers_are_listed_oldest_first_by_account(two: Ledger) -> None:
    for number in (1, 3, 2):
        await two.book_cash(wire(number))
    assert await two.cash_movements(ACCOUNT) == (wire(3), wire(2), wire(1))
    assert await two.cash_movements(OTHER) == ()


async def test_booked_cash_is_what_every_row_moved(two: Ledger) -> None:
    """A contract of 100 moves a hundred times its price; a change of owner moves nothing."""
    assert await two.booked_cash(ACCOUNT, {}) == 0
    option = "AAPL260619C00100000"
    for key, symbol, side, price in (
        ("f-1", "AAPL", Side.BUY, "100.25"),
        ("f-2", "AAPL", Side.SELL, "101"),
        ("f-3", option, Side.SELL, "1.50"),
    ):
        told = fill(key, quantity="3", price=price, side=side, fee=D("0.01"))
        await two.record_fill(ACCOUNT, told.model_copy(update={"symbol": symbol}))
    await two.book_cash(wire(amount="1000"))
    await two.record_fee(FeeRecord(activity_id="a", account=ACCOUNT, amount=D(2), venue_time=NOW))
    for each in (
        moved("called", AdjustmentKind.ASSIGNMENT, "90"),
        moved("free", AdjustmentKind.EXPIRY, None),
        moved("taken", AdjustmentKind.ADOPTED, "80"),
        moved("split", AdjustmentKind.SPLIT, "70"),
    ):
        await two.record_adjustment(each)
    traded = D("2.25") - 180 + 450
    assert await two.booked_cash(ACCOUNT, {option: D(100)}) == 1000 + traded - 2 - D("0.03")
    assert await two.booked_cash(OTHER, {}) == 0


async def test_every_symbol_that_moved_is_listed_once(two: Ledger) -> None:
    await two.record_fill(ACCOUNT, fill())
    await two.record_fill(ACCOUNT, fill("f-2"))
    for key, symbol in (("a-1", "AAPL"), ("a-2", "AA")):
        await two.record_adjustment(moved(key, AdjustmentKind.EXTERNAL, None, symbol))
    assert await two.traded_symbols(ACCOUNT) == ("AA", "AAPL")
    assert await two.traded_symbols(OTHER) == ()


async def test_closed_trades_wait_for_the_brokers_own_fees_oldest_first(two: Ledger) -> None:
    """A trade that is open, was never filled or has its fees is not waited for."""
    names = ["alpha", "zulu", "final", "unfilled", "open"]
    for number, name in enumerate(names):
        await two.create_trade(plan(name))
        if name != "unfilled":
            await two.open_gate(intent(name), owner(name), "t1", NOW)
            told = snapshot(f"b-{number}", client_id=intent(name).client_id)
            await two.record_snapshot(ACCOUNT, told)
            await two.record_fill(ACCOUNT, fill(name, broker_order_id=f"b-{number}"))
    for name in ("zulu", "alpha", "final", "unfilled"):
        await two.settle_trade(name, D(5), D("0.1"), fees_estimated=name != "final")
    assert await two.trades_with_estimated_fees(ACCOUNT, 9) == ("zulu", "alpha")
    assert await two.trades_with_estimated_fees(ACCOUNT, 1) == ("zulu",)
    assert await two.trades_with_estimated_fees(OTHER, 9) == ()
