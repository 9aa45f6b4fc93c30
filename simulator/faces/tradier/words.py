"""Tradier's words for sides, statuses, kinds and refusals (tradier.md §3, §4, §10)."""

from __future__ import annotations

from simulator.orders import Kind, OrderClass, Role, Side, SimOrder, Status
from simulator.refusals import Reason, Refusal

STATUSES = {
    Status.PENDING_NEW: "pending",
    Status.ACCEPTED: "pending",
    Status.NEW: "open",
    Status.PARTIALLY_FILLED: "partially_filled",
    Status.PENDING_CANCEL: "pending_cancel",
    Status.PENDING_REPLACE: "open",
    Status.FILLED: "filled",
    Status.CANCELED: "canceled",
    Status.EXPIRED: "expired",
    Status.REPLACED: "canceled",
    Status.REJECTED: "rejected",
}
GROUPS = {OrderClass.OCO: "oco", OrderClass.OTO: "oto", OrderClass.BRACKET: "otoco"}
CODES = {
    Reason.BUYING_POWER: "InitialMargin",
    Reason.QUANTITY_HELD: "LongPositionCrossZero",
    Reason.WASH_TRADE: "WashTradeAttempt",
    Reason.NOT_SHORTABLE: "SecurityNotAvailableForShorting",
    Reason.OPTION_LEVEL: "OptionLevelRestriction",
    Reason.UNKNOWN_SYMBOL: "SecurityUndefined",
    Reason.STOP_TOO_CLOSE: "OcoPriceDifferenceIsLessThanDelta",
    Reason.INJECTED: "TestReject",
}
SIDES = {
    **dict.fromkeys(("buy", "buy_to_cover", "buy_to_open", "buy_to_close"), Side.BUY),
    **dict.fromkeys(("sell", "sell_short", "sell_to_open", "sell_to_close"), Side.SELL),
}


def status_of(order: SimOrder) -> str:
    """A member of a pair that both work is open; one that waits for its entry is held."""
    if order.status is Status.HELD:
        return "held" if order.waits_for_entry else "open"
    return STATUSES[order.status]


def side_of(order: SimOrder, *, is_option: bool) -> str:
    """The side as it was asked for; an exit of an entry closes."""
    if order.intent is not None and SIDES[order.intent] is order.side:
        return order.intent
    if is_option:
        return f"{order.side.value}_to_close"
    return "sell" if order.side is Side.SELL else "buy_to_cover"


def is_main(order: SimOrder) -> bool:
    """True for the member of a group that is asked for first."""
    group = order.group
    return group is not None and order.role is (
        Role.TAKE_PROFIT if group.order_class is OrderClass.OCO else Role.ENTRY
    )


def kind_of(order: SimOrder) -> str:
    """The type; a combo's is the sign of its net price."""
    if not order.legs:
        return order.kind.value
    if order.kind is Kind.MARKET or order.limit_price is None:
        return "market"
    if order.limit_price == 0:
        return "even"
    return "debit" if order.limit_price > 0 else "credit"


def refusal_text(refusal: Refusal) -> str:
    """What stands in `reason_description` or in the errors of a downstream refusal."""
    return f"{CODES.get(refusal.reason, 'OrderRejected')}: {refusal.text}"
