"""What the ledger takes and answers: plain frozen values, safe to put into a payload.

Quantities and prices are `Decimal`, instants aware UTC. Every record mirrors one row of
`ledger.tables`; the code of an enum is its text in the database.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field, JsonValue

from domain.base import Frozen
from domain.commands import AlertSeverity
from domain.control import ApiBreakerState, BreakerState, ConditionKind, Control
from domain.facts import AdjustmentKind
from domain.ids import Purpose
from domain.money import ZERO, Amount, NetPrice, Quantity, SignedQuantity, total
from domain.order import BrokerOrderStatus, Fill, OrderIntent, OrderSnapshot, Side
from domain.plan import TradePlan
from domain.risk.repeats import EntryIdea

EXTERNAL = "EXTERNAL"
CORRECTED_BY = "corrected by "
"""Owner of positions that no trade of ours explains (I20)."""
ALL_ACCOUNTS = "*"
"""The control row that holds kills of scope `all`, accounts of tomorrow included."""


# --- order gate --------------------------------------------------------------------------------


class IntentState(StrEnum):
    """What we know about the send of an intent. UNKNOWN is a state, not an error (I10)."""

    SENDING = "sending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    NOT_SENT = "not_sent"


class GateCode(StrEnum):
    """Why the last-hop gate refused; nothing was sent and nothing may be sent."""

    NOT_ARMED = "NOT_ARMED"
    KILLED = "KILLED"
    NOT_AFTER = "NOT_AFTER"
    BREAKER_TRIPPED = "BREAKER_TRIPPED"
    API_BREAKER_OPEN = "API_BREAKER_OPEN"
    CONDITION_ACTIVE = "CONDITION_ACTIVE"
    ACCOUNT_UNKNOWN = "ACCOUNT_UNKNOWN"
    CONTROL_LOCKED = "CONTROL_LOCKED"
    INTENT_LOCKED = "INTENT_LOCKED"
    TOO_MANY_ORDERS = "TOO_MANY_ORDERS"
    NO_SIGNAL = "NO_SIGNAL"
    TRADE_ENDED = "TRADE_ENDED"
    INTENT_BODY_DIFFERS = "INTENT_BODY_DIFFERS"
    WORKER_STALE = "WORKER_STALE"


SELF_HALTING = (GateCode.TOO_MANY_ORDERS, GateCode.NO_SIGNAL)
"""Refusals that show a loop or an order out of nowhere: the account is stopped (control 8)."""
DUPLICATE = "DUPLICATE"
"""Code of an unknown order whose id the venue knew: it has it, whatever a later post says."""


class OrderOwner(Frozen):
    """Whose order it is: what a kill scope is matched against."""

    account: str
    strategy: str
    symbols: tuple[str, ...]
    trade_id: str


class IntentRecord(Frozen):
    """One intent row with everything known about its order.

    `status` is the broker's last word and None before any; `is_live` says whether the order may
    still trade. `filled_quantity` is the broker's cumulative number, not the booked fills.
    """

    intent: OrderIntent
    owner: OrderOwner
    state: IntentState
    attempt_token: str
    attempts: int
    gate_at: AwareDatetime
    sent_at: AwareDatetime | None = None
    answered_at: AwareDatetime | None = None
    broker_order_id: str | None = None
    status: BrokerOrderStatus | None = None
    filled_quantity: Quantity
    snapshot: OrderSnapshot | None = None
    code: str = ""
    text: str = ""
    build_id: str = ""
    config_hash: str = ""

    @property
    def is_live(self) -> bool:
        """True while the order may be or come to be at the broker."""
        if self.state in (IntentState.REJECTED, IntentState.NOT_SENT):
            return False
        return self.snapshot is None or not self.snapshot.is_terminal


class GatePermit(Frozen):
    """The right to send this intent once, now. The 150 ms rule counts from the asking."""

    kind: Literal["permit"] = "permit"
    record: IntentRecord


class GateRefused(Frozen):
    """Definitely not sent."""

    kind: Literal["refused"] = "refused"
    code: GateCode
    text: str = ""


class IntentExists(Frozen):
    """An earlier attempt was here: resolve or adopt, do not send (I1)."""

    kind: Literal["exists"] = "exists"
    record: IntentRecord


GateAnswer = GatePermit | GateRefused | IntentExists


class ChildOrder(Frozen):
    """A broker-made order (bracket, OCO, OTO child) linked to our intent by its parent."""

    broker_order_id: str
    parent_client_id: str
    parent_broker_id: str
    client_id: str | None = None
    snapshot: OrderSnapshot


class SnapshotBooking(Frozen):
    """What `record_snapshot` did. `known` is False for an order that is not ours.

    `before` is the broker's view that was stored before this one, None for the first.
    """

    known: bool
    client_id: str | None = None
    trade_id: str | None = None
    fills_attributed: int = 0
    before: OrderSnapshot | None = None


# --- control -----------------------------------------------------------------------------------


class KillAnswer(Frozen):
    """The kill is in force from this commit on.

    `in_flight` are covered intents in `sending` or `unknown`, reducing ones included: each
    increasing one must be cancelled, resolved or named in the receipt. `working` are the covered
    accepted increasing orders that are not known dead. `lifted_at`: the command id is that of an
    earlier kill which people have lifted since: it is not in force, and a new one needs a new id.
    """

    controls: tuple[Control, ...]
    was_engaged: bool
    lifted_at: AwareDatetime | None = None
    in_flight: tuple[IntentRecord, ...] = ()
    working: tuple[IntentRecord, ...] = ()


class ResetRequest(Frozen):
    """A wish to lift kills, waiting for its second person or its five minutes."""

    request_id: str
    account: str
    command_ids: tuple[str, ...]
    requested_by: str
    reason: str
    approvals_needed: int
    requested_at: AwareDatetime
    confirmable_at: AwareDatetime
    expires_at: AwareDatetime
    confirmed_by: str | None = None


class ConditionRecord(Frozen):
    """A condition that blocks entries while active; empty `symbol` means every symbol."""

    account: str
    kind: ConditionKind
    symbol: str = ""
    text: str = ""
    since: AwareDatetime


class BreakerRecord(Frozen):
    """Risk breaker of an account. A missing row reads as TRIPPED with reason MISSING."""

    account: str
    state: BreakerState
    reason: str = ""
    text: str = ""
    changed_by: str = ""
    changed_at: AwareDatetime | None = None


class ApiBreakerRecord(Frozen):
    """API breaker of a broker. A missing row reads as OPEN."""

    broker: str
    state: ApiBreakerState
    failures: int = 0
    changed_at: AwareDatetime | None = None


class AccountRecord(Frozen):
    account: str
    broker: str
    currency: str
    armed: bool


class EquityBaseline(Frozen):
    """Equity at the account's roll, stored once per roll (architecture §7)."""

    account: str
    roll: AwareDatetime
    equity: Amount
    read_at: AwareDatetime


# --- fills and money ---------------------------------------------------------------------------


class FillBooking(Frozen):
    """`trade_id` None: nobody of ours owns the order yet (EXTERNAL until it is attributed).

    `differs`: the key was booked before with another quantity, price, symbol or side; the first
    row stands and a person must look. `told`: the trade has heard of it or is about to. `fill`:
    the row as it was booked, where that is not the fill that was given (a sum, ADR 0017).
    `took_back`: rows were reversed with it, so its trade has more to hear than this one.
    """

    fill_key: str
    is_new: bool
    trade_id: str | None
    differs: bool = False
    told: bool = False
    fill: Fill | None = None
    took_back: bool = False


class FillRecord(Frozen):
    """One booked execution; a reversal row names in `reverses` the key that it undoes."""

    fill: Fill
    account: str
    broker: str
    trade_id: str | None
    reverses: str | None = None
    booked_at: AwareDatetime

    @property
    def is_reversal(self) -> bool:
        return self.reverses is not None

    @property
    def corrected_by(self) -> str:
        """The key of the row that counts instead of the reversed one; empty if none does."""
        is_correction = self.is_reversal and self.fill.execution_id.startswith(CORRECTED_BY)
        return self.fill.execution_id.removeprefix(CORRECTED_BY) if is_correction else ""


class FeeRecord(Frozen):
    """A fee booked by the broker on its own row; cost > 0, in account currency."""

    activity_id: str
    account: str
    amount: Amount
    trade_id: str | None = None
    symbol: str | None = None
    broker_order_id: str | None = None
    fill_key: str | None = None
    text: str = ""
    venue_time: AwareDatetime


class AdjustmentRecord(Frozen):
    """A change of position that no fill explains; `trade_id` None books it to EXTERNAL."""

    adjustment_id: str
    account: str
    trade_id: str | None = None
    symbol: str
    quantity: SignedQuantity
    price: NetPrice | None = None
    kind: AdjustmentKind
    text: str = ""
    at: AwareDatetime


class CashMovement(Frozen):
    """Money that the owner put in (> 0) or took out (< 0), under an id that counts once."""

    movement_id: str
    account: str
    amount: Amount
    text: str = ""
    at: AwareDatetime
    booked_by: str


class TradePosition(Frozen):
    """Signed quantity that a trade (or EXTERNAL) owns in a symbol, fills and adjustments."""

    trade_id: str
    symbol: str
    quantity: SignedQuantity


# --- risk --------------------------------------------------------------------------------------


class VerdictKind(StrEnum):
    PASSED = "passed"
    REFUSED = "refused"
    NOT_APPLICABLE = "not_applicable"


class GateVerdict(Frozen):
    """One check of the risk gate, in gate order; never silently passed."""

    check: str
    verdict: VerdictKind
    code: str = ""
    text: str = ""
    facts: dict[str, str] = Field(default_factory=dict)


class ReserveRequest(Frozen):
    """Who asks for risk; the rest of the plan is the evaluator's business.

    `look_back_s` is how far back, in wall seconds, the strategy's earlier entries are wanted.
    """

    trade_id: str
    account: str
    strategy: str
    symbol: str
    look_back_s: float = 0.0


class RecentReservation(Frozen):
    """A trade that the gate let through, whatever became of it (faults.md control 6, A7)."""

    trade_id: str
    strategy: str
    idea: EntryIdea
    reserved_at: AwareDatetime


class HeldLeg(Frozen):
    """A leg of a trade that holds risk: all that the gate asks of it."""

    symbol: str
    side: Side


class Reservation(Frozen):
    """Risk held for one trade. `released_at` set = counts nothing any more.

    `legs` are those of the trade's plan where the risk book is read, empty elsewhere.
    """

    reservation_id: str
    trade_id: str
    account: str
    strategy: str
    symbol: str
    quantity: Quantity
    notional: Amount
    loss: Amount
    reserved_at: AwareDatetime
    released_at: AwareDatetime | None = None
    release_reason: str = ""
    legs: tuple[HeldLeg, ...] = ()


class WorkingOrder(Frozen):
    """One of our orders that may still trade; `remaining` = quantity − filled."""

    client_id: str
    trade_id: str
    symbol: str
    side: Side
    remaining: Quantity
    limit_price: NetPrice | None = None
    increasing: bool


class RiskBook(Frozen):
    """Everything the gate may count, read in one transaction under the account's lock.

    `reservations` are the unreleased ones of the account (working orders and open positions of
    our trades are inside them). `positions` are by trade, EXTERNAL included. `messages_last_60_s`
    counts intents that passed the gate. `recent` are entries of one strategy, newest first, since
    the last reset of a kill of it. `transfers` is money that the owner moved in (> 0) or out since
    the baseline was read. Missing breakers read as tripped / open.
    """

    account: str
    read_at: AwareDatetime
    control: Control
    conditions: tuple[ConditionRecord, ...] = ()
    risk_breaker: BreakerRecord
    api_breaker: ApiBreakerRecord
    reservations: tuple[Reservation, ...] = ()
    positions: tuple[TradePosition, ...] = ()
    working_orders: tuple[WorkingOrder, ...] = ()
    messages_last_60_s: int = 0
    baseline: EquityBaseline | None = None
    configurations: tuple[StrategyRecord, ...] = ()
    recent: tuple[RecentReservation, ...] = ()
    transfers: Amount = ZERO

    @property
    def open_trades(self) -> int:
        """Number of trades that hold risk."""
        return len(self.reservations)


class ReserveDecision(Frozen):
    """What the evaluator decided. `document` is kept as it is (e.g. the entry ticket)."""

    approved: bool
    quantity: Quantity
    notional: Amount
    loss: Amount
    verdicts: tuple[GateVerdict, ...] = ()
    code: str = ""
    text: str = ""
    document: dict[str, JsonValue] = Field(default_factory=dict)


class ReserveResult(Frozen):
    """Answer of `reserve`; a repeat gives the first answer with `is_new` False (B2, B3).

    `reservation` is None when the gate refused.
    """

    is_new: bool
    reservation_id: str
    decision: ReserveDecision
    reservation: Reservation | None = None


# --- trades, signals, watches ------------------------------------------------------------------


class TradeRecord(Frozen):
    """The trade's row. `stage` is the fold's stage text; `closed_at` None = open.

    `document` is free JSON of the owner (state summary, exported story of a closed trade).
    """

    trade_id: str
    account: str
    session: str
    strategy: str
    symbol: str
    plan: TradePlan
    stage: str
    protection: str = ""
    result: str = ""
    story: str = ""
    realised: Amount | None = None
    fees: Amount | None = None
    fees_estimated: bool = True
    build_id: str = ""
    config_hash: str = ""
    document: dict[str, JsonValue] = Field(default_factory=dict)
    created_at: AwareDatetime
    updated_at: AwareDatetime
    closed_at: AwareDatetime | None = None
    settled_at: AwareDatetime | None = None


class TradeBook(Frozen):
    """What the ledger knows of one open trade at one instant: its orders and what it holds."""

    trade: TradeRecord
    orders: tuple[IntentRecord, ...] = ()
    fills: tuple[FillRecord, ...] = ()
    adjustments: tuple[AdjustmentRecord, ...] = ()

    def position(self, symbol: str) -> Decimal:
        """Signed quantity of the symbol: fills (a reversal has the other side), adjustments."""
        booked = (row.fill.signed_quantity for row in self.fills if row.fill.symbol == symbol)
        return total(booked) + total(a.quantity for a in self.adjustments if a.symbol == symbol)

    @property
    def sent_ids(self) -> tuple[str, ...]:
        """Client ids of the orders that may have gone out and were not refused."""
        never = (IntentState.NOT_SENT, IntentState.REJECTED)
        return tuple(o.intent.client_id for o in self.orders if o.state not in never)

    @property
    def doubtful_ids(self) -> tuple[str, ...]:
        """Client ids of the orders of which nobody has said yet whether they went out."""
        open_states = (IntentState.SENDING, IntentState.UNKNOWN)
        return tuple(o.intent.client_id for o in self.orders if o.state in open_states)

    @property
    def fill_keys(self) -> tuple[str, ...]:
        """Keys of the booked executions, busted ones included."""
        return tuple(row.fill.fill_key for row in self.fills if not row.is_reversal)

    @property
    def taken_back(self) -> tuple[str, ...]:
        """Keys of the booked executions that the venue took back."""
        return tuple(row.reverses for row in self.fills if row.reverses is not None)

    @property
    def misses_executions(self) -> bool:
        """True while an entry shows more filled than is booked: what is held is not known then."""
        entries = (o for o in self.orders if o.intent.key.purpose is Purpose.ENTRY)
        shown = max((order.filled_quantity for order in entries), default=ZERO)
        leg = self.trade.plan.legs[0]
        booked = total(
            row.fill.quantity
            for row in self.fills
            if row.fill.symbol == leg.instrument.symbol and row.fill.side is leg.side
        )
        return shown * leg.ratio > booked


class SignalRecord(Frozen):
    """Every signal with its decision: `decision` is e.g. taken, refused, late, duplicate."""

    signal_id: str
    session: str
    account: str
    strategy: str
    symbol: str
    side: Side | None = None
    decision: str
    code: str = ""
    text: str = ""
    trade_id: str | None = None
    signal_time: AwareDatetime
    recorded_at: AwareDatetime
    document: dict[str, JsonValue] = Field(default_factory=dict)


class SessionSeen(Frozen):
    """A session by what it left in the ledger; `decisions` are its signals, "no signal" too.

    `first_at` and `last_at` are market time of its decisions, or the rows' own time without any.
    """

    name: str
    account: str
    first_at: AwareDatetime
    last_at: AwareDatetime
    decisions: int = 0
    taken: int = 0
    trades: int = 0


class StrategyRecord(Frozen):
    """A stored configuration: `strategy` is a file of `strategies/` or a path.

    `capital` bounds what its open trades may be worth, `losses_max` disables it after so many
    losing trades in a row since `enabled_at`; None: no such rule. `reason` is the last change's.
    """

    name: str
    strategy: str
    parameters: dict[str, str] = Field(default_factory=dict)
    enabled: bool = True
    capital: Amount | None = None
    losses_max: int | None = None
    version: int = 1
    reason: str = ""
    enabled_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    updated_by: str = ""


class WatchRecord(Frozen):
    """One rule of the exit watch. Unique by (trade, rule); a newer epoch restarts progress."""

    account: str
    trade_id: str
    rule_id: str
    position_epoch: int
    symbol: str
    document: dict[str, JsonValue] = Field(default_factory=dict)
    high_water_mark: NetPrice | None = None
    last_mark: NetPrice | None = None
    confirmations: int = 0
    confirmed_at: AwareDatetime | None = None
    evaluated_at: AwareDatetime | None = None


# --- market data ---------------------------------------------------------------------------------


class MarketWant(Frozen):
    """A source (session, position, recording) needs bars of a symbol; it says so again in time."""

    source: str
    symbol: str
    interval_s: int


class RecordingState(StrEnum):
    RECORDING = "recording"
    STOPPING = "stopping"
    ENDED = "ended"


class RecordingCounts(Frozen):
    """What a recording holds so far. `gaps` are pieces of time without a connection."""

    trades: int = 0
    quotes: int = 0
    parts: int = 0
    size_bytes: int = 0
    gaps: tuple[tuple[AwareDatetime, AwareDatetime], ...] = ()
    gaps_left_out: int = 0
    first_at: AwareDatetime | None = None
    last_at: AwareDatetime | None = None
    saved_at: AwareDatetime | None = None
    folder: str = ""


class RecordingRecord(Frozen):
    """A recording of the market: the streams worker works while its state is not `ended`."""

    name: str
    account: str
    symbols: tuple[str, ...]
    state: RecordingState = RecordingState.RECORDING
    started_by: str
    started_at: AwareDatetime
    ends_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    reason: str = ""
    counts: RecordingCounts = RecordingCounts()


# --- operations --------------------------------------------------------------------------------


class LeaseRecord(Frozen):
    name: str
    holder: str
    epoch: int
    expires_at: AwareDatetime


class AlertRecord(Frozen):
    """One alert of the outbox. `round` rises each time it is to be told again."""

    alert_id: int
    key: str
    account: str
    trade_id: str | None = None
    code: str
    severity: AlertSeverity
    text: str
    raised_at: AwareDatetime
    last_at: AwareDatetime
    occurrences: int = 1
    round: int = 1
    escalations: int = 0
    acknowledged_at: AwareDatetime | None = None
    acknowledged_by: str = ""
    note: str = ""


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    MUTED = "muted"


class DeliveryRecord(Frozen):
    """What became of one round of an alert on one channel."""

    alert_id: int
    round: int
    channel: str
    escalated: bool = False
    state: DeliveryState
    attempts: int = 0
    first_attempt_at: AwareDatetime | None = None
    delivered_at: AwareDatetime | None = None
    last_error: str = ""


class DueDelivery(Frozen):
    """A delivery that the caller has claimed, with the alert it carries."""

    alert: AlertRecord
    delivery: DeliveryRecord


class AuditRow(Frozen):
    """One link of the chain; `hash` covers everything else and the previous hash."""

    sequence: int
    at: AwareDatetime
    actor: str
    action: str
    subject: str
    details: str
    previous_hash: str
    hash: str


class AuditProblemKind(StrEnum):
    EDITED = "edited"
    DELETED = "deleted"
    REORDERED = "reordered"


class AuditProblem(Frozen):
    """A row the verifier does not believe (faults.md control 24)."""

    sequence: int
    kind: AuditProblemKind
    text: str
