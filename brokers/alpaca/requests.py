"""Our orders in Alpaca's words. Pure; every number travels as text."""

from __future__ import annotations

from brokers.wire import decimal_text, required
from domain.errors import BadInput
from domain.order import OpenClose, OrderBody, OrderClass, OrderIntent, OrderLeg, OrderType

COMBO_LEGS_MIN = 2
COMBO_LEGS_MAX = 4
_GROUPS = frozenset({OrderClass.BRACKET, OrderClass.OCO, OrderClass.OTO})


def order_request(intent: OrderIntent) -> dict[str, object]:
    """The JSON of `POST /v2/orders`.

    Raises:
        BadInput: `ORDER_BODY_INVALID` when the body lacks what its class or type needs; nothing
            may be sent then.
    """
    body = intent.body
    request: dict[str, object] = {
        "qty": decimal_text(body.quantity),
        "type": body.order_type.value,
        "time_in_force": body.time_in_force.value,
        "client_order_id": intent.client_id,
    }
    if body.order_class is OrderClass.COMBO:
        request |= {"order_class": "mleg", "legs": _legs(body)}
    else:
        request |= {"symbol": body.symbol, "side": body.side.value}
    request |= _own_prices(body)
    if body.order_class in _GROUPS:
        request |= {"order_class": body.order_class.value} | _children(body)
    return request


def replace_request(intent: OrderIntent) -> dict[str, object]:
    """The JSON of `PATCH /v2/orders/{id}`: prices, quantity and a client id of its own.

    Members of a bracket, OCO or OTO (body of that class) keep the quantity and only take prices:
    the venue refuses to change one member's size. Time in force is never changed by a replace.
    For a stop member say `order_type=STOP` and `stop_price`.
    """
    body = intent.body
    request: dict[str, object] = {"client_order_id": intent.client_id}
    if body.order_class not in _GROUPS and not intent.keeps_quantity:
        request["qty"] = decimal_text(body.quantity)
    if body.limit_price is not None:
        request["limit_price"] = decimal_text(body.limit_price)
    if body.stop_price is not None:
        request["stop_price"] = decimal_text(body.stop_price)
    return request


def _own_prices(body: OrderBody) -> dict[str, object]:
    prices: dict[str, object] = {}
    needs_limit = body.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)
    needs_stop = body.order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
    if needs_limit and body.order_class is not OrderClass.OCO:
        prices["limit_price"] = decimal_text(required(body.limit_price, "limit_price"))
    if needs_stop:
        prices["stop_price"] = decimal_text(required(body.stop_price, "stop_price"))
    return prices


def _children(body: OrderBody) -> dict[str, object]:
    """The exits of a group; the venue gives them the side opposite to the entry itself."""
    target = body.take_profit_price
    if body.order_class is OrderClass.OCO:
        if body.order_type is not OrderType.LIMIT:
            raise BadInput("ORDER_BODY_INVALID", "order_type", body.order_type, "limit for oco")
        # An OCO carries its target in take_profit; its own limit price is that same number.
        target = required(target if target is not None else body.limit_price, "limit_price")
    children: dict[str, object] = {}
    if target is not None:
        children["take_profit"] = {"limit_price": decimal_text(target)}
    if body.stop_loss_price is not None:
        stop = {"stop_price": decimal_text(body.stop_loss_price)}
        if body.stop_loss_limit_price is not None:
            stop["limit_price"] = decimal_text(body.stop_loss_limit_price)
        children["stop_loss"] = stop
    wanted = 1 if body.order_class is OrderClass.OTO else 2
    if len(children) != wanted:
        raise BadInput(
            "ORDER_BODY_INVALID",
            f"{body.order_class}.exits",
            len(children),
            "1" if wanted == 1 else "take profit and stop loss",
        )
    return children


def _legs(body: OrderBody) -> list[dict[str, str]]:
    symbols = {leg.symbol for leg in body.legs}
    if not COMBO_LEGS_MIN <= len(body.legs) <= COMBO_LEGS_MAX or len(symbols) != len(body.legs):
        raise BadInput("ORDER_BODY_INVALID", "legs", len(body.legs), "2..4 with unique symbols")
    if body.order_type not in (OrderType.LIMIT, OrderType.MARKET):
        raise BadInput("ORDER_BODY_INVALID", "order_type", body.order_type, "limit or market")
    return [_leg(leg) for leg in body.legs]


def _leg(leg: OrderLeg) -> dict[str, str]:
    effect = "open" if leg.effect is OpenClose.OPEN else "close"
    return {
        "symbol": leg.symbol,
        "ratio_qty": str(leg.ratio),
        "side": leg.side.value,
        "position_intent": f"{leg.side.value}_to_{effect}",
    }
