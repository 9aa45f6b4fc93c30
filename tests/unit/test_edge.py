"""Strict JSON: what Python's parser would forgive is refused (faults.md §3 rows 1, 2, 40-43)."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.edge import BODY_BYTES_MAX, DEPTH_MAX, check_known_fields, read_json, read_json_object
from domain.errors import BadInput
from domain.plan import TradePlan

GOOD = b'{"symbol": "AAPL", "quantity": 5, "price": 187.21}'


def refusal(body: bytes) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_json_object(body)
    return caught.value


def test_numbers_arrive_exact() -> None:
    value = read_json_object(GOOD)
    assert value == {"symbol": "AAPL", "quantity": 5, "price": Decimal("187.21")}
    assert isinstance(value["price"], Decimal)


@pytest.mark.parametrize(
    ("body", "at_byte"),
    [
        (b"", 0),
        (b"   ", 0),
        (b"null", 0),
        (b"[]", 0),
        (b"5", 0),
        (b'{"a": 1,}', 8),
        (b"\xef\xbb\xbf{}", 0),
        ('{"a": 1}'.encode("utf-16"), 0),
        ('{"a": 1}'.encode("utf-16-le"), 1),
        (b'{"a": "\xff"}', 7),
        (b'{"a": "\x00"}', 7),
        ('{"ä": 1,}'.encode(), 9),
        (b"{'a': 1}", 1),
        (b'{"a": 01}', 7),
        (b'{"a": 1} {}', 9),
    ],
)
def test_broken_json_names_its_byte(body: bytes, at_byte: int) -> None:
    error = refusal(body)
    assert error.code == "BAD_JSON"
    assert f"byte {at_byte}:" in error.value


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"qty": 1, "qty": 100}', "DUPLICATE_KEY"),
        (b'{"a": {"b": 1, "b": 1}}', "DUPLICATE_KEY"),
        (b'{"a": NaN}', "NOT_FINITE"),
        (b'{"a": -Infinity}', "NOT_FINITE"),
        (b'{"a": ' + b"9" * 5000 + b"}", "NUMBER_OUT_OF_RANGE"),
        (b'{"a": 0.' + b"1" * 5000 + b"}", "NUMBER_OUT_OF_RANGE"),
        (b'{"a": "' + b"x" * BODY_BYTES_MAX + b'"}', "BODY_TOO_LARGE"),
        (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "TOO_DEEP"),
    ],
)
def test_hostile_json_is_refused_with_its_code(body: bytes, code: str) -> None:
    assert refusal(body).code == code


@pytest.mark.parametrize("depth", [DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1])
def test_depth_limit_at_its_boundary(depth: int) -> None:
    body = b"[" * depth + b"]" * depth
    if depth > DEPTH_MAX:
        with pytest.raises(BadInput):
            read_json(body)
        return
    assert isinstance(read_json(body), list)


def test_brackets_inside_strings_are_no_depth() -> None:
    text = "[" * 100 + '\\"' + "{" * 100
    assert read_json(f'{{"a": "{text}"}}'.encode()) == {"a": text.replace('\\"', '"')}


def test_body_size_limit_at_its_boundary() -> None:
    fitting = b'"' + b"x" * (BODY_BYTES_MAX - 2) + b'"'
    assert len(read_json(fitting)) == BODY_BYTES_MAX - 2
    with pytest.raises(BadInput):
        read_json(fitting + b" ")


def test_a_body_of_ten_megabytes_costs_no_memory() -> None:
    body = b"[" * 10_000_000
    tracemalloc.start()
    with pytest.raises(BadInput):
        read_json(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_unknown_field_names_its_path_and_the_nearest_name() -> None:
    with pytest.raises(BadInput) as caught:
        check_known_fields(TradePlan, {"walk": {"stpe": "0.01"}})
    assert (caught.value.code, caught.value.field) == ("UNKNOWN_FIELD", "walk.stpe")
    assert "step" in caught.value.allowed


@given(st.binary(max_size=200))
def test_no_bytes_ever_raise_anything_but_bad_input(body: bytes) -> None:
    code = ""
    try:
        read_json(body)
    except BadInput as error:
        code = error.code
    known = {"BAD_JSON", "DUPLICATE_KEY", "NOT_FINITE", "NUMBER_OUT_OF_RANGE", "TOO_DEEP"}
    assert code in known | {""}


numbers = st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=0, max_value=10**9)


@given(numbers)
def test_every_decimal_survives_its_json(number: Decimal) -> None:
    assert Decimal(str(read_json(f'{{"a": {number:f}}}'.encode())["a"])) == number
