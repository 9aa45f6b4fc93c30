"""Statements tie out: cash row by row, FIFO lots against cash, deposits never profit (I5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.account_book import AccountBook, Charge, Move, OwnerCash
from domain.errors import BadInput
from domain.instrument import Instrument, InstrumentKind
from domain.lots import fold_lots
from domain.money import round_to_cent
from domain.statement import CashKind, Statement, cash_journal, statement_of

BEGIN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
LATE = BEGIN + timedelta(days=365)
OPTION = Instrument(symbol="OPT", kind=InstrumentKind.OPTION, multiplier=Decimal(100))
INSTRUMENTS = {"OPT": OPTION, "ABC": Instrument(symbol="ABC")}


def move(number: int, quantity: str, price: str | None, **values: object) -> Move:
    fields: dict[str, object] = {
        "key": f"f{number}",
        "time": BEGIN + timedelta(minutes=number),
        "symbol": "ABC",
        "quantity": quantity,
        "price": price,
        "order_id": f"o{number}",
        **values,
    }
    return Move.model_validate(fields)


def deposit(amount: str, minute: int = 0) -> OwnerCash:
    at = BEGIN + timedelta(minutes=minute)
    return OwnerCash(key=f"d{minute}", time=at, amount=Decimal(amount))


def book(*moves: Move, **values: object) -> AccountBook:
    return AccountBook.model_validate({"instruments": INSTRUMENTS, "moves": moves, **values})


def whole(of: AccountBook) -> Statement:
    return statement_of(of, BEGIN - timedelta(days=1), LATE)


def gap(of: AccountBook) -> Fraction:
    """Cash that the trades moved, minus what the lots say it should be; 0 = they tie out."""
    rows = cash_journal(of)
    traded = sum(Fraction(r.amount) for r in rows if r.kind in (CashKind.FILL, CashKind.ADJUSTMENT))
    lots = fold_lots(of)
    realised = sum(Fraction(lot.gross) for lot in lots.closed if lot.gross is not None)
    at_cost = sum(Fraction(lot.cost) for lot in lots.open if lot.cost is not None)
    return Fraction(traded - realised + at_cost)


cents = st.decimals(min_value="0.01", max_value="5000", places=2)
fees = st.decimals(min_value="0", max_value="3", places=4)
executions = st.lists(
    st.tuples(st.sampled_from(["ABC", "OPT"]), st.booleans(), st.integers(1, 500), cents, fees),
    max_size=20,
)
owner = st.lists(st.decimals(min_value="-5000", max_value="5000", places=2), max_size=4)


@settings(max_examples=80, deadline=None)
@given(executions, owner, fees, st.integers(0, 25), st.integers(0, 25))
def test_every_statement_ties_out_to_the_last_digit(
    rows: list[tuple[str, bool, int, Decimal, Decimal]],
    paid: list[Decimal],
    charged: Decimal,
    first: int,
    length: int,
) -> None:
    moves = [
        move(i, str(size if buys else -size), str(price), symbol=symbol, fee=fee, order_id="o")
        for i, (symbol, buys, size, price, fee) in enumerate(rows)
    ]
    charges = [Charge(key="c", time=BEGIN, amount=charged, order_id="o")]
    cash = [deposit(str(amount), 3 * i) for i, amount in enumerate(paid)]
    made = book(*moves, charges=charges, owner_cash=cash)

    begin = BEGIN + timedelta(minutes=first)
    told = statement_of(made, begin, begin + timedelta(minutes=length))
    assert told.opening_cash + sum(row.amount for row in told.cash) == told.closing_cash
    running = told.opening_cash
    for row in told.cash:
        running += row.amount
        assert row.running == running
    before, after = statement_of(made, BEGIN, begin), statement_of(made, BEGIN, LATE)
    assert before.closing_cash == told.opening_cash, "periods follow each other without a gap"

    assert gap(made) == 0, "realised by FIFO + open lots at cost = what the trades moved"
    lots = fold_lots(made)
    carried = sum(lot.fees for lot in lots.closed) + sum(lot.fees for lot in lots.open)
    booked = sum(m.fee for m in moves) + (charged if moves else 0)
    assert carried == booked, "every fee is carried by a lot"
    profit = sum(lot.gross or 0 for lot in lots.closed) - sum(lot.cost or 0 for lot in lots.open)
    all_fees = -after.cash_of(CashKind.FEE)
    owners = after.cash_of(CashKind.DEPOSIT, CashKind.WITHDRAWAL)
    assert after.closing_cash == owners + profit - all_fees


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), cents), min_size=1, max_size=5),
    st.integers(2, 20),
    st.lists(st.tuples(st.integers(1, 900), cents), max_size=5),
)
def test_split_changes_quantity_and_price_and_neither_cost_nor_profit(
    bought: list[tuple[int, Decimal]], factor: int, sold: list[tuple[int, Decimal]]
) -> None:
    buys = [move(i, str(size), str(price)) for i, (size, price) in enumerate(bought)]
    held = sum(size for size, _ in bought)
    split = move(50, str(held * (factor - 1)), None, kind="split", text=f"{factor} for 1")
    before = fold_lots(book(*buys))
    after = fold_lots(book(*buys, split))
    assert [lot.quantity * factor for lot in before.open] == [lot.quantity for lot in after.open]
    costs = [(round_to_cent(lot.cost or Decimal(0))) for lot in before.open]
    assert costs == [round_to_cent(lot.cost or Decimal(0)) for lot in after.open]
    assert all(f"{factor} for 1" not in lot.text and "split" in lot.text for lot in after.open)

    sells = [move(60 + i, str(-size), str(price)) for i, (size, price) in enumerate(sold)]
    assert abs(gap(book(*buys, split, *sells))) < Fraction(1, 10**18)
    assert not [row for row in cash_journal(book(split)) if row.kind is CashKind.ADJUSTMENT]


def test_oldest_lot_closes_first_and_carries_its_share_of_the_fees() -> None:
    made = book(
        move(0, "100", "10.00", fee="1.00"),
        move(1, "50", "13.00"),
        move(2, "-120", "12.00", fee="0.60"),
    )
    first, second = fold_lots(made).closed
    assert (first.opened_by, first.quantity, first.gross, first.fees, first.net) == (
        "f0",
        *map(Decimal, ("100", "200.00", "1.50", "198.50")),
    )
    assert (second.opened_by, second.gross, second.fees) == (
        "f1",
        *map(Decimal, ("-20.00", "0.10")),
    )
    (left,) = fold_lots(made).open
    assert (left.quantity, left.cost) == (Decimal(30), Decimal("390.00"))


def test_deposit_is_a_row_and_no_profit() -> None:
    told = whole(book(owner_cash=[deposit("1000"), deposit("-250", 5)]))
    assert [(row.kind, row.amount, row.running) for row in told.cash] == [
        (CashKind.DEPOSIT, Decimal(1000), Decimal(1000)),
        (CashKind.WITHDRAWAL, Decimal(-250), Decimal(750)),
    ]
    assert told.realised == ()


def test_reversed_execution_is_two_rows_of_cash_and_no_lot() -> None:
    wrong = move(0, "100", "10.00", fee="1.00")
    undone = move(0, "-100", "10.00", key="f0/bust", reverses="f0", fee="-1.00")
    told = whole(book(wrong, undone))
    assert len(told.cash) == 4
    assert told.closing_cash == 0
    assert (told.realised, told.open_lots) == ((), ())


def test_position_without_a_known_price_has_an_unknown_result() -> None:
    came = move(0, "10", None, kind="external")
    told = whole(book(came, move(1, "-4", "25.00")))
    (closed,) = told.realised
    (left,) = told.open_lots
    assert (closed.gross, closed.net, closed.open_price) == (None, None, None)
    assert (left.quantity, left.cost) == (Decimal(6), None)
    assert told.closing_cash == Decimal("100.00"), "the sale's money is real all the same"


def test_change_of_owner_moves_neither_cash_nor_lots() -> None:
    bought = move(0, "10", "20.00")
    mine = move(1, "10", "20.00", kind="adopted", trade_id="t1")
    theirs = move(1, "-10", "20.00", key="f1/external", kind="adopted")
    assert fold_lots(book(bought, mine, theirs)) == fold_lots(book(bought))
    assert whole(book(bought, mine, theirs)).closing_cash == Decimal("-200.00")


def test_lot_closed_in_the_period_shows_an_opening_before_it() -> None:
    made = book(move(0, "10", "20.00"), move(100, "-10", "21.00"), move(200, "5", "22.00"))
    begin = BEGIN + timedelta(minutes=50)
    told = statement_of(made, begin, begin + timedelta(minutes=100))
    assert [lot.opened_by for lot in told.realised] == ["f0"]
    assert [m.key for m in told.moves] == ["f100"]
    assert told.open_lots == ()


def test_instrument_in_another_currency_is_refused_by_name() -> None:
    euro = Instrument(symbol="ABC", currency="EUR")
    with pytest.raises(BadInput, match="STATEMENT_CURRENCY"):
        whole(book(move(0, "1", "1"), instruments={"ABC": euro}))
