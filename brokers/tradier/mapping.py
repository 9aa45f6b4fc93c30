"""Tradier's words in the domain's words. Pure: values in, values out, nothing fetched.

A group arrives as a container with its members as legs. The container has no price and no side:
here it is one order with its first member, the entry of an OTO or OTOCO and the target of an OCO.
That member is known by the container's id; the other members are its children (tradier.md §4).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from brokers.errors import BROKER_BAD_BODY
from brokers.port import FrameProblem
from brokers.seen import Seen
from brokers.tradier.requests import COMBO_LEGS_MAX, own_symbol
from brokers.tradier.wire import WireOrder, cleaned
from brokers.wire import positive, read_wire
from domain.capabilities import BracketChildren, Capabilities
from domain.errors import Uncertain
from domain.evidence import FILL_INCONSISTENT, check_order_progress
from domain.money import ZERO
from domain.order import (
    BrokerOrderStatus,
    Fill,
    OrderClass,
    OrderIntent,
    OrderSnapshot,
    OrderType,
    Side,
    TimeInForce,
)
from domain.sums import parts_of, sum_of

TRADIER_CAPABILITIES = Capabilities(
    broker="tradier",
    # That exits wait for the whole entry, and that a sell may not rest beside a working buy, is
    # not in the documentation: the careful answer of each.
    bracket_children=BracketChildren.ON_FULL_FILL,
    oco=True,
    oto=True,
    combo_legs_max=COMBO_LEGS_MAX,
    combo_stop=False,
    opposite_side_while_entry_works=False,
    exits_reserve_position=True,
    reduce_only=False,
    replace=True,
    replace_makes_new_id=False,
    replace_changes_quantity=False,
    client_id_unique_for_ever=False,
    executions_have_ids=False,
    lists_orders_of_today_only=True,
    # Seen on the first look, eight times of eight (tradier.md §4): few looks, so a wide margin.
    orders_listed_within_s=15,
    answers_with_id_only=True,
    option_stop_orders=True,
    fractional=False,
    requests_per_minute=60,
)

_STATUS = MappingProxyType(
    {
        "pending": BrokerOrderStatus.PENDING,
        "submitted": BrokerOrderStatus.PENDING,
        "accepted_for_bidding": BrokerOrderStatus.PENDING,
        "open": BrokerOrderStatus.WORKING,
        "partially_filled": BrokerOrderStatus.WORKING,
        # Sums of the day are pending: not an end.
        "calculated": BrokerOrderStatus.WORKING,
        "held": BrokerOrderStatus.HELD,
        "pending_cancel": BrokerOrderStatus.PENDING_CANCEL,
        "filled": BrokerOrderStatus.FILLED,
        "canceled": BrokerOrderStatus.CANCELED,
        "expired": BrokerOrderStatus.EXPIRED,
        "rejected": BrokerOrderStatus.REJECTED,
        "error": BrokerOrderStatus.REJECTED,
    }
)
_CLASS = MappingProxyType(
    {
        "oco": OrderClass.OCO,
        "oto": OrderClass.OTO,
        "otoco": OrderClass.BRACKET,
        "multileg": OrderClass.COMBO,
        "combo": OrderClass.COMBO,
    }
)
_TYPE = MappingProxyType(
    {
        **{kind.value: kind for kind in OrderType},
        **dict.fromkeys(("debit", "credit", "even"), OrderType.LIMIT),
    }
)
_TIME_IN_FORCE = MappingProxyType({"day": TimeInForce.DAY, "gtc": TimeInForce.GTC})
_NET_SIGN = MappingProxyType({"debit": 1, "credit": -1, "even": 0})
_WAITS = frozenset({BrokerOrderStatus.PENDING, BrokerOrderStatus.HELD})


def order_snapshot(raw: object) -> OrderSnapshot:
    """One order with its children or combo legs.

    An unknown status becomes `UNKNOWN` beside `raw_status` (faults.md §3 row 57). Quantities that
    contradict each other become `UNKNOWN` with `reject_code=FILL_INCONSISTENT` (row 58).

    Raises:
        Uncertain: `BROKER_ID_TYPE` or `BROKER_BAD_BODY`; the row cannot be used at all.
    """
    return snapshot_of(read_order(raw))


def read_order(raw: object) -> WireOrder:
    """The wire object of a row; raises as `order_snapshot`."""
    return read_wire(WireOrder, cleaned(raw))


def snapshot_of(wire: WireOrder) -> OrderSnapshot:
    """The order in a row that has been read."""
    return _snapshots(wire)


def _snapshot_of(wire: WireOrder) -> OrderSnapshot:
    kind = _CLASS.get(wire.order_class, OrderClass.SIMPLE)
    if kind is OrderClass.SIMPLE:
        return _checked(wire, {"client_id": wire.tag})
    if kind is OrderClass.COMBO:
        return _combo(wire)
    main = _main_member(wire, kind)
    if main is None:
        return _checked(wire, {"client_id": wire.tag, "order_class": kind})
    known = {
        "broker_order_id": wire.id,
        "client_id": wire.tag or main.tag,
        "order_class": kind,
        "time_in_force": _TIME_IN_FORCE.get(wire.duration or main.duration),
    }
    order = _checked(main, known)
    children = (_child(leg, wire.id, order) for leg in wire.leg if leg is not main)
    return order.model_copy(update={"legs": tuple(children)})


# A client knows a row again, and asks several things of it.
_snapshots = Seen(_snapshot_of, key=id)


def _main_member(wire: WireOrder, kind: OrderClass) -> WireOrder | None:
    """The member that is known by the container's id: an OCO's target, or else the entry."""
    if kind is OrderClass.OCO:
        return next((leg for leg in wire.leg if leg.type == "limit"), None)
    return wire.leg[0] if wire.leg else None


def _child(leg: WireOrder, parent_id: str, parent: OrderSnapshot) -> OrderSnapshot:
    """Another member of a group; the exits of an entry wait until it has filled."""
    child = _checked(leg, {"parent_broker_id": parent_id})
    waits = parent.order_class is not OrderClass.OCO
    if waits and child.status in _WAITS:
        return child.model_copy(update={"status": BrokerOrderStatus.HELD})
    return child


def _combo(wire: WireOrder) -> OrderSnapshot:
    """A multileg order; the net price of one unit has its sign back, and no symbol is its own."""
    sign = _NET_SIGN.get(wire.type, 1)
    known: dict[str, object] = {
        "client_id": wire.tag,
        "order_class": OrderClass.COMBO,
        "symbol": "",
        "side": None,
        "limit_price": None if wire.price is None else wire.price * sign,
        "legs": tuple(_checked(leg, {"parent_broker_id": wire.id}) for leg in wire.leg),
    }
    if wire.type == "even":
        known["limit_price"] = ZERO
    return _checked(wire, known)


def _checked(wire: WireOrder, known: Mapping[str, object]) -> OrderSnapshot:
    quantity, filled = wire.quantity or ZERO, wire.exec_quantity or ZERO
    order = OrderSnapshot(
        broker_order_id=wire.id,
        symbol=own_symbol(wire.option_symbol or wire.symbol),
        side=_side(wire),
        order_type=_TYPE.get(wire.type),
        time_in_force=_TIME_IN_FORCE.get(wire.duration),
        quantity=max(quantity, ZERO),
        filled_quantity=max(filled, ZERO),
        # The venue shows an average of zero before the first fill.
        average_fill_price=wire.avg_fill_price if filled > 0 else None,
        limit_price=positive(wire.price),
        stop_price=positive(wire.stop_price),
        status=_STATUS.get(wire.status, BrokerOrderStatus.UNKNOWN),
        raw_status=wire.status,
        reject_text=wire.reason_description,
        submitted_at=wire.create_date,
        updated_at=wire.transaction_date,
    ).model_copy(update=known)
    finding = check_order_progress(order)
    if finding is None and quantity >= 0 and filled >= 0:
        return order
    text = finding.text if finding is not None else "a quantity was below zero"
    doubt = {"status": BrokerOrderStatus.UNKNOWN, "reject_code": FILL_INCONSISTENT}
    return order.model_copy(update={**doubt, "reject_text": text})


def _side(wire: WireOrder) -> Side | None:
    word = wire.side.partition("_")[0]
    return Side(word) if word in ("buy", "sell") else None


def taken_snapshot(order_id: str, intent: OrderIntent) -> OrderSnapshot:
    """The order behind "ok": the venue answers with an id alone, the rest is what we asked for.

    It is pending, not working: "ok" says that it will be looked at (tradier.md §3).
    """
    body = intent.body
    return OrderSnapshot(
        broker_order_id=order_id,
        client_id=intent.client_id,
        symbol="" if body.order_class is OrderClass.COMBO else body.symbol,
        side=None if body.order_class is OrderClass.COMBO else body.side,
        order_class=body.order_class,
        order_type=body.order_type,
        time_in_force=body.time_in_force,
        quantity=body.quantity,
        limit_price=body.limit_price,
        stop_price=body.stop_price,
        status=BrokerOrderStatus.PENDING,
        raw_status="ok",
    )


def fills_of(wire: WireOrder) -> tuple[Fill | FrameProblem, ...]:
    """What the order and its members have filled so far, as one sum each (ADR 0017).

    The venue names no execution. A sum is known by order and cumulative quantity; what of it is
    new, the ledger finds out when it books it.
    """
    found: list[Fill | FrameProblem] = []
    for part in parts_of(snapshot_of(wire)):
        filled = sum_of(part)
        if filled is not None:
            found.append(filled)
        elif part.filled_quantity > 0 or part.reject_code == FILL_INCONSISTENT:
            shown = f"filled {part.filled_quantity} of {part.quantity} at {part.average_fill_price}"
            text = f"order {part.broker_order_id}: {shown}"
            found.append(FrameProblem(code=FILL_INCONSISTENT, text=text))
    return tuple(found)


def order_row(body: object) -> object:
    """The row of `{"order": {…}}`.

    Raises:
        Uncertain: there was none.
    """
    row = body.get("order") if isinstance(body, dict) else None
    if not isinstance(row, dict):
        raise Uncertain("the body had no order", code=BROKER_BAD_BODY)
    return row
