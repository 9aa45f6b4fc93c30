"""What the wires of all venues share: field types, reading an object, plain decimal text.

Identity and quantities are strict, because a wrong one books money to the wrong place. Words,
prices and times are loose: what cannot be read becomes None or "", and the mapping decides.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from brokers.errors import BROKER_BAD_BODY, BROKER_ID_TYPE, safe_text
from domain.errors import BadInput, Uncertain
from domain.money import exact

_ID = re.compile(r"[!-~]{1,128}")
_FRACTION = re.compile(r"-?[0-9]+\.[0-9]+")
_PLACES = Decimal("1e-12")
_WIDE = Context(prec=60)
_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)


def _venue_id(value: object) -> str:
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise PydanticCustomError(BROKER_ID_TYPE, "an id was not 1-128 printable ASCII characters")
    return value


def venue_number(value: object) -> Decimal:
    """An exact number of the venue, rounded to the 12 decimals that the domain carries.

    Averages come with more digits than a price can have; that is not an error of the venue.
    """
    if isinstance(value, str) and len(value) <= 60:
        try:
            value = Decimal(value) if _FRACTION.fullmatch(value) else value
        except ArithmeticError:  # pragma: no cover - the pattern excludes it
            return exact(value)
    if isinstance(value, Decimal) and value.is_finite():
        exponent = value.as_tuple().exponent
        if isinstance(exponent, int) and -40 <= exponent < -12:
            value = value.quantize(_PLACES, rounding=ROUND_HALF_EVEN, context=_WIDE)
    return exact(value)


def _optional_number(value: object) -> Decimal | None:
    return None if value is None or value == "" else venue_number(value)


def _loose_number(value: object) -> Decimal | None:
    try:
        return _optional_number(value)
    except (PydanticCustomError, ArithmeticError):
        return None


def _loose_text(value: object) -> str:
    return safe_text(value) if isinstance(value, str) else ""


def _loose_id(value: object) -> str | None:
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _loose_time(value: object) -> datetime | None:
    if not isinstance(value, str) or len(value) > 40:
        return None
    return _time_of(value)


@lru_cache(maxsize=4096)
def _time_of(text: str) -> datetime | None:
    """Most times are read many times: an order is listed again and again."""
    try:
        moment = _TIME.validate_python(text)
    except ValidationError:
        return None
    if moment.tzinfo is None:
        return None
    return moment.astimezone(UTC)


def _loose_date(value: object) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _loose_bool(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _text_list(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(item for item in value if isinstance(item, str))


VenueId = Annotated[str, BeforeValidator(_venue_id)]
OptionalNumber = Annotated[Decimal | None, BeforeValidator(_optional_number)]
StrictNumber = Annotated[Decimal, BeforeValidator(venue_number)]
LooseNumber = Annotated[Decimal | None, BeforeValidator(_loose_number)]
LooseText = Annotated[str, BeforeValidator(_loose_text)]
LooseId = Annotated[str | None, BeforeValidator(_loose_id)]
LooseTime = Annotated[datetime | None, BeforeValidator(_loose_time)]
LooseDate = Annotated[date | None, BeforeValidator(_loose_date)]
LooseBool = Annotated[bool | None, BeforeValidator(_loose_bool)]
TextList = Annotated[tuple[str, ...], BeforeValidator(_text_list)]


class Wire(BaseModel):
    """Base of the wire objects: immutable, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


W = TypeVar("W", bound=Wire)


def read_wire(kind: type[W], raw: object) -> W:
    """The wire object in `raw`.

    Raises:
        Uncertain: `BROKER_ID_TYPE` for a missing or odd id (faults.md §3 row 59), otherwise
            `BROKER_BAD_BODY`; the text names the field.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        is_id = first["type"] == BROKER_ID_TYPE or (
            first["type"] == "missing" and field.split(".")[-1] in ("id", "order_id")
        )
        code = BROKER_ID_TYPE if is_id else BROKER_BAD_BODY
        raise Uncertain(f"{kind.__name__} {field}: {first['msg']}", code=code) from None


def positive(number: Decimal | None) -> Decimal | None:
    """The number if it is one above zero: no price is not a price of zero (row 32)."""
    return number if number is not None and number > 0 else None


def not_negative(number: Decimal | None) -> Decimal | None:
    return number if number is not None and number >= 0 else None


def decimal_text(number: Decimal) -> str:
    """Plain decimal text without exponent, as the wire wants it."""
    return format(number, "f")


def required(number: Decimal | None, field: str) -> Decimal:
    """The number, or a refusal of the body before anything is sent.

    Raises:
        BadInput: `ORDER_BODY_INVALID`.
    """
    if number is None:
        raise BadInput("ORDER_BODY_INVALID", field, number, "a price for this order type")
    return number
