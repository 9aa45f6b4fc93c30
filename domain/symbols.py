"""Symbols and instruments as they may come from outside (rows 11-14, 28-31)."""

from __future__ import annotations

import re
from datetime import date

from domain.errors import BadInput
from domain.instrument import Instrument, InstrumentKind
from domain.occ import OPTION_MULTIPLIER, OccSymbol, parse_occ

SYMBOL_MAX = 32
_SYMBOL = re.compile(r"[A-Z][A-Z0-9]{0,20}([./-][A-Z0-9]{1,10})?")
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


def _occ(symbol: str, field: str) -> OccSymbol:
    try:
        return parse_occ(symbol)
    except BadInput as error:
        raise BadInput(error.code, field, symbol, error.allowed) from None


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
        raise BadInput(
            "OPTION_EXPIRED", f"{field}.expiry", instrument.expiry.isoformat(), f">= {session_date}"
        )


def _check_option(
    option: Instrument, session_date: date, field: str, expires_today_allowed: bool
) -> None:
    name = _occ(option.symbol, f"{field}.symbol")
    if option.multiplier != OPTION_MULTIPLIER:
        raise BadInput("OPTION_NONSTANDARD", f"{field}.multiplier", option.multiplier, "100")
    said = (option.expiry, option.strike, option.right)
    if None in said or option.underlying is None:
        raise BadInput("OCC_FORMAT", field, option.symbol, "expiry, strike, right, underlying")
    if said != (name.expiry, name.strike, name.right):
        raise BadInput("OCC_FORMAT", field, option.symbol, "symbol and fields must agree")
    if name.expiry < session_date:
        raise BadInput(
            "OPTION_EXPIRED", f"{field}.expiry", name.expiry.isoformat(), f">= {session_date}"
        )
    if name.expiry.weekday() >= _SATURDAY:
        raise BadInput("OPTION_EXPIRED", f"{field}.expiry", name.expiry.isoformat(), "a weekday")
    if name.expiry == session_date and not expires_today_allowed:
        allowed = f"after {session_date}"
        raise BadInput("OPTION_TOO_CLOSE", f"{field}.expiry", name.expiry.isoformat(), allowed)
