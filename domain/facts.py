"""What the world told a trade. Facts only update knowledge; `desired` and `next_steps` decide.

A fact is immutable and carries when it was learned (`at`, wall UTC). Batches are one model
around the discriminated union, so that decoding stays cheap (style.md 5a).
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, JsonValue, TypeAdapter, ValidationError

from domain.base import Frozen
from domain.control import KillMode
from domain.entry import EntryTicket
from domain.money import Amount, NetPrice, Number, Quantity, SignedQuantity, divide
from domain.order import Fill, OrderSnapshot, Position, Quote


class _Fact(Frozen):
    at: AwareDatetime


class RiskReserved(_Fact):
    """The gate approved and reserved; the ticket holds size, ladder and what was known."""

    kind: Literal["risk_reserved"] = "risk_reserved"
    ticket: EntryTicket


class RiskRefused(_Fact):
    kind: Literal["risk_refused"] = "risk_refused"
    code: str
    text: str = ""
    facts: dict[str, str] = Field(default_factory=dict)


class OrderAccepted(_Fact):
    """The broker has our order; `order.legs` are its children."""

    kind: Literal["order_accepted"] = "order_accepted"
    client_id: str
    order: OrderSnapshot


class OrderRejected(_Fact):
    kind: Literal["order_rejected"] = "order_rejected"
    client_id: str
    code: str
    text: str = ""


class OrderNotSent(_Fact):
    """Definitely not sent (gate refused, connect refused, 429, queue timed out)."""

    kind: Literal["order_not_sent"] = "order_not_sent"
    client_id: str
    code: str
    text: str = ""
    retry_after_s: float | None = None


class OrderUnknown(_Fact):
    kind: Literal["order_unknown"] = "order_unknown"
    client_id: str
    reason: str


class OrderResolved(_Fact):
    """Evidence about an unknown order: the order, or None = proven never accepted."""

    kind: Literal["order_resolved"] = "order_resolved"
    client_id: str
    order: OrderSnapshot | None
    evidence: str = ""


class OrderReported(_Fact):
    """The broker's own current view of one of our orders (read-back, stream, snapshot)."""

    kind: Literal["order_reported"] = "order_reported"
    order: OrderSnapshot
    event: str = ""


class FillReported(_Fact):
    kind: Literal["fill_reported"] = "fill_reported"
    fill: Fill


class FillBusted(_Fact):
    kind: Literal["fill_busted"] = "fill_busted"
    fill_key: str


class FillCorrected(_Fact):
    kind: Literal["fill_corrected"] = "fill_corrected"
    fill_key: str
    fill: Fill


class CancelAsked(_Fact):
    """The broker took the cancel request: not proof of death."""

    kind: Literal["cancel_asked"] = "cancel_asked"
    client_id: str


class CancelRejected(_Fact):
    kind: Literal["cancel_rejected"] = "cancel_rejected"
    client_id: str
    code: str
    text: str = ""


class ReplaceConfirmed(_Fact):
    """The venue took the replacement; the old order stays live until proven dead (D1).

    `amended`: the venue changed the old order in its place; there is no new one (ADR 0017).
    """

    kind: Literal["replace_confirmed"] = "replace_confirmed"
    old_client_id: str
    new_client_id: str
    order: OrderSnapshot
    amended: bool = False


class ReplaceRejected(_Fact):
    kind: Literal["replace_rejected"] = "replace_rejected"
    old_client_id: str
    new_client_id: str
    code: str
    text: str = ""


class QuoteRead(_Fact):
    """Net quote of one trade unit and when it was read; absent sides are None."""

    kind: Literal["quote_read"] = "quote_read"
    quote: Quote


class BrokerSnapshot(_Fact):
    """Broker truth about this trade's orders and symbols, read between `started_at` and `at`.

    Missing is not flat (R6): `complete` is False when any page failed, and then nothing may be
    concluded from absence. `fills` are all executions of this trade known to the ledger after
    the read was booked.
    """

    kind: Literal["broker_snapshot"] = "broker_snapshot"
    started_at: AwareDatetime
    orders: tuple[OrderSnapshot, ...]
    positions: tuple[Position, ...]
    fills: tuple[Fill, ...]
    complete: bool = True


class ExitTriggered(_Fact):
    """A rule of the exit watch fired; (rule_id, position_epoch) makes it happen once."""

    kind: Literal["exit_triggered"] = "exit_triggered"
    rule_id: str
    position_epoch: int
    mark: NetPrice | None = None
    text: str = ""


class DeadlinePassed(_Fact):
    kind: Literal["deadline_passed"] = "deadline_passed"
    name: str


class FlattenRequested(_Fact):
    kind: Literal["flatten_requested"] = "flatten_requested"
    command_id: str
    by: str
    reason: str


class CloseRequested(_Fact):
    """A person or a strategy wants a part of the position closed, or all of it.

    Exactly one of `quantity` (trade units) and `fraction` (0 < f <= 1) of what is open when the
    fact is folded: held, less what an earlier close is already taking off. A part that leaves
    nothing, and a fraction of 1 before anything filled, end the trade. `exit_name` is what that
    full exit is called (`close`, `exit_signal`). The same `command_id` counts once (I17).
    """

    kind: Literal["close_requested"] = "close_requested"
    command_id: str
    by: str
    reason: str = ""
    quantity: Quantity | None = None
    fraction: Number | None = None
    exit_name: str = "close"
    version: int | None = None


class KillEngaged(_Fact):
    kind: Literal["kill_engaged"] = "kill_engaged"
    command_id: str
    mode: KillMode
    by: str
    reason: str


class SessionChanged(_Fact):
    """Trading hours as UTC market instants, computed by an activity."""

    kind: Literal["session_changed"] = "session_changed"
    is_open: bool
    next_open: AwareDatetime | None = None
    next_close: AwareDatetime | None = None


class TradingHalted(_Fact):
    kind: Literal["trading_halted"] = "trading_halted"
    symbol: str


class TradingResumed(_Fact):
    kind: Literal["trading_resumed"] = "trading_resumed"
    symbol: str


class FeeBooked(_Fact):
    kind: Literal["fee_booked"] = "fee_booked"
    activity_id: str
    amount: Amount
    fill_key: str | None = None


class FundingPaid(_Fact):
    kind: Literal["funding_paid"] = "funding_paid"
    activity_id: str
    amount: Amount


class AdjustmentKind(StrEnum):
    BASE_COIN_FEE = "base_coin_fee"
    SPLIT = "split"
    ASSIGNMENT = "assignment"
    EXERCISE = "exercise"
    EXPIRY = "expiry"
    LIQUIDATION = "liquidation"
    ADL = "adl"
    DUST = "dust"
    EXTERNAL = "external"
    # By a person: taken from EXTERNAL, given to it, an unknown order's fill.
    ADOPTED = "adopted"
    RELEASED = "released"
    BY_HAND = "by_hand"
    # Executions of somebody else in the same account took it from the trade.
    CLOSED_OUTSIDE = "closed_outside"
    SYMBOL_CHANGE = "symbol_change"


OWNER_CHANGES = (
    AdjustmentKind.ADOPTED,
    AdjustmentKind.RELEASED,
    AdjustmentKind.DUST,
    AdjustmentKind.CLOSED_OUTSIDE,
)
"""Kinds that move a position between a trade and EXTERNAL; the broker's own stays the same."""


ENDINGS = (
    AdjustmentKind.ASSIGNMENT,
    AdjustmentKind.EXERCISE,
    AdjustmentKind.EXPIRY,
    AdjustmentKind.LIQUIDATION,
    AdjustmentKind.ADL,
    AdjustmentKind.CLOSED_OUTSIDE,
    AdjustmentKind.SYMBOL_CHANGE,
)
"""Kinds that take a position off at a price without an order of ours: they end a trade."""


class PositionAdjusted(_Fact):
    """A change of position that no fill explains, with its price if it has one.

    Of a split `split_from` were held and `split_to` are; from the market instant `effective_at` on
    quantities and prices are new.
    """

    kind: Literal["position_adjusted"] = "position_adjusted"
    adjustment_id: str
    symbol: str
    quantity: SignedQuantity
    price: NetPrice | None = None
    adjustment: AdjustmentKind
    split_from: SignedQuantity | None = None
    split_to: SignedQuantity | None = None
    effective_at: AwareDatetime | None = None

    @property
    def ratio(self) -> Decimal | None:
        """New shares for each old one; None if it is no split, or of nothing."""
        if not self.split_from or self.split_to is None:
            return None
        return divide(self.split_to, self.split_from)


class BookedByHand(_Fact):
    """The ledger has what a person changed: these adjustments and answered orders."""

    kind: Literal["booked_by_hand"] = "booked_by_hand"
    adjustment_ids: tuple[str, ...] = ()
    client_ids: tuple[str, ...] = ()


class DiscrepancyFound(_Fact):
    kind: Literal["discrepancy_found"] = "discrepancy_found"
    code: str
    text: str = ""


class OperatorVerb(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    TAKE_OVER = "take_over"
    HAND_BACK = "hand_back"
    MOVE_STOP = "move_stop"
    RESOLVE_ORDER = "resolve_order"
    CANCEL_ENTRY = "cancel_entry"
    MOVE_TARGET = "move_target"
    RELEASE = "release"
    CLOSE_AS_FLAT = "close_as_flat"


class OperatorCommand(_Fact):
    """What a person wants of one trade.

    `version` is the trade's version that the person saw; another one refuses the command.
    `reference` is the market's price on the side where a stop or target would fill at once.
    `target` counts from 1. `release_orders` takes the resting exits down at a take-over.
    """

    kind: Literal["operator_command"] = "operator_command"
    command_id: str
    by: str
    verb: OperatorVerb
    reason: str = ""
    price: NetPrice | None = None
    quantity: Quantity | None = None
    client_id: str | None = None
    resolution: Literal["filled", "dead"] | None = None
    evidence: str = ""
    version: int | None = None
    reference: NetPrice | None = None
    target: int | None = None
    widen: bool = False
    marketable: bool = False
    release_orders: bool = False


class VersionChanged(_Fact):
    """A new build is current: hand the state over at the next quiet point."""

    kind: Literal["version_changed"] = "version_changed"
    build_id: str


class Settled(_Fact):
    """The ledger booked the close; fees may still be estimated. `closed_at` by its own clock."""

    kind: Literal["settled"] = "settled"
    realised: Amount
    fees: Amount
    fees_estimated: bool
    closed_at: AwareDatetime | None = None


class CommandFailed(_Fact):
    """A step ended without an answer (activity failure). The next look repairs it."""

    kind: Literal["command_failed"] = "command_failed"
    step: str
    code: str
    text: str = ""


Fact = Annotated[
    RiskReserved
    | RiskRefused
    | OrderAccepted
    | OrderRejected
    | OrderNotSent
    | OrderUnknown
    | OrderResolved
    | OrderReported
    | FillReported
    | FillBusted
    | FillCorrected
    | CancelAsked
    | CancelRejected
    | ReplaceConfirmed
    | ReplaceRejected
    | QuoteRead
    | BrokerSnapshot
    | ExitTriggered
    | DeadlinePassed
    | FlattenRequested
    | CloseRequested
    | KillEngaged
    | SessionChanged
    | TradingHalted
    | TradingResumed
    | FeeBooked
    | FundingPaid
    | PositionAdjusted
    | BookedByHand
    | DiscrepancyFound
    | OperatorCommand
    | VersionChanged
    | Settled
    | CommandFailed,
    Field(discriminator="kind"),
]

_FACT: TypeAdapter[Fact] = TypeAdapter(Fact)


class FactBatch(Frozen):
    """What every order activity answers, in the order in which it happened."""

    facts: tuple[Fact, ...] = ()


ENVELOPE_VERSION = 1
ENVELOPE_FACTS_MAX = 64


class FactEnvelope(Frozen):
    """A doorbell that always decodes: the SDK drops a signal that does not (architecture §4).

    `body` is {"facts": [...]} as JSON values; `as_facts` turns what it cannot read into a
    `DiscrepancyFound` (faults.md §3 row 64, A6).
    """

    kind: str = "facts"
    version: int = ENVELOPE_VERSION
    sender: str = ""
    body: JsonValue = None

    @classmethod
    def of(cls, *facts: Fact, sender: str = "") -> FactEnvelope:
        return cls(
            sender=sender,
            body={"facts": [_FACT.dump_python(fact, mode="json") for fact in facts]},
        )

    def as_facts(self, now: Any) -> tuple[Fact, ...]:
        """The facts inside; each unreadable one becomes a discrepancy. Never raises."""
        if self.version > ENVELOPE_VERSION:
            return (_unreadable(now, "SCHEMA_VERSION", f"version was {self.version}"),)
        rows = self.body.get("facts") if isinstance(self.body, dict) else None
        if not isinstance(rows, list):
            return (_unreadable(now, "SCHEMA_VERSION", "body was not a list of facts"),)
        facts: list[Fact] = []
        for row in rows[:ENVELOPE_FACTS_MAX]:
            try:
                facts.append(_FACT.validate_python(row))
            except ValidationError as error:
                first = error.errors()[0]
                text = f"{first['type']} at {'.'.join(str(part) for part in first['loc'])}"
                facts.append(_unreadable(now, "FACT_UNREADABLE", text[:200]))
        if len(rows) > ENVELOPE_FACTS_MAX:
            facts.append(_unreadable(now, "FACTS_TOO_MANY", f"{len(rows)} facts in one signal"))
        return tuple(facts)


def _unreadable(now: Any, code: str, text: str) -> DiscrepancyFound:
    return DiscrepancyFound(at=now, code=code, text=text)
