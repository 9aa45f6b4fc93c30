"""The limits of one account: configuration without defaults, refused when it contradicts itself.

A limit that is missing is a start-up error, never a guess (faults.md §3 rows 21, 48, 49). The
sample numbers of the README are examples in a file, not defaults in this code.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from domain.base import Frozen
from domain.errors import NO_DEFAULT, BadInput, allowed_by, nearest_name
from domain.money import Amount, Number

COLLAR_FRACTION_MAX = Decimal("0.5")
RESTRICTED_LIST_AGE_S_MAX = 86_400


class RestrictedList(Frozen):
    """Symbols that may not be entered, and the wall instant for which the list is right.

    Older than a day it is no list any more and entries fail closed (faults.md control 9).
    """

    symbols: tuple[str, ...] = ()
    as_of: AwareDatetime


def _limit(meaning: str, example: str) -> Any:
    """A required number; what it means and an example are told by `init` and the schema."""
    return Field(description=meaning, examples=[example])


class Limits(Frozen):
    """Pre-trade limits of one account. Every number is required; fractions are of 1 (0.02 = 2 %).

    Notionals are account currency, ages and cut-offs wall or market seconds as named in the
    gate: quote ages are wall time, the blocked minutes and the expiry cut-off are market time.

    Raises (as validation errors): `CONFIG_COLLAR_RANGE` for a collar outside (0, 0.5],
    `CONFIG_RANGE` for a number outside its own range, `CONFIG_CONTRADICTION` where two limits
    cannot both be meant (faults.md §3 rows 21 and 49).
    """

    max_order_notional: Amount = _limit("per order, at its worst price, account currency", "1000")
    max_order_quantity: Number = _limit("shares or contracts per order", "20000")
    max_total_notional: Amount = _limit("all open positions and working entries together", "5000")
    collar_fraction: Number = _limit("distance of a price from the market, 0 < x <= 0.5", "0.02")
    max_open_positions: int = _limit("open positions at the same time", "5")
    max_symbol_fraction: Number = _limit("of equity, per symbol", "0.10")
    max_daily_loss_fraction: Number = _limit(
        "of equity at the daily roll, unrealised included", "0.05"
    )
    max_messages_per_minute: int = _limit(
        "new, replace and cancel together; exits have their own lane", "60"
    )
    repeat_entries_max: int = _limit(
        "entries of one strategy within repeat_window_s; one more stops it until a person resets",
        "20",
    )
    repeat_window_s: Number = _limit("... counted over this time, market seconds", "3600")
    duplicate_window_s: Number = _limit(
        "the same entry of a strategy again is suspected a duplicate, market seconds; 0: never",
        "30",
    )
    quote_max_age_s: Number = _limit("an older quote is no price, wall seconds", "5")
    option_quote_max_age_s: Number = _limit("the same for options", "300")
    account_max_age_s: Number = _limit("older account data blocks entries, wall seconds", "60")
    batch_max_age_s: Number = _limit("quotes of a batch scan may be this old, wall seconds", "1800")
    batch_fresh_fraction_min: Number = _limit(
        "... if at least this share of its symbols is fresh", "0.9"
    )
    entry_blocked_first_s: Number = _limit("no entries so long after the open, market seconds", "0")
    entry_blocked_last_s: Number = _limit(
        "no entries so long before the close, market seconds", "1800"
    )
    exit_time_min_s: Number = _limit(
        "an entry must leave this much time to get out, market seconds", "60"
    )
    expiry_days_min: int = _limit("options: days to expiry, at least", "1")
    expiry_cutoff_s: Number = _limit(
        "options: no entry so close to the expiry, market seconds", "3600"
    )
    options_level_min: int = _limit("the broker's permission level for combos", "3")
    allow_short: bool = _limit("true: entries may sell short", "false")

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if not 0 < self.collar_fraction <= COLLAR_FRACTION_MAX:
            raise PydanticCustomError(
                "CONFIG_COLLAR_RANGE", "0 < {name} <= 0.5", {"name": "collar_fraction"}
            )
        for name in _ABOVE_ZERO:
            if getattr(self, name) <= 0:
                raise PydanticCustomError("CONFIG_RANGE", "{name} > 0", {"name": name})
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise PydanticCustomError("CONFIG_RANGE", "{name} >= 0", {"name": name})
        for name in _FRACTIONS:
            if not 0 < getattr(self, name) <= 1:
                raise PydanticCustomError("CONFIG_RANGE", "0 < {name} <= 1", {"name": name})
        return self

    @model_validator(mode="after")
    def _check_contradictions(self) -> Self:
        if self.max_order_notional > self.max_total_notional:
            raise PydanticCustomError(
                "CONFIG_CONTRADICTION",
                "{name} <= max_total_notional",
                {"name": "max_order_notional"},
            )
        if self.quote_max_age_s > self.batch_max_age_s:
            raise PydanticCustomError(
                "CONFIG_CONTRADICTION", "{name} <= batch_max_age_s", {"name": "quote_max_age_s"}
            )
        if self.option_quote_max_age_s > self.batch_max_age_s:
            raise PydanticCustomError(
                "CONFIG_CONTRADICTION",
                "{name} <= batch_max_age_s",
                {"name": "option_quote_max_age_s"},
            )
        return self


_ABOVE_ZERO = (
    "max_order_notional",
    "max_order_quantity",
    "max_total_notional",
    "max_open_positions",
    "max_messages_per_minute",
    "repeat_entries_max",
    "repeat_window_s",
    "quote_max_age_s",
    "option_quote_max_age_s",
    "account_max_age_s",
    "batch_max_age_s",
)
_NOT_NEGATIVE = (
    "duplicate_window_s",
    "entry_blocked_first_s",
    "entry_blocked_last_s",
    "exit_time_min_s",
    "expiry_days_min",
    "expiry_cutoff_s",
    "options_level_min",
)
_FRACTIONS = ("max_symbol_fraction", "max_daily_loss_fraction", "batch_fresh_fraction_min")


def read_limits(values: Mapping[str, Any], where: str = "limits") -> Limits:
    """Limits from configuration values; strict about names.

    Raises:
        BadInput: `CONFIG_MISSING`, `CONFIG_UNKNOWN_KEY` (with the nearest name),
            `CONFIG_TYPE`, or the code of the validator (faults.md §3 rows 21, 48, 49).
    """
    known = tuple(Limits.model_fields)
    for key in values:
        if key not in known:
            raise BadInput("CONFIG_UNKNOWN_KEY", f"{where}.{key}", key, nearest_name(key, known))
    for name in known:
        if name not in values or values[name] is None or values[name] == "":
            raise BadInput("CONFIG_MISSING", f"{where}.{name}", "", NO_DEFAULT)
    try:
        return Limits.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        code = first["type"] if first["type"].isupper() else "CONFIG_TYPE"
        # Our own checks are of the whole table: they name the limit that they are about.
        name = first.get("ctx", {}).get("name", "")
        loc = first["loc"] or ((name,) if name else ())
        path = ".".join((where, *(str(part) for part in loc)))
        value = first["input"] if first["loc"] else values.get(name, "")
        raise BadInput(code, path, value, allowed_by(first["type"], first["msg"])) from None
