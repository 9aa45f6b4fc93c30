"""What a tax adviser asks of each lot: both ends, the fees of each piece, the reason (M5)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from domain.account_book import Charge
from domain.lots import ClosedLot, OpenLot, fold_lots
from domain.order import Side
from tests.unit.test_statement import BEGIN, book, move

D = Decimal


def charge(number: int, amount: str, **values: object) -> Charge:
    at = BEGIN + timedelta(minutes=number)
    return Charge.model_validate({"key": f"c{number}", "time": at, "amount": amount, **values})


# --- one piece and one rest, in full ----------------------------------------------------------


def test_closed_piece_tells_both_ends_and_its_result() -> None:
    made = book(
        move(0, "10", "20.00", fee="0.10", trade_id="t-1", text="first"),
        move(1, "-4", "23.00", fee="0.08", trade_id="t-2", text="part"),
    )
    (piece,) = fold_lots(made).closed
    assert piece == ClosedLot(
        symbol="ABC",
        side=Side.BUY,
        quantity=D(4),
        opened_by="f0",
        opened_at=BEGIN,
        open_price=D(20),
        closed_by="f1",
        closed_at=BEGIN + timedelta(minutes=1),
        close_price=D(23),
        gross=D(12),
        fees=D("0.12"),
        net=D("11.88"),
        trade_id="t-2",
        text="first; part",
    )


def test_rest_of_a_lot_keeps_its_beginning_its_cost_and_the_rest_of_its_fee() -> None:
    made = book(
        move(0, "10", "2.00", symbol="OPT", fee="0.10", trade_id="t-1", text="first"),
        move(1, "-4", "2.50", symbol="OPT", fee="0.08"),
    )
    (rest,) = fold_lots(made).open
    assert rest == OpenLot(
        symbol="OPT",
        quantity=D(6),
        opened_by="f0",
        opened_at=BEGIN,
        price=D(2),
        cost=D(1200),
        fees=D("0.06"),
        trade_id="t-1",
        text="first",
    )


def test_short_sold_and_bought_back_earns_when_the_price_falls() -> None:
    made = book(move(0, "-10", "20.00"), move(1, "10", "17.00"))
    lots = fold_lots(made)
    (piece,) = lots.closed
    assert (piece.side, piece.quantity, piece.gross, piece.net) == (Side.SELL, D(10), D(30), D(30))
    assert lots.open == ()


def test_piece_closed_by_nobodys_order_belongs_to_the_trade_that_opened_it() -> None:
    made = book(move(0, "10", "20.00", trade_id="t-1"), move(1, "-10", "21.00"))
    assert [lot.trade_id for lot in fold_lots(made).closed] == ["t-1"]


def test_sale_of_more_than_is_held_closes_all_and_opens_a_short_of_the_rest() -> None:
    lots = fold_lots(book(move(0, "10", "20.00"), move(1, "-11", "21.00", fee="0.22")))
    assert [(lot.quantity, lot.gross, lot.fees) for lot in lots.closed] == [
        (D(10), D(10), D("0.20"))
    ]
    assert [(lot.quantity, lot.cost, lot.fees) for lot in lots.open] == [(D(-1), D(-21), D("0.02"))]


def test_result_is_unknown_as_soon_as_one_of_the_prices_is() -> None:
    for first, second in ((None, "21.00"), ("20.00", None)):
        (piece,) = fold_lots(book(move(0, "10", first), move(1, "-10", second))).closed
        assert (piece.gross, piece.net) == (None, None)
        assert piece.open_price == (None if first is None else D(20))
    (held,) = fold_lots(book(move(0, "10", None))).open
    assert (held.price, held.cost, held.quantity) == (None, None, D(10))


def test_closed_pieces_come_by_the_time_of_their_close_whatever_the_symbol() -> None:
    made = book(
        move(0, "1", "10", symbol="ABC"),
        move(1, "1", "10", symbol="OPT"),
        move(2, "-1", "11", symbol="OPT"),
        move(3, "-1", "11", symbol="ABC"),
    )
    assert [lot.closed_by for lot in fold_lots(made).closed] == ["f2", "f3"]


# --- what counts ------------------------------------------------------------------------------


def test_lots_until_an_instant_know_nothing_of_that_instant() -> None:
    made = book(
        move(0, "10", "20.00"),
        move(5, "-10", "21.00"),
        charges=[charge(5, "1.00", move_key="f0")],
    )
    at = BEGIN + timedelta(minutes=5)
    (held,) = fold_lots(made, until=at).open
    assert (held.quantity, held.fees) == (D(10), D(0))
    later = fold_lots(made, until=at + timedelta(microseconds=1))
    assert (later.open, later.closed[0].fees) == ((), D(1))


def test_reversed_execution_and_its_reversal_leave_no_lot_and_the_others_alone() -> None:
    made = book(
        move(0, "10", "20.00"),
        move(1, "5", "21.00"),
        move(2, "-5", "21.00", reverses="f1"),
        move(3, "-4", "22.00"),
    )
    lots = fold_lots(made)
    assert [(lot.opened_by, lot.quantity) for lot in lots.open] == [("f0", D(6))]
    assert [(lot.opened_by, lot.gross) for lot in lots.closed] == [("f0", D(8))]


def test_move_of_nothing_and_change_of_owner_do_not_hide_what_comes_after() -> None:
    made = book(
        move(0, "10", "20.00"),
        move(1, "0", "20.00"),
        move(2, "-10", None, kind="adopted"),
        move(3, "-10", "21.00"),
    )
    lots = fold_lots(made)
    assert [(lot.closed_by, lot.gross) for lot in lots.closed] == [("f3", D(10))]
    assert lots.open == ()


# --- splits -----------------------------------------------------------------------------------


def test_two_splits_are_both_told_and_the_later_sale_earns_on_the_new_price() -> None:
    made = book(
        move(0, "10", "40.00", fee="0.40"),
        move(1, "10", None, kind="split"),
        move(2, "20", None, kind="split"),
        move(3, "-10", "12.00"),
    )
    lots = fold_lots(made)
    (piece,) = lots.closed
    assert (piece.quantity, piece.open_price, piece.gross, piece.fees) == (
        D(10),
        D(10),
        D(20),
        D("0.10"),
    )
    assert piece.text == "split 10 to 20 (f1) split 20 to 40 (f2)"
    (rest,) = lots.open
    assert (rest.quantity, rest.price, rest.cost, rest.fees) == (D(30), D(10), D(300), D("0.30"))


@pytest.mark.parametrize("held", ["10", "-10"])
def test_split_that_leaves_nothing_closes_the_lot_without_a_known_result(held: str) -> None:
    gone = str(-D(held))
    lots = fold_lots(book(move(0, held, "40.00"), move(1, gone, None, kind="split")))
    assert lots.open == ()
    assert [(lot.quantity, lot.gross) for lot in lots.closed] == [(D(10), None)]


def test_shares_of_a_split_without_a_position_are_a_lot_without_a_price() -> None:
    (lot,) = fold_lots(book(move(0, "3", None, kind="split"))).open
    assert (lot.quantity, lot.cost, lot.text) == (D(3), None, "split")


# --- fees -------------------------------------------------------------------------------------


def test_pieces_of_a_fee_are_rounded_down_and_the_last_takes_the_rest() -> None:
    made = book(
        move(0, "3", "10.00", fee="1.00"),
        move(1, "-1", "11.00"),
        move(2, "-1", "11.00"),
        move(3, "-1", "11.00"),
    )
    shares = [lot.fees for lot in fold_lots(made).closed]
    assert shares == [D("0.33333333"), D("0.33333333"), D("0.33333334")]


def test_fee_row_of_an_order_is_shared_by_quantity_and_the_last_takes_the_rest() -> None:
    made = book(
        move(0, "1", "10", order_id="o"),
        move(1, "2", "10", order_id="o", fee="0.05"),
        move(2, "4", "10", order_id="another"),
        charges=[charge(9, "1.00", order_id="o"), charge(9, "0.30", order_id="o")],
    )
    fees = {lot.opened_by: lot.fees for lot in fold_lots(made).open}
    assert fees == {
        "f0": D("0.33333333") + D("0.10"),
        "f1": D("0.05") + D("0.66666667") + D("0.20"),
        "f2": D(0),
    }


def test_fee_row_of_an_execution_is_charged_to_it_and_to_no_other_of_its_order() -> None:
    made = book(
        move(0, "1", "10", order_id="o", fee="0.02"),
        move(1, "1", "10", order_id="o"),
        charges=[
            charge(2, "0.50", move_key="f0", order_id="o"),
            charge(3, "0.40", order_id="o"),
            charge(4, "9.00", order_id="of nobody"),
            charge(5, "9.00"),
        ],
    )
    fees = {lot.opened_by: lot.fees for lot in fold_lots(made).open}
    assert fees == {"f0": D("0.72"), "f1": D("0.20")}


def test_executions_without_an_order_share_no_fee_row() -> None:
    made = book(move(0, "1", "10", order_id=""), charges=[charge(1, "0.50")])
    assert [lot.fees for lot in fold_lots(made).open] == [0]
