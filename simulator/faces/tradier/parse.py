"""Reads Tradier's forms: single, multileg and the three groups (tradier.md §3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from urllib.parse import parse_qsl

from pydantic_core import PydanticCustomError

from domain.money import exact
from simulator.faces.tradier.words import SIDES
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

TAG_LENGTH_MAX = 255
Form = Mapping[str, str]
_TAG = re.compile(r"[A-Za-z0-9-]*")
_DURATIONS = {"day": TimeInForce.DAY, "gtc": TimeInForce.GTC}
_GROUPS = {"oto": (OrderClass.OTO, 2), "oco": (OrderClass.OCO, 2), "otoco": (OrderClass.BRACKET, 3)}


def form_of(raw: bytes) -> dict[str, str]:
    """The fields of a form; the last of two with one name counts."""
    return dict(parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True))


def order_request(form: Form) -> OrderRequest:
    """An order as the core wants it.

    Raises:
        Refusal: MALFORMED, whose text is the venue's 400.
    """
    kind = form.get("class", "")
    if kind in ("equity", "option"):
        return _single(form, "")
    if kind == "multileg":
        return _multileg(form)
    if kind in _GROUPS:
        return _group(form, *_GROUPS[kind])
    raise _invalid("class", f"{kind} is not valid")


def replace_request(form: Form, *, is_combo: bool, current_tag: str) -> ReplaceRequest:
    """The prices of a change; the order keeps its quantity and its tag."""
    price = number(form, "price")
    if is_combo and price is not None and form.get("type") == "credit":
        price = -price
    if is_combo and form.get("type") == "even":
        price = Decimal(0)
    return ReplaceRequest(
        limit_price=price,
        stop_price=number(form, "stop"),
        time_in_force=_duration(form, "") if form.get("duration") else None,
        client_id=current_tag,
    )


def _single(form: Form, index: str) -> OrderRequest:
    side = _side(form, f"side{index}")
    symbol = form.get(f"option_symbol{index}") or own_symbol(_text(form, f"symbol{index}"))
    return OrderRequest(
        symbol=symbol,
        side=SIDES[side],
        intent=side,
        quantity=_quantity(form, f"quantity{index}"),
        kind=_kind(form, f"type{index}"),
        time_in_force=_duration(form, index),
        client_id=_tag(form),
        limit_price=number(form, f"price{index}"),
        stop_price=number(form, f"stop{index}"),
    )


def _multileg(form: Form) -> OrderRequest:
    numbers = [n for n in range(4) if f"option_symbol[{n}]" in form]
    if len(numbers) < 2:
        raise _invalid("option_symbol", "at least two legs are needed")
    sizes = [_quantity(form, f"quantity[{n}]") for n in numbers]
    units = _units(sizes)
    sides = [_side(form, f"side[{n}]") for n in numbers]
    legs = tuple(
        LegRequest(
            symbol=form[f"option_symbol[{n}]"],
            side=SIDES[side],
            ratio=int(size / units),
            intent=side,
        )
        for n, size, side in zip(numbers, sizes, sides, strict=True)
    )
    word = form.get("type", "")
    if word not in ("market", "debit", "credit", "even"):
        raise _invalid("type", f"{word} is not valid for multileg")
    price = number(form, "price")
    if word in ("debit", "credit") and (price is None or price <= 0):
        raise _invalid("price", "must be > 0")
    net = {"market": None, "debit": price, "credit": None if price is None else -price}
    return OrderRequest(
        symbol="",
        side=Side.BUY,
        quantity=units,
        kind=Kind.MARKET if word == "market" else Kind.LIMIT,
        time_in_force=_duration(form, ""),
        client_id=_tag(form),
        limit_price=net.get(word, Decimal(0)),
        order_class=OrderClass.COMBO,
        legs=legs,
    )


def _units(sizes: list[Decimal]) -> Decimal:
    """How many whole structures these leg quantities are: their greatest common divisor."""
    units = int(sizes[0])
    for size in sizes[1:]:
        rest = int(size)
        while rest:
            units, rest = rest, units % rest
    return Decimal(units)


def _group(form: Form, order_class: OrderClass, count: int) -> OrderRequest:
    members = [_single(form, f"[{n}]") for n in range(count)]
    exits = members if order_class is OrderClass.OCO else members[1:]
    if len({member.symbol for member in members}) > 1:
        raise _invalid("symbol", "all orders must have one symbol")
    if any(member.kind is Kind.MARKET for member in members):
        raise _invalid("type", "market is not allowed")
    if len({member.side for member in exits}) > 1:
        raise Refusal(Reason.INVALID, "OcoOrderWithOppositeLegs: sides differ")
    target = next((m for m in exits if m.kind is Kind.LIMIT), None)
    stop = next((m for m in exits if m.kind is not Kind.LIMIT), None)
    if len(exits) == 2 and (target is None or stop is None):
        raise _invalid("type", "the two orders must have different types")
    first = members[0] if order_class is not OrderClass.OCO else target
    assert first is not None, "an oco has a target"
    return OrderRequest(
        symbol=first.symbol,
        side=first.side,
        intent=first.intent,
        quantity=first.quantity,
        kind=first.kind,
        time_in_force=first.time_in_force,
        client_id=_tag(form),
        limit_price=first.limit_price,
        stop_price=first.stop_price,
        order_class=order_class,
        take_profit_price=None if target is None else target.limit_price,
        stop_loss_price=None if stop is None else stop.stop_price,
        stop_loss_limit_price=None if stop is None else stop.limit_price,
    )


def own_symbol(symbol: str) -> str:
    """Class shares have a slash on this wire only."""
    return symbol.replace("/", ".")


def number(form: Form, name: str) -> Decimal | None:
    """A number of the form; an empty field is none."""
    text = form.get(name, "")
    if not text:
        return None
    try:
        return exact(text)
    except PydanticCustomError:
        raise _invalid(name, f"{text} is not a number") from None


def _quantity(form: Form, name: str) -> Decimal:
    quantity = number(form, name)
    if quantity is None or quantity <= 0 or quantity % 1 != 0:
        raise _invalid(name, "must be a whole number > 0")
    return quantity


def _side(form: Form, name: str) -> str:
    side = form.get(name, "")
    if side not in SIDES:
        raise _invalid(name, f"{side} is not valid")
    return side


def _kind(form: Form, name: str) -> Kind:
    try:
        return Kind(form.get(name, ""))
    except ValueError:
        raise _invalid(name, f"{form.get(name, '')} is not valid") from None


def _duration(form: Form, index: str) -> TimeInForce:
    word = form.get("duration") or form.get(f"duration{index}", "")
    if word not in _DURATIONS:
        # pre and post are taken only in their own windows, which this exchange does not open.
        raise _invalid("duration", f"{word} is not available now")
    return _DURATIONS[word]


def _tag(form: Form) -> str | None:
    tag = form.get("tag", "")
    if len(tag) > TAG_LENGTH_MAX:
        raise _invalid("tag", f"contains more than {TAG_LENGTH_MAX} characters.")
    if _TAG.fullmatch(tag) is None:
        raise _invalid("tag", "contains invalid characters.")
    return tag or None


def _text(form: Form, name: str) -> str:
    text = form.get(name, "")
    if not text:
        raise _invalid(name, "is required")
    return text


def _invalid(name: str, text: str) -> Refusal:
    return Refusal(Reason.MALFORMED, f"Invalid parameter, {name}: {text}")
