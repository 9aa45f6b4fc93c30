"""Gate checks on the order itself: permissions, crossings, collar, size."""

from __future__ import annotations

from decimal import Decimal

from domain.account import AssetInfo
from domain.errors import Refused
from domain.instrument import InstrumentKind
from domain.money import multiply, total
from domain.order import Side
from domain.plan import PlanLeg
from domain.risk.checks_state import symbols_of
from domain.risk.gate_types import GateInput, OwnWorkingOrder, Verdict
from domain.risk.limits import RESTRICTED_LIST_AGE_S_MAX
from domain.risk.sizing import (
    collar,
    loss_between,
    price_instrument,
    stop_at_worst,
    structure_loss,
    unit_notional,
)
from domain.risk.verdicts import not_applicable, passed, refused


def restricted_list(given: GateInput) -> Verdict:
    """Our own list; missing, from the future or older than a day it refuses (control 9)."""
    listed = given.restricted
    if listed is None:
        return refused("restricted_list", "RESTRICTED_LIST_MISSING")
    age_s = (given.wall_now - listed.as_of).total_seconds()
    if not -60 <= age_s <= RESTRICTED_LIST_AGE_S_MAX:
        return refused("restricted_list", "RESTRICTED_LIST_STALE", age_s=age_s)
    for symbol in symbols_of(given):
        if symbol in listed.symbols:
            return refused("restricted_list", "SYMBOL_RESTRICTED", symbol=symbol)
    return passed("restricted_list", as_of=listed.as_of.isoformat())


def permissions(given: GateInput) -> Verdict:
    """Tradable, and the account's option level allows the legs."""
    if given.assets is None:
        return refused("permissions", "ASSET_UNREADABLE", **given.why_unread("asset"))
    for leg in given.plan.legs:
        asset = _asset(given.assets, leg)
        if asset is None:
            return refused("permissions", "SYMBOL_UNKNOWN", symbol=leg.instrument.symbol)
        if not asset.tradable:
            return refused("permissions", "NOT_TRADABLE", symbol=leg.instrument.symbol)
    options = [leg for leg in given.plan.legs if leg.instrument.kind is InstrumentKind.OPTION]
    if not options:
        return passed("permissions", options="none")
    level = given.account.options_level if given.account is not None else None
    needed = max(given.limits.options_level_min if given.limits else 0, _level(given, options))
    if level is None or level < needed:
        return refused("permissions", "OPTION_LEVEL", level=level, needed=needed)
    return passed("permissions", level=level, needed=needed)


def _level(given: GateInput, options: list[PlanLeg]) -> int:
    """1 covered calls, 2 long options, 3 spreads: the ladder retail brokers share."""
    if given.plan.is_combo:
        return 3
    return 2 if options[0].side is Side.BUY else 1


def _asset(assets: tuple[AssetInfo, ...], leg: PlanLeg) -> AssetInfo | None:
    for asset in assets:
        if asset.instrument.symbol == leg.instrument.symbol:
            return asset
    return None


def borrow(given: GateInput) -> Verdict:
    """Short sales of shares: allowed at all, easy to borrow, no short-sale restriction (SSR)."""
    shorts = [
        leg
        for leg in given.plan.legs
        if leg.side is Side.SELL and leg.instrument.kind is InstrumentKind.EQUITY
    ]
    if not shorts:
        return not_applicable("borrow", "NO_SHORT_SALE")
    if given.limits is None or not given.limits.allow_short:
        return refused("borrow", "SHORT_NOT_ALLOWED")
    if given.account is None or given.account.shorting_enabled is not True:
        return refused("borrow", "SHORT_NOT_ENABLED")
    for leg in shorts:
        symbol = leg.instrument.symbol
        asset = _asset(given.assets or (), leg)
        if asset is None or asset.shortable is not True or asset.easy_to_borrow is not True:
            return refused("borrow", "NOT_EASY_TO_BORROW", symbol=symbol)
        if symbol in given.short_sale_restricted_symbols:
            return refused("borrow", "SHORT_SALE_RESTRICTED", symbol=symbol)
    return passed("borrow")


def own_opposite(given: GateInput) -> Verdict:
    """No entry against an open trade of ours, none that may cross a working order (I20).

    A trade is open from its reservation on: before its order is out, and between two orders of a
    walk, nothing at the broker tells of it.
    """
    if given.working_orders is None or given.portfolio is None:
        return refused("own_opposite", "WORKING_ORDERS_UNREADABLE")
    for leg in given.plan.legs:
        symbol = leg.instrument.symbol
        if symbol in given.portfolio.frozen_symbols:
            return refused("own_opposite", "SYMBOL_FROZEN", symbol=symbol)
        held = given.portfolio.exposure(symbol).quantity
        if held * leg.side.sign < 0:
            return refused("own_opposite", "OPPOSITE_POSITION", symbol=symbol, held=held)
        for other in given.portfolio.open_legs:
            if other.symbol == symbol and other.side is not leg.side:
                return refused(
                    "own_opposite", "OPPOSITE_POSITION", symbol=symbol, trade=other.trade_id
                )
        for order in given.working_orders:
            if order.trade_id != given.plan.trade_id and _may_cross(given, leg, order):
                return refused(
                    "own_opposite",
                    "OPPOSITE_POSITION",
                    symbol=symbol,
                    order=order.client_id,
                    trade=order.trade_id,
                )
    return passed("own_opposite", working_orders=len(given.working_orders))


def _may_cross(given: GateInput, leg: PlanLeg, order: OwnWorkingOrder) -> bool:
    if order.symbol != leg.instrument.symbol or order.side is leg.side:
        return False
    if order.remaining_quantity == 0:
        return False
    worst = given.worst_price
    if order.limit_price is None or worst is None or given.plan.is_combo:
        # Market and stop orders meet any price, and a combo's leg price is not ours to set.
        return True
    if leg.side is Side.BUY:
        return worst >= order.limit_price
    return worst <= order.limit_price


def price_collar(given: GateInput) -> Verdict:
    """Start and worst price lie inside the collar of the arrival quote, ends included (I13)."""
    limits, arrival = given.limits, given.arrival
    if limits is None:
        return refused("price_collar", "LIMITS_MISSING")
    mid = arrival.quote.mid if arrival is not None else None
    if mid is None or given.start_price is None or given.worst_price is None:
        return refused("price_collar", "PRICE_UNAVAILABLE")
    gross = gross_value(given)
    if gross is None:
        return refused("price_collar", "PRICE_UNAVAILABLE", missing="leg quotes")
    try:
        bounds = collar(mid, limits.collar_fraction, gross, price_instrument(given.plan))
    except Refused as error:
        return refused("price_collar", error.code, text=error.text)
    facts = {"reference": mid, "low": bounds.low, "high": bounds.high}
    for name, price in (("start", given.start_price), ("worst", given.worst_price)):
        if not bounds.contains(price):
            return refused("price_collar", "PRICE_OUTSIDE_COLLAR", **facts, **{name: price})
    if (given.worst_price - given.start_price) * given.plan.side.sign < 0:
        return refused("price_collar", "WALK_INVALID", start=given.start_price, **facts)
    return passed("price_collar", start=given.start_price, worst=given.worst_price, **facts)


def gross_value(given: GateInput) -> Decimal | None:
    """Sum of |ratio x mid| of the legs, per unit of price; for one leg the mid itself."""
    mids = {aged.quote.symbol: aged.quote.mid for aged in given.leg_quotes}
    values: list[Decimal] = []
    for leg in given.plan.legs:
        mid = mids.get(leg.instrument.symbol)
        if mid is None:
            return None
        values.append(abs(mid) * leg.ratio)
    return total(values)


def order_limits(given: GateInput) -> Verdict:
    """Quantity, value and whole lots of this one order; a combo is judged as one (control 1, 2)."""
    limits, quantity = given.limits, given.quantity
    if limits is None:
        return refused("order_limits", "LIMITS_MISSING")
    if quantity <= 0:
        return refused("order_limits", "SIZE_BELOW_LOT", quantity=quantity)
    if not given.plan.is_combo and given.plan.instrument.lot_down(quantity) != quantity:
        return refused("order_limits", "QTY_NOT_WHOLE", quantity=quantity)
    largest = quantity * max(leg.ratio for leg in given.plan.legs)
    if largest > limits.max_order_quantity:
        return refused(
            "order_limits", "QTY_ABOVE_MAX", quantity=largest, max=limits.max_order_quantity
        )
    notional = order_notional(given)
    if notional is None:
        return refused("order_limits", "PRICE_UNAVAILABLE")
    facts = {"quantity": largest, "notional": notional, "max": limits.max_order_notional}
    if notional > limits.max_order_notional:
        return refused("order_limits", "NOTIONAL_ABOVE_MAX", **facts)
    return passed("order_limits", **facts)


def message_rate(given: GateInput) -> Verdict:
    """New, replace and cancel messages of the last minute leave room for one more (control 5)."""
    if given.limits is None or given.messages_last_minute is None:
        return refused("message_rate", "MESSAGE_COUNT_UNREADABLE")
    facts = {"sent": given.messages_last_minute, "max": given.limits.max_messages_per_minute}
    if given.messages_last_minute + 1 > given.limits.max_messages_per_minute:
        return refused("message_rate", "MESSAGE_RATE", **facts)
    return passed("message_rate", **facts)


def order_notional(given: GateInput) -> Decimal | None:
    """Value of the whole order at the dearest price of the walk; None without prices."""
    if given.start_price is None or given.worst_price is None:
        return None
    return multiply(unit_notional(given.plan, given.start_price, given.worst_price), given.quantity)


def order_loss(given: GateInput) -> Decimal | None:
    """Money at risk: to the stop, or the structure's bound; None where nothing bounds it."""
    if given.worst_price is None:
        return None
    stop = stop_at_worst(given.plan, given.worst_price)
    if stop is not None:
        return loss_between(given.plan.instrument, given.quantity, given.worst_price, stop)
    marks = {given.plan.instrument.symbol: given.worst_price}
    per_unit = structure_loss(given.plan, given.worst_price, marks)
    return None if per_unit is None else multiply(per_unit, given.quantity)
