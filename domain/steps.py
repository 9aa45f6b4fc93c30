"""From knowledge to the next safe commands (level-triggered, architecture §2).

`decide` looks at the whole state, never at the fact that just came in. A missed, doubled or late
event cannot leave the trade in a wrong place: the next look repairs it. Order of the phases is
order of safety: find out, stop adding risk, protect, get out, only then add risk.
At most one command per order is in flight (`busy` holds the keys of running commands).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from domain import doubts, slices
from domain import trade_state as ts
from domain.changes import alert, alert_once, count_naked, count_version, end_walk, start_exit
from domain.closing import close_part
from domain.commands import (
    AlertSeverity,
    CancelOrder,
    Command,
    ReserveRisk,
    ResolveOrder,
    Settle,
    Urgency,
)
from domain.dust import is_dust, write_off
from domain.handing_over import book, is_proven, let_go, withdraw
from domain.intents import is_due, urgency_of
from domain.leaving import exit_deadlines, get_out
from domain.moves import (
    CANCEL_LOOK_S,
    CANCEL_RECHECK_S,
    CRITICAL,
    GROUP_DEATH_S,
    Step,
    cancel_orders,
    dies_with_partner,
    is_settled,
    partner_filled_at,
    read_orders,
)
from domain.order import OrderState
from domain.protecting import protect
from domain.trade_state import OrderRecord, Role, TradeState
from domain.walk import end_if_over, entry_step, walk_deadlines

IMBALANCE_MAX_S = 5.0
PROTECT_UNKNOWN_S = 3.0
TRIGGERED_UNFILLED_S = 5.0
UNKNOWN_PARK_S = 30.0


def decide(
    state: TradeState, now: datetime, busy: Collection[str] = ()
) -> tuple[TradeState, tuple[Command, ...]]:
    """The next safe commands, and the state that remembers what was asked.

    Args:
        state: everything the trade knows.
        now: wall UTC.
        busy: keys of commands still in flight.
    """
    if ts.is_final(state) or state.rewound:
        return state.changed(alerts=()), state.alerts
    before = state
    state = _pass_deadlines(state, now)
    state, commands = _run_phases(state, now, busy)
    told = state.alerts
    # A position is protected from the moment on at which its watch is asked for.
    state = count_naked(count_version(before, state), now)
    return state.changed(alerts=()) if told else state, (*told, *commands)


def _run_phases(
    state: TradeState, now: datetime, busy: Collection[str]
) -> tuple[TradeState, tuple[Command, ...]]:
    """One pass over the phases; a second one if the walk ended in it or a question for the broker
    came up, so that nobody waits: nothing wakes the trade for what it knows by now."""
    commands: list[Command] = []
    walking, had_question = not state.walk.ended, bool(state.read_needed)
    for phase in _phases(state):
        state, more, stop = phase(state, now, busy)
        commands += more
        if stop:
            break
    has_ended = walking and state.walk.ended and state.ticket is not None
    if has_ended or (state.read_needed and not had_question):
        keys = [*busy, *(command.key for command in commands)]
        state, more = _run_phases(state, now, keys)
        commands += more
    return state, tuple(commands)


def _phases(state: TradeState) -> tuple[Callable[..., Step], ...]:
    """Phases in order of safety; a taken-over trade only watches unless it must get out."""
    if state.ticket is None:
        return (_reserve,)
    if state.taken_over and not ts.wants_exit(state):
        return (_resolve_unknown, withdraw, book, _know, let_go, _close)
    return (
        _resolve_unknown,
        _drop_entries,
        book,
        _know,
        _drop_doubles,
        _notice_wrong,
        write_off,
        get_out,
        close_part,
        protect,
        _enter,
        _close,
    )


# --- time ---------------------------------------------------------------------------------------


def _pass_deadlines(state: TradeState, now: datetime) -> TradeState:
    """Turns passed strategy deadlines into exits (market time); none while taken over."""
    if state.taken_over:
        return state
    market_now = state.clock.market(now)
    flat_by = state.plan.flat_by
    if flat_by is not None and market_now >= flat_by:
        state = start_exit(end_walk(state, "flat_by"), "flat_by")
    stop_at = _time_stop_at(state)
    if stop_at is not None and market_now >= stop_at and not ts.is_flat(state):
        state = start_exit(state, "time_stop")
    return state


def _time_stop_at(state: TradeState) -> datetime | None:
    """Market instant of the time stop, counted from the first fill."""
    if state.plan.time_stop_s is None or state.first_fill_at is None:
        return None
    return state.first_fill_at + timedelta(seconds=float(state.plan.time_stop_s))


def next_deadline(state: TradeState, now: datetime) -> datetime | None:
    """The next wall instant at which time alone may change the decision; None if it cannot."""
    if ts.is_final(state) or state.rewound:
        return None
    entry = walk_deadlines if state.plan.slices is None else slices.slice_deadlines
    candidates = [*entry(state), *_order_deadlines(state), *exit_deadlines(state)]
    if state.read_after is not None and (_wants_read(state) or _has_stuck(state, now)):
        candidates.append(state.read_after)
    if not ts.wants_exit(state) and not state.taken_over:
        instants = (_time_stop_at(state), state.plan.flat_by)
        candidates += [state.clock.wall(at) for at in instants if at is not None]
    triggered = ts.stop_triggered_since(state)
    if triggered is not None and not ts.wants_exit(state):
        candidates.append(triggered + timedelta(seconds=TRIGGERED_UNFILLED_S))
    if state.imbalance_since is not None:
        candidates.append(state.imbalance_since + timedelta(seconds=IMBALANCE_MAX_S))
    later = [at for at in candidates if at > now]
    return min(later, default=None)


def _wants_read(state: TradeState) -> bool:
    closing = ts.entry_is_dead(state) and ts.is_flat(state)
    unwinding = ts.wants_exit(state) and not ts.is_balanced(state)
    closing = closing or (ts.entry_is_dead(state) and is_dust(state))
    doubts = bool(state.read_needed) or bool(ts.missing_fills(state))
    parked = ts.wants_exit(state) and bool(state.needs_operator)
    return doubts or parked or closing or unwinding or state.releasing


def _order_deadlines(state: TradeState) -> list[datetime]:
    """When orders in between must be looked at again."""
    times: list[datetime] = []
    for record in state.orders:
        # An exit that failed waits for its retry although others were asked for after it.
        failed = record.state in (OrderState.NOT_SENT, OrderState.REJECTED)
        is_last = record is state.orders[-1]
        awaited = record.is_live or (failed and record.role is not Role.ENTRY) or is_last
        if record.retry_at is not None and awaited:
            times.append(record.retry_at)
        if record.state in (OrderState.PENDING_CANCEL, OrderState.PENDING_REPLACE):
            times.append(record.changed_at + timedelta(seconds=CANCEL_LOOK_S))
            times.append(record.changed_at + timedelta(seconds=CANCEL_RECHECK_S))
        filled_at = partner_filled_at(state, record) if record.is_live else None
        if filled_at is not None:
            times.append(filled_at + timedelta(seconds=GROUP_DEATH_S))
        if record.state is OrderState.UNKNOWN:
            times.append(record.changed_at + timedelta(seconds=PROTECT_UNKNOWN_S))
            times.append(record.changed_at + timedelta(seconds=UNKNOWN_PARK_S))
    return times


# --- finding out --------------------------------------------------------------------------------


def _reserve(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    command = ReserveRisk(plan=state.plan)
    return state, () if command.key in busy else (command,), True


def _resolve_unknown(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """Unknown orders are asked after by evidence; a stuck one parks the trade (I10)."""
    assert state.ticket is not None
    capabilities = state.ticket.capabilities
    is_pressing = ts.held_units(state) != 0 or ts.wants_exit(state)
    commands: list[Command] = []
    for record in state.live():
        if record.state is not OrderState.UNKNOWN or record.intent is None:
            continue
        unknown_s = (now - record.changed_at).total_seconds()
        if unknown_s >= UNKNOWN_PARK_S and not state.needs_operator:
            state = state.changed(needs_operator=doubts.unknown(record.client_id))
            state = alert(state, "ORDER_UNKNOWN_PARKED", record.client_id, AlertSeverity.CRITICAL)
        elif unknown_s >= PROTECT_UNKNOWN_S and record.role in (Role.STOP, Role.TARGET):
            state = alert_once(state, "PROTECTION_UNKNOWN", record.client_id, CRITICAL)
        command = ResolveOrder(
            intent=record.intent,
            replaces_broker_id=_broker_id_of(state, record.replaces),
            sent_at=record.changed_at,
            may_repost=capabilities.client_id_unique_for_ever
            and _is_still_wanted(state, record, now),
            # Neither stop nor exit goes before the entry's fate is known (I4).
            is_bare=ts.held_units(state) != 0,
            urgency=Urgency.EXIT if is_pressing else urgency_of(record.role),
        )
        if command.key not in busy and is_due(record.retry_at, now):
            commands.append(command)
    return state, tuple(commands), False


def _is_still_wanted(state: TradeState, record: OrderRecord, now: datetime) -> bool:
    """True if the order may be posted again: an entry while walking, an exit of what shall go.

    Beyond that an exit would sell what shall stay, or open a position the other way round (I2).
    A walk whose time ran out while nobody looked is over before anything is posted (C6).
    """
    if state.taken_over:
        return False
    if record.role is Role.ENTRY:
        return not _end_if_over(state, now).walk.ended and not state.paused
    if record.replaces is not None or record.leg != 0:
        return not ts.is_flat(state)
    if record.role is not Role.EXIT:
        return record.quantity <= abs(ts.held_units(state))
    surplus = abs(ts.held_units(state)) - state.exit.keep
    return bool(state.exit.reason) and record.quantity <= surplus


def _broker_id_of(state: TradeState, client_id: str | None) -> str | None:
    record = state.order(client_id) if client_id is not None else None
    return record.broker_order_id if record is not None else None


def _know(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """Reads the broker when something does not add up; nothing else happens before that.

    Missing executions of an entry do not hold back protection: booked is never more than held.
    """
    missing = ts.missing_fills(state)
    stuck = _has_stuck(state, now, busy)
    reason = state.read_needed or ("executions are missing" if missing else "")
    if not reason and not stuck:
        return state, (), False
    holds = bool(state.read_needed) or any(o.role is not Role.ENTRY for o in missing)
    if not is_due(state.read_after, now):
        return state, (), holds
    state, commands = read_orders(state, now, busy, reason or "an order is in between")
    return state, commands, holds


def _has_stuck(state: TradeState, now: datetime, busy: Collection[str] = ()) -> bool:
    """True while an order in between is due for a look: only that lets it be asked for anew."""
    return any(
        o.state in (OrderState.PENDING_CANCEL, OrderState.PENDING_REPLACE)
        and _is_due_for_a_look(state, o, now)
        and f"order/{o.client_id}" not in busy
        for o in state.live()
    )


def _is_due_for_a_look(state: TradeState, record: OrderRecord, now: datetime) -> bool:
    """True soon after a cancel or replace, as its frame may be lost; then again when it is late.

    Only what a later look shows lets the cancel be asked for anew, so none comes shortly before.
    """
    waited_s = (now - record.changed_at).total_seconds()
    looked_at = record.changed_at + timedelta(seconds=CANCEL_LOOK_S)
    has_looked = state.knowledge_at is not None and state.knowledge_at >= looked_at
    return waited_s >= CANCEL_RECHECK_S or (waited_s >= CANCEL_LOOK_S and not has_looked)


def _drop_doubles(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """An order that outlives its replacement is a second live order: cancel the old one (D1)."""
    doubles = tuple(
        o
        for o in state.live()
        if o.state is OrderState.PENDING_REPLACE
        and (now - o.changed_at).total_seconds() >= CANCEL_RECHECK_S
        and state.knowledge_at is not None
        and state.knowledge_at > o.changed_at + timedelta(seconds=CANCEL_RECHECK_S)
        and any(new.replaces == o.client_id and is_settled(new) for new in state.orders)
    )
    for double in doubles:
        state = alert_once(state, "REPLACE_DOUBLED", double.client_id, CRITICAL)
    commands = tuple(
        CancelOrder(
            client_id=o.client_id,
            broker_order_id=o.broker_order_id,
            urgency=Urgency.EXIT,
            summary=f"cancel doubled {o.role} {o.quantity} {o.symbol}",
        )
        for o in doubles
        if f"order/{o.client_id}" not in busy
    )
    return state, commands, False


def _notice_wrong(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """A flipped position or a stuck leg imbalance is closed once (E4, peers §4 row 21)."""
    if ts.held_units(state) < 0 and not ts.wants_exit(state):
        state = alert(
            state, "POSITION_FLIPPED", f"{ts.held_units(state)} units", AlertSeverity.CRITICAL
        )
        state = start_exit(state, "flipped")
    state = _notice_unfilled_stop(state, now)
    since = state.imbalance_since
    is_stuck = since is not None and (now - since).total_seconds() >= IMBALANCE_MAX_S
    if is_stuck and state.imbalance_told != since:
        held = ", ".join(
            f"{ts.position_of(state, leg.instrument.symbol)} {leg.instrument.symbol}"
            for leg in state.plan.legs
        )
        state = alert(state, "NAKED_LEG", held, AlertSeverity.CRITICAL)
        state = start_exit(state.changed(imbalance_told=since), "leg_imbalance")
    return state, (), False


def _notice_unfilled_stop(state: TradeState, now: datetime) -> TradeState:
    """A stop-limit that triggered and does not fill protects nothing: get out by the ladder."""
    since = ts.stop_triggered_since(state)
    if since is None or ts.wants_exit(state):
        return state
    if (now - since).total_seconds() < TRIGGERED_UNFILLED_S:
        return state
    text = f"stop {state.stop_price} triggered and {ts.held_units(state)} are still held"
    state = alert(state, "STOP_LIMIT_UNFILLED", text, AlertSeverity.CRITICAL)
    return start_exit(state, "stop_unfilled")


def _drop_entries(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """Cancels entries once the walk or a slice's time is over; safe without fresh knowledge."""
    if not state.walk.ended:
        return *slices.drop_overdue(state, now, busy), False
    state, commands = cancel_orders(state, state.live(Role.ENTRY), now, busy, Urgency.EXIT)
    return state, commands, False


# --- entry and close ----------------------------------------------------------------------------


def _enter(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """The walk (domain.walk); nothing while an unknown entry is out (I1).

    A paused or parked trade sends no entry, but its walk ends like any other: what the working
    order fills must be protected (I4), and it may not work for ever (I11).
    """
    if state.walk.ended or ts.wants_exit(state):
        return state, (), False
    if state.paused or state.needs_operator:
        return _end_if_over(state, now), (), False
    step = entry_step if state.plan.slices is None else slices.slice_step
    state, commands = step(state, now, busy)
    return state, commands, False


def _end_if_over(state: TradeState, now: datetime) -> TradeState:
    over = end_if_over if state.plan.slices is None else slices.end_if_over
    return over(state, now)


def _close(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """Flat: remove what still works, prove it at the broker, then settle (I3)."""
    if not ts.entry_is_dead(state) or not ts.is_flat(state) or state.settled:
        return state, (), False
    live = state.live()
    dying = all(dies_with_partner(state, record, now) for record in live)
    if not dying:
        state, commands = cancel_orders(state, live, now, busy, Urgency.EXIT)
        return state, commands, True
    if live or not is_proven(state):
        if not is_due(state.read_after, now):
            return state, (), True
        state, commands = read_orders(state, now, busy, "proof of the close")
        return state, commands, True
    if state.booking or state.answers:
        return state, (), True
    command = settle_command(state)
    return state, () if command.key in busy else (command,), True


def settle_command(state: TradeState) -> Settle:
    """What the ledger needs to book the end of the trade."""
    filled, released = ts.entry_quantity(state), ts.is_released(state)
    ended = ts.Outcome.CLOSED if filled else ts.Outcome.NOT_FILLED
    arrival = state.ticket.arrival.mid if state.ticket is not None else None
    return Settle(
        outcome=ts.Outcome.RELEASED if released else ended,
        exit_reason="released" if released else ts.exit_reason(state),
        entry_quantity=filled,
        average_entry=ts.average_price(state, Role.ENTRY),
        average_exit=ts.average_price(state, Role.STOP, Role.TARGET, Role.EXIT),
        arrival_mid=arrival,
        naked_s=round(state.naked.total_s, 3),
    )
