"""A trade's state rebuilt from what the ledger knows (architecture §5).

Used when a late fill reopens a closed trade (D9) and after a lost Temporal store
(`starter.py restore`). The facts go through the same fold as in life, so a rebuilt trade cannot
believe anything that a living one would not. It never walks again, holds nothing fresh and reads
the broker before it acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from domain import trade_state as ts
from domain.base import Frozen
from domain.clock import ClockMap
from domain.closing import PART_CLOSE
from domain.entry import EntryTicket
from domain.facts import (
    Fact,
    FillBusted,
    FillReported,
    OrderAccepted,
    OrderUnknown,
    PositionAdjusted,
    RiskReserved,
)
from domain.fold import apply
from domain.forgetting import forget
from domain.ids import Purpose
from domain.order import Fill, OrderIntent, OrderSnapshot, OrderState
from domain.plan import TradePlan
from domain.protection import ratcheted_stop
from domain.restore_hand import Hand, tell_again
from domain.trade_state import ExitProgress, OrderRecord, Role, TradeState

RESTORED = "restored"
_ROLE = {
    Purpose.ENTRY: Role.ENTRY,
    Purpose.STOP: Role.STOP,
    Purpose.TARGET: Role.TARGET,
    Purpose.OCO: Role.TARGET,
    Purpose.EXIT: Role.EXIT,
    Purpose.FLATTEN: Role.EXIT,
}


class SendState(StrEnum):
    """What is known about the send. OPEN: it may have reached the broker."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"


class KnownOrder(Frozen):
    """One intent as the ledger holds it, with the broker's last views of order and children."""

    intent: OrderIntent
    send: SendState
    snapshot: OrderSnapshot | None = None
    children: tuple[OrderSnapshot, ...] = ()
    code: str = ""

    def with_children(self) -> OrderSnapshot | None:
        """The order's snapshot with the newest view of each child, in the broker's order."""
        if self.snapshot is None:
            return None
        newest = {child.broker_order_id: child for child in self.children}
        legs = [newest.pop(leg.broker_order_id, leg) for leg in self.snapshot.legs]
        return self.snapshot.model_copy(update={"legs": (*legs, *newest.values())})


def rebuild(
    plan: TradePlan,
    installation: str,
    clock: ClockMap,
    *,
    ticket: EntryTicket | None,
    orders: Sequence[KnownOrder],
    fills: Sequence[Fill],
    now: datetime,
    busted: Sequence[str] = (),
    adjustments: Sequence[PositionAdjusted] = (),
    settled: bool = False,
    closed_at: datetime | None = None,
    hand: Hand | None = None,
) -> TradeState:
    """The state of the trade as far as the ledger knows it.

    Args:
        orders: every intent, in the order in which they were made.
        fills: every booked execution, busted ones included, in booking order.
        busted: keys of fills that were taken back.
        settled: the trade was closed and booked, and nothing has come since.
        closed_at: the end in the trade's row; each step of the rebuilt trade takes it out again.
        hand: what people told the trade while it lived.
    """
    state = TradeState.planned(plan, installation, clock)
    if ticket is not None:
        state = apply(state, RiskReserved(at=now, ticket=ticket), now)
    for known in orders:
        state = state.with_order(_record(state, known, now))
    for fact in _facts(orders, fills, busted, adjustments, now):
        state = apply(state, fact, now)
    exits = [known for known in orders if _is_lasting_exit(known)]
    walk = state.walk.model_copy(update={"ended": RESTORED if ticket is not None else ""})
    state = state.changed(
        # The ticket is the entry's: its hours and its quote are as old as that.
        hours=state.hours.model_copy(update={"read_at": None}),
        quote_read_at=None,
        walk=walk,
        exit=_exit_of(exits, now) if exits else _part_close_of(state, now),
        stop_price=_stop_price(state.changed(walk=walk), hand),
        watched_epoch=0,
        knowledge_at=None,
        read_needed="" if settled else RESTORED,
        naked=ts.NakedClock(since=state.naked.since),
        settled=settled,
        closed_at=closed_at,
        restored=True,
    )
    if hand is not None and not settled:
        state = tell_again(state, hand, now)
    return forget(state.changed(alerts=()))


def _record(state: TradeState, known: KnownOrder, now: datetime) -> OrderRecord:
    intent, body = known.intent, known.intent.body
    dead = {SendState.REJECTED: OrderState.REJECTED, SendState.NOT_SENT: OrderState.NOT_SENT}
    seen = known.snapshot
    return OrderRecord(
        client_id=intent.client_id,
        role=_ROLE[intent.key.purpose],
        state=dead.get(known.send, OrderState.PENDING_NEW),
        symbol=body.symbol,
        side=body.side,
        quantity=body.quantity,
        tranche=intent.tranche,
        leg=intent.key.leg,
        limit_price=body.limit_price,
        stop_price=body.stop_price,
        intent=intent,
        broker_order_id=None if seen is None else seen.broker_order_id,
        parent_client_id=_parent(state, intent),
        replaces=intent.replaces,
        changed_at=now,
        reject_code=known.code,
    )


def _parent(state: TradeState, intent: OrderIntent) -> str | None:
    """An order that took over from a child belongs to the child's group."""
    if intent.replaces is None:
        return None
    parent, dot, _number = intent.replaces.rpartition(".")
    if dot:
        return parent
    old = state.order(intent.replaces)
    return None if old is None else old.parent_client_id


def _facts(
    orders: Sequence[KnownOrder],
    fills: Sequence[Fill],
    busted: Sequence[str],
    adjustments: Sequence[PositionAdjusted],
    now: datetime,
) -> list[Fact]:
    facts: list[Fact] = []
    for known in orders:
        client_id, seen = known.intent.client_id, known.with_children()
        if seen is not None and known.send in (SendState.ACCEPTED, SendState.OPEN):
            facts.append(OrderAccepted(at=now, client_id=client_id, order=seen))
        elif known.send in (SendState.ACCEPTED, SendState.OPEN):
            facts.append(OrderUnknown(at=now, client_id=client_id, reason=RESTORED))
    facts += [FillReported(at=now, fill=fill) for fill in fills]
    facts += [FillBusted(at=now, fill_key=key) for key in busted]
    return [*facts, *adjustments]


def _is_lasting_exit(known: KnownOrder) -> bool:
    """An exit of everything that was sent: the decision to get out stands."""
    is_exit = known.intent.key.purpose in (Purpose.EXIT, Purpose.FLATTEN)
    is_exit = is_exit and known.intent.reason != PART_CLOSE
    return is_exit and known.send in (SendState.ACCEPTED, SendState.OPEN)


def _part_close_of(state: TradeState, now: datetime) -> ExitProgress:
    """A part close whose exit still works goes on to its end; one in between is forgotten.

    What it would have sold then stays and is protected: a person may ask again.
    """
    selling = ts.reserved_units(state, Role.EXIT)
    keep = ts.held_units(state) - selling
    if selling == 0 or keep <= 0:
        return ExitProgress()
    return ExitProgress(reason=PART_CLOSE, keep=keep, releasing=True, asked_at=now, sent_at=now)


def _exit_of(exits: Sequence[KnownOrder], now: datetime) -> ExitProgress:
    last = exits[-1].intent
    reason = "flatten" if last.key.purpose is Purpose.FLATTEN else last.reason or RESTORED
    return ExitProgress(reason=reason, command_id=RESTORED, rung=len(exits) - 1, asked_at=now)


def _stop_price(state: TradeState, hand: Hand | None) -> Decimal | None:
    """Where the stop belongs: a target may have filled that has not moved it yet (I8).

    From where it rests, as what the fold counted beside it began with the first execution alone.
    Once a person has moved it, only the order at the broker shows what they and the ratchet made
    of it: theirs may be looser than the ratchet's.
    """
    resting = [record for record in state.live(Role.STOP) if record.stop_price is not None]
    price = resting[-1].stop_price if resting else None
    if price is not None and hand is not None and hand.has_moved_stop:
        return price
    return ratcheted_stop(state.changed(stop_price=price))
