"""Symbols and option contract names as they may come from outside (rows 11-14, 28-31)."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal

from domain.base import Frozen
from domain.errors import BadInput
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.money import Price

SYMBOL_MAX = 32
_SYMBOL = re.compile(r"[A-Z][A-Z0-9]{0,20}([./-][A-Z0-9]{1,10})?")
_OCC = re.compile(r"([A-Z]{1,6})([0-9]?)\s{0,5}([0-9]{6})([CP])([0-9]{8})")
_STANDARD_MULTIPLIER = Decimal(100)
_SATURDAY = 5


def check_symbol(symbol: object, field: str = "symbol") -> str:
    """The symbol, or `SYMBOL_NON_ASCII` with the code point, or `SYMBOL_FORMAT`.

    What passes is inert in SQL, paths, templates and CSV.
    """
    if not isinstance(symbol, str):
        raise BadInput("SYMBOL_FORMAT", field, symbol, "text")
    for character in symbol[:SYMBOL_MAX]:
        if not " " <= character <= "~":
            raise BadInput("SYMBOL_NON_ASCII", field, f"U+{ord(character):04X} in {symbol}", "A-Z")
    if len(symbol) > SYMBOL_MAX or _SYMBOL.fullmatch(symbol) is None:
        raise BadInput("SYMBOL_FORMAT", field, symbol, "[A-Z][A-Z0-9] with one . / - part")
    return symbol


class OptionName(Frozen):
    """What an OCC symbol says."""

    root: str
    expiry: date
    right: OptionRight
    strike: Price


def read_occ(symbol: str, field: str = "symbol") -> OptionName:
    """Parts of an OCC option symbol, compact or padded to 21 characters.

    Raises:
        BadInput: `OCC_FORMAT`; `OPTION_NONSTANDARD` for an adjusted root such as ABCD1.
    """
    match = _OCC.fullmatch(symbol)
    if match is None:
        raise BadInput("OCC_FORMAT", field, symbol, "ROOT + YYMMDD + C|P + 8 digits")
    root, adjusted, day, right, strike = match.groups()
    if adjusted:
        raise BadInput("OPTION_NONSTANDARD", field, symbol, "no adjusted contracts")
    try:
        expiry = date(2000 + int(day[:2]), int(day[2:4]), int(day[4:]))
    except ValueError:
        raise BadInput("OCC_FORMAT", field, symbol, "a real date") from None
    price = Decimal(strike).scaleb(-3)
    if price <= 0:
        raise BadInput("OCC_FORMAT", field, symbol, "strike above zero")
    kind = OptionRight.CALL if right == "C" else OptionRight.PUT
    return OptionName(root=root, expiry=expiry, right=kind, strike=price)


def check_instrument(
    instrument: Instrument, session_date: date, field: str, *, expires_today_allowed: bool = True
) -> None:
    """Symbol, multiplier and expiry of one instrument.

    Raises:
        BadInput: `SYMBOL_*`, `OCC_FORMAT`, `OPTION_NONSTANDARD`, `OPTION_EXPIRED`,
            `OPTION_TOO_CLOSE`.
    """
    check_symbol(instrument.symbol, f"{field}.symbol")
    if instrument.underlying is not None:
        check_symbol(instrument.underlying, f"{field}.underlying")
    if instrument.multiplier <= 0:
        raise BadInput("OPTION_NONSTANDARD", f"{field}.multiplier", instrument.multiplier, "> 0")
    if instrument.kind is InstrumentKind.OPTION:
        _check_option(instrument, session_date, field, expires_today_allowed)
    elif instrument.expiry is not None and instrument.expiry < session_date:
        raise BadInput("OPTION_EXPIRED", f"{field}.expiry", instrument.expiry.isoformat())


def _check_option(
    option: Instrument, session_date: date, field: str, expires_today_allowed: bool
) -> None:
    name = read_occ(option.symbol, f"{field}.symbol")
    if option.multiplier != _STANDARD_MULTIPLIER:
        raise BadInput("OPTION_NONSTANDARD", f"{field}.multiplier", option.multiplier, "100")
    said = (option.expiry, option.strike, option.right)
    if None in said or option.underlying is None:
        raise BadInput("OCC_FORMAT", field, option.symbol, "expiry, strike, right, underlying")
    if said != (name.expiry, name.strike, name.right):
        raise BadInput("OCC_FORMAT", field, option.symbol, "symbol and fields must agree")
    if name.expiry < session_date:
        raise BadInput("OPTION_EXPIRED", f"{field}.expiry", name.expiry.isoformat())
    if name.expiry.weekday() >= _SATURDAY:
        raise BadInput("OPTION_EXPIRED", f"{field}.expiry", name.expiry.isoformat(), "a weekday")
    if name.expiry == session_date and not expires_today_allowed:
        raise BadInput("OPTION_TOO_CLOSE", f"{field}.expiry", name.expiry.isoformat())
