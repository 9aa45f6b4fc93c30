"""What a trade wants done. The runtime starts each command as a task under its `key`.

At most one command per key is in flight; its answer comes back as facts.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from domain.base import Frozen
from domain.facts import PositionAdjusted
from domain.money import NetPrice, Quantity
from domain.order import OrderIntent, Side
from domain.plan import ExitRule, PlanLeg, TradePlan

READ_KEY = "read"


class Urgency(StrEnum):
    """Priority lane of the order queue; `EXIT` overtakes everything."""

    EXIT = "exit"
    PROTECT = "protect"
    ENTRY = "entry"


class ReserveRisk(Frozen):
    """Run the gate in one transaction and reserve; answers RiskReserved or RiskRefused."""

    kind: Literal["reserve_risk"] = "reserve_risk"
    plan: TradePlan

    @property
    def key(self) -> str:
        return "reserve"


class PlaceOrder(Frozen):
    kind: Literal["place_order"] = "place_order"
    intent: OrderIntent
    urgency: Urgency
    summary: str = ""

    @property
    def key(self) -> str:
        return f"order/{self.intent.client_id}"


class ReplaceOrder(Frozen):
    """Swap the live order `old_broker_id` for `intent`; both count as live until proven dead."""

    kind: Literal["replace_order"] = "replace_order"
    old_client_id: str
    old_broker_id: str
    intent: OrderIntent
    urgency: Urgency
    summary: str = ""

    @property
    def key(self) -> str:
        return f"order/{self.old_client_id}"


class WalkStep(Frozen):
    """One step of the walk: read own order and quote, then replace at the pure ladder price.

    The activity stops with what it read if the order is not plainly working, if the market has
    traded through stop or first target (`invalid_at_…`), or if the price would not change.
    """

    kind: Literal["walk_step"] = "walk_step"
    old_client_id: str
    old_broker_id: str
    intent: OrderIntent
    step_index: int
    invalid_at_or_below: NetPrice | None = None
    invalid_at_or_above: NetPrice | None = None
    legs: tuple[PlanLeg, ...]
    summary: str = ""

    @property
    def key(self) -> str:
        return f"order/{self.old_client_id}"


class CancelOrder(Frozen):
    kind: Literal["cancel_order"] = "cancel_order"
    client_id: str
    broker_order_id: str | None
    urgency: Urgency
    summary: str = ""

    @property
    def key(self) -> str:
        return f"order/{self.client_id}"


class ResolveOrder(Frozen):
    """Find out by broker evidence what became of an unknown order (architecture §5.5).

    `is_bare`: something is held and no exit goes before this is known (I4).
    """

    kind: Literal["resolve_order"] = "resolve_order"
    intent: OrderIntent
    replaces_broker_id: str | None = None
    sent_at: AwareDatetime
    may_repost: bool
    is_bare: bool = False
    urgency: Urgency

    @property
    def key(self) -> str:
        return f"order/{self.intent.client_id}"


class ReadBroker(Frozen):
    """Read our orders, the positions and all executions; answers BrokerSnapshot."""

    kind: Literal["read_broker"] = "read_broker"
    broker_order_ids: tuple[str, ...]
    client_ids: tuple[str, ...]
    symbols: tuple[str, ...]
    reason: str
    urgency: Urgency = Urgency.PROTECT
    is_bare: bool = False

    @property
    def key(self) -> str:
        return READ_KEY


class ReadQuote(Frozen):
    """Read quote and trading hours; answers QuoteRead and SessionChanged.

    `is_bare`: an exit waits for it while a part of the position has no stop.
    """

    kind: Literal["read_quote"] = "read_quote"
    legs: tuple[PlanLeg, ...]
    is_bare: bool = False

    @property
    def key(self) -> str:
        return "quote"


class WatchExits(Frozen):
    """Upsert the exit-watch row of this trade for this position epoch."""

    kind: Literal["watch_exits"] = "watch_exits"
    position_epoch: int
    rules: tuple[ExitRule, ...]
    side: Side
    units: Quantity
    average_entry: NetPrice
    opened_at: AwareDatetime

    @property
    def key(self) -> str:
        return "watch"


class AnsweredOrder(Frozen):
    """An unknown order that a person answered for."""

    client_id: str
    resolution: Literal["filled", "dead"]
    evidence: str


class BookByHand(Frozen):
    """Write to the ledger what a person changed: positions and answers for unknown orders."""

    kind: Literal["book_by_hand"] = "book_by_hand"
    adjustments: tuple[PositionAdjusted, ...] = ()
    answers: tuple[AnsweredOrder, ...] = ()

    @property
    def key(self) -> str:
        return "book"


class AlertSeverity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Alert(Frozen):
    """Tell a person. Never blocks trading."""

    kind: Literal["alert"] = "alert"
    code: str
    severity: AlertSeverity
    text: str

    @property
    def key(self) -> str:
        return f"alert/{self.code}"


class Settle(Frozen):
    """Book the end: P&L, release of the reservation, exit-watch row away."""

    kind: Literal["settle"] = "settle"
    outcome: str
    exit_reason: str
    entry_quantity: Quantity
    average_entry: NetPrice | None = None
    average_exit: NetPrice | None = None
    arrival_mid: NetPrice | None = None
    naked_s: float = 0.0

    @property
    def key(self) -> str:
        return "settle"


Command = Annotated[
    ReserveRisk
    | PlaceOrder
    | ReplaceOrder
    | WalkStep
    | CancelOrder
    | ResolveOrder
    | ReadBroker
    | ReadQuote
    | WatchExits
    | BookByHand
    | Alert
    | Settle,
    Field(discriminator="kind"),
]
