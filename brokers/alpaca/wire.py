"""Alpaca's JSON objects as they arrive: strict where it counts, tolerant of all else.

Identity and quantities are strict, because a wrong one books money to the wrong place. Words,
prices and times are loose: what cannot be read becomes None or "", and the mapping decides.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from brokers.errors import BROKER_BAD_BODY, BROKER_ID_TYPE, safe_text
from domain.errors import Uncertain
from domain.money import exact

_ID = re.compile(r"[!-~]{1,128}")
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
            value = Decimal(value) if re.fullmatch(r"-?[0-9]+\.[0-9]+", value) else value
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
    try:
        moment = _TIME.validate_python(value)
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


class WireOrder(Wire):
    id: VenueId
    client_order_id: LooseId = None
    symbol: LooseText = ""
    side: LooseText = ""
    type: LooseText = ""
    order_type: LooseText = ""
    order_class: LooseText = ""
    time_in_force: LooseText = ""
    status: LooseText = ""
    qty: OptionalNumber = None
    filled_qty: OptionalNumber = None
    filled_avg_price: LooseNumber = None
    limit_price: LooseNumber = None
    stop_price: LooseNumber = None
    replaces: LooseId = None
    replaced_by: LooseId = None
    created_at: LooseTime = None
    submitted_at: LooseTime = None
    updated_at: LooseTime = None
    reject_reason: LooseText = ""
    legs: tuple[WireOrder, ...] | None = None


class WireFill(Wire):
    id: VenueId
    order_id: VenueId
    symbol: VenueId
    side: LooseText
    price: StrictNumber
    qty: StrictNumber
    cum_qty: StrictNumber
    transaction_time: LooseTime = None
    execution_id: LooseId = None


class WireFee(Wire):
    id: VenueId
    net_amount: StrictNumber
    symbol: LooseText = ""
    order_id: LooseId = None
    description: LooseText = ""
    date: LooseDate = None
    transaction_time: LooseTime = None
    created_at: LooseTime = None
    currency: LooseText = ""

    @property
    def moment(self) -> datetime | None:
        """When it was booked; a plain date counts as its first UTC instant."""
        if self.transaction_time is not None:
            return self.transaction_time
        if self.date is not None:
            return datetime.combine(self.date, time(), UTC)
        return self.created_at


class WireTradeUpdate(Wire):
    event: LooseText
    order: WireOrder
    execution_id: LooseId = None
    price: LooseNumber = None
    qty: LooseNumber = None
    position_qty: LooseNumber = None
    timestamp: LooseTime = None


class WirePosition(Wire):
    symbol: VenueId
    qty: StrictNumber
    side: LooseText = ""
    avg_entry_price: LooseNumber = None
    qty_available: LooseNumber = None


class WireAccount(Wire):
    currency: LooseText = ""
    equity: LooseNumber = None
    last_equity: LooseNumber = None
    cash: LooseNumber = None
    buying_power: LooseNumber = None
    options_buying_power: LooseNumber = None
    options_trading_level: LooseNumber = None
    shorting_enabled: LooseBool = None
    trading_blocked: LooseBool = None
    account_blocked: LooseBool = None
    trade_suspended_by_user: LooseBool = None
    multiplier: LooseNumber = None
    status: LooseText = ""
    pattern_day_trader: LooseBool = None
    daytrade_count: LooseNumber = None


class WireClock(Wire):
    timestamp: LooseTime
    is_open: LooseBool
    next_open: LooseTime = None
    next_close: LooseTime = None
    halted_symbols: TextList = ()


class WireAsset(Wire):
    symbol: VenueId
    asset_class: LooseText = ""
    tradable: LooseBool = None
    status: LooseText = ""
    shortable: LooseBool = None
    easy_to_borrow: LooseBool = None
    marginable: LooseBool = None
    fractionable: LooseBool = None
    price_increment: LooseNumber = None
    min_trade_increment: LooseNumber = None
    min_order_size: LooseNumber = None
    multiplier: LooseNumber = None
    size: LooseNumber = None
    calendar: LooseText = ""


class WireQuote(Wire):
    t: LooseTime
    ap: LooseNumber = None
    bp: LooseNumber = None
    bs: LooseNumber = None
    # `as` is a Python word; the mapping renames it before validation.
    ask_size: LooseNumber = None


class WireTrade(Wire):
    S: VenueId
    t: LooseTime
    p: LooseNumber = None
    s: LooseNumber = None


class WireStatus(Wire):
    S: VenueId
    t: LooseTime
    sc: LooseText = ""
    sm: LooseText = ""
    rc: LooseText = ""
    rm: LooseText = ""


class WireCancelled(Wire):
    id: VenueId
    status: int


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
