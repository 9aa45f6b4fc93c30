"""Rule exits on marks and the guards that keep one bad print from closing a trade.

`evaluate` is a pure fold: rule, watch state, mark, age of the mark, market now -> new state and
an outcome. It knows no orders: a trigger is a fact `(rule_id, position_epoch)`, and the ledger
keeps that pair unique, so two watchers or a restart give one exit (architecture §6).

Guards apply to mark-based exits of monitored trades only, never to resting stops, kill, flatten,
expiry or margin (requirement 102): three confirmations at least 60 s apart, a grace of 900 s
after the opening, and a mark that jumps by more than 50 % is deferred for at most two scans, then
taken as the new base and alerted. The volatility spike is an emergency: it skips grace and
confirmations, not the jump guard. So does the look at a resting stop-limit.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.errors import Broken
from domain.money import ONE, ZERO, NetPrice, Number, Quantity, divide
from domain.order import Side
from domain.plan import ExitRule, RuleKind

HUNDRED = Decimal(100)
MARKS_PER_WINDOW_MAX = 128


_UNGUARDED = frozenset({RuleKind.VOLATILITY_SPIKE, RuleKind.STOP_REACHED})
"""No grace and no confirmations: an emergency, and a stop that the venue has triggered already."""


class Guards(Frozen):
    """Limits of the guards. Scan spacing, grace and window are market time; quote age is wall."""

    confirmations: int = 3
    scan_interval_s: Number = Decimal(60)
    grace_s: Number = Decimal(900)
    jump_fraction: Number = Decimal("0.5")
    deferrals_max: int = 2
    quote_age_s_max: Number = Decimal(5)
    spike_window_s: Number = Decimal(60)


DEFAULT_GUARDS = Guards()


class TimedMark(Frozen):
    """One accepted mark of the spike window."""

    at: AwareDatetime
    mark: NetPrice


class WatchState(Frozen):
    """What the watch remembers of one rule on one position; a row of the ledger's `watches`.

    `position_epoch` grows with every change of the position, so a trigger belongs to the position
    it was computed for. `high_water` is the best mark in the trade's favour since the opening and
    never gets worse. `quantity` is unsigned. Rules on another symbol (the spike of a volatility
    index) do not use `entry_price`.
    """

    rule_id: str
    position_epoch: int
    side: Side
    entry_price: NetPrice
    quantity: Quantity
    multiplier: Quantity = ONE
    opened_at: AwareDatetime
    high_water: NetPrice | None = None
    confirmations: int = 0
    last_confirmed_at: AwareDatetime | None = None
    last_eval_at: AwareDatetime | None = None
    base_mark: NetPrice | None = None
    deferrals: int = 0
    last_deferred_at: AwareDatetime | None = None
    window: tuple[TimedMark, ...] = ()
    triggered: bool = False


class Triggered(Frozen):
    """The exit fires, once per (rule_id, position_epoch)."""

    kind: Literal["triggered"] = "triggered"
    rule_id: str
    position_epoch: int
    mark: NetPrice
    text: str


class Nothing(Frozen):
    """No exit now; `alert` is set when a person should know."""

    kind: Literal["nothing"] = "nothing"
    reason: str
    alert: str = ""


class Deferred(Frozen):
    """The mark jumped; it is looked at again before anybody acts on it."""

    kind: Literal["deferred"] = "deferred"
    reason: str
    alert: str = ""


Outcome = Triggered | Nothing | Deferred


def evaluate(
    rule: ExitRule,
    state: WatchState,
    mark: Decimal | None,
    quote_age_s: Decimal | None,
    now: datetime,
    guards: Guards = DEFAULT_GUARDS,
) -> tuple[WatchState, Outcome]:
    """One look at the market. A mark that cannot be trusted changes nothing at all.

    Args:
        mark: price of the position (or of the rule's symbol); None if there is none.
        quote_age_s: wall seconds since the quote behind the mark was received.
        now: market time of this look.

    Raises:
        Broken: state and rule do not belong together.
    """
    if rule.rule_id != state.rule_id:
        raise Broken(f"watch state was of rule {state.rule_id}, the rule was {rule.rule_id}")
    unusable = _unusable(state, mark, quote_age_s, now, guards)
    if unusable is not None:
        return state, unusable
    assert mark is not None
    state, alert, deferred = _check_jump(state, mark, now, guards)
    if deferred is not None:
        return state, deferred
    state = _observe(rule, state, mark, now, guards)
    hit = _hit(rule, state, mark)
    if hit is None:
        quiet = _with(state, confirmations=0, last_confirmed_at=None)
        return quiet, Nothing(reason="condition not met", alert=alert)
    if rule.kind not in _UNGUARDED:
        if now - state.opened_at < _seconds(guards.grace_s):
            return state, Nothing(reason="grace period", alert=alert)
        state = _confirm(state, now, guards)
        if state.confirmations < guards.confirmations:
            count = f"{state.confirmations}/{guards.confirmations}"
            return state, Nothing(reason=f"confirmation {count}: {hit}", alert=alert)
    fired = Triggered(
        rule_id=rule.rule_id, position_epoch=state.position_epoch, mark=mark, text=hit
    )
    return _with(state, triggered=True), fired


def trail_level(rule: ExitRule, state: WatchState) -> Decimal | None:
    """The price at which a trailing rule would fire now, or None while it is not armed.

    Moves only in the trade's favour. A profit trail arms once the best mark is `threshold`
    beyond the entry, so it never locks in a loss.
    """
    if rule.kind not in (RuleKind.STOP_TRAIL, RuleKind.PROFIT_TRAIL) or state.high_water is None:
        return None
    gained = state.side.sign * (state.high_water - state.entry_price)
    if rule.kind is RuleKind.PROFIT_TRAIL and gained < rule.threshold:
        return None
    return state.high_water - state.side.sign * rule.threshold


def _unusable(
    state: WatchState,
    mark: Decimal | None,
    quote_age_s: Decimal | None,
    now: datetime,
    guards: Guards,
) -> Nothing | None:
    if state.triggered:
        return Nothing(reason="already triggered")
    if state.quantity == 0:
        return Nothing(reason="position is flat")
    if mark is None or not mark.is_finite():
        return Nothing(reason="no mark")
    if quote_age_s is None or not ZERO <= quote_age_s <= guards.quote_age_s_max:
        return Nothing(reason="quote is stale")
    if state.last_eval_at is not None and now < state.last_eval_at:
        return Nothing(reason="time went backwards")
    return None


def _check_jump(
    state: WatchState, mark: Decimal, now: datetime, guards: Guards
) -> tuple[WatchState, str, Deferred | None]:
    """Compares with the last trusted mark; a deferral counts at most once per scan interval."""
    base = state.base_mark
    if base is None or abs(mark - base) <= abs(base) * guards.jump_fraction:
        return _with(state, base_mark=mark, deferrals=0, last_deferred_at=None), "", None
    text = f"mark jumped from {base} to {mark}"
    last = state.last_deferred_at
    if last is not None and now - last < _seconds(guards.scan_interval_s):
        return _with(state, last_eval_at=now), "", Deferred(reason=text)
    if state.deferrals < guards.deferrals_max:
        count = state.deferrals + 1
        waiting = _with(state, deferrals=count, last_deferred_at=now, last_eval_at=now)
        return waiting, "", Deferred(reason=f"{text}, deferral {count}/{guards.deferrals_max}")
    # A spike is measured from before the jump: a true one must not hide in its own guard.
    window = (TimedMark(at=now, mark=base),)
    rebased = _with(state, base_mark=mark, deferrals=0, last_deferred_at=None, window=window)
    return rebased, f"{text} and stayed there: taken as the new base", None


def _observe(
    rule: ExitRule, state: WatchState, mark: Decimal, now: datetime, guards: Guards
) -> WatchState:
    best = state.high_water
    if best is None or state.side.sign * (mark - best) > 0:
        best = mark
    if rule.kind is not RuleKind.VOLATILITY_SPIKE:
        return _with(state, high_water=best, last_eval_at=now)
    horizon = now - _seconds(guards.spike_window_s)
    # Only marks below the newest can still become the low of the window.
    window = tuple(entry for entry in state.window if entry.at >= horizon and entry.mark < mark)
    window = (*window, TimedMark(at=now, mark=mark))
    if len(window) > MARKS_PER_WINDOW_MAX:
        window = (window[0], *window[2:])
    return _with(state, high_water=best, window=window, last_eval_at=now)


def _confirm(state: WatchState, now: datetime, guards: Guards) -> WatchState:
    last = state.last_confirmed_at
    if last is not None and now - last < _seconds(guards.scan_interval_s):
        return state
    return _with(state, confirmations=state.confirmations + 1, last_confirmed_at=now)


def _hit(rule: ExitRule, state: WatchState, mark: Decimal) -> str | None:
    """Why the rule's condition holds at this mark, or None."""
    gain = state.side.sign * (mark - state.entry_price)
    amount = gain * state.quantity * state.multiplier
    sign = 1 if rule.kind in (RuleKind.PROFIT_PERCENT, RuleKind.PROFIT_AMOUNT) else -1
    match rule.kind:
        case RuleKind.PROFIT_PERCENT | RuleKind.LOSS_PERCENT:
            if state.entry_price == 0:
                return None
            percent = divide(gain * HUNDRED, abs(state.entry_price))
            hit = sign * percent >= rule.threshold
            return f"{rule.kind} {percent:.2f} % at {mark}" if hit else None
        case RuleKind.PROFIT_AMOUNT | RuleKind.LOSS_AMOUNT:
            hit = sign * amount >= rule.threshold
            return f"{rule.kind} {amount:.2f} at {mark}" if hit else None
        case RuleKind.PROFIT_TRAIL | RuleKind.STOP_TRAIL:
            level = trail_level(rule, state)
            hit = level is not None and state.side.sign * (mark - level) <= 0
            return f"{rule.kind} level {level} at {mark}" if hit else None
        case RuleKind.STOP_REACHED:
            hit = state.side.sign * (mark - rule.threshold) <= 0
            return f"{rule.kind} {rule.threshold} at {mark}" if hit else None
        case RuleKind.VOLATILITY_SPIKE:
            low = min(entry.mark for entry in state.window)
            if low <= 0:
                return None
            rise = divide((mark - low) * HUNDRED, low)
            hit = rise >= rule.threshold
            return f"{rule.kind} +{rise:.2f} % within the window at {mark}" if hit else None


def _seconds(amount: Decimal) -> timedelta:
    return timedelta(seconds=float(amount))


def _with(state: WatchState, **changes: object) -> WatchState:
    """`model_copy` does not validate; every value here was validated when it came in."""
    return state.model_copy(update=changes)
