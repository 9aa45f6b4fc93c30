"""The fold: every fact turns one state into the next. It only updates knowledge.

Orders are in `fold_orders`, quantities in `fold_fills`, decisions in `domain.steps`. A pair that
the order table does not know raises `IllegalTransition` inside the order update and becomes an
alert here: a trade must survive every surprise of a broker (faults.md A6, row 57).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from domain import trade_state as ts
from domain.changes import (
    alert,
    ask_soon,
    count_naked,
    count_version,
    end_walk,
    start_exit,
    take_command_id,
)
from domain.commands import AlertSeverity
from domain.control import KillMode
from domain.doubts import lift_answered
from domain.errors import IllegalTransition
from domain.facts import (
    BookedByHand,
    BrokerSnapshot,
    CancelAsked,
    CancelRejected,
    CloseRequested,
    CommandFailed,
    DeadlinePassed,
    DiscrepancyFound,
    ExitTriggered,
    Fact,
    FeeBooked,
    FillBusted,
    FillCorrected,
    FillReported,
    FlattenRequested,
    FundingPaid,
    KillEngaged,
    OperatorCommand,
    OrderAccepted,
    OrderNotSent,
    OrderRejected,
    OrderReported,
    OrderResolved,
    OrderUnknown,
    PositionAdjusted,
    QuoteRead,
    ReplaceConfirmed,
    ReplaceRejected,
    RiskRefused,
    RiskReserved,
    SessionChanged,
    Settled,
    TradingHalted,
    TradingResumed,
    VersionChanged,
)
from domain.fold_fills import (
    broker_snapshot,
    claim,
    fee_booked,
    fill_busted,
    fill_corrected,
    fill_reported,
    order_reported,
    position_adjusted,
)
from domain.fold_orders import (
    cancel_asked,
    cancel_rejected,
    order_accepted,
    order_not_sent,
    order_rejected,
    order_resolved,
    order_unknown,
    replace_confirmed,
    replace_rejected,
)
from domain.operator_fold import booked_by_hand, give_back, operate, see_what_is_left
from domain.protection import STOP_REACHED, ratcheted_stop
from domain.trade_state import Role, TradeState


def apply(state: TradeState, fact: Fact, now: datetime) -> TradeState:
    """State after the fact. `now` is wall UTC.

    Never raises for anything a broker or a person can send; what does not fit becomes an alert.
    """
    handler = _HANDLERS[type(fact)]
    try:
        after = handler(state, fact, now)
    except IllegalTransition as error:
        return alert(state, "ILLEGAL_TRANSITION", f"{fact.kind}: {error.text}")
    if (after.unclaimed or after.unclaimed_orders) and after.orders is not state.orders:
        after = claim(after, now)
    if after.orders is not state.orders:
        after = lift_answered(after)
    after = _count_reads(state, after, fact)
    return count_version(state, _refresh_derived(state, after, now))


def apply_all(state: TradeState, facts: Iterable[Fact], now: datetime) -> TradeState:
    """Folds the facts in order."""
    for fact in facts:
        state = apply(state, fact, now)
    return state


# --- risk -------------------------------------------------------------------------------------


def _risk_reserved(state: TradeState, fact: RiskReserved, now: datetime) -> TradeState:
    if state.ticket is not None:
        return state
    ticket = fact.ticket
    return state.changed(
        ticket=ticket,
        hours=_hours_at_gate(state, fact),
        quote=ticket.arrival,
        quote_read_at=fact.at,
        knowledge_at=fact.at,
        walk=state.walk.model_copy(update={"started_at": now}),
    )


def _hours_at_gate(state: TradeState, fact: RiskReserved) -> ts.Hours:
    """The later reading of the hours; what was heard of halts stays until trading resumes.

    The watch rings a close once: an older answer of the gate must not undo it (G3).
    """
    ticket, heard = fact.ticket, state.hours
    halted = heard.halted
    if ticket.halted and state.plan.symbol not in halted:
        halted = (*halted, state.plan.symbol)
    if heard.read_at is not None and heard.read_at > fact.at:
        return heard.model_copy(update={"halted": halted})
    return ts.Hours(
        is_open=ticket.is_open, next_close=ticket.next_close, halted=halted, read_at=fact.at
    )


def _risk_refused(state: TradeState, fact: RiskRefused, now: datetime) -> TradeState:
    if state.ticket is not None:
        return state
    return state.changed(refusal_code=fact.code, refusal_text=fact.text)


# --- market, time, people ---------------------------------------------------------------------


def _quote_read(state: TradeState, fact: QuoteRead, now: datetime) -> TradeState:
    return state.changed(quote=fact.quote, quote_read_at=fact.at)


def _session_changed(state: TradeState, fact: SessionChanged, now: datetime) -> TradeState:
    hours = state.hours.model_copy(
        update={
            "is_open": fact.is_open,
            "next_open": fact.next_open,
            "next_close": fact.next_close,
            # No activity dates these (`dated_within`): a clock ahead would keep them fresh (H7).
            "read_at": min(fact.at, now),
        }
    )
    return state.changed(hours=hours)


def _halted(state: TradeState, fact: TradingHalted, now: datetime) -> TradeState:
    if fact.symbol in state.hours.halted:
        return state
    halted = (*state.hours.halted, fact.symbol)
    return state.changed(hours=state.hours.model_copy(update={"halted": halted}))


def _resumed(state: TradeState, fact: TradingResumed, now: datetime) -> TradeState:
    halted = tuple(symbol for symbol in state.hours.halted if symbol != fact.symbol)
    return state.changed(hours=state.hours.model_copy(update={"halted": halted}))


def _exit_triggered(state: TradeState, fact: ExitTriggered, now: datetime) -> TradeState:
    """Once per (rule, position epoch): two watchers or a restart give one exit."""
    if fact.position_epoch != state.position_epoch or ts.is_flat(state) or state.taken_over:
        return state
    if fact.rule_id.startswith(STOP_REACHED):
        return state.changed(stop_reached_at=state.stop_reached_at or now)
    return start_exit(state, fact.rule_id, f"{fact.rule_id}/{fact.position_epoch}")


def flatten_word(fact: FlattenRequested) -> str:
    """The name under which a trade remembers it."""
    return f"flatten/{fact.command_id}"


def kill_word(fact: KillEngaged) -> str:
    """The name under which a trade remembers it, once per mode."""
    return f"kill/{fact.mode}/{fact.command_id}"


def _flatten_requested(state: TradeState, fact: FlattenRequested, now: datetime) -> TradeState:
    # Under names of their own: no other command's id may swallow a flatten or a kill.
    seen = take_command_id(state, flatten_word(fact))
    return state if seen is None else start_exit(seen, "flatten", fact.command_id)


def _kill_engaged(state: TradeState, fact: KillEngaged, now: datetime) -> TradeState:
    """The gate has already closed; the trade learns of it afterwards."""
    seen = take_command_id(state, kill_word(fact))
    if seen is None:
        return state
    state = seen.changed(kill_mode=fact.mode)
    if fact.mode is KillMode.FLATTEN:
        return start_exit(state, "kill", fact.command_id)
    if fact.mode is KillMode.BLOCK and state.live(Role.ENTRY):
        return state  # no new risk; what works already may fill, but does not walk on
    return end_walk(state, "killed")


def _broker_snapshot(state: TradeState, fact: BrokerSnapshot, now: datetime) -> TradeState:
    return give_back(see_what_is_left(broker_snapshot(state, fact, now), fact), fact)


def _discrepancy(state: TradeState, fact: DiscrepancyFound, now: datetime) -> TradeState:
    return alert(state, fact.code, fact.text, AlertSeverity.CRITICAL).changed(
        read_needed=f"discrepancy {fact.code}",
        rewound=state.rewound or fact.code == ts.HISTORY_REWOUND,
    )


def _version_changed(state: TradeState, fact: VersionChanged, now: datetime) -> TradeState:
    return state.changed(new_build=fact.build_id)


def _deadline(state: TradeState, fact: DeadlinePassed, now: datetime) -> TradeState:
    return state


def _settled(state: TradeState, fact: Settled, now: datetime) -> TradeState:
    booked = state.changed(
        settled=True,
        closed_at=fact.closed_at or fact.at,
        realised=fact.realised,
        fees=fact.fees,
    )
    return booked if ts.is_flat(state) else _reopened(booked)


def _reopened(state: TradeState) -> TradeState:
    """A fill overtook the booking of the end: the trade goes on, and ends anew (I3, D9).

    Its row and its exit watch are put away by then; the next steps take both out again.
    """
    return state.changed(settled=False, watched_epoch=0)


def _command_failed(state: TradeState, fact: CommandFailed, now: datetime) -> TradeState:
    return alert(state, "STEP_FAILED", f"{fact.step}: {fact.code} {fact.text}").changed(
        read_needed=state.read_needed or f"{fact.step} failed"
    )


# --- what follows from the new knowledge --------------------------------------------------------


def _count_reads(before: TradeState, state: TradeState, fact: Fact) -> TradeState:
    """Counts reads that settled nothing; news and a person's word end the pause they grew."""
    if type(fact) in _REFUSED_CANCELS:
        return state
    # A word that comes twice changes nothing (I17).
    is_word = type(fact) in _WORDS and state is not before
    if is_word or _known(before) != _known(state):
        return ask_soon(state)
    if not isinstance(fact, BrokerSnapshot):
        return state
    in_vain = not fact.complete or bool(state.needs_operator) or bool(ts.missing_fills(state))
    count = state.reads_in_vain + 1 if in_vain else 0
    return state if count == state.reads_in_vain else state.changed(reads_in_vain=count)


def _known(state: TradeState) -> tuple[object, ...]:
    orders = tuple((o.state, o.reported_filled, o.broker_order_id) for o in state.orders)
    return (orders, len(state.fills), len(state.busted), len(state.adjustments))


def _refresh_derived(before: TradeState, state: TradeState, now: datetime) -> TradeState:
    """Epoch of the position, stop ratchet, imbalance and naked clock after any change."""
    moved = (state.fills, state.busted, state.adjustments)
    if any(
        new is not old
        for new, old in zip(moved, (before.fills, before.busted, before.adjustments), strict=True)
    ):
        flat_before, flat_now = ts.is_flat(before), ts.is_flat(state)
        if flat_before and not flat_now:
            state = state.changed(position_epoch=state.position_epoch + 1)
        if state.settled and not flat_now:
            state = _reopened(state)
        balanced = ts.is_balanced(state)
        since = None if balanced else (state.imbalance_since or now)
        state = state.changed(imbalance_since=since, stop_price=ratcheted_stop(state))
    return count_naked(state, now)


# A cancel that is asked and refused for ever moves an order to and fro, and is no news.
_REFUSED_CANCELS = (CancelAsked, CancelRejected)
_WORDS = (
    CloseRequested,
    DiscrepancyFound,
    ExitTriggered,
    FlattenRequested,
    KillEngaged,
    OperatorCommand,
)
_HANDLERS: dict[type[Any], Callable[[TradeState, Any, datetime], TradeState]] = {
    RiskReserved: _risk_reserved,
    RiskRefused: _risk_refused,
    OrderAccepted: order_accepted,
    OrderRejected: order_rejected,
    OrderNotSent: order_not_sent,
    OrderUnknown: order_unknown,
    OrderResolved: order_resolved,
    OrderReported: order_reported,
    FillReported: fill_reported,
    FillBusted: fill_busted,
    FillCorrected: fill_corrected,
    CancelAsked: cancel_asked,
    CancelRejected: cancel_rejected,
    ReplaceConfirmed: replace_confirmed,
    ReplaceRejected: replace_rejected,
    QuoteRead: _quote_read,
    BrokerSnapshot: _broker_snapshot,
    ExitTriggered: _exit_triggered,
    DeadlinePassed: _deadline,
    FlattenRequested: _flatten_requested,
    CloseRequested: operate,
    KillEngaged: _kill_engaged,
    SessionChanged: _session_changed,
    TradingHalted: _halted,
    TradingResumed: _resumed,
    FeeBooked: fee_booked,
    FundingPaid: fee_booked,
    PositionAdjusted: position_adjusted,
    BookedByHand: booked_by_hand,
    DiscrepancyFound: _discrepancy,
    OperatorCommand: operate,
    VersionChanged: _version_changed,
    Settled: _settled,
    CommandFailed: _command_failed,
}
