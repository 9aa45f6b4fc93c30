"""What the order lane makes of a broker's answers: small pure functions of `orders`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from brokers.port import (
    Accepted,
    AuthNeeded,
    Duplicate,
    NotExecuted,
    PlaceOutcome,
    Rejected,
    UnknownOutcome,
)
from domain.clock import ClockMap
from domain.facts import CancelRejected, OrderNotSent
from domain.fold_orders import AMENDED
from domain.order import BrokerOrderStatus, OrderIntent, OrderSnapshot, Quote
from domain.plan import PlanLeg
from domain.risk.checks_state import age_allowed, quote_fault
from domain.risk.limits import Limits, RestrictedList
from ledger.records import DUPLICATE, IntentState

EXCHANGE_ZONE = ZoneInfo("America/New_York")


def not_sent(now: datetime, client_id: str, outcome: NotExecuted) -> OrderNotSent:
    return OrderNotSent(
        at=now,
        client_id=client_id,
        code=outcome.code,
        text=outcome.text,
        retry_after_s=outcome.retry_after_s,
    )


def cancel_refused(now: datetime, client_id: str, code: str, text: str) -> CancelRejected:
    return CancelRejected(at=now, client_id=client_id, code=code, text=text[:200])


def intent_state(
    outcome: PlaceOutcome, replaces: str | None = None
) -> tuple[IntentState, OrderSnapshot | None, str]:
    """What the intent's row says of the outcome; an order that was changed in its place has none
    of its own (ADR 0017)."""
    match outcome:
        case Accepted(order=order) if order.broker_order_id == replaces:
            return IntentState.NOT_SENT, None, AMENDED
        case Accepted(order=order):
            return IntentState.ACCEPTED, order, ""
        case Rejected(code=code):
            return IntentState.REJECTED, None, code
        case NotExecuted(code=code):
            return IntentState.NOT_SENT, None, code
        case AuthNeeded():
            return IntentState.NOT_SENT, None, "AUTH"
        case Duplicate():
            return IntentState.UNKNOWN, None, DUPLICATE
        case UnknownOutcome(reason=reason):
            return IntentState.UNKNOWN, None, reason[:80]


def named(seen: OrderSnapshot, broker_order_id: str) -> OrderSnapshot:
    """The order with this id: the one that is shown or a member of its group."""
    every = (seen, *seen.legs)
    return next((each for each in every if each.broker_order_id == broker_order_id), seen)


def has_prices(intent: OrderIntent, broker_order_id: str, seen: OrderSnapshot) -> bool:
    """True if the order, or the member of its group with this id, stands at the wanted prices."""
    order, body = named(seen, broker_order_id), intent.body
    wanted = ((body.limit_price, order.limit_price), (body.stop_price, order.stop_price))
    return all(want is None or want == shown for want, shown in wanted)


def is_same_exchange_day(one: datetime, other: datetime) -> bool:
    """True if both market instants lie on one day of the exchange."""
    return one.astimezone(EXCHANGE_ZONE).date() == other.astimezone(EXCHANGE_ZONE).date()


def any_filled(order: OrderSnapshot) -> bool:
    return order.filled_quantity > 0 or any(any_filled(leg) for leg in order.legs)


def same_order(intent: OrderIntent, order: OrderSnapshot) -> bool:
    """True if the broker's order is ours in symbol, side and quantity (faults.md §3 row 37).

    A combo carries symbols and sides in its legs, under ids of the broker.
    """
    body = intent.body
    if not intent.keeps_quantity and order.quantity != body.quantity:
        return False
    if body.legs:
        ours = {(leg.symbol, leg.side) for leg in body.legs}
        return not order.legs or {(leg.symbol, leg.side) for leg in order.legs} == ours
    return (order.symbol, order.side) == (body.symbol, body.side)


def why_not_quoted(
    legs: Sequence[PlanLeg],
    quotes: Mapping[str, Quote],
    limits: Limits,
    clock: ClockMap,
    now: datetime,
) -> str:
    """What is wrong with the legs' quotes, as at the gate: an entry never leaves on one (I13)."""
    for leg in legs:
        quote = quotes.get(leg.instrument.symbol)
        code = "PRICE_UNAVAILABLE" if quote is None else quote_fault(quote)
        if quote is not None and not code:
            age_s = Decimal(str(clock.wall_age_s(now, quote.venue_time)))
            allowed = age_allowed(limits, leg.instrument)
            code = "" if -limits.quote_max_age_s <= age_s <= allowed else "QUOTE_STALE"
        if code:
            return f"{code} {leg.instrument.symbol}"
    return ""


def why_not_restricted(legs: Sequence[PlanLeg], listed: RestrictedList) -> str:
    """A symbol that came onto the list while its entry walks is bought no dearer (B5)."""
    for leg in legs:
        if leg.instrument.symbol in listed.symbols:
            return f"SYMBOL_RESTRICTED {leg.instrument.symbol}"
    return ""


def why_not_step(
    below: object, above: object, own: OrderSnapshot | None, quote: Quote | None
) -> str:
    """Why this step is left out; empty to go on."""
    if own is None:
        return "own order could not be read"
    if own.status is not BrokerOrderStatus.WORKING:
        return f"own order is {own.status}"
    if any_filled(own):
        return "own order has filled"
    mid = quote.mid if quote is not None else None
    if mid is None:
        return "no two-sided quote"
    if isinstance(below, type(mid)) and mid <= below:
        return "market traded through the stop or target"
    if isinstance(above, type(mid)) and mid >= above:
        return "market traded through the stop or target"
    return ""
