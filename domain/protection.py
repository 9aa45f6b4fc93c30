"""Protection and exits as they should be right now: layout, tranches, ratchet, reducing exit.

The layout is chosen from the broker's capabilities (architecture §6). Exit quantity never exceeds
what the position covers where exits reserve it (I4); the stop is monotone per side (I8).
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from domain import trade_state as ts
from domain.base import Frozen
from domain.ids import Purpose
from domain.money import ZERO
from domain.order import (
    OpenClose,
    OrderBody,
    OrderClass,
    OrderLeg,
    OrderType,
    Side,
    TimeInForce,
)
from domain.plan import ExitRule, PlanLeg, RatchetKind, RatchetStep, RuleKind
from domain.trade_state import Role, TradeState

EXIT_COLLAR_MULTIPLES = (1, 2, 4)
"""Rungs of a reducing exit; after the last one market if allowed (architecture §6)."""


STOP_REACHED = "stop-reached@"
"""Rule id of the watch on a resting stop-limit, before its price: a moved stop is a new rule."""


class Layout(StrEnum):
    OCO_PER_TRANCHE = "oco_per_tranche"
    STOP_PER_TRANCHE = "stop_per_tranche"
    TARGETS_ONLY = "targets_only"
    WATCHED = "watched"


class DesiredExit(Frozen):
    """One exit that should be working: a tranche's rest with its target and stop."""

    tranche: int
    quantity: Decimal
    target_price: Decimal | None
    stop_price: Decimal | None


def layout(state: TradeState) -> Layout:
    """How this trade's exits rest at this broker."""
    assert state.ticket is not None
    if state.plan.is_combo or state.plan.instrument.kind == "option":
        return Layout.OCO_PER_TRANCHE if _option_oco(state) else Layout.WATCHED
    if not ts.can_rest_stop(state):
        return Layout.TARGETS_ONLY if state.plan.targets else Layout.WATCHED
    if any(target.price is not None for target in state.plan.targets):
        return Layout.OCO_PER_TRANCHE if _rests_in_groups(state) else Layout.STOP_PER_TRANCHE
    return Layout.STOP_PER_TRANCHE


def _rests_in_groups(state: TradeState) -> bool:
    """OCO, where the venue has it; fractions of a share are simple DAY orders (alpaca.md §9)."""
    assert state.ticket is not None
    instrument = state.plan.instrument
    fractional = instrument.kind == "equity" and instrument.lot_size % 1 != 0
    return state.ticket.capabilities.oco and not fractional


def _option_oco(state: TradeState) -> bool:
    assert state.ticket is not None
    return state.ticket.capabilities.option_stop_orders and not state.plan.is_combo


def desired_exits(state: TradeState) -> tuple[DesiredExit, ...]:
    """Exits that should be working for what is held now, one per tranche with a rest.

    Their quantities add up to the held units, whatever was filled outside the tranches: what
    other exits took is taken off the last tranches first. During a part close they stand back
    to the units that stay, and never cover what a working exit is selling (I4).
    """
    held = ts.held_units(state)
    chosen = layout(state)
    if held <= 0 or chosen is Layout.WATCHED:
        return ()
    if ts.is_slicing(state):
        # Targets would reserve and sell while slices still buy: one stop until they are done.
        units = state.plan.instrument.lot_down(held)
        price = state.stop_price
        if units == 0 or price is None:
            return ()
        return (DesiredExit(tranche=0, quantity=units, target_price=None, stop_price=price),)
    left = state.plan.instrument.lot_down(_protected_units(state, held))
    exits: list[DesiredExit] = []
    for tranche, size in enumerate(ts.tranche_quantities(state)):
        quantity = min(max(size - ts.tranche_sold(state, tranche), ZERO), left)
        left -= quantity
        if quantity <= 0:
            continue
        target = None if chosen is Layout.STOP_PER_TRANCHE else ts.target_price(state, tranche)
        stop = None if chosen is Layout.TARGETS_ONLY else state.stop_price
        if target is None and stop is None:
            continue
        exits.append(
            DesiredExit(tranche=tranche, quantity=quantity, target_price=target, stop_price=stop)
        )
    return tuple(exits)


def _protected_units(state: TradeState, held: Decimal) -> Decimal:
    """Held units that resting exits may cover now."""
    held = min(held, ts.sellable_units(state))
    free = max(held - ts.reserved_units(state, Role.EXIT), ZERO)
    return min(free, state.exit.keep) if state.exit.releasing else free


def watched_rules(state: TradeState) -> tuple[ExitRule, ...]:
    """Rules for the exit watch: the plan's, and its stop and target where no order may rest.

    Options and combos rest no exits (architecture §6); beside a plain stop no target can rest.
    The first target then takes the whole position: the watch knows no tranches.
    """
    rules = (*state.plan.rules, *_stop_limit_rule(state))
    average = ts.average_price(state, Role.ENTRY)
    chosen = layout(state)
    if chosen not in (Layout.WATCHED, Layout.STOP_PER_TRANCHE) or average is None:
        return rules
    per_point = abs(ts.held_units(state)) * state.plan.multiplier * state.plan.side.sign
    wanted: list[tuple[str, RuleKind, Decimal]] = []
    if state.stop_price is not None and chosen is Layout.WATCHED:
        wanted.append(("stop", RuleKind.LOSS_AMOUNT, (average - state.stop_price) * per_point))
    target = ts.target_price(state, 0)
    if target is not None:
        wanted.append(("target", RuleKind.PROFIT_AMOUNT, (target - average) * per_point))
    known = [rule.rule_id for rule in rules]
    made = tuple(
        ExitRule(rule_id=name, kind=kind, threshold=money)
        for name, kind, money in wanted
        if money > 0 and name not in known
    )
    return (*rules, *made)


def _stop_limit_rule(state: TradeState) -> tuple[ExitRule, ...]:
    """Nobody tells that a plain stop-limit has triggered: the market at its price does."""
    price = state.stop_price
    if not ts.has_stop_limit(state) or price is None:
        return ()
    rule_id = f"{STOP_REACHED}{price}"
    return (ExitRule(rule_id=rule_id, kind=RuleKind.STOP_REACHED, threshold=price),)


def ratcheted_stop(state: TradeState) -> Decimal | None:
    """The stop after all ratchet steps whose tranche has filled; never looser than before."""
    stop = state.stop_price
    first = ts.initial_stop(state)
    if first is None:
        return stop
    if stop is None or not _stop_is_fixed(state):
        # Until the exits stand, the stop follows the average entry of an offset plan.
        stop = first
    elif ts.is_slicing(state):
        # A stop that rests between slices follows the average entry, but only ever tighter (I8).
        stop = tighter(state.plan.side, stop, first)
    for step in state.plan.ratchet:
        if step.after_target - 1 in ts.targets_filled(state):
            price = _ratchet_price(state, step)
            if price is not None:
                stop = tighter(state.plan.side, stop, ts.protective_tick(state, price))
    return stop


def _stop_is_fixed(state: TradeState) -> bool:
    return ts.entry_is_dead(state) or any(o.role is Role.STOP for o in state.orders)


def tighter(side: Side, one: Decimal, other: Decimal) -> Decimal:
    """The stop that protects more: the higher for longs, the lower for shorts."""
    return max(one, other) if side is Side.BUY else min(one, other)


def _ratchet_price(state: TradeState, step: RatchetStep) -> Decimal | None:
    average = ts.average_price(state, Role.ENTRY)
    reached = ts.target_price(state, step.after_target - 1)
    sign = state.plan.side.sign
    match step.kind:
        case RatchetKind.BREAK_EVEN:
            return None if average is None else average + sign * step.distance
        case RatchetKind.PREVIOUS_TARGET:
            if step.after_target >= 2:
                return ts.target_price(state, step.after_target - 2)
            return average
        case RatchetKind.TRAIL:
            return None if reached is None else reached - sign * step.distance


# --- order bodies -----------------------------------------------------------------------------


def exit_body(state: TradeState, wanted: DesiredExit, today: date) -> tuple[Purpose, OrderBody]:
    """Body of the resting exit of one tranche: OCO, plain stop or plain target."""
    plan = state.plan
    side = plan.side.opposite
    base = OrderBody(
        symbol=plan.symbol,
        side=side,
        quantity=wanted.quantity,
        order_type=OrderType.LIMIT,
        time_in_force=_exit_time_in_force(state, wanted.quantity),
        limit_price=wanted.target_price,
        intent_date=today,
    )
    if wanted.target_price is not None and wanted.stop_price is not None:
        return Purpose.OCO, base.model_copy(
            update={
                "order_class": OrderClass.OCO,
                "stop_loss_price": wanted.stop_price,
                "stop_loss_limit_price": stop_limit_price(state, wanted.stop_price),
            }
        )
    if wanted.stop_price is not None:
        limit = stop_limit_price(state, wanted.stop_price)
        return Purpose.STOP, base.model_copy(
            update={
                "order_type": OrderType.STOP if limit is None else OrderType.STOP_LIMIT,
                "stop_price": wanted.stop_price,
                "limit_price": limit,
            }
        )
    return Purpose.TARGET, base


def stop_limit_price(state: TradeState, stop_price: Decimal) -> Decimal | None:
    """Limit behind the stop if the plan asks for a stop-limit, else None (stop-market)."""
    if state.plan.stop is None or state.plan.stop.limit_offset is None:
        return None
    # Away from the stop, like a target's tick: the limit gives way, it never comes nearer.
    return ts.target_tick(state, stop_price - state.plan.side.sign * state.plan.stop.limit_offset)


def _exit_time_in_force(state: TradeState, quantity: Decimal) -> TimeInForce:
    """Resting exits outlive the day unless the venue allows DAY only (options, fractions)."""
    instrument = state.plan.instrument
    fractional = quantity != quantity.to_integral_value()
    if instrument.kind == "option" or fractional or state.plan.is_combo:
        return TimeInForce.DAY
    return TimeInForce.GTC


def entry_legs(legs: tuple[PlanLeg, ...]) -> tuple[OrderLeg, ...]:
    """Legs of a combo order that opens the structure."""
    return tuple(
        OrderLeg(symbol=leg.instrument.symbol, side=leg.side, ratio=leg.ratio) for leg in legs
    )


def closing_legs(legs: tuple[PlanLeg, ...], units: Decimal) -> tuple[OrderLeg, ...]:
    """Legs of the combo order that closes `units` as held; > 0 turns every side round."""
    return tuple(
        OrderLeg(
            symbol=leg.instrument.symbol,
            side=leg.side.opposite if units > 0 else leg.side,
            ratio=leg.ratio,
            effect=OpenClose.CLOSE,
        )
        for leg in legs
    )


def reducing_exit_body(state: TradeState, units: Decimal, now: datetime) -> OrderBody | None:
    """Body of the order that takes `units` (signed, as held) off now; None without a price.

    The limit is the far side of a fresh quote widened by the collar of the current rung; after
    the last rung it is a market order if those are allowed.
    """
    assert state.ticket is not None
    combo = state.plan.is_combo
    quantity = abs(units) if combo else state.plan.instrument.lot_down(abs(units))
    if quantity == 0:
        return None
    side = state.plan.side.opposite if units > 0 else state.plan.side
    base = OrderBody(
        symbol=state.plan.symbol,
        order_class=OrderClass.COMBO if combo else OrderClass.SIMPLE,
        side=Side.BUY if combo else side,
        quantity=quantity,
        order_type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY,
        legs=closing_legs(state.plan.legs, units) if combo else (),
        intent_date=now.date(),
    )
    if state.exit.rung >= len(EXIT_COLLAR_MULTIPLES) and state.ticket.allow_market_exits:
        return base
    limit = _exit_limit(state, side)
    if limit is None:
        return None
    return base.model_copy(update={"order_type": OrderType.LIMIT, "limit_price": limit})


def _exit_limit(state: TradeState, side: Side) -> Decimal | None:
    """Marketable limit of this rung, never widened past zero for a single-leg sell."""
    assert state.ticket is not None
    if state.quote is None:
        return None
    rung = min(state.exit.rung, len(EXIT_COLLAR_MULTIPLES) - 1)
    fraction = state.ticket.exit_collar_fraction * EXIT_COLLAR_MULTIPLES[rung]
    instrument = state.plan.instrument
    if state.plan.is_combo:
        return _combo_exit_limit(state, side, fraction)
    if side is Side.SELL:
        if state.quote.bid is None or state.quote.bid <= 0:
            return None
        return max(
            instrument.tick_down(state.quote.bid * (1 - fraction)),
            instrument.tick_at(state.quote.bid),
        )
    if state.quote.ask is None or state.quote.ask <= 0:
        return None
    return instrument.tick_up(state.quote.ask * (1 + fraction))


def _combo_exit_limit(state: TradeState, side: Side, fraction: Decimal) -> Decimal | None:
    """Net limit of a closing combo: it is bought, so dearer is more marketable.

    Closing what was bought buys the reversed structure: its net ask is minus our net bid. The
    collar is a fraction of the legs' values, as at the entry: a net price near zero has no room.
    A structure that still brings money is never paid for.
    """
    assert state.quote is not None
    ours = state.quote.bid if side is Side.SELL else state.quote.ask
    if ours is None:
        return None
    price = -ours if side is Side.SELL else ours
    gross = state.quote.gross if state.quote.gross is not None else abs(price)
    instrument = state.plan.instrument
    limit = instrument.tick_up(price + gross * fraction)
    if price < 0:
        return max(instrument.tick_up(price), min(limit, -instrument.tick_size))
    return limit


def leg_exit_bodies(state: TradeState, now: datetime) -> tuple[tuple[int, OrderBody], ...]:
    """Market exits of what single legs hold beyond the whole units, bought-back shorts first.

    Only used for an imbalance. The whole units stay a structure and go as one combo afterwards,
    so that no long is sold under a short that needs it (peers.md §4 row 21): excess longs wait
    until no excess short is left.
    """
    units = ts.held_units(state)
    shorts: list[tuple[int, OrderBody]] = []
    longs: list[tuple[int, OrderBody]] = []
    for number, leg in enumerate(state.plan.legs, start=1):
        in_structure = units * leg.side.sign * leg.ratio
        quantity = ts.position_of(state, leg.instrument.symbol) - in_structure
        if quantity == 0:
            continue
        body = OrderBody(
            symbol=leg.instrument.symbol,
            side=Side.SELL if quantity > 0 else Side.BUY,
            quantity=abs(quantity),
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY,
            intent_date=now.date(),
        )
        (longs if quantity > 0 else shorts).append((number, body))
    return tuple(shorts or longs)
