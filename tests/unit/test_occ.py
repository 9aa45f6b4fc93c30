"""OCC symbols: parts, padding, and every malformed shape refused (faults.md §3 rows 28-31)."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.instrument import InstrumentKind, OptionRight
from domain.occ import looks_like_option, occ_symbol, option_instrument, parse_occ


def test_standard_symbol_gives_its_parts() -> None:
    parts = parse_occ("AAPL261218C00200000")
    assert (parts.root, parts.expiry, parts.right, parts.strike) == (
        "AAPL",
        date(2026, 12, 18),
        OptionRight.CALL,
        Decimal(200),
    )


def test_padded_symbol_reads_like_the_unpadded_one() -> None:
    assert parse_occ("F     261218P00012500") == parse_occ("F261218P00012500")
    assert parse_occ("F     261218P00012500").text == "F261218P00012500"
    assert parse_occ("SPXW  240327P04925000").root == "SPXW"


def test_strike_keeps_three_decimals() -> None:
    assert parse_occ("AAPL261218C00000001").strike == Decimal("0.001")
    assert parse_occ("AAPL261218C99999999").strike == Decimal("99999.999")


@pytest.mark.parametrize(
    ("symbol", "code"),
    [
        ("AAPL261218C0200000", "OCC_FORMAT"),
        ("AAPL261218C000200000", "OCC_FORMAT"),
        ("AAPL261218X00200000", "OCC_FORMAT"),
        ("AAPL261318C00200000", "OCC_FORMAT"),
        ("AAPL260230C00200000", "OCC_FORMAT"),
        ("AAPL261218C00000000", "OCC_FORMAT"),
        ("aapl261218C00200000", "OCC_FORMAT"),
        ("261218C00200000", "OCC_FORMAT"),
        ("TOOLONG261218C00200000", "OCC_FORMAT"),
        ("AAPL261218C0020000０", "OCC_FORMAT"),
        ("AAPL261218C00200000\n", "OCC_FORMAT"),
        ("ABCD1261218C00200000", "OPTION_NONSTANDARD"),
        ("", "OCC_FORMAT"),
        ("AAPL", "OCC_FORMAT"),
    ],
)
def test_malformed_symbol_is_refused_with_its_code(symbol: str, code: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_occ(symbol)
    assert refused.value.code == code
    assert refused.value.field.startswith("symbol")


@pytest.mark.parametrize(
    ("root", "expiry", "strike"),
    [
        ("aapl", date(2026, 12, 18), Decimal(200)),
        ("AAPL", date(1999, 12, 18), Decimal(200)),
        ("AAPL", date(2026, 12, 18), Decimal("200.0005")),
        ("AAPL", date(2026, 12, 18), Decimal(0)),
        ("AAPL", date(2026, 12, 18), Decimal(100_000)),
    ],
)
def test_impossible_contract_gets_no_symbol(root: str, expiry: date, strike: Decimal) -> None:
    with pytest.raises(BadInput) as refused:
        occ_symbol(root, expiry, OptionRight.PUT, strike)
    assert refused.value.code == "OCC_FORMAT"


@settings(max_examples=100)
@given(
    root=st.from_regex(r"[A-Z]{1,6}", fullmatch=True),
    expiry=st.dates(date(2000, 1, 1), date(2099, 12, 31)),
    right=st.sampled_from(OptionRight),
    thousandths=st.integers(1, 99_999_999),
)
def test_symbol_survives_writing_and_reading(
    root: str, expiry: date, right: OptionRight, thousandths: int
) -> None:
    strike = Decimal(thousandths) / 1000
    text = occ_symbol(root, expiry, right, strike)
    parts = parse_occ(text)
    assert looks_like_option(text)
    assert (parts.root, parts.expiry, parts.right, parts.strike, parts.text) == (
        root,
        expiry,
        right,
        strike,
        text,
    )


def test_option_instrument_carries_contract_terms() -> None:
    instrument = option_instrument("SPY261218P00600000")
    assert instrument.kind is InstrumentKind.OPTION
    assert instrument.multiplier == 100
    assert instrument.underlying == "SPY"
    assert instrument.lot_size == 1
    with pytest.raises(BadInput, match="OPTION_NONSTANDARD"):
        option_instrument("SPY261218P00600000", multiplier=Decimal(0))


@pytest.mark.parametrize("symbol", ["AAPL", "BTC/USD", "ESX", "BRK.B", ""])
def test_other_symbols_do_not_look_like_options(symbol: str) -> None:
    assert not looks_like_option(symbol)
