"""Number types: no float, no NaN, exact steps (faults.md §3 rows 1-9)."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from domain.money import (
    CTX,
    Amount,
    Money,
    Price,
    Quantity,
    amount_up,
    as_amount,
    divide,
    exact,
    multiply,
    round_down_to_step,
    round_to_cent,
    round_up_to_step,
)

PRICE: TypeAdapter[Decimal] = TypeAdapter(Price)
QUANTITY: TypeAdapter[Decimal] = TypeAdapter(Quantity)
AMOUNT: TypeAdapter[Decimal] = TypeAdapter(Amount)


def code_of(adapter: TypeAdapter[Decimal], value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(value)
    return caught.value.errors()[0]["type"]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("NaN", "NOT_FINITE"),
        ("-Infinity", "NOT_FINITE"),
        (Decimal("NaN"), "NOT_FINITE"),
        (Decimal("Infinity"), "NOT_FINITE"),
        (float("nan"), "NOT_FINITE"),
        (0.1, "PRICE_PRECISION"),
        (1.0, "PRICE_PRECISION"),
        ("1e16", "NUMBER_OUT_OF_RANGE"),
        (10**16, "NUMBER_OUT_OF_RANGE"),
        ("1e-13", "NUMBER_OUT_OF_RANGE"),
        ("1.0000000000001", "NUMBER_OUT_OF_RANGE"),
        (True, "NUMBER_TYPE"),
        (None, "NUMBER_TYPE"),
        ("1,5", "NUMBER_TYPE"),
        (" 1", "NUMBER_TYPE"),
        ("１", "NUMBER_TYPE"),
        ("0", "PRICE_NOT_POSITIVE"),
        ("-0.01", "PRICE_NOT_POSITIVE"),
    ],
)
def test_what_is_no_price(value: object, code: str) -> None:
    assert code_of(PRICE, value) == code


@pytest.mark.parametrize(
    ("value", "number"),
    [("187.21", "187.21"), (5, "5"), ("1e2", "100"), (10**15, "1e15"), ("0.000000000001", "1e-12")],
)
def test_exact_numbers_pass(value: object, number: str) -> None:
    assert PRICE.validate_python(value) == Decimal(number)


def test_quantities_may_be_zero_and_never_negative() -> None:
    assert QUANTITY.validate_python("0") == 0
    assert code_of(QUANTITY, "-1") == "QTY_NOT_POSITIVE"


def test_negative_zero_becomes_zero() -> None:
    assert str(AMOUNT.validate_python("-0.00")) == "0"


def test_trailing_zeros_do_not_count_as_precision() -> None:
    assert exact("1.50000000000000000000") == Decimal("1.5")


def test_only_equal_currencies_add() -> None:
    dollars = Money(amount=Decimal(1), currency="USD")
    assert (dollars + dollars - dollars).amount == 1
    with pytest.raises(ValueError, match="currencies were"):
        dollars + Money(amount=Decimal(1), currency="EUR")


def test_money_survives_its_json_as_text() -> None:
    money = Money(amount=Decimal("0.10"), currency="USD")
    assert '"0.10"' in money.model_dump_json()
    assert Money.model_validate_json(money.model_dump_json()) == money


@pytest.mark.parametrize(
    ("number", "step", "down", "up"),
    [
        ("10.07", "0.05", "10.05", "10.10"),
        ("10.05", "0.05", "10.05", "10.05"),
        ("-1.07", "0.05", "-1.10", "-1.05"),
        ("0", "0.25", "0", "0"),
    ],
)
def test_steps_go_where_their_name_says(number: str, step: str, down: str, up: str) -> None:
    assert round_down_to_step(Decimal(number), Decimal(step)) == Decimal(down)
    assert round_up_to_step(Decimal(number), Decimal(step)) == Decimal(up)


def test_a_step_of_zero_is_an_error() -> None:
    with pytest.raises(ValueError, match="step was"):
        round_down_to_step(Decimal(1), Decimal(0))


@pytest.mark.parametrize(
    ("amount", "cents"), [("0.125", "0.12"), ("0.135", "0.14"), ("-0.125", "-0.12")]
)
def test_cents_round_half_even(amount: str, cents: str) -> None:
    assert round_to_cent(Decimal(amount)) == Decimal(cents)


def test_reservations_round_up_only_where_they_must() -> None:
    assert amount_up(Decimal("1.123456781")) == Decimal("1.12345679")
    assert amount_up(Decimal("1.12345678")) == Decimal("1.12345678")
    assert amount_up(Decimal(5)) == 5


def test_arithmetic_does_not_depend_on_the_threads_context() -> None:
    with localcontext() as context:
        context.prec = 3
        assert divide(Decimal(1), Decimal(3)) == CTX.divide(Decimal(1), Decimal(3))
        assert multiply(Decimal("1.2345"), Decimal("1.2345")) == Decimal("1.52399025")


numbers = st.decimals(min_value=-(10**9), max_value=10**9, places=6)
steps = st.sampled_from([Decimal(step) for step in ("0.0001", "0.01", "0.05", "0.25", "1", "100")])


@given(numbers, steps)
def test_rounding_brackets_the_number_by_less_than_a_step(number: Decimal, step: Decimal) -> None:
    low, high = round_down_to_step(number, step), round_up_to_step(number, step)
    assert low <= number <= high
    assert number - low < step
    assert high - number < step
    assert low % step == high % step == 0


@given(numbers)
def test_exact_is_the_identity_on_text(number: Decimal) -> None:
    assert exact(str(number)) == number


def test_computed_amount_fits_into_an_amount_and_loses_nothing_that_counts() -> None:
    computed = Decimal("-7.590000000000000000000000001")
    assert as_amount(computed) == Decimal("-7.59")
    assert exact(as_amount(computed)) == Decimal("-7.59")
    assert as_amount(Decimal("0.000000000001")) == Decimal("0.000000000001")
