"""Tradier's JSON objects as they arrive, with the marks that XML has left on them.

An empty list is the text "null", a list of one is the bare object, a missing value may be the
text "null" (brokers/tradier.md §1). Field types are those of `brokers.wire`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from brokers.errors import BROKER_BAD_BODY, BROKER_ID_TYPE
from brokers.wire import (
    LooseId,
    LooseNumber,
    LooseText,
    LooseTime,
    OptionalNumber,
    StrictNumber,
    VenueId,
    Wire,
)
from domain.errors import Uncertain

NULL = "null"
_DIGITS = re.compile(r"[0-9]{1,32}")
_EPOCH_MS_MAX = 10**14


def rows(body: object, outer: str, inner: str) -> tuple[object, ...]:
    """The rows of `{outer: {inner: …}}`: none, one bare object or a list.

    Raises:
        Uncertain: the body was something else; a list that cannot be read is not an empty one.
    """
    held = body.get(outer, ()) if isinstance(body, dict) else ()
    if held is None or held == NULL:
        return ()
    found = held.get(inner, ()) if isinstance(held, dict) else ()
    if isinstance(found, list):
        return tuple(found)
    if isinstance(found, dict):
        return (found,)
    raise Uncertain(f"the body had no {outer}", code=BROKER_BAD_BODY)


def cleaned(row: object) -> object:
    """The object without its "null" texts; `class` is called `order_class` from here on."""
    if not isinstance(row, dict):
        return row
    fields: dict[str, Any] = {name: None if value == NULL else value for name, value in row.items()}
    fields["order_class"] = fields.get("class")
    return fields


def _order_id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return str(value)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return value
    raise PydanticCustomError(BROKER_ID_TYPE, "an order id was not a whole number")


def _optional_order_id(value: object) -> str | None:
    return None if value in (None, "", 0) else _order_id(value)


def _epoch(value: object) -> datetime | None:
    """An instant in milliseconds (or seconds) since 1970, as number or text."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _EPOCH_MS_MAX:
        return None
    milliseconds = value if value >= 10**11 else value * 1000
    whole, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=rest * 1000)


def _legs(value: object) -> object:
    found = [value] if isinstance(value, dict) else value
    return tuple(cleaned(leg) for leg in found) if isinstance(found, list) else ()


OrderId = Annotated[str, BeforeValidator(_order_id)]
OptionalOrderId = Annotated[str | None, BeforeValidator(_optional_order_id)]
EpochTime = Annotated[datetime | None, BeforeValidator(_epoch)]


class WireOrder(Wire):
    id: OrderId
    tag: LooseId = None
    type: LooseText = ""
    symbol: LooseText = ""
    option_symbol: LooseText = ""
    side: LooseText = ""
    quantity: OptionalNumber = None
    status: LooseText = ""
    duration: LooseText = ""
    order_class: LooseText = ""
    price: LooseNumber = None
    stop_price: LooseNumber = None
    avg_fill_price: LooseNumber = None
    exec_quantity: OptionalNumber = None
    reason_description: LooseText = ""
    create_date: LooseTime = None
    transaction_date: LooseTime = None
    leg: Annotated[tuple[WireOrder, ...], BeforeValidator(_legs)] = ()


class WireEvent(Wire):
    """A frame of the order stream: it names the order, but neither symbol nor side."""

    event: LooseText = ""
    id: OrderId
    parent_id: OptionalOrderId = None
    account: LooseText = ""
    status: LooseText = ""


class WirePosition(Wire):
    symbol: VenueId
    quantity: StrictNumber
    cost_basis: LooseNumber = None


class WireBuyingPower(Wire):
    stock_buying_power: LooseNumber = None
    option_buying_power: LooseNumber = None
    cash_available: LooseNumber = None


class WireBalances(Wire):
    account_type: LooseText = ""
    total_equity: LooseNumber = None
    total_cash: LooseNumber = None
    margin: WireBuyingPower | None = None
    pdt: WireBuyingPower | None = None
    cash: WireBuyingPower | None = None


class WireProfileAccount(Wire):
    account_number: LooseText = ""
    status: LooseText = ""
    option_level: LooseNumber = None
    day_trader: bool | None = None


class WireClock(Wire):
    state: LooseText = ""
    timestamp: EpochTime = None


class WireQuote(Wire):
    symbol: VenueId
    type: LooseText = ""
    bid: LooseNumber = None
    ask: LooseNumber = None
    last: LooseNumber = None
    bidsize: LooseNumber = None
    asksize: LooseNumber = None
    bid_date: EpochTime = None
    ask_date: EpochTime = None
    contract_size: LooseNumber = None
