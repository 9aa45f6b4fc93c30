"""Orders: what we ask for, what we know of it, and the life-cycle table.

A body is frozen in the ledger before the send. What the broker says arrives as `OrderSnapshot`;
`OrderRecord` is the trade's knowledge. The table below is the only place where an order changes
its state; docs/architecture.md draws the diagram from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.errors import IllegalTransition
from domain.ids import IntentKey, client_order_id
from domain.money import ZERO, NetPrice, Price, Quantity, SignedQuantity


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"


class TimeInForce(StrEnum):
    DAY = "day"
    GTC = "gtc"
    IOC = "ioc"


class OrderClass(StrEnum):
    SIMPLE = "simple"
    OCO = "oco"
    OTO = "oto"
    BRACKET = "bracket"
    COMBO = "combo"


class OpenClose(StrEnum):
    OPEN = "open"
    CLOSE = "close"


class OrderLeg(Frozen):
    """One leg of a combo order: `ratio` contracts of `symbol` per unit."""

    symbol: str
    side: Side
    ratio: int = 1
    effect: OpenClose = OpenClose.OPEN


class OrderBody(Frozen):
    """Exactly what goes to the broker, in the field's terms; never recomputed after freezing.

    `quantity` is units of the order (shares, contracts, combo units). `limit_price` of a combo is
    the net price of one unit, debit > 0, credit < 0. For an OCO the limit is the target and
    `stop_loss_price` the stop. `intent_date` is the UTC date on which the intent was made.
    """

    symbol: str
    order_class: OrderClass = OrderClass.SIMPLE
    side: Side
    quantity: Quantity
    order_type: OrderType
    time_in_force: TimeInForce = TimeInForce.DAY
    limit_price: NetPrice | None = None
    stop_price: Price | None = None
    take_profit_price: Price | None = None
    stop_loss_price: Price | None = None
    stop_loss_limit_price: Price | None = None
    legs: tuple[OrderLeg, ...] = ()
    intent_date: date

    def checksum(self) -> str:
        """First 8 hex of SHA-256 over the canonical JSON of the body."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]


class OrderIntent(Frozen):
    """The durable wish for one order (I12): key, client id and body belong together for ever.

    `increasing` is False only for orders that the domain computed to be reducing from the
    broker-confirmed position. `replaces` names the client id of the order that this one takes
    over from; with `keeps_quantity` the replace leaves the size to the broker, so that it cannot
    restore what filled meanwhile (peers.md §4 row 7). `not_after` ends the right to send (entries
    only).
    """

    key: IntentKey
    client_id: str
    body: OrderBody
    increasing: bool
    tranche: int | None = None
    replaces: str | None = None
    not_after: AwareDatetime | None = None
    keeps_quantity: bool = False
    reason: str = ""

    @classmethod
    def derive(
        cls,
        installation: str,
        key: IntentKey,
        body: OrderBody,
        *,
        increasing: bool,
        tranche: int | None = None,
        replaces: str | None = None,
        not_after: AwareDatetime | None = None,
        keeps_quantity: bool = False,
        reason: str = "",
    ) -> OrderIntent:
        """Builds the intent with its derived client id."""
        return cls(
            key=key,
            client_id=client_order_id(installation, key, body.checksum()),
            body=body,
            increasing=increasing,
            tranche=tranche,
            replaces=replaces,
            not_after=not_after,
            keeps_quantity=keeps_quantity,
            reason=reason,
        )


class OrderState(StrEnum):
    """PENDING_NEW: asked for, the broker has not answered. UNKNOWN: sent, answer lost."""

    PENDING_NEW = "pending_new"
    UNKNOWN = "unknown"
    HELD = "held"
    WORKING = "working"
    PENDING_REPLACE = "pending_replace"
    PENDING_CANCEL = "pending_cancel"
    FILLED = "filled"
    CANCELED = "canceled"
    REPLACED = "replaced"
    EXPIRED = "expired"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"


TERMINAL_STATES = frozenset(
    {
        OrderState.FILLED,
        OrderState.CANCELED,
        OrderState.REPLACED,
        OrderState.EXPIRED,
        OrderState.REJECTED,
        OrderState.NOT_SENT,
    }
)
LIVE_STATES = frozenset(OrderState) - TERMINAL_STATES


class OrderEvent(StrEnum):
    """What can happen to an order, whoever tells it."""

    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    HELD = "held"
    REJECTED = "rejected"
    PARTIAL_FILL = "partial_fill"
    FILL = "fill"
    TRIGGERED = "triggered"
    CANCEL_REQUESTED = "cancel_requested"
    CANCEL_REJECTED = "cancel_rejected"
    CANCELED = "canceled"
    REPLACE_REQUESTED = "replace_requested"
    REPLACE_REJECTED = "replace_rejected"
    REPLACED = "replaced"
    EXPIRED = "expired"
    BUSTED = "busted"


def _single_rows() -> dict[tuple[OrderState, OrderEvent], OrderState]:
    state, event = OrderState, OrderEvent
    return {
        # Nothing was sent: a definite end. Only legal while no broker answer exists.
        (state.PENDING_NEW, event.NOT_SENT): state.NOT_SENT,
        (state.UNKNOWN, event.NOT_SENT): state.NOT_SENT,
        (state.PENDING_NEW, event.UNKNOWN): state.UNKNOWN,
        (state.UNKNOWN, event.UNKNOWN): state.UNKNOWN,
        # A zombie attempt may report "unknown" after the order was already seen: no news.
        (state.WORKING, event.UNKNOWN): state.WORKING,
        (state.HELD, event.ACCEPTED): state.WORKING,
        (state.HELD, event.HELD): state.HELD,
        (state.HELD, event.CANCEL_REJECTED): state.HELD,
        (state.HELD, event.REPLACE_REJECTED): state.HELD,
        (state.HELD, event.UNKNOWN): state.HELD,
        (state.UNKNOWN, event.CANCEL_REJECTED): state.UNKNOWN,
        (state.PENDING_NEW, event.HELD): state.HELD,
        (state.UNKNOWN, event.HELD): state.HELD,
        (state.WORKING, event.HELD): state.HELD,
        # The broker answers "accepted" late, after we asked for the cancel (D4).
        (state.PENDING_CANCEL, event.ACCEPTED): state.PENDING_CANCEL,
        (state.PENDING_REPLACE, event.ACCEPTED): state.PENDING_REPLACE,
        (state.PENDING_CANCEL, event.CANCEL_REQUESTED): state.PENDING_CANCEL,
        (state.PENDING_CANCEL, event.HELD): state.PENDING_CANCEL,
        (state.PENDING_CANCEL, event.UNKNOWN): state.PENDING_CANCEL,
        (state.PENDING_CANCEL, event.REPLACE_REQUESTED): state.PENDING_CANCEL,
        (state.PENDING_REPLACE, event.HELD): state.PENDING_REPLACE,
        (state.PENDING_REPLACE, event.UNKNOWN): state.PENDING_REPLACE,
        (state.PENDING_REPLACE, event.CANCEL_REJECTED): state.PENDING_REPLACE,
        (state.PENDING_REPLACE, event.CANCEL_REQUESTED): state.PENDING_CANCEL,
        (state.PENDING_REPLACE, event.REPLACE_REQUESTED): state.PENDING_REPLACE,
        (state.PENDING_CANCEL, event.CANCEL_REJECTED): state.WORKING,
        (state.PENDING_REPLACE, event.REPLACE_REJECTED): state.WORKING,
        (state.WORKING, event.CANCEL_REJECTED): state.WORKING,
        (state.WORKING, event.REPLACE_REJECTED): state.WORKING,
        (state.PENDING_CANCEL, event.REPLACE_REJECTED): state.PENDING_CANCEL,
        (state.WORKING, event.REPLACE_REQUESTED): state.PENDING_REPLACE,
        (state.HELD, event.REPLACE_REQUESTED): state.PENDING_REPLACE,
        # The race was lost: the broker filled while our cancel travelled (D3).
        (state.PENDING_CANCEL, event.PARTIAL_FILL): state.PENDING_CANCEL,
        (state.PENDING_REPLACE, event.PARTIAL_FILL): state.PENDING_REPLACE,
        # Fills prove acceptance, whatever we believed (F3: fill before ack).
        (state.NOT_SENT, event.ACCEPTED): state.WORKING,
        (state.NOT_SENT, event.PARTIAL_FILL): state.WORKING,
        (state.FILLED, event.BUSTED): state.WORKING,
    }


def _rows() -> dict[tuple[OrderState, OrderEvent], OrderState]:
    state, event = OrderState, OrderEvent
    table = _single_rows()
    for open_state in (state.PENDING_NEW, state.UNKNOWN, state.WORKING):
        table[open_state, event.ACCEPTED] = state.WORKING
        table[open_state, event.PARTIAL_FILL] = state.WORKING
    table[state.HELD, event.PARTIAL_FILL] = state.WORKING
    for live in sorted(LIVE_STATES):
        table[live, event.FILL] = state.FILLED
        table[live, event.CANCELED] = state.CANCELED
        table[live, event.EXPIRED] = state.EXPIRED
        # Reject after accept is usual at several brokers (C10).
        table[live, event.REJECTED] = state.REJECTED
        table[live, event.REPLACED] = state.REPLACED
        table[live, event.TRIGGERED] = (
            live if live in (state.PENDING_CANCEL, state.PENDING_REPLACE) else state.WORKING
        )
        table[live, event.BUSTED] = live
        # Cancelling by client id is allowed on an unknown order.
        table[live, event.CANCEL_REQUESTED] = state.PENDING_CANCEL
    for done in sorted(TERMINAL_STATES):
        # Doubled and late news never leave a terminal state (I7) ...
        for late in (
            event.CANCEL_REQUESTED,
            event.CANCEL_REJECTED,
            event.REPLACE_REQUESTED,
            event.REPLACE_REJECTED,
            event.TRIGGERED,
            event.UNKNOWN,
            event.HELD,
            event.NOT_SENT,
        ):
            table.setdefault((done, late), done)
        for news in (event.ACCEPTED, event.CANCELED, event.EXPIRED, event.REPLACED, event.REJECTED):
            table.setdefault((done, news), done)
        # ... except by the explicit rows of late fill and bust (D9): quantities change, and a
        # complete fill makes the order FILLED whatever it was called before.
        table.setdefault((done, event.PARTIAL_FILL), done)
        table[done, event.FILL] = state.FILLED
        table.setdefault((done, event.BUSTED), done)
    return table


TRANSITIONS: Mapping[tuple[OrderState, OrderEvent], OrderState] = MappingProxyType(_rows())


def next_order_state(state: OrderState, event: OrderEvent) -> OrderState:
    """State after the event.

    Raises:
        IllegalTransition: the pair is not in the table; nothing has changed.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"order was {state}, event was {event}") from None


class BrokerOrderStatus(StrEnum):
    """Normalised status of a broker's order; adapters map their own words to these.

    UNKNOWN: the adapter does not know the word. It is a state plus an alert, never a crash
    (faults.md §3 row 57).
    """

    PENDING = "pending"
    WORKING = "working"
    HELD = "held"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REPLACED = "replaced"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


class OrderSnapshot(Frozen):
    """One order as the broker shows it at `read_at` (wall UTC).

    `parent_broker_id` links children of brackets, OCO and OTO; `legs` holds those children and
    the legs of a combo. `filled_quantity` is cumulative and only used to notice missing fills:
    quantities are booked from executions.
    """

    broker_order_id: str
    client_id: str | None = None
    symbol: str = ""
    side: Side | None = None
    order_class: OrderClass = OrderClass.SIMPLE
    order_type: OrderType | None = None
    time_in_force: TimeInForce | None = None
    quantity: Quantity = ZERO
    filled_quantity: Quantity = ZERO
    average_fill_price: NetPrice | None = None
    limit_price: NetPrice | None = None
    stop_price: Price | None = None
    status: BrokerOrderStatus
    raw_status: str = ""
    reject_code: str = ""
    reject_text: str = ""
    replaces_broker_id: str | None = None
    replaced_by_broker_id: str | None = None
    parent_broker_id: str | None = None
    submitted_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    legs: tuple[OrderSnapshot, ...] = ()

    @property
    def is_terminal(self) -> bool:
        return self.status in _TERMINAL_STATUSES


_TERMINAL_STATUSES = frozenset(
    {
        BrokerOrderStatus.FILLED,
        BrokerOrderStatus.CANCELED,
        BrokerOrderStatus.EXPIRED,
        BrokerOrderStatus.REPLACED,
        BrokerOrderStatus.REJECTED,
    }
)


class Fill(Frozen):
    """One execution, unique by (broker, account, fill_key) (I7).

    `fill_key` is stable across stream and REST. `price` is per unit of `symbol`, > 0.
    `quantity` is unsigned; `fee` is in account currency, cost > 0, None until the broker tells it.
    `client_id` is None for children whose id the broker made; `broker_order_id` is always there.
    `is_sum`: the broker tells no single executions; quantity and price are those of all of them
    so far, and the ledger books what is new of it (ADR 0017).
    """

    fill_key: str
    broker_order_id: str
    client_id: str | None = None
    symbol: str
    side: Side
    quantity: Quantity
    price: Price
    fee: NetPrice | None = None
    execution_id: str = ""
    cumulative_quantity: Quantity | None = None
    venue_time: AwareDatetime
    is_sum: bool = False

    @property
    def signed_quantity(self) -> Decimal:
        return self.quantity * self.side.sign


class Position(Frozen):
    """What the broker says it holds: signed quantity and average entry price."""

    symbol: str
    quantity: SignedQuantity
    average_price: NetPrice | None = None
    available_quantity: Quantity | None = None


class Quote(Frozen):
    """Best bid and offer. `venue_time` is market time. A missing side is None, never zero.

    `gross` is only set for the net quote of a combo: the sum of its legs' mids x ratios.
    """

    symbol: str
    bid: NetPrice | None = None
    ask: NetPrice | None = None
    bid_size: Quantity | None = None
    ask_size: Quantity | None = None
    last: NetPrice | None = None
    gross: NetPrice | None = None
    venue_time: AwareDatetime

    @property
    def mid(self) -> Decimal | None:
        if self.bid is None or self.ask is None:
            return None
        return (self.bid + self.ask) / 2
