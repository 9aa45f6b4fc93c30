"""Our orders in Tradier's words. Pure; every number travels as text in a form."""

from __future__ import annotations

from decimal import Decimal

from brokers.wire import decimal_text, required
from domain.errors import BadInput
from domain.occ import looks_like_option, parse_occ
from domain.order import (
    OpenClose,
    OrderBody,
    OrderClass,
    OrderIntent,
    OrderType,
    Side,
    TimeInForce,
)

COMBO_LEGS_MIN = 2
COMBO_LEGS_MAX = 4
Form = dict[str, str]
_PRICED = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})
_STOPPED = frozenset({OrderType.STOP, OrderType.STOP_LIMIT})


def wire_symbol(symbol: str) -> str:
    """Class shares have a slash on this wire: BRK.B is BRK/B."""
    return symbol if looks_like_option(symbol) else symbol.replace(".", "/")


def own_symbol(symbol: str) -> str:
    """The symbol as everybody else writes it."""
    return symbol.replace("/", ".")


def order_request(intent: OrderIntent) -> Form:
    """The form of `POST /accounts/{id}/orders`.

    Whether a side opens or closes follows from the intent: what increases opens, what the domain
    computed to be reducing closes (tradier.md §3, §10: a wrong word is refused).

    Raises:
        BadInput: `ORDER_BODY_INVALID` when the body lacks what its class or type needs, or asks
            for what this venue has not; nothing may be sent then.
    """
    body = intent.body
    form = {"duration": _duration(body), "tag": intent.client_id}
    if body.quantity != body.quantity.to_integral_value() or body.quantity <= 0:
        raise BadInput("ORDER_BODY_INVALID", "quantity", body.quantity, "a whole number > 0")
    match body.order_class:
        case OrderClass.SIMPLE:
            return form | _class_and_symbol(body) | _single(body, intent.increasing, "")
        case OrderClass.COMBO:
            return form | {"class": "multileg"} | _net(body) | _legs(body)
        case OrderClass.OCO:
            return form | {"class": "oco"} | _group(_oco_legs(body), intent.increasing)
        case OrderClass.OTO:
            return form | {"class": "oto"} | _triggered(body, intent.increasing, wanted=1)
        case OrderClass.BRACKET:
            return form | {"class": "otoco"} | _triggered(body, intent.increasing, wanted=2)


def replace_request(intent: OrderIntent) -> Form:
    """The form of `PUT /accounts/{id}/orders/{order}`: type, duration and prices.

    The quantity cannot be changed here and the tag stays that of the first body: the order keeps
    its id, its size and its name (tradier.md §5).
    """
    body = intent.body
    if body.order_class is OrderClass.COMBO:
        return _net(body) | {"duration": _duration(body)}
    form = {"type": body.order_type.value, "duration": _duration(body)}
    if body.order_type in _PRICED:
        form["price"] = decimal_text(required(body.limit_price, "limit_price"))
    if body.order_type in _STOPPED:
        form["stop"] = decimal_text(required(body.stop_price, "stop_price"))
    return form


def _duration(body: OrderBody) -> str:
    if body.time_in_force is TimeInForce.IOC:
        raise BadInput("ORDER_BODY_INVALID", "time_in_force", body.time_in_force, "day or gtc")
    return body.time_in_force.value


def _class_and_symbol(body: OrderBody) -> Form:
    is_option = looks_like_option(body.symbol)
    return {"class": "option" if is_option else "equity"}


def _single(body: OrderBody, increasing: bool, index: str) -> Form:
    """One order, or one member of a group under its index."""
    form = {
        f"side{index}": side_word(body, increasing),
        f"quantity{index}": decimal_text(body.quantity),
        f"type{index}": body.order_type.value,
    }
    if looks_like_option(body.symbol):
        form |= {
            f"symbol{index}": parse_occ(body.symbol).root,
            f"option_symbol{index}": body.symbol,
        }
    else:
        form[f"symbol{index}"] = wire_symbol(body.symbol)
    if body.order_type in _PRICED:
        form[f"price{index}"] = decimal_text(required(body.limit_price, "limit_price"))
    if body.order_type in _STOPPED:
        form[f"stop{index}"] = decimal_text(required(body.stop_price, "stop_price"))
    return form


def side_word(body: OrderBody, increasing: bool) -> str:
    """The venue's word for the side: it says whether the order opens or closes."""
    if looks_like_option(body.symbol):
        return f"{body.side.value}_to_{'open' if increasing else 'close'}"
    if body.side is Side.BUY:
        return "buy" if increasing else "buy_to_cover"
    return "sell_short" if increasing else "sell"


def _group(members: tuple[OrderBody, ...], increasing: bool) -> Form:
    form: Form = {}
    for number, member in enumerate(members):
        form |= _single(member, increasing, f"[{number}]")
    return form


def _triggered(body: OrderBody, increasing: bool, wanted: int) -> Form:
    """An entry with the exits that it triggers; the exits close what the entry opens."""
    exits = _exits(body, body.side.opposite)
    if len(exits) != wanted:
        allowed = "1" if wanted == 1 else "take profit and stop loss"
        raise BadInput("ORDER_BODY_INVALID", f"{body.order_class}.exits", len(exits), allowed)
    if body.order_type is OrderType.MARKET:
        raise BadInput("ORDER_BODY_INVALID", "order_type", body.order_type, "a priced entry")
    form = _single(body, increasing, "[0]")
    for number, member in enumerate(exits, start=1):
        form |= _single(member, not increasing, f"[{number}]")
    return form


def _oco_legs(body: OrderBody) -> tuple[OrderBody, ...]:
    if body.order_type is not OrderType.LIMIT:
        raise BadInput("ORDER_BODY_INVALID", "order_type", body.order_type, "limit for oco")
    target = body.take_profit_price if body.take_profit_price is not None else body.limit_price
    required(target, "limit_price")
    members = _exits(body.model_copy(update={"take_profit_price": target}), body.side)
    if len(members) != 2:
        raise BadInput("ORDER_BODY_INVALID", "oco.exits", len(members), "target and stop")
    return members


def _exits(body: OrderBody, side: Side) -> tuple[OrderBody, ...]:
    """Target first, then stop, as bodies of their own."""
    base = body.model_copy(update={"side": side, "limit_price": None, "stop_price": None})
    found: list[OrderBody] = []
    if body.take_profit_price is not None:
        target = {"order_type": OrderType.LIMIT, "limit_price": body.take_profit_price}
        found.append(base.model_copy(update=target))
    if body.stop_loss_price is not None:
        limit = body.stop_loss_limit_price
        kind = OrderType.STOP if limit is None else OrderType.STOP_LIMIT
        stop = {"order_type": kind, "stop_price": body.stop_loss_price, "limit_price": limit}
        found.append(base.model_copy(update=stop))
    return tuple(found)


def _net(body: OrderBody) -> Form:
    """Type and price of a combo: the sign of our net price is a word here."""
    if body.order_type is OrderType.MARKET:
        return {"type": "market"}
    if body.order_type is not OrderType.LIMIT:
        raise BadInput("ORDER_BODY_INVALID", "order_type", body.order_type, "limit or market")
    net = required(body.limit_price, "limit_price")
    if net == Decimal(0):
        return {"type": "even"}
    return {"type": "debit" if net > 0 else "credit", "price": decimal_text(abs(net))}


def _legs(body: OrderBody) -> Form:
    symbols = {leg.symbol for leg in body.legs}
    if not COMBO_LEGS_MIN <= len(body.legs) <= COMBO_LEGS_MAX or len(symbols) != len(body.legs):
        raise BadInput("ORDER_BODY_INVALID", "legs", len(body.legs), "2..4 with unique symbols")
    form = {"symbol": parse_occ(body.legs[0].symbol).root}
    for number, leg in enumerate(body.legs):
        effect = "open" if leg.effect is OpenClose.OPEN else "close"
        form |= {
            f"option_symbol[{number}]": leg.symbol,
            f"side[{number}]": f"{leg.side.value}_to_{effect}",
            f"quantity[{number}]": decimal_text(body.quantity * leg.ratio),
        }
    return form
