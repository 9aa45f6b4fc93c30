"""The reducing exit: keep the stop until an exit can trade, release it, get out, widen by rungs."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from decimal import Decimal

from domain import trade_state as ts
from domain.changes import alert
from domain.commands import (
    READ_KEY,
    Command,
    ReadQuote,
    Urgency,
)
from domain.handing_over import is_proven
from domain.ids import Purpose
from domain.intents import is_due, last_order, place
from domain.moves import (
    CRITICAL,
    Step,
    cancel_orders,
    is_fresh,
    read_orders,
    waits_for_person,
)
from domain.order import OrderBody, OrderState, OrderType
from domain.protection import (
    EXIT_COLLAR_MULTIPLES,
    leg_exit_bodies,
    reducing_exit_body,
)
from domain.trade_state import OrderRecord, Role, TradeState

EXIT_WAIT_S = 3.0
EXIT_ASK_S = 1.0
EXIT_REFUSALS_MAX = 5
EXIT_CLOSED_ASK_S = 5.0
EXIT_STOP_BACK_S = 30.0
QUOTE_FRESH_S = 2.0
# In a slow lane three cancels take longer than a quote stays fresh: three seconds at 200 requests a
# minute, ten at 60. What they released must not go back up, to come down again (I4, G1).
QUOTE_BARE_S = 30.0
QUOTE_HOLD_S = 3.0
POSITION_DIFFERS = "POSITION_DIFFERS"
NOT_REDUCING = "NOT_REDUCING"


def get_out(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """The reducing exit: entries dead, stop kept until an exit can trade, then release and sell.

    Runs until flat; in a halt or a closed market it waits with the stop in place (K3).
    """
    if not ts.wants_exit(state) or ts.is_flat(state):
        return state, (), False
    if not ts.entry_is_dead(state):
        return state, (), True
    if not is_due(state.exit.retry_at, now):
        return state, (), False  # ladder exhausted: the stop is back meanwhile (protect)
    if state.live(Role.EXIT):
        return wait_for_exit(state, now, busy)
    if waits_for_person(state, now):
        return state, (), True
    state, commands, can_trade = can_trade_now(state, now, busy)
    knows_enough = _knows_enough(state, now, busy)
    # Of many bare trades in a slow lane none got out: each quote had aged when its read was in.
    asks_both = not knows_enough and any(isinstance(c, ReadQuote) and c.is_bare for c in commands)
    if not can_trade and not asks_both:
        return state, commands, is_asking(state, now)
    if not knows_enough:
        state, read = read_orders(state, now, busy, "before the exit", is_bare=is_bare(state))
        return state, (*commands, *read), True
    resting = state.live(Role.STOP, Role.TARGET)
    if resting:
        state = _goes_by_what_it_knows(state, now, busy)
        state, commands = cancel_orders(state, resting, now, busy, Urgency.EXIT)
        state, more = _keep_quote(state, now, busy)
        return state, (*commands, *more), True
    if state.taken_over and ts.is_balanced(state):
        return _send_what_is_left(state, now, busy)
    return send_exit(state, ts.held_units(state), now, busy)


def _send_what_is_left(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """The exit of a taken-over trade: never more than the account itself still holds (I2).

    What a person sold by hand cannot be sold again; the trade is parked until they release it.
    """
    if state.at_broker is None or not is_proven(state):
        if not is_due(state.read_after, now):
            return state, (), True
        return *read_orders(state, now, busy, "what a person left"), True
    held, left = ts.held_units(state), ts.sellable_units(state)
    if left != held:
        text = f"{POSITION_DIFFERS} {state.plan.symbol}: the broker holds {left}, the trade {held}"
        state = state if state.needs_operator else alert(state, "EXIT_LIMITED", text, CRITICAL)
        state = state.changed(needs_operator=text)
    return (state, (), True) if left == 0 else send_exit(state, left, now, busy)


def can_trade_now(
    state: TradeState, now: datetime, busy: Collection[str]
) -> tuple[TradeState, tuple[Command, ...], bool]:
    """True if the session is open, nothing is halted and a fresh quote has a price; else asks.

    Single legs of an unbalanced structure go at the market: they wait for no quote. Nothing that
    rests is released for an exit that would have no price (G2).
    """
    hours_fresh = _is_good(state, state.hours.read_at, now, busy)
    quote_fresh = _is_good(state, state.quote_read_at, now, busy) or not ts.is_balanced(state)
    open_now = state.hours.is_open and not state.hours.halted
    has_price = _has_price(state, now)
    if hours_fresh and quote_fresh and open_now and has_price:
        return state.changed(exit=state.exit.model_copy(update={"pending": ""})), (), True
    if hours_fresh:
        reason = "halted" if state.hours.halted else "session closed"
        reason = "no price" if open_now else reason
        state = state.changed(exit=state.exit.model_copy(update={"pending": reason}))
    if not (hours_fresh and quote_fresh):
        state = _waits_for_quote(state, now)
    # What has no price or does not come is asked for rarely: in a slow lane the questions would
    # take the place of the stop that comes back, and of everybody else's.
    is_hopeful = not _stays_away(state, now) and (has_price or state.quote_read_at is None)
    wait_s = EXIT_ASK_S if open_now and is_hopeful else EXIT_CLOSED_ASK_S
    asked = state.exit.asked_at
    if asked is not None and (now - asked).total_seconds() < wait_s:
        return state, (), False
    command = ReadQuote(legs=state.plan.legs, is_bare=is_hopeful and is_bare(state))
    if command.key in busy or READ_KEY in busy:
        return state, (), False  # the exit needs both, and the quote ages while the read waits
    return state.changed(exit=state.exit.model_copy(update={"asked_at": now})), (command,), False


def _waits_for_quote(state: TradeState, now: datetime) -> TradeState:
    """The exit lacks a quote from now on, whether it asks now or a question is on its way."""
    since = state.exit.asking_since
    if since is not None and not _has_answer_since(state, since):
        return state
    return state.changed(exit=state.exit.model_copy(update={"asking_since": now}))


def _is_good(
    state: TradeState, read_at: datetime | None, now: datetime, busy: Collection[str]
) -> bool:
    """True if an exit may go by what was read then.

    A quote that was read for this exit, and good enough to release the stop, is good enough to
    send it. A second rung needs a newer one: that the first did not fill says the market has
    moved (I13).
    """
    if _is_recent(read_at, now):
        return True
    asked, sent_at = state.exit.asking_since, state.exit.sent_at
    if read_at is None or asked is None or read_at < asked or not _is_releasing(state, busy):
        return False
    if sent_at is not None and read_at <= sent_at:
        return False
    return (now - read_at).total_seconds() <= QUOTE_BARE_S


def _knows_enough(state: TradeState, now: datetime, busy: Collection[str]) -> bool:
    """True if the account is known well enough for an exit.

    What was known when the exit released the stop holds as long as the quote that went with it: in
    a slow lane each read between cancels and exit is two more steps bare (I4). A stop that is gone
    without us is another matter: who took it down may have sold the position, too (I2).
    """
    at = state.exit.released_at
    if at is None or (now - at).total_seconds() > QUOTE_BARE_S or not _is_releasing(state, busy):
        return is_fresh(state, now)
    return is_fresh(state, at)


def _goes_by_what_it_knows(state: TradeState, now: datetime, busy: Collection[str]) -> TradeState:
    """What the exit knows as it releases the stop is what it goes by, whoever had asked for it."""
    known: dict[str, datetime] = {}
    if state.exit.released_at is None or not _is_releasing(state, busy):
        known["released_at"] = now
    read = [at for at in (state.quote_read_at, state.hours.read_at) if at is not None]
    if state.exit.asking_since is None and read:
        known["asking_since"] = min(read)
    return state.changed(exit=state.exit.model_copy(update=known)) if known else state


def _is_releasing(state: TradeState, busy: Collection[str]) -> bool:
    """True from the first cancel on until the exit is out or protection stands again.

    Where a process watches the stop, targets are all that rests: they count as well.
    """
    resting = state.live(Role.STOP, Role.TARGET)
    is_released = state.exit.released_at is not None and not resting
    return (
        is_released
        or is_bare(state)
        or any(
            o.state is OrderState.PENDING_CANCEL or f"order/{o.client_id}" in busy for o in resting
        )
    )


def is_bare(state: TradeState) -> bool:
    """True while a part of the position has no stop that could rest: each second counts (I4)."""
    return ts.protection(state) is ts.Protection.NAKED


def _keep_quote(
    state: TradeState, now: datetime, busy: Collection[str]
) -> tuple[TradeState, tuple[Command, ...]]:
    """Reads the quote anew while the cancels travel: the exit behind them must not wait for it."""
    command = ReadQuote(legs=state.plan.legs, is_bare=is_bare(state))
    asked, read = state.exit.asked_at, state.quote_read_at
    # In a slow lane each read is a second: not while the exit may go by the one it has.
    is_held = _is_releasing(state, busy) and _is_good(state, read, now, busy)
    good_s = QUOTE_BARE_S if is_held else QUOTE_FRESH_S
    is_young = read is not None and (now - read).total_seconds() < good_s / 2
    was_asked = asked is not None and (now - asked).total_seconds() < EXIT_ASK_S
    if is_young or was_asked or command.key in busy or not ts.is_balanced(state):
        return state, ()
    return state.changed(exit=state.exit.model_copy(update={"asked_at": now})), (command,)


def _has_price(state: TradeState, now: datetime) -> bool:
    if not ts.is_balanced(state):
        return True
    return reducing_exit_body(state, ts.held_units(state), now) is not None


def _has_answer_since(state: TradeState, since: datetime) -> bool:
    return state.quote_read_at is not None and state.quote_read_at >= since


def is_asking(state: TradeState, now: datetime) -> bool:
    """True while a quote that ran out is read again: what the exit released stays down.

    A worker that dies between two cancels is away for some seconds, however long that takes on
    its machine; putting the cancelled exits back up for the time of one read would only be undone
    again. A quote that stays away lets protection come back (K3).
    """
    since = state.exit.asking_since
    if since is None or state.quote_read_at is None or _has_answer_since(state, since):
        return False
    if state.hours.halted or not state.hours.is_open:
        return False
    return (now - since).total_seconds() < QUOTE_HOLD_S


def _stays_away(state: TradeState, now: datetime) -> bool:
    """True once the quote has been lacking for longer than anything is held back for it."""
    since = state.exit.asking_since
    if since is None or _has_answer_since(state, since):
        return False
    return (now - since).total_seconds() >= QUOTE_HOLD_S


def _is_recent(at: datetime | None, now: datetime) -> bool:
    return at is not None and (now - at).total_seconds() <= QUOTE_FRESH_S


def wait_for_exit(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    """A working exit gets `EXIT_WAIT_S`, then it is cancelled and the next rung follows."""
    state = _counts_from_its_answer(state)
    sent_at, live = state.exit.sent_at, state.live(Role.EXIT)
    waited_s = (now - sent_at).total_seconds() if sent_at is not None else EXIT_WAIT_S
    market = all(
        o.intent is not None and o.intent.body.order_type is OrderType.MARKET for o in live
    )
    # What waits in the lane cannot be cancelled yet; a quote for the next rung would age with it.
    is_queued = all(o.state is OrderState.PENDING_NEW for o in live)
    if waited_s < EXIT_WAIT_S or market or is_queued:
        return state, (), True
    state, commands = cancel_orders(state, live, now, busy, Urgency.EXIT)
    state, more = _keep_quote(state, now, busy)
    return state, (*commands, *more), True


def _counts_from_its_answer(state: TradeState) -> TradeState:
    """An exit whose step waited in a slow lane could not fill meanwhile: its time begins then."""
    sent_at = state.exit.sent_at
    working = [o.changed_at for o in state.live(Role.EXIT) if o.state is OrderState.WORKING]
    if sent_at is None or not working:
        return state
    if (max(working) - sent_at).total_seconds() < EXIT_WAIT_S:
        return state
    return state.changed(exit=state.exit.model_copy(update={"sent_at": max(working)}))


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


def _is_other(state: TradeState, last: OrderRecord, units: Decimal) -> bool:
    """True if the last exit was not sent for a quantity that is not held any more.

    Its pause was for that order: a late fill has corrected us, and the rest is bare (I4).
    """
    is_unsent = last.state is OrderState.NOT_SENT and last.reject_code == NOT_REDUCING
    return is_unsent and not state.plan.is_combo and last.quantity != abs(units)


def send_exit(state: TradeState, units: Decimal, now: datetime, busy: Collection[str]) -> Step:
    """Sends the exit of this rung for `units` as held (all but a part close: everything).

    After the last rung the stop comes back.
    """
    assert state.ticket is not None
    market_allowed = state.ticket.allow_market_exits
    last = last_order(state, Role.EXIT)
    if last is not None and not is_due(last.retry_at, now) and not _is_other(state, last, units):
        return state, (), True
    if not ts.is_balanced(state) and not _knows_every_leg(state):
        if not is_due(state.read_after, now):
            return state, (), True
        return *read_orders(state, now, busy, "the other legs before one is closed"), True
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
    bodies = _exit_bodies(state, units, now)
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


def _exit_bodies(
    state: TradeState, units: Decimal, now: datetime
) -> tuple[tuple[int, OrderBody], ...]:
    if not ts.is_balanced(state):
        return leg_exit_bodies(state, now)
    body = reducing_exit_body(state, units, now)
    return () if body is None else ((0, body),)


def exit_deadlines(state: TradeState) -> list[datetime]:
    progress = state.exit
    if not progress.reason:
        return []
    times: list[datetime] = []
    if progress.sent_at is not None:
        times.append(progress.sent_at + timedelta(seconds=EXIT_WAIT_S))
    if progress.asked_at is not None:
        times.append(progress.asked_at + timedelta(seconds=EXIT_ASK_S))
        times.append(progress.asked_at + timedelta(seconds=EXIT_CLOSED_ASK_S))
    since = progress.asking_since
    if since is not None and not _has_answer_since(state, since):
        times.append(since + timedelta(seconds=QUOTE_HOLD_S))
    if progress.retry_at is not None:
        times.append(progress.retry_at)
    return times
