"""Ledger against exchange journal: equal as sets, and every kind of difference is named."""

from __future__ import annotations

from decimal import Decimal

import pytest

from report.records import Book, FeeRow, FillRow, OrderRow
from report.verify import DifferenceKind, compare

ORDER = OrderRow(client_id="a1", symbol="ESX", side="buy", quantity="8", limit_price="1640.25")
STOP = OrderRow(client_id="a2", symbol="ESX", side="sell", quantity="8", stop_price="1638")
FILL = FillRow(fill_key="f1", symbol="ESX", side="buy", quantity="5", price="1640.25")
OTHER_FILL = FillRow(fill_key="f2", symbol="ESX", side="buy", quantity="3", price="1640")
FEE = FeeRow(key="fee1", amount="0.03")
BOOK = Book(
    orders=(ORDER, STOP),
    fills=(FILL, OTHER_FILL),
    fees=(FEE,),
    cash={"USD": Decimal("86878.72")},
    positions={"ESX": Decimal(8)},
)


def changed(**values: object) -> Book:
    return Book.model_validate({**BOOK.model_dump(), **values})


def test_same_rows_in_another_order_are_equal_and_counted() -> None:
    shuffled = changed(orders=(STOP, ORDER), fills=(OTHER_FILL, FILL))
    result = compare(shuffled, BOOK)

    assert result.equal
    assert result.line() == (
        "ledger equals exchange journal: 2 accepted orders, 2 fills, 1 fees, "
        "cash 86878.72 USD, 1 open positions"
    )


def test_trailing_zeros_and_flat_positions_are_no_difference() -> None:
    order = ORDER.model_copy(update={"limit_price": Decimal("1640.2500")})
    ledger = changed(
        orders=(order, STOP),
        positions={"ESX": Decimal("8.0"), "SPY": Decimal(0)},
        cash={"USD": Decimal("86878.7200")},
    )
    assert compare(ledger, BOOK).equal


@pytest.mark.parametrize(
    ("kind", "key", "planted"),
    [
        (DifferenceKind.ORDER, "a2", {"orders": (ORDER,)}),
        (
            DifferenceKind.ORDER,
            "a1",
            {"orders": (ORDER.model_copy(update={"limit_price": Decimal(1640)}), STOP)},
        ),
        (
            DifferenceKind.ORDER,
            "a1",
            {"orders": (ORDER.model_copy(update={"side": "sell"}), STOP)},
        ),
        (
            DifferenceKind.ORDER,
            "a2",
            {"orders": (ORDER, STOP.model_copy(update={"quantity": Decimal(7)}))},
        ),
        (DifferenceKind.FILL, "f2", {"fills": (FILL,)}),
        (
            DifferenceKind.FILL,
            "f1",
            {"fills": (FILL.model_copy(update={"price": Decimal("1640.26")}), OTHER_FILL)},
        ),
        (
            DifferenceKind.FILL,
            "f1",
            {"fills": (FILL.model_copy(update={"quantity": Decimal(4)}), OTHER_FILL)},
        ),
        (DifferenceKind.FEE, "fee1", {"fees": ()}),
        (DifferenceKind.FEE, "fee1", {"fees": (FeeRow(key="fee1", amount="0.04"),)}),
        (DifferenceKind.CASH, "USD", {"cash": {"USD": Decimal("86878.73")}}),
        (DifferenceKind.CASH, "USD", {"cash": {}}),
        (DifferenceKind.POSITION, "ESX", {"positions": {"ESX": Decimal(-8)}}),
        (DifferenceKind.POSITION, "ESX", {"positions": {}}),
        (DifferenceKind.DUPLICATE, "fill f1", {"fills": (FILL, FILL, OTHER_FILL)}),
        (DifferenceKind.DUPLICATE, "order a1", {"orders": (ORDER, ORDER, STOP)}),
        (DifferenceKind.DUPLICATE, "fee fee1", {"fees": (FEE, FEE)}),
    ],
)
@pytest.mark.parametrize("planted_side", ["ledger", "journal"])
def test_one_planted_difference_is_the_one_that_is_named(
    kind: DifferenceKind, key: str, planted: dict[str, object], planted_side: str
) -> None:
    wrong = changed(**planted)
    sides = (wrong, BOOK) if planted_side == "ledger" else (BOOK, wrong)
    result = compare(*sides)

    assert [(item.kind, item.key) for item in result.items] == [(kind, key)]
    assert not result.equal
    assert result.line().startswith("ledger DIFFERS from exchange journal in 1 places")
    assert key in result.items[0].line()


def test_less_than_half_a_cent_of_cash_is_equal_and_one_cent_is_not() -> None:
    assert compare(changed(cash={"USD": Decimal("86878.7249")}), BOOK).equal
    assert not compare(changed(cash={"USD": Decimal("86878.7251")}), BOOK).equal


def test_sums_that_agree_do_not_hide_swapped_rows() -> None:
    swapped = changed(
        fills=(
            FILL.model_copy(update={"quantity": Decimal(3)}),
            OTHER_FILL.model_copy(update={"quantity": Decimal(5)}),
        )
    )
    assert [item.key for item in compare(swapped, BOOK).items] == ["f1", "f2"]


def test_exit_resized_by_the_exchange_is_equal_at_any_size_that_it_had() -> None:
    """The stop of an OCO shrinks with its target; the ledger may have read it before or after."""
    resized = STOP.model_copy(update={"other_sizes": (Decimal(5), Decimal(3))})
    journal = changed(orders=(ORDER, resized))
    for size in (8, 5, 3):
        read = STOP.model_copy(update={"quantity": Decimal(size)})
        assert compare(changed(orders=(ORDER, read)), journal).equal
    never = STOP.model_copy(update={"quantity": Decimal(4)})
    assert not compare(changed(orders=(ORDER, never)), journal).equal
