"""Reads Alpaca request bodies: numbers or texts, unknown fields tolerated (alpaca.md §2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from pydantic_core import PydanticCustomError

from domain.money import exact
from simulator.orders import (
    Kind,
    LegRequest,
    OrderClass,
    OrderRequest,
    ReplaceRequest,
    Side,
    TimeInForce,
)
from simulator.refusals import Reason, Refusal

Word = TypeVar("Word", bound=StrEnum)
CLASSES = {
    "": OrderClass.SIMPLE,
    "simple": OrderClass.SIMPLE,
    "bracket": OrderClass.BRACKET,
    "oco": OrderClass.OCO,
    "oto": OrderClass.OTO,
    "mleg": OrderClass.COMBO,
}


def body_of(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request, numbers read exactly."""
    try:
        body = json.loads(raw or b"{}", parse_float=Decimal)
    except ValueError:
        raise Refusal(Reason.MALFORMED, "request body format is invalid") from None
    if not isinstance(body, dict):
        raise Refusal(Reason.MALFORMED, "request body format is invalid")
    return body


def order_request(body: Mapping[str, Any]) -> OrderRequest:
    """An order as the core wants it; raises `Refusal` MALFORMED or INVALID."""
    name = body.get("order_class") or ""
    if name not in CLASSES:
        raise Refusal(Reason.INVALID, f"invalid order_class: {name}")
    order_class = CLASSES[name]
    target = _object(body, "take_profit")
    stop = _object(body, "stop_loss")
    legs = body.get("legs") or []
    is_combo = order_class is OrderClass.COMBO
    if is_combo and not isinstance(legs, list):
        raise Refusal(Reason.MALFORMED, "legs must be a list")
    limit_price = optional_number(body, "limit_price")
    target_price = optional_number(target, "limit_price")
    if order_class is OrderClass.OCO:
        target_price = target_price if target_price is not None else limit_price
        limit_price = target_price
    quantity, notional = optional_number(body, "qty"), optional_number(body, "notional")
    if (quantity is None) == (notional is None):
        raise Refusal(Reason.MALFORMED, "qty or notional is required")
    return OrderRequest(
        symbol="" if is_combo else _text(body, "symbol"),
        side=Side.BUY if is_combo else _word(Side, body, "side"),
        quantity=quantity,
        notional=notional,
        kind=_word(Kind, body, "type"),
        time_in_force=_word(TimeInForce, body, "time_in_force"),
        client_id=_optional_text(body, "client_order_id"),
        limit_price=limit_price,
        stop_price=optional_number(body, "stop_price"),
        order_class=order_class,
        take_profit_price=target_price,
        stop_loss_price=optional_number(stop, "stop_price"),
        stop_loss_limit_price=optional_number(stop, "limit_price"),
        legs=tuple(_leg(leg) for leg in legs) if is_combo else (),
        extended_hours=bool(body.get("extended_hours")),
        intent=_optional_text(body, "position_intent"),
    )


def replace_request(body: Mapping[str, Any]) -> ReplaceRequest:
    """The changes of a PATCH."""
    return ReplaceRequest(
        quantity=optional_number(body, "qty"),
        limit_price=optional_number(body, "limit_price"),
        stop_price=optional_number(body, "stop_price"),
        time_in_force=(
            _word(TimeInForce, body, "time_in_force") if body.get("time_in_force") else None
        ),
        client_id=_optional_text(body, "client_order_id"),
    )


def instant(text: str | None) -> datetime | None:
    """A time of a query parameter: RFC 3339, or a plain date meaning its start in UTC."""
    if not text:
        return None
    try:
        if len(text) == len("2026-01-01"):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise Refusal(Reason.MALFORMED, f"invalid time: {text}") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def whole(text: str | None, default: int, largest: int) -> int:
    """A positive count of a query parameter, cut at the largest."""
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise Refusal(Reason.MALFORMED, f"invalid number: {text}")
    return min(int(text), largest)


def _leg(raw: Any) -> LegRequest:
    if not isinstance(raw, dict):
        raise Refusal(Reason.MALFORMED, "legs must be objects")
    intent = _optional_text(raw, "position_intent")
    side_text = raw.get("side") or (intent or "").partition("_")[0]
    ratio = optional_number(raw, "ratio_qty")
    if ratio is None or ratio % 1 != 0:
        raise Refusal(Reason.MALFORMED, "ratio_qty must be a whole number")
    return LegRequest(
        symbol=_text(raw, "symbol"),
        side=_word(Side, {"side": side_text}, "side"),
        ratio=int(ratio),
        intent=intent,
    )


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name) or {}
    if not isinstance(value, dict):
        raise Refusal(Reason.MALFORMED, f"{name} must be an object")
    return value


def optional_number(body: Mapping[str, Any], name: str) -> Decimal | None:
    value = body.get(name)
    if value is None or value == "":
        return None
    try:
        return exact(value)
    except PydanticCustomError:
        raise Refusal(Reason.MALFORMED, f"invalid {name}: {value}") from None


def _text(body: Mapping[str, Any], name: str) -> str:
    value = _optional_text(body, name)
    if value is None:
        raise Refusal(Reason.MALFORMED, f"{name} is required")
    return value


def _optional_text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Refusal(Reason.MALFORMED, f"{name} must be text")
    return value


def _word(words: type[Word], body: Mapping[str, Any], name: str) -> Word:
    text = body.get(name)
    if not text:
        raise Refusal(Reason.MALFORMED, f"{name} is required")
    try:
        return words(text)
    except ValueError:
        raise Refusal(Reason.INVALID, f"invalid {name}: {text}") from None
