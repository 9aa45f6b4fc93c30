"""From knowledge to the next safe commands (level-triggered, architecture §2).

`decide` looks at the whole state, never at the fact that just came in. A missed, doubled or late
event cannot leave the trade in a wrong place: the next look repairs it. Order of the phases is
order of safety: find out, stop adding risk, protect, get out, only then add risk.
At most one command per order is in flight (`busy` holds the keys of running commands).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from decimal import Decimal

from domain import trade_state as ts
from domain.commands import (
    AlertSeverity,
    CancelOrder,
    Command,
    ReadBroker,
    ReadQuote,
    ReplaceOrder,
    ReserveRisk,
    ResolveOrder,
    Settle,
    Urgency,
    WatchExits,
)
from domain.fold import alert, end_walk, start_exit
from domain.ids import Purpose
from domain.intents import is_due, last_order, new_intent, place, urgency_of
from domain.order import OrderBody, OrderState, OrderType
from domain.protection import (
    EXIT_COLLAR_MULTIPLES,
    DesiredExit,
    desired_exits,
    exit_body,
    leg_exit_bodies,
    reducing_exit_body,
    stop_limit_price,
    watched_rules,
)
from domain.trade_state import OrderRecord, Role, TradeState
from domain.walk import entry_step, walk_deadlines

CANCEL_RECHECK_S = 2.0
CANCEL_REFUSALS_MAX = 5
GROUP_DEATH_S = 5.0
EXIT_WAIT_S = 3.0
EXIT_ASK_S = 1.0
EXIT_REFUSALS_MAX = 5
EXIT_CLOSED_ASK_S = 5.0
EXIT_STOP_BACK_S = 30.0
IMBALANCE_MAX_S = 5.0
PROTECT_UNKNOWN_S = 3.0
PROTECTION_REJECTIONS_MAX = 2
QUOTE_FRESH_S = 2.0
RATCHET_REFUSALS_MAX = 3
READ_AGAIN_S = 1.0
UNKNOWN_PARK_S = 30.0

CRITICAL = AlertSeverity.CRITICAL

_Step = tuple[TradeState, tuple[Command, ...], bool]


def decide(
    state: TradeState, now: datetime, busy: Collection[str] = ()
) -> tuple[TradeState, tuple[Command, ...]]:
    """The next safe commands, and the state that remembers what was asked.

    Args:
        state: everything the trade knows.
        now: wall UTC.
        busy: keys of commands still in flight.
    """
    if ts.is_final(state):
        return state.changed(alerts=()), state.alerts
    state = _pass_deadlines(state, now)
    state, commands = _run_phases(state, now, busy)
    told = state.alerts
    return state.changed(alerts=()), (*told, *commands)


def _run_phases(
    state: TradeState, now: datetime, busy: Collection[str]
) -> tuple[TradeState, tuple[Command, ...]]:
    """One pass over the phases; a second one if the walk ended in it, so that nobody waits."""
    commands: list[Command] = []
    walking = not state.walk.ended
    for phase in _phases(state):
        state, more, stop = phase(state, now, busy)
        commands += more
        if stop:
            break
    if walking and state.walk.ended and state.ticket is not None:
        keys = [*busy, *(command.key for command in commands)]
        state, more = _run_phases(state, now, keys)
        commands += more
    return state, tuple(commands)


def _phases(state: TradeState) -> tuple[Callable[..., _Step], ...]:
    """Phases in order of safety; a taken-over trade only reads unless it must get out."""
    if state.ticket is None:
        return (_reserve,)
    if state.taken_over and not ts.wants_exit(state):
        return (_know,)
    if state.taken_over or state.needs_operator:
        return (
            _resolve_unknown,
            _drop_entries,
            _know,
            _drop_doubles,
            _notice_wrong,
            _get_out,
            _protect,
            _close,
        )
    return (
        _resolve_unknown,
        _drop_entries,
        _know,
        _drop_doubles,
        _notice_wrong,
        _get_out,
        _protect,
        _enter,
        _close,
    )


# --- time ---------------------------------------------------------------------------------------


def _pass_deadlines(state: TradeState, now: datetime) -> TradeState:
    """Turns passed strategy deadlines into exits (market time)."""
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
    if ts.is_final(state):
        return None
    candidates = [*walk_deadlines(state), *_order_deadlines(state), *_exit_deadlines(state)]
    if state.read_after is not None and _wants_read(state):
        candidates.append(state.read_after)
    if not state.exit.reason:
        instants = (_time_stop_at(state), state.plan.flat_by)
        candidates += [state.clock.wall(at) for at in instants if at is not None]
    if state.imbalance_since is not None:
        candidates.append(state.imbalance_since + timedelta(seconds=IMBALANCE_MAX_S))
    later = [at for at in candidates if at > now]
    return min(later, default=None)


def _wants_read(state: TradeState) -> bool:
    closing = ts.entry_is_dead(state) and ts.is_flat(state)
    unwinding = ts.wants_exit(state) and not ts.is_balanced(state)
    doubts = bool(state.read_needed) or bool(ts.missing_fills(state))
    return doubts or closing or unwinding


def _order_deadlines(state: TradeState) -> list[datetime]:
    """When orders in between must be looked at again."""
    times: list[datetime] = []
    for record in state.orders:
        if record.retry_at is not None and (record.is_live or record is state.orders[-1]):
            times.append(record.retry_at)
        if record.state in (OrderState.PENDING_CANCEL, OrderState.PENDING_REPLACE):
            times.append(record.changed_at + timedelta(seconds=CANCEL_RECHECK_S))
        filled_at = _partner_filled_at(state, record) if record.is_live else None
        if filled_at is not None:
            times.append(filled_at + timedelta(seconds=GROUP_DEATH_S))
        if record.state is OrderState.UNKNOWN:
            times.append(record.changed_at + timedelta(seconds=PROTECT_UNKNOWN_S))
            times.append(record.changed_at + timedelta(seconds=UNKNOWN_PARK_S))
    return times


def _exit_deadlines(state: TradeState) -> list[datetime]:
    progress = state.exit
    if not progress.reason:
        return []
    times: list[datetime] = []
    if progress.sent_at is not None:
        times.append(progress.sent_at + timedelta(seconds=EXIT_WAIT_S))
    if progress.asked_at is not None:
        times.append(progress.asked_at + timedelta(seconds=EXIT_ASK_S))
        times.append(progress.asked_at + timedelta(seconds=EXIT_CLOSED_ASK_S))
    if progress.retry_at is not None:
        times.append(progress.retry_at)
    return times


# --- finding out --------------------------------------------------------------------------------


def _reserve(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    command = ReserveRisk(plan=state.plan)
    return state, () if command.key in busy else (command,), True


def _resolve_unknown(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """Unknown orders are asked after by evidence; a stuck one parks the trade (I10)."""
    assert state.ticket is not None
    capabilities = state.ticket.capabilities
    commands: list[Command] = []
    for record in state.live():
        if record.state is not OrderState.UNKNOWN or record.intent is None:
            continue
        unknown_s = (now - record.changed_at).total_seconds()
        if unknown_s >= UNKNOWN_PARK_S and not state.needs_operator:
            state = state.changed(needs_operator=f"order {record.client_id} is unknown")
            state = alert(state, "ORDER_UNKNOWN_PARKED", record.client_id, AlertSeverity.CRITICAL)
        elif unknown_s >= PROTECT_UNKNOWN_S and record.role in (Role.STOP, Role.TARGET):
            state = alert(state, "PROTECTION_UNKNOWN", record.client_id, AlertSeverity.CRITICAL)
        command = ResolveOrder(
            intent=record.intent,
            replaces_broker_id=_broker_id_of(state, record.replaces),
            sent_at=record.changed_at,
            may_repost=capabilities.client_id_unique_for_ever
            and not (record.role is Role.ENTRY and bool(state.walk.ended)),
            urgency=urgency_of(record.role),
        )
        if command.key not in busy and is_due(record.retry_at, now):
            commands.append(command)
    return state, tuple(commands), False


def _broker_id_of(state: TradeState, client_id: str | None) -> str | None:
    record = state.order(client_id) if client_id is not None else None
    return record.broker_order_id if record is not None else None


def _know(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """Reads the broker when something does not add up; nothing else happens before that.

    Missing executions of an entry do not hold back protection: booked is never more than held.
    """
    missing = ts.missing_fills(state)
    stuck = any(
        o.state in (OrderState.PENDING_CANCEL, OrderState.PENDING_REPLACE)
        and (now - o.changed_at).total_seconds() >= CANCEL_RECHECK_S
        and f"order/{o.client_id}" not in busy
        for o in state.live()
    )
    reason = state.read_needed or ("executions are missing" if missing else "")
    if not reason and not stuck:
        return state, (), False
    holds = bool(state.read_needed) or any(o.role is not Role.ENTRY for o in missing)
    if not is_due(state.read_after, now):
        return state, (), holds
    state, commands = _read(state, now, busy, reason or "an order is in between")
    return state, commands, holds


def _read(
    state: TradeState, now: datetime, busy: Collection[str], reason: str
) -> tuple[TradeState, tuple[Command, ...]]:
    watched = [o for o in state.orders if o.is_live or o in ts.missing_fills(state)]
    command = ReadBroker(
        broker_order_ids=tuple(o.broker_order_id for o in watched if o.broker_order_id),
        client_ids=tuple(
            o.client_id for o in watched if o.broker_order_id is None and o.intent is not None
        ),
        symbols=tuple(leg.instrument.symbol for leg in state.plan.legs),
        reason=reason,
    )
    if command.key in busy:
        return state, ()
    return state.changed(read_after=now + timedelta(seconds=READ_AGAIN_S)), (command,)


def _is_fresh(state: TradeState, now: datetime) -> bool:
    """True if orders and position were read at most `KNOWLEDGE_MAX_AGE_S` ago."""
    if state.knowledge_at is None:
        return False
    return (now - state.knowledge_at).total_seconds() <= ts.KNOWLEDGE_MAX_AGE_S


def _drop_doubles(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """An order that outlives its replacement is a second live order: cancel the old one (D1)."""
    doubles = tuple(
        o
        for o in state.live()
        if o.state is OrderState.PENDING_REPLACE
        and (now - o.changed_at).total_seconds() >= CANCEL_RECHECK_S
        and state.knowledge_at is not None
        and state.knowledge_at > o.changed_at + timedelta(seconds=CANCEL_RECHECK_S)
        and any(new.replaces == o.client_id and _is_settled(new) for new in state.orders)
    )
    for double in doubles:
        state = alert(state, "REPLACE_DOUBLED", double.client_id, AlertSeverity.CRITICAL)
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


def _notice_wrong(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """A flipped position or a stuck leg imbalance is closed once (E4, peers §4 row 21)."""
    if ts.held_units(state) < 0 and not ts.wants_exit(state):
        state = alert(
            state, "POSITION_FLIPPED", f"{ts.held_units(state)} units", AlertSeverity.CRITICAL
        )
        state = start_exit(state, "flipped")
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


# --- less risk ----------------------------------------------------------------------------------


def _drop_entries(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """Cancels entries once the walk is over. Cancelling is safe without fresh knowledge."""
    if not state.walk.ended:
        return state, (), False
    state, commands = _cancel(state, state.live(Role.ENTRY), now, busy, Urgency.EXIT)
    return state, commands, False


def _cancel(
    state: TradeState,
    records: tuple[OrderRecord, ...],
    now: datetime,
    busy: Collection[str],
    urgency: Urgency,
) -> tuple[TradeState, tuple[Command, ...]]:
    """Cancel commands for the groups of these orders; a refused one waits and is counted."""
    commands: list[Command] = []
    for record in records:
        if _follows_another(state, record) or _dies_with_partner(state, record, now):
            continue  # the broker cancels the group
        if record.state in (OrderState.PENDING_CANCEL, OrderState.PENDING_NEW):
            continue
        if record.state is OrderState.UNKNOWN and record.broker_order_id is None:
            continue  # resolved first
        if record.refusals >= CANCEL_REFUSALS_MAX and not state.needs_operator:
            state = alert(
                state,
                "CANCEL_REFUSED",
                f"{record.client_id} refused {record.refusals} times",
                AlertSeverity.CRITICAL,
            )
            state = state.changed(needs_operator=f"cancel of {record.client_id} is refused")
        command = CancelOrder(
            client_id=record.client_id,
            broker_order_id=record.broker_order_id,
            urgency=urgency,
            summary=f"cancel {record.role} {record.quantity} {record.symbol}",
        )
        if command.key not in busy and is_due(record.retry_at, now):
            commands.append(command)
    return state, tuple(commands)


def _follows_another(state: TradeState, record: OrderRecord) -> bool:
    """True for a group member that dies with a live leading order (parent, or the target)."""
    parent = state.order(record.parent_client_id) if record.parent_client_id else None
    if parent is None:
        return False
    if parent.is_live:
        return True
    return record.role is Role.STOP and any(
        o.parent_client_id == record.parent_client_id for o in state.live(Role.TARGET)
    )


def _partner_filled_at(state: TradeState, record: OrderRecord) -> datetime | None:
    """When the OCO partner of this order filled completely, or None."""
    group = record.parent_client_id or record.client_id
    for other in state.orders:
        if other.role is Role.ENTRY or other.state is not OrderState.FILLED:
            continue
        if other.client_id != record.client_id and group in (
            other.client_id,
            other.parent_client_id,
        ):
            return other.changed_at
    return None


def _dies_with_partner(state: TradeState, record: OrderRecord, now: datetime) -> bool:
    """True while the broker may still be cancelling this sibling of a filled order (E5)."""
    filled_at = _partner_filled_at(state, record)
    return filled_at is not None and (now - filled_at).total_seconds() < GROUP_DEATH_S


def _get_out(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """The reducing exit: entries dead, stop kept until an exit can trade, then release and sell.

    Runs until flat; in a halt or a closed market it waits with the stop in place (K3).
    """
    if not ts.wants_exit(state) or ts.is_flat(state):
        return state, (), False
    if not ts.entry_is_dead(state):
        return state, (), True
    if not is_due(state.exit.retry_at, now):
        return state, (), False  # ladder exhausted: the stop is back meanwhile (_protect)
    if state.live(Role.EXIT):
        return _wait_for_exit(state, now, busy)
    state, commands, can_trade = _can_trade_now(state, now, busy)
    if not can_trade:
        return state, commands, False
    resting = state.live(Role.STOP, Role.TARGET)
    if resting:
        state, commands = _cancel(state, resting, now, busy, Urgency.EXIT)
        return state, commands, True
    if not _is_fresh(state, now):
        state, commands = _read(state, now, busy, "before the exit")
        return state, commands, True
    return _send_exit(state, now, busy)


def _can_trade_now(
    state: TradeState, now: datetime, busy: Collection[str]
) -> tuple[TradeState, tuple[Command, ...], bool]:
    """True if the session is open, nothing is halted and the quote is fresh; else asks.

    Single legs of an unbalanced structure go at the market: they wait for no quote.
    """
    hours_fresh = _is_recent(state.hours.read_at, now)
    quote_fresh = _is_recent(state.quote_read_at, now) or not ts.is_balanced(state)
    open_now = state.hours.is_open and not state.hours.halted
    if hours_fresh and quote_fresh and open_now:
        return state.changed(exit=state.exit.model_copy(update={"pending": ""})), (), True
    if hours_fresh:
        reason = "halted" if state.hours.halted else "session closed"
        reason = "no price" if open_now else reason
        state = state.changed(exit=state.exit.model_copy(update={"pending": reason}))
    wait_s = EXIT_ASK_S if open_now else EXIT_CLOSED_ASK_S
    asked = state.exit.asked_at
    if asked is not None and (now - asked).total_seconds() < wait_s:
        return state, (), False
    command = ReadQuote(legs=state.plan.legs)
    if command.key in busy:
        return state, (), False
    state = state.changed(exit=state.exit.model_copy(update={"asked_at": now}))
    return state, (command,), False


def _is_recent(at: datetime | None, now: datetime) -> bool:
    return at is not None and (now - at).total_seconds() <= QUOTE_FRESH_S


def _wait_for_exit(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """A working exit gets `EXIT_WAIT_S`, then it is cancelled and the next rung follows."""
    sent_at = state.exit.sent_at
    waited_s = (now - sent_at).total_seconds() if sent_at is not None else EXIT_WAIT_S
    market = all(
        o.intent is not None and o.intent.body.order_type is OrderType.MARKET
        for o in state.live(Role.EXIT)
    )
    if waited_s < EXIT_WAIT_S or market:
        return state, (), True
    state, commands = _cancel(state, state.live(Role.EXIT), now, busy, Urgency.EXIT)
    return state, commands, True


def _refused_in_a_row(state: TradeState) -> int:
    """How many of the newest exits since the ladder began the venue refused outright.

    A refusal (say, an entry of another trade works on the other side) is no reason to widen.
    """
    count = 0
    began = state.exit.began_at
    for record in reversed(state.orders):
        if record.role is not Role.EXIT or (began is not None and record.changed_at < began):
            continue
        if record.state is not OrderState.REJECTED:
            break
        count += 1
    return count


def _send_exit(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """Sends the exit of this rung for what is held; after the last rung the stop comes back."""
    assert state.ticket is not None
    market_allowed = state.ticket.allow_market_exits
    last = last_order(state, Role.EXIT)
    if last is not None and not is_due(last.retry_at, now):
        return state, (), True
    if not ts.is_balanced(state) and not _knows_every_leg(state):
        if not is_due(state.read_after, now):
            return state, (), True
        return *_read(state, now, busy, "the other legs before one is closed"), True
    refused = _refused_in_a_row(state)
    rung = state.exit.rung
    if last is not None and state.exit.sent_at is not None and not refused:
        rung += 1
    if refused >= EXIT_REFUSALS_MAX:
        state = alert(state, "EXIT_REFUSED", last.reject_code if last else "", CRITICAL)
    exhausted = rung > len(EXIT_COLLAR_MULTIPLES) - 1 and not market_allowed
    if exhausted or rung > len(EXIT_COLLAR_MULTIPLES) + 2 or refused >= EXIT_REFUSALS_MAX:
        state = alert(state, "EXIT_NOT_FILLED", "the stop comes back", CRITICAL)
        retry_at = now + timedelta(seconds=EXIT_STOP_BACK_S)
        progress = state.exit.model_copy(
            update={
                "rung": 0,
                "sent_at": None,
                "retry_at": retry_at,
                "began_at": retry_at,
                "pending": "not filled",
            }
        )
        return state.changed(exit=progress), (), False
    state = state.changed(
        exit=state.exit.model_copy(update={"rung": rung, "sent_at": now, "retry_at": None})
    )
    bodies = _exit_bodies(state, now)
    if not bodies:
        state = state.changed(exit=state.exit.model_copy(update={"pending": "no price"}))
        return state, (), False
    commands: list[Command] = []
    for leg, body in bodies:
        purpose = Purpose.FLATTEN if state.exit.reason in ("flatten", "kill") else Purpose.EXIT
        state, command = place(
            state,
            purpose,
            Role.EXIT,
            body,
            now,
            urgency=Urgency.EXIT,
            leg=leg,
            reason=state.exit.reason,
        )
        commands.append(command)
    return state, tuple(commands), True


def _knows_every_leg(state: TradeState) -> bool:
    """True if the broker was read since the imbalance and has no execution that is not here.

    A leg that only looks alone must not be closed: the other one would be left open.
    """
    since, known = state.imbalance_since, state.knowledge_at
    if ts.missing_fills(state):
        return False
    return since is None or (known is not None and known > since)


def _exit_bodies(state: TradeState, now: datetime) -> tuple[tuple[int, OrderBody], ...]:
    if not ts.is_balanced(state):
        return leg_exit_bodies(state, now)
    body = reducing_exit_body(state, ts.held_units(state), now)
    return () if body is None else ((0, body),)


# --- protection ---------------------------------------------------------------------------------


def _protect(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """Brings the resting exits to what they should be: place, ratchet, resize, remove."""
    if not ts.entry_is_dead(state) or ts.held_units(state) <= 0:
        return state, (), False
    if ts.wants_exit(state) and state.live(Role.EXIT):
        return state, (), True
    state, commands = _watch(state, busy)
    wanted = desired_exits(state)
    state, more, changed = _protect_tranches(state, wanted, now, busy)
    if changed and not _is_fresh(state, now):
        state, read = _read(state, now, busy, "before the protection changes")
        return state, (*commands, *read), True
    return state, (*commands, *more), True


def _watch(state: TradeState, busy: Collection[str]) -> tuple[TradeState, tuple[Command, ...]]:
    """The exit watch row of this position epoch, if there is a rule to watch."""
    if state.watched_epoch == state.position_epoch or "watch" in busy:
        return state, ()
    rules = watched_rules(state)
    average = ts.average_price(state, Role.ENTRY)
    if not rules or average is None or state.first_fill_at is None:
        return state, ()
    command = WatchExits(
        position_epoch=state.position_epoch,
        rules=rules,
        side=state.plan.side,
        units=ts.held_units(state),
        average_entry=average,
        opened_at=state.first_fill_at,
    )
    return state.changed(watched_epoch=state.position_epoch), (command,)


def _protect_tranches(
    state: TradeState, wanted: tuple[DesiredExit, ...], now: datetime, busy: Collection[str]
) -> tuple[TradeState, tuple[Command, ...], bool]:
    """Commands for every tranche. If knowledge is stale nothing is remembered as asked."""
    before = state
    commands: list[Command] = []
    for exit_wanted in wanted:
        state, more = _protect_tranche(state, exit_wanted, now, busy)
        commands += more
    tranches = [exit_wanted.tranche for exit_wanted in wanted]
    strays = tuple(
        o for o in state.live(Role.STOP, Role.TARGET) if (o.tranche or 0) not in tranches
    )
    state, more = _cancel(state, strays, now, busy, Urgency.PROTECT)
    commands += more
    if commands and not _is_fresh(state, now):
        return before, (), True
    return state, tuple(commands), bool(commands)


def _protect_tranche(
    state: TradeState, wanted: DesiredExit, now: datetime, busy: Collection[str]
) -> tuple[TradeState, tuple[Command, ...]]:
    live = tuple(
        o for o in state.live(Role.STOP, Role.TARGET) if (o.tranche or 0) == wanted.tranche
    )
    if not live:
        return _place_exit(state, wanted, now)
    if any(f"order/{o.client_id}" in busy or not _is_settled(o) for o in live):
        return state, ()
    lead = next((o for o in live if o.role is Role.TARGET), live[0])
    if lead.quantity - ts.filled_quantity(state, lead) != wanted.quantity:
        return _cancel(state, live, now, busy, Urgency.PROTECT)
    stops = [o for o in live if o.role is Role.STOP]
    if wanted.stop_price is not None and not stops:
        # A target without its stop is not protection: take it down and place the pair.
        return _cancel(state, live, now, busy, Urgency.PROTECT)
    for stop in stops:
        if wanted.stop_price is not None and stop.stop_price != wanted.stop_price:
            return _ratchet(state, stop, wanted, now)
    return state, ()


def _is_settled(record: OrderRecord) -> bool:
    return record.state in (OrderState.WORKING, OrderState.HELD)


def _place_exit(
    state: TradeState, wanted: DesiredExit, now: datetime
) -> tuple[TradeState, tuple[Command, ...]]:
    """Places the exit of one tranche; a stop that keeps being refused becomes an exit (E2)."""
    earlier = [
        o
        for o in state.orders
        if o.intent is not None
        and o.role in (Role.STOP, Role.TARGET)
        and o.tranche == wanted.tranche
    ]
    rejected = [o for o in earlier if o.state is OrderState.REJECTED]
    if len(rejected) >= PROTECTION_REJECTIONS_MAX:
        state = alert(
            state, "PROTECTION_REJECTED", rejected[-1].reject_code, AlertSeverity.CRITICAL
        )
        return start_exit(state, "protection_rejected"), ()
    if earlier and not is_due(earlier[-1].retry_at, now):
        return state, ()
    purpose, body = exit_body(state, wanted, now.date())
    role = Role.STOP if purpose is Purpose.STOP else Role.TARGET
    state, command = place(
        state,
        purpose,
        role,
        body,
        now,
        urgency=Urgency.PROTECT,
        tranche=wanted.tranche,
        reason="protect",
    )
    return state, (command,)


def _ratchet(
    state: TradeState, stop: OrderRecord, wanted: DesiredExit, now: datetime
) -> tuple[TradeState, tuple[Command, ...]]:
    """Moves a live stop by one atomic replace: old stop live or new stop live, never none."""
    assert state.ticket is not None
    assert wanted.stop_price is not None
    if stop.refusals >= RATCHET_REFUSALS_MAX:
        return alert(
            state,
            "RATCHET_REFUSED",
            f"{stop.client_id} stays at {stop.stop_price}",
            AlertSeverity.CRITICAL,
        ), ()
    if not is_due(stop.retry_at, now) or stop.broker_order_id is None:
        return state, ()
    limit = stop_limit_price(state, wanted.stop_price)
    body = OrderBody(
        symbol=stop.symbol,
        side=stop.side,
        quantity=wanted.quantity,
        order_type=OrderType.STOP if limit is None else OrderType.STOP_LIMIT,
        time_in_force=exit_body(state, wanted, now.date())[1].time_in_force,
        stop_price=wanted.stop_price,
        limit_price=limit,
        intent_date=now.date(),
    )
    state, intent = new_intent(
        state,
        Purpose.STOP,
        Role.STOP,
        body,
        now,
        tranche=stop.tranche,
        replaces=stop.client_id,
        parent=stop.parent_client_id,
        reason="ratchet",
    )
    command = ReplaceOrder(
        old_client_id=stop.client_id,
        old_broker_id=stop.broker_order_id,
        intent=intent,
        urgency=Urgency.PROTECT,
        summary=f"stop {stop.stop_price} → {wanted.stop_price} for {wanted.quantity}",
    )
    return state, (command,)


# --- entry and close ----------------------------------------------------------------------------


def _enter(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """The walk (domain.walk); nothing while an unknown entry is out (I1)."""
    if state.walk.ended or ts.wants_exit(state) or state.paused:
        return state, (), False
    state, commands = entry_step(state, now, busy)
    return state, commands, False


def _close(state: TradeState, now: datetime, busy: Collection[str]) -> _Step:
    """Flat: remove what still works, prove it at the broker, then settle (I3)."""
    if not ts.entry_is_dead(state) or not ts.is_flat(state) or state.settled:
        return state, (), False
    live = state.live()
    dying = all(_dies_with_partner(state, record, now) for record in live)
    if not dying:
        state, commands = _cancel(state, live, now, busy, Urgency.EXIT)
        return state, commands, True
    changes = [o.changed_at for o in state.orders if o.state is not OrderState.NOT_SENT]
    proven = not changes or (state.knowledge_at is not None and state.knowledge_at >= max(changes))
    if live or not proven or ts.missing_fills(state):
        if not is_due(state.read_after, now):
            return state, (), True
        state, commands = _read(state, now, busy, "proof of the close")
        return state, commands, True
    command = settle_command(state)
    return state, () if command.key in busy else (command,), True


def settle_command(state: TradeState) -> Settle:
    """What the ledger needs to book the end of the trade."""
    filled = ts.entry_quantity(state)
    arrival = state.ticket.arrival.mid if state.ticket is not None else None
    return Settle(
        outcome=ts.Outcome.CLOSED if filled else ts.Outcome.NOT_FILLED,
        exit_reason=ts.exit_reason(state),
        entry_quantity=filled,
        average_entry=ts.average_price(state, Role.ENTRY),
        average_exit=ts.average_price(state, Role.STOP, Role.TARGET, Role.EXIT),
        arrival_mid=arrival,
        naked_s=round(state.naked.total_s, 3),
    )


def covered_quantity(state: TradeState) -> Decimal:
    """Units that working exits could take off at most: the number I4 bounds by the position."""
    total = Decimal(0)
    for record in state.live(Role.STOP, Role.TARGET, Role.EXIT):
        group = record.parent_client_id
        if group is not None and (parent := state.order(group)) is not None and parent.is_live:
            continue
        old = state.order(record.replaces) if record.replaces else None
        if old is not None and (old.is_live or old.parent_client_id is not None):
            continue
        total += record.quantity - ts.filled_quantity(state, record)
    return total
