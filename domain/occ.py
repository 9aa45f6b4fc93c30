"""OCC option symbols: `AAPL261218C00200000` is root, expiry, right and strike in thousandths."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal

from domain.base import Frozen
from domain.errors import BadInput
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.money import Price, Quantity

_OCC = re.compile(r"([A-Z]{1,6})([0-9]{2})([0-9]{2})([0-9]{2})([CP])([0-9]{8})")
_ADJUSTED = re.compile(r"([A-Z]{1,5}[0-9])[0-9]{6}[CP][0-9]{8}")
_LOOKS_LIKE = re.compile(r"[A-Z]{1,6} *[0-9]{5,7}[A-Z][0-9]{6,10}")
_PADDED_ROOT = 6
STRIKE_STEP = Decimal("0.001")
OPTION_MULTIPLIER = Decimal(100)
STRIKE_MAX = Decimal("99999.999")


class OccSymbol(Frozen):
    """The parts of a standard OCC symbol; `strike` has at most three decimals."""

    root: str
    expiry: date
    right: OptionRight
    strike: Price

    @property
    def text(self) -> str:
        """The symbol without padding, as Alpaca and Tradier write it."""
        thousandths = int(self.strike / STRIKE_STEP)
        letter = "C" if self.right is OptionRight.CALL else "P"
        return f"{self.root}{self.expiry:%y%m%d}{letter}{thousandths:08d}"


def looks_like_option(symbol: str) -> bool:
    """True for anything meant as an OCC symbol, well-formed or not."""
    return _LOOKS_LIKE.fullmatch(symbol) is not None or _ADJUSTED.fullmatch(symbol) is not None


def parse_occ(symbol: str) -> OccSymbol:
    """The parts of an OCC symbol, padded to six root characters or not.

    Raises:
        BadInput: `OCC_FORMAT` (a strike of 7 or 9 digits, a right other than C or P, a date that
            does not exist, a strike of zero; faults.md §3 row 31), `OPTION_NONSTANDARD` for an
            adjusted root such as ABCD1 (row 30).
    """
    compact = symbol
    if len(symbol) > _PADDED_ROOT and symbol[:_PADDED_ROOT].rstrip(" ").isalpha():
        compact = symbol[:_PADDED_ROOT].rstrip(" ") + symbol[_PADDED_ROOT:]
    match = _OCC.fullmatch(compact)
    if match is None:
        if _ADJUSTED.fullmatch(compact) is not None:
            raise BadInput("OPTION_NONSTANDARD", "symbol", symbol, "root of letters only")
        raise BadInput("OCC_FORMAT", "symbol", symbol, "ROOT yymmdd C|P 8-digit strike")
    root, year, month, day, letter, digits = match.groups()
    try:
        expiry = date(2000 + int(year), int(month), int(day))
    except ValueError:
        raise BadInput("OCC_FORMAT", "symbol.expiry", symbol, "an existing date") from None
    strike = Decimal(int(digits)) * STRIKE_STEP
    if strike == 0:
        raise BadInput("OCC_FORMAT", "symbol.strike", symbol, "> 0")
    right = OptionRight.CALL if letter == "C" else OptionRight.PUT
    return OccSymbol(root=root, expiry=expiry, right=right, strike=strike)


def occ_symbol(root: str, expiry: date, right: OptionRight, strike: Decimal) -> str:
    """The unpadded OCC symbol of a standard contract.

    Raises:
        BadInput: `OCC_FORMAT` for a root that is not 1-6 capital letters, a strike outside
            0.001..99999.999 or with more than three decimals, a year outside 2000..2099.
    """
    if re.fullmatch(r"[A-Z]{1,6}", root) is None:
        raise BadInput("OCC_FORMAT", "root", root, "1-6 capital letters")
    if not STRIKE_STEP <= strike <= STRIKE_MAX or strike % STRIKE_STEP:
        raise BadInput("OCC_FORMAT", "strike", strike, "0.001..99999.999 in steps of 0.001")
    if not 2000 <= expiry.year <= 2099:
        raise BadInput("OCC_FORMAT", "expiry", expiry, "2000..2099")
    return OccSymbol(root=root, expiry=expiry, right=right, strike=strike).text


def option_instrument(
    symbol: str,
    *,
    tick_size: Decimal = Decimal("0.01"),
    multiplier: Quantity = OPTION_MULTIPLIER,
    calendar: str = "XNYS",
) -> Instrument:
    """The option contract behind an OCC symbol, whole lots, multiplier 100 unless told."""
    parts = parse_occ(symbol)
    if multiplier <= 0:
        raise BadInput("OPTION_NONSTANDARD", "multiplier", multiplier, "> 0")
    return Instrument(
        symbol=parts.text,
        kind=InstrumentKind.OPTION,
        multiplier=multiplier,
        tick_size=tick_size,
        calendar=calendar,
        underlying=parts.root,
        expiry=parts.expiry,
        strike=parts.strike,
        right=parts.right,
    )
