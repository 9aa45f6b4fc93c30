"""The state of one trade: a plain value that survives every crash and continue-as-new.

Only knowledge is stored. Stage, position, tranche rest and deadlines are derived from it by the
functions below, so that no two fields can disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from pydantic import AwareDatetime, Field

from domain.base import Frozen
from domain.clock import ClockMap
from domain.commands import Alert, AnsweredOrder
from domain.control import KillMode
from domain.entry import EntryTicket
from domain.facts import ENDINGS, AdjustmentKind, PositionAdjusted
from domain.ids import DIRECT_SEQUENCE_FIRST, IntentKey, Purpose
from domain.money import CTX, ZERO, Amount, NetPrice, Quantity, divide, total
from domain.order import (
    LIVE_STATES,
    Fill,
    OrderClass,
    OrderIntent,
    OrderSnapshot,
    OrderState,
    Quote,
    Side,
)
from domain.plan import EntryStyle, TradePlan

KNOWLEDGE_MAX_AGE_S = 15.0
HISTORY_REWOUND = "HISTORY_REWOUND"
_OF_TRADE = 16  # characters of a client order id that all orders of a trade share (domain.ids)
_GROUPS = (OrderClass.OCO, OrderClass.OTO, OrderClass.BRACKET)
_AVERAGE_PLACES = Decimal("1e-10")
_COUNTED = frozenset({"plan", "fills", "busted", "adjustments"})
_RECORDS_MAX = 256


class Role(StrEnum):
    """What an order does for the trade."""

    ENTRY = "entry"
    STOP = "stop"
    TARGET = "target"
    EXIT = "exit"


class Stage(StrEnum):
    RESERVING = "reserving"
    ENTERING = "entering"
    OPEN = "open"
    EXITING = "exiting"
    CLOSING = "closing"
    NEEDS_OPERATOR = "needs_operator"
    REFUSED = "refused"
    NOT_FILLED = "not_filled"
    CLOSED = "closed"
    RELEASED = "released"


FINAL_STAGES = frozenset({Stage.REFUSED, Stage.NOT_FILLED, Stage.CLOSED, Stage.RELEASED})


class Outcome(StrEnum):
    REFUSED = "refused"
    NOT_FILLED = "not_filled"
    CLOSED = "closed"
    RELEASED = "released"


class OrderRecord(Frozen):
    """The trade's knowledge of one order, or of one child that the broker made.

    `client_id` is ours, or `<parent>.<n>` for a broker-made child. `intent` is None for children.
    `reported_filled` is the broker's cumulative quantity: more than the booked fills means that
    an execution is missing here. A combo counts units there; `leg_filled` are the contracts that
    the broker reports filled for each leg's symbol.
    """

    client_id: str
    role: Role
    state: OrderState
    symbol: str
    side: Side
    quantity: Quantity
    tranche: int | None = None
    leg: int = 0
    limit_price: NetPrice | None = None
    stop_price: NetPrice | None = None
    intent: OrderIntent | None = None
    broker_order_id: str | None = None
    leg_broker_ids: tuple[str, ...] = ()
    leg_filled: dict[str, Quantity] = Field(default_factory=dict)
    parent_client_id: str | None = None
    replaces: str | None = None
    reported_filled: Quantity = ZERO
    changed_at: AwareDatetime
    broker_updated_at: AwareDatetime | None = None
    reject_code: str = ""
    refusals: int = 0
    retry_at: AwareDatetime | None = None

    @property
    def is_live(self) -> bool:
        return self.state in LIVE_STATES

    def is_named(self, client_id: str | None, broker_order_id: str | None) -> bool:
        """True if either id is this order's; ours outweighs the broker's, issued twice (C9)."""
        if client_id is not None and client_id == self.client_id:
            return True
        named = "" if client_id is None else client_id[:_OF_TRADE]
        if self.intent is not None and named == self.client_id[:_OF_TRADE]:
            return False
        return broker_order_id is not None and (
            broker_order_id == self.broker_order_id or broker_order_id in self.leg_broker_ids
        )


class WalkProgress(Frozen):
    """Where the walk is. `ended` is empty while it goes on, else the reason.

    Of a sliced entry `step` counts the slices begun and `next_step_at` holds a new try back.
    `asked_at` is when its quote was asked for, `aside_since` when protection began to stand aside
    for a slice that is not out yet, `timed_out` the slice that we cancel because its time is up.
    """

    step: int = 0
    started_at: AwareDatetime | None = None
    next_step_at: AwareDatetime | None = None
    partial_since: AwareDatetime | None = None
    asked_at: AwareDatetime | None = None
    aside_since: AwareDatetime | None = None
    timed_out: str = ""
    ended: str = ""


class ExitProgress(Frozen):
    """A reducing exit on its way. `reason` empty means none. `rung` widens the collar.

    `asking_since` is since when it lacks a quote; a read after it ends that. `released_at` is when
    it began to take down what protects.
    `keep` > 0 makes it a part close: the units that shall stay. `releasing` is True while the
    resting exits stand back to those units, so that the rest of them can be sold.
    """

    reason: str = ""
    keep: Quantity = ZERO
    releasing: bool = False
    command_id: str = ""
    rung: int = 0
    sent_at: AwareDatetime | None = None
    retry_at: AwareDatetime | None = None
    began_at: AwareDatetime | None = None
    asked_at: AwareDatetime | None = None
    asking_since: AwareDatetime | None = None
    released_at: AwareDatetime | None = None
    pending: str = ""


class Hours(Frozen):
    """Trading hours as UTC market instants and halts of this trade's symbols."""

    is_open: bool = True
    next_open: AwareDatetime | None = None
    next_close: AwareDatetime | None = None
    halted: tuple[str, ...] = ()
    read_at: AwareDatetime | None = None


class MovedTarget(Frozen):
    """Where a person moved the target of a tranche (0-based) to."""

    tranche: int
    price: NetPrice


class CommandOutcome(Frozen):
    """A command of a person and, if it was refused, why: `CODE field: …`.

    `body_hash` tells whether a repeat under the same id asks for the same (faults.md rows 36-37).
    """

    command_id: str
    verb: str
    by: str
    reason: str = ""
    at: AwareDatetime
    body_hash: str = ""
    refusal: str = ""


class NakedClock(Frozen):
    """Wall seconds with a position and no live stop that should have one (I4)."""

    since: AwareDatetime | None = None
    total_s: float = 0.0
    longest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Booked:
    """Sums over the fills of one state: each is asked for many times before the next fill.

    `units` is empty until asked for. A record and the orders of an average are kept beside their
    sums: they tell whether it is about the same ones.
    """

    units: list[tuple[Decimal, ...]] = field(default_factory=list)
    fills: dict[int, tuple[OrderRecord, tuple[Fill, ...]]] = field(default_factory=dict)
    averages: dict[tuple[Role, ...], tuple[tuple[OrderRecord, ...], Decimal | None]] = field(
        default_factory=dict
    )


class TradeState(Frozen):
    """Everything a trade knows. `installation` and `clock` never change.

    `version` counts what a person should know before acting; `booking` and `answers` are what the
    ledger does not have yet; `giving_back` waits for the read after which automation goes on.
    `told` names alerts of things that last, so that each is told once.
    `reads_in_vain` counts reads in a row that settled nothing: each doubles the pause to the next.
    `at_broker` are the units that the account itself held when a taken-over trade was last read.
    `covered` is the filled quantity for which the exits of the tranches were placed; None before.
    `stop_reached_at` is when the exit watch saw the market at a resting stop-limit.
    `closed_at` is when an end was booked; without `settled` a fill overtook it, the trade goes on.
    `rewound` says that this history was set back: the ledger knows orders of it that it does not.
    `unclaimed` are fills of an order whose broker ids are still on their way to us,
    `unclaimed_orders` news of such an order. `forgotten` counts dead orders that were not carried
    into a next run (domain/forgetting.py).
    """

    schema_version: int = 1
    plan: TradePlan
    installation: str
    clock: ClockMap
    ticket: EntryTicket | None = None
    refusal_code: str = ""
    refusal_text: str = ""
    orders: tuple[OrderRecord, ...] = ()
    fills: tuple[Fill, ...] = ()
    unclaimed: tuple[Fill, ...] = ()
    unclaimed_orders: tuple[OrderSnapshot, ...] = ()
    busted: tuple[str, ...] = ()
    adjustments: tuple[PositionAdjusted, ...] = ()
    fee_ids: tuple[str, ...] = ()
    fees: Amount = ZERO
    walk: WalkProgress = WalkProgress()
    exit: ExitProgress = ExitProgress()
    stop_price: NetPrice | None = None
    covered: Amount | None = None
    stop_reached_at: AwareDatetime | None = None
    hours: Hours = Hours()
    quote: Quote | None = None
    quote_read_at: AwareDatetime | None = None
    knowledge_at: AwareDatetime | None = None
    read_needed: str = ""
    read_after: AwareDatetime | None = None
    reads_in_vain: int = 0
    first_fill_at: AwareDatetime | None = None
    imbalance_since: AwareDatetime | None = None
    imbalance_told: AwareDatetime | None = None
    position_epoch: int = 0
    watched_epoch: int = 0
    watched_stop: NetPrice | None = None
    kill_mode: KillMode | None = None
    paused: bool = False
    taken_over: bool = False
    giving_back: bool = False
    withdrawn: bool = False
    releasing: bool = False
    at_broker: Amount | None = None
    moved_targets: tuple[MovedTarget, ...] = ()
    booking: tuple[PositionAdjusted, ...] = ()
    answers: tuple[AnsweredOrder, ...] = ()
    outcomes: tuple[CommandOutcome, ...] = ()
    version: int = 0
    needs_operator: str = ""
    seen_commands: tuple[str, ...] = ()
    naked: NakedClock = NakedClock()
    alerts: tuple[Alert, ...] = ()
    told: tuple[str, ...] = ()
    settled: bool = False
    closed_at: AwareDatetime | None = None
    realised: Amount | None = None
    new_build: str = ""
    restored: bool = False
    rewound: bool = False
    forgotten: int = 0

    @cached_property
    def booked(self) -> _Booked:
        """What the functions below have counted for these fills; shared by copies with the same."""
        return _Booked()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        made = super().model_copy(update=update, deep=deep)
        if deep or (update is not None and not _COUNTED.isdisjoint(update)):
            made.__dict__.pop("booked", None)
        return made

    @classmethod
    def planned(cls, plan: TradePlan, installation: str, clock: ClockMap) -> TradeState:
        """The state before anything happened."""
        return cls(plan=plan, installation=installation, clock=clock)

    def order(self, client_id: str) -> OrderRecord | None:
        return next((record for record in self.orders if record.client_id == client_id), None)

    def find(self, client_id: str | None, broker_order_id: str | None) -> OrderRecord | None:
        """The order with either id, newest first."""
        for record in reversed(self.orders):
            if record.is_named(client_id, broker_order_id):
                return record
        return None

    def live(self, *roles: Role) -> tuple[OrderRecord, ...]:
        """Live orders, of these roles if any are given, oldest first."""
        return tuple(
            o for o in self.orders if o.state in LIVE_STATES and (not roles or o.role in roles)
        )

    def with_order(self, record: OrderRecord) -> TradeState:
        """State with the record added, or put in place of the one with its client id."""
        if self.order(record.client_id) is None:
            return self.model_copy(update={"orders": (*self.orders, record)})
        orders = tuple(record if o.client_id == record.client_id else o for o in self.orders)
        return self.model_copy(update={"orders": orders})

    def changed(self, **update: object) -> TradeState:
        """Copy with these fields; callers pass validated values only."""
        return self.model_copy(update=update)

    def next_key(self, purpose: Purpose, leg: int = 0) -> IntentKey:
        """The key of the next intent for this purpose: sequences count up from 1.

        A rebuilt trade also has the intents of a flatten past its workflow: those count their own.
        """
        keys = [o.intent.key for o in self.orders if o.intent is not None]
        used = [
            key.sequence
            for key in keys
            if (key.purpose, key.leg) == (purpose, leg) and key.sequence < DIRECT_SEQUENCE_FIRST
        ]
        return IntentKey(
            trade_id=self.plan.trade_id, leg=leg, purpose=purpose, sequence=max(used, default=0) + 1
        )


def booked_fills(state: TradeState) -> Iterator[Fill]:
    """Fills that count: all but the busted ones."""
    return (fill for fill in state.fills if fill.fill_key not in state.busted)


def fills_of(state: TradeState, record: OrderRecord) -> tuple[Fill, ...]:
    known = state.booked.fills
    found = known.get(id(record))
    if found is None or found[0] is not record:
        named = (f for f in booked_fills(state) if record.is_named(f.client_id, f.broker_order_id))
        if len(known) >= _RECORDS_MAX:
            known.clear()
        found = known[id(record)] = (record, tuple(named))
    return found[1]


def filled_quantity(state: TradeState, record: OrderRecord) -> Decimal:
    """Booked quantity of the order in its own units (combo units for a combo)."""
    return _in_order_units(state, record, fills_of(state, record))


def _in_order_units(state: TradeState, record: OrderRecord, fills: Sequence[Fill]) -> Decimal:
    if not state.plan.is_combo or record.leg != 0:
        return total(fill.quantity for fill in fills)
    units = (
        divide(
            total(f.quantity for f in fills if f.symbol == leg.instrument.symbol),
            Decimal(leg.ratio),
        )
        for leg in state.plan.legs
    )
    return min(units, default=ZERO)


def missing_fills(state: TradeState) -> tuple[OrderRecord, ...]:
    """Orders of which the broker reports more filled than the executions known here.

    A replacement may carry the fills of the order it took over from in its own number (D2), so
    those count too. A busted execution is known: the broker may count it for ever. A combo is
    asked leg by leg as well: one leg may execute before the unit is complete.
    """
    return tuple(record for record in state.orders if _lacks_fills(state, record))


def _lacks_fills(state: TradeState, record: OrderRecord) -> bool:
    if record.reported_filled == 0 and not any(record.leg_filled.values()):
        return False
    chain = _with_predecessors(state, record)
    known = [
        fill
        for fill in state.fills
        if any(order.is_named(fill.client_id, fill.broker_order_id) for order in chain)
    ]
    if record.reported_filled > _in_order_units(state, record, known):
        return True
    return any(
        reported > total(f.quantity for f in known if f.symbol == symbol)
        for symbol, reported in record.leg_filled.items()
    )


def _with_predecessors(state: TradeState, record: OrderRecord) -> tuple[OrderRecord, ...]:
    """The order and those it replaced, newest first."""
    chain = [record]
    while len(chain) <= len(state.orders):
        replaces = chain[-1].replaces
        before = state.order(replaces) if replaces is not None else None
        if before is None:
            break
        chain.append(before)
    return tuple(chain)


def untold_groups(state: TradeState) -> tuple[OrderRecord, ...]:
    """Groups that the broker took and whose members nobody has named: the answer was lost (C2).

    A member may have filled and is found by its group alone (E4). Members of a replacement belong
    to what it took over from; those of a trade that has forgotten orders may be among them.
    """
    if state.forgotten:
        return ()
    parents = {record.parent_client_id for record in state.orders}
    return tuple(o for o in state.orders if _has_members(o) and o.client_id not in parents)


def is_untold_group(state: TradeState, record: OrderRecord) -> bool:
    """True for a group that the broker took, of which no member is known here."""
    children = (o for o in state.orders if o.parent_client_id == record.client_id)
    return _has_members(record) and not any(children)


def _has_members(record: OrderRecord) -> bool:
    if record.intent is None or record.broker_order_id is None or record.replaces is not None:
        return False
    return record.intent.body.order_class in _GROUPS and record.state is not OrderState.REJECTED


def open_rest(state: TradeState, record: OrderRecord) -> Decimal:
    """What the order may still fill: its quantity less the larger of booked and reported."""
    done = max(filled_quantity(state, record), record.reported_filled)
    return max(record.quantity - done, ZERO)


def position_of(state: TradeState, symbol: str) -> Decimal:
    """Signed quantity of one symbol: fills plus booked adjustments (conservation)."""
    return total(f.signed_quantity for f in booked_fills(state) if f.symbol == symbol) + total(
        a.quantity for a in state.adjustments if a.symbol == symbol
    )


def leg_units(state: TradeState) -> tuple[Decimal, ...]:
    """Signed trade units that each leg holds; equal for a balanced structure."""
    known = state.booked.units
    if not known:
        known.append(
            tuple(
                divide(
                    position_of(state, leg.instrument.symbol), Decimal(leg.side.sign * leg.ratio)
                )
                for leg in state.plan.legs
            )
        )
    return known[0]


def held_units(state: TradeState) -> Decimal:
    """Whole structure units held: > 0 as planned, < 0 the wrong way round, 0 flat.

    For a combo the smallest leg counts; what other legs hold beyond it is imbalance. Legs that
    point different ways make no structure at all.
    """
    units = leg_units(state)
    if min(units) < 0 < max(units):
        return ZERO
    return min(units, key=abs)


def sellable_units(state: TradeState) -> Decimal:
    """Held units as far as they are at the broker: a person may have sold some by hand (I2)."""
    held = held_units(state)
    if not state.taken_over or state.at_broker is None or held <= 0:
        return held
    return min(held, max(state.at_broker, ZERO))


def is_flat(state: TradeState) -> bool:
    return not any(leg_units(state))


def is_balanced(state: TradeState) -> bool:
    units = leg_units(state)
    return all(unit == units[0] for unit in units)


def entry_adjustments(state: TradeState) -> tuple[PositionAdjusted, ...]:
    """What a person put into the trade: adopted positions, entries that filled by their word."""
    return tuple(a for a in state.adjustments if _is_entry_by_hand(state, a))


def _is_entry_by_hand(state: TradeState, adjusted: PositionAdjusted) -> bool:
    if adjusted.adjustment is AdjustmentKind.ADOPTED:
        return True
    if adjusted.adjustment is not AdjustmentKind.BY_HAND:
        return False
    record = state.order(adjusted.adjustment_id.split("/")[1])
    return record is not None and record.role is Role.ENTRY


def entry_quantity(state: TradeState) -> Decimal:
    """Units that the entry has filled in total (never falls while the trade exits)."""
    by_hand = total(a.quantity for a in entry_adjustments(state)) * state.plan.side.sign
    filled = total(filled_quantity(state, o) for o in state.orders if o.role is Role.ENTRY)
    return filled + by_hand


def average_price(state: TradeState, *roles: Role) -> Decimal | None:
    """Average net price per trade unit over the fills of these roles; None without fills.

    Rounded to ten places. For a combo: the sum over legs of average x ratio, signed by the
    leg's side in the structure, so that a debit is positive.
    """
    known = state.booked.averages
    found = known.get(roles)
    if found is None or found[0] is not state.orders:
        found = known[roles] = (state.orders, _average_of(state, roles))
    return found[1]


def _average_of(state: TradeState, roles: tuple[Role, ...]) -> Decimal | None:
    records = [o for o in state.orders if o.role in roles]
    net = ZERO
    for leg in state.plan.legs:
        fills = [
            f
            for record in records
            for f in fills_of(state, record)
            if f.symbol == leg.instrument.symbol
        ]
        parts = [(f.quantity, f.price) for f in fills]
        if Role.ENTRY in roles:
            parts += _entry_parts_by_hand(state, leg.instrument.symbol)
        quantity = total(part for part, _ in parts)
        if quantity == 0:
            return None
        average = divide(total(part * price for part, price in parts), quantity)
        sign = leg.side.sign if state.plan.is_combo else 1
        net += sign * leg.ratio * average
    return net.quantize(_AVERAGE_PLACES, context=CTX).normalize(CTX)


def _entry_parts_by_hand(state: TradeState, symbol: str) -> list[tuple[Decimal, Decimal]]:
    """(quantity in the trade's direction, price) of what a person put in."""
    return [
        (a.quantity * state.plan.side.sign, a.price)
        for a in entry_adjustments(state)
        if a.symbol == symbol and a.price is not None
    ]


def tranche_quantities(state: TradeState) -> tuple[Decimal, ...]:
    """Filled quantity cut into tranches: each rounded down to the lot, the last the remainder.

    Without targets there is one tranche (E9: sums to the filled quantity for every size). What was
    filled after the exits were placed is one more behind them: it gets exits of its own, and those
    that stand are not taken down for it (D9, I4).
    """
    filled = entry_quantity(state)
    first = filled if state.covered is None else min(filled, state.covered)
    late = (filled - first,) if filled > first else ()
    targets = state.plan.targets
    if len(targets) <= 1:
        return (first, *late)
    sizes = [state.plan.instrument.lot_down(first * target.fraction) for target in targets[:-1]]
    return (*sizes, first - total(sizes), *late)


def taken_off(state: TradeState, record: OrderRecord) -> Decimal:
    """Units that this exit took off: its executions, and what a person answered for it (I10)."""
    by_hand = total(
        a.quantity
        for a in state.adjustments
        if a.adjustment is AdjustmentKind.BY_HAND
        and a.adjustment_id.split("/")[1] == record.client_id
    )
    return filled_quantity(state, record) + by_hand * record.side.sign


def tranche_sold(state: TradeState, tranche: int) -> Decimal:
    """Units already taken off this tranche (0-based) by its own exits."""
    return total(
        taken_off(state, o)
        for o in state.orders
        if o.tranche == tranche and o.role is not Role.ENTRY
    )


def target_index(state: TradeState, tranche: int) -> int:
    """The plan's target of a tranche: what was filled late leaves at the last one."""
    return min(tranche, len(state.plan.targets) - 1)


def target_price(state: TradeState, tranche: int) -> Decimal | None:
    """Tick-valid target price of the tranche, or None for a runner."""
    if not state.plan.targets:
        return None
    tranche = target_index(state, tranche)
    for moved in reversed(state.moved_targets):
        if moved.tranche == tranche:
            return moved.price
    price = state.plan.targets[tranche].price
    average = average_price(state, Role.ENTRY)
    if price is None or average is None:
        return None
    return target_tick(state, price.at(average))


def target_tick(state: TradeState, price: Decimal) -> Decimal:
    """Nearest tick on the side that fills sooner: down for longs, up for shorts."""
    instrument = state.plan.instrument
    is_long = state.plan.side is Side.BUY
    return _sendable(state, instrument.tick_down(price) if is_long else instrument.tick_up(price))


def initial_stop(state: TradeState) -> Decimal | None:
    """Tick-valid stop of the plan for the average entry so far, in the protective direction."""
    average = average_price(state, Role.ENTRY)
    if state.plan.stop is None or average is None:
        return None
    return protective_tick(state, state.plan.stop.price.at(average))


def protective_tick(state: TradeState, price: Decimal) -> Decimal:
    """Nearest tick on the side that protects more: up for longs, down for shorts."""
    instrument = state.plan.instrument
    is_long = state.plan.side is Side.BUY
    return _sendable(state, instrument.tick_up(price) if is_long else instrument.tick_down(price))


def _sendable(state: TradeState, price: Decimal) -> Decimal:
    """At least one tick, except for a net price: no venue takes an order at zero or below.

    A fill far better than the gate could know moves an offset there; without this the order of a
    tranche could not even be written, and the position would stay bare.
    """
    return price if state.plan.is_combo else max(price, state.plan.instrument.tick_at(ZERO))


def wants_exit(state: TradeState) -> bool:
    """True if the whole position shall go."""
    return bool(state.exit.reason) and state.exit.keep == 0


def wants_part_close(state: TradeState) -> bool:
    """True if a part of the position shall go and the rest stays protected."""
    return bool(state.exit.reason) and state.exit.keep > 0


def reserved_units(state: TradeState, *roles: Role) -> Decimal:
    """Units that live orders of these exit roles may still take off; a group counts once.

    Where the broker is told twice about one position (an order and its replacement, target and
    stop of one tranche) the larger counts: both can never fill together (I4).
    """
    groups: dict[object, Decimal] = {}
    for record in state.live(*roles):
        is_exit = record.role is Role.EXIT
        group = record.client_id if is_exit else (record.tranche or 0)
        rest = max(record.quantity - filled_quantity(state, record), ZERO)
        groups[group] = max(groups.get(group, ZERO), rest)
    return total(groups.values())


def can_rest_stop(state: TradeState) -> bool:
    """True if the broker can hold a stop order for this trade's structure."""
    if state.plan.stop is None or state.ticket is None:
        return False
    capabilities = state.ticket.capabilities
    if state.plan.is_combo:
        return capabilities.combo_stop
    if state.plan.instrument.kind == "option":
        return capabilities.option_stop_orders
    return True


def has_stop_limit(state: TradeState) -> bool:
    """True if the plan's stop is a stop-limit that rests at the broker."""
    stop = state.plan.stop
    return stop is not None and stop.limit_offset is not None and can_rest_stop(state)


def stop_triggered_since(state: TradeState) -> datetime | None:
    """Since when a stop-limit that is still live is known to have triggered; None if not.

    Told by the market at its price (exit watch), by its first execution, or by the death of its
    target: a venue takes the pair's other order out when the stop triggers.
    """
    if not has_stop_limit(state) or is_flat(state):
        return None
    known: list[datetime] = []
    for stop in state.live(Role.STOP):
        if state.stop_reached_at is not None:
            known.append(state.stop_reached_at)
        known += [state.clock.wall(fill.venue_time) for fill in fills_of(state, stop)]
        known += [
            other.changed_at
            for other in state.orders
            if other.role is Role.TARGET
            and other.state is OrderState.CANCELED
            and stop.parent_client_id in (other.client_id, other.parent_client_id)
            and stop.parent_client_id is not None
        ]
    return min(known, default=None)


class Protection(StrEnum):
    """Protection class shown on every trade (architecture §6)."""

    NONE = "none"
    RESTING = "resting"
    MONITORED = "monitored"
    DEFINED = "defined"
    DORMANT = "dormant"
    NAKED = "naked"


def resting_stop_quantity(state: TradeState) -> Decimal:
    """Units covered by stops that the broker is known to hold."""
    return total(
        max(record.quantity - filled_quantity(state, record), ZERO)
        for record in state.live(Role.STOP)
        if record.state
        in (
            OrderState.WORKING,
            OrderState.HELD,
            OrderState.PENDING_CANCEL,
            OrderState.PENDING_REPLACE,
        )
        and not _is_successor_of_live(state, record)
    )


def _is_successor_of_live(state: TradeState, record: OrderRecord) -> bool:
    """True if the order it replaces still counts as live: the pair covers once."""
    if record.replaces is None:
        return False
    old = state.order(record.replaces)
    return old is not None and old.is_live


def protection(state: TradeState) -> Protection:
    """How the position is protected right now."""
    held = abs(held_units(state))
    if is_flat(state):
        return Protection.NONE
    if can_rest_stop(state):
        if resting_stop_quantity(state) >= held and stop_triggered_since(state) is None:
            closed = not state.hours.is_open or bool(state.hours.halted)
            return Protection.DORMANT if closed else Protection.RESTING
        return Protection.NAKED
    if state.plan.max_loss is not None and is_balanced(state):
        return Protection.DEFINED
    return Protection.MONITORED if state.watched_epoch else Protection.NAKED


def stage(state: TradeState) -> Stage:
    """The stage a person sees; derived, never stored."""
    if state.refusal_code:
        return Stage.REFUSED
    if state.settled:
        if is_released(state):
            return Stage.RELEASED
        return Stage.CLOSED if entry_quantity(state) or state.fills else Stage.NOT_FILLED
    if state.needs_operator:
        return Stage.NEEDS_OPERATOR
    if state.ticket is None:
        return Stage.RESERVING
    if not is_flat(state):
        if wants_exit(state):
            return Stage.EXITING
        return Stage.ENTERING if not entry_is_dead(state) else Stage.OPEN
    return Stage.CLOSING if entry_is_dead(state) else Stage.ENTERING


def entry_is_dead(state: TradeState) -> bool:
    """True if no entry can fill any more: the walk is over and none is live."""
    return bool(state.walk.ended) and not state.live(Role.ENTRY)


def is_slicing(state: TradeState) -> bool:
    """True while a sliced entry may still send slices."""
    sliced = state.plan.entry_style is EntryStyle.TWAP and state.ticket is not None
    return sliced and not state.walk.ended


def is_released(state: TradeState) -> bool:
    """True if a person let the position go to EXTERNAL."""
    return any(a.adjustment is AdjustmentKind.RELEASED for a in state.adjustments)


def hand(state: TradeState) -> str:
    """Whose hand the trade is in, in one word; empty for its own and once it has ended."""
    if is_final(state):
        return ""
    if state.releasing:
        return "releasing"
    if state.taken_over:
        return "taken_over"
    return "paused" if state.paused else ""


def is_final(state: TradeState) -> bool:
    return state.settled or bool(state.refusal_code)


def exit_reason(state: TradeState) -> str:
    """Why the position went: what ended it outside (assignment, liquidation, other people), else
    the role or reason of the exit that filled last."""
    outside = [each.adjustment for each in state.adjustments if each.adjustment in ENDINGS]
    if outside:
        return str(outside[-1])
    last: tuple[datetime, OrderRecord] | None = None
    for record in state.orders:
        if record.role is Role.ENTRY:
            continue
        for fill in fills_of(state, record):
            if last is None or fill.venue_time >= last[0]:
                last = (fill.venue_time, record)
    if last is None:
        return state.exit.reason or state.walk.ended
    role = last[1].role
    if role is Role.EXIT:
        return state.exit.reason or "exit"
    if role is Role.STOP and targets_filled(state):
        return "ratcheted_stop"
    return str(role)


def rescaled_tranches(state: TradeState) -> tuple[Decimal, ...]:
    """Tranche sizes after what exits outside the tranches took: off the last tranches first.

    So a part close leaves the nearest targets as they are, and every tranche that stays whole
    keeps its resting orders untouched.
    """
    taken = total(taken_off(state, o) for o in state.orders if o.role is Role.EXIT)
    sizes = list(tranche_quantities(state))
    for tranche in reversed(range(len(sizes))):
        cut = min(taken, max(sizes[tranche] - tranche_sold(state, tranche), ZERO))
        sizes[tranche] -= cut
        taken -= cut
    return tuple(sizes)


def targets_filled(state: TradeState) -> tuple[int, ...]:
    """0-based tranches whose target filled completely, in order."""
    filled = []
    for tranche, size in enumerate(rescaled_tranches(state)):
        sold = total(
            filled_quantity(state, o)
            for o in state.orders
            if o.tranche == tranche and o.role is Role.TARGET
        )
        if size > 0 and sold >= size:
            filled.append(tranche)
    return tuple(filled)
