"""Bugs of protection and leaving: stops lost, doubled, of the wrong size (architecture §6)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import Any

from activities import orders
from domain import fold, leaving, protecting, protection, steps, walk
from domain import trade_state as ts
from domain.commands import Command, Urgency
from domain.moves import Step, cancel_orders
from domain.order import OrderIntent
from domain.protection import DesiredExit
from domain.trade_state import OrderRecord, Role, TradeState
from tests.museum.exhibit import Plant, planted
from tests.simulation import ledger as memory

_place_exit = protecting._place_exit
_desired_exits = protection.desired_exits
_ratcheted_stop = protection.ratcheted_stop
_open_gate = memory.MemoryLedger.open_gate
_tranche_quantities = ts.tranche_quantities


def _place_once(
    state: TradeState, wanted: DesiredExit, now: datetime
) -> tuple[TradeState, tuple[Command, ...]]:
    asked = any(
        o.tranche == wanted.tranche and o.role in (Role.STOP, Role.TARGET) for o in state.orders
    )
    return (state, ()) if asked else _place_exit(state, wanted, now)


def stop_is_placed_once() -> Plant:
    """A stop that was refused, or is gone, is not placed again."""
    return planted((protecting, "_place_exit", _place_once))


def _ratchet_by_hand(
    state: TradeState, stop: OrderRecord, wanted: DesiredExit, now: datetime
) -> tuple[TradeState, tuple[Command, ...]]:
    pair = tuple(o for o in state.live(Role.STOP, Role.TARGET) if o.tranche == stop.tranche)
    return cancel_orders(state, pair, now, (), Urgency.PROTECT)


def ratchet_cancels_then_creates() -> Plant:
    """A stop is moved by a cancel and a new order, which may fail."""
    return planted(
        (protecting, "_ratchet", _ratchet_by_hand), (protecting, "_place_exit", _place_once)
    )


def _as_first_covered(state: TradeState) -> tuple[Decimal, ...]:
    sizes = _tranche_quantities(state)
    has_grown = state.covered is not None and ts.entry_quantity(state) > state.covered
    return sizes[:-1] if has_grown else sizes


def stop_keeps_its_first_size() -> Plant:
    """What fills after the stop was placed is not protected."""
    return planted((ts, "tranche_quantities", _as_first_covered))


def _for_the_whole_order(state: TradeState) -> tuple[DesiredExit, ...]:
    wanted = _desired_exits(state)
    assert state.ticket is not None
    more = state.ticket.approved.quantity - ts.held_units(state)
    if not wanted or more <= 0 or state.exit.reason:
        return wanted
    last = wanted[-1].model_copy(update={"quantity": wanted[-1].quantity + more})
    return (*wanted[:-1], last)


def exits_have_the_size_of_the_order() -> Plant:
    """Stop and target are as large as the entry was meant to be, not as it filled."""
    return planted((protecting, "desired_exits", _for_the_whole_order))


def _loosens(state: TradeState) -> Decimal | None:
    first = ts.initial_stop(state)
    if not ts.targets_filled(state) or first is None:
        return _ratcheted_stop(state)
    return ts.protective_tick(state, first - state.plan.side.sign * Decimal("0.10"))


def stop_is_computed_anew() -> Plant:
    """After a target the stop is set anew, and on the wrong side of where it was."""
    return planted((fold, "ratcheted_stop", _loosens))


def _keeps_the_stop(state: TradeState, now: datetime, busy: Collection[str]) -> Step:
    if not ts.wants_exit(state) or ts.is_flat(state) or not ts.entry_is_dead(state):
        return state, (), False
    if state.live(Role.EXIT):
        return leaving.wait_for_exit(state, now, busy)
    state, commands, can_trade = leaving.can_trade_now(state, now, busy)
    if not can_trade:
        return state, commands, True
    return leaving.send_exit(state, ts.held_units(state), now, busy)


def exit_beside_the_stop() -> Plant:
    """The exit is sent while the stop still holds the shares."""
    return planted((steps, "get_out", _keeps_the_stop))


def limits_hold_exits_too() -> Plant:
    """Whoever sends is asked for the kill and the breakers, exits as well."""

    async def all_increase(
        self: memory.MemoryLedger, intent: OrderIntent, *args: Any, **options: Any
    ) -> Any:
        asked = intent.model_copy(update={"increasing": True})
        return await _open_gate(self, asked, *args, **options)

    return planted((memory.MemoryLedger, "open_gate", all_increase))


def walk_forgets_partial_fills() -> Plant:
    """A step of the walk puts the full size back, whatever the step before has filled."""

    def always(state: TradeState, order: OrderRecord, index: int) -> bool:
        return index <= state.plan.walk.steps_max and walk._price_at(state, index) != (
            order.limit_price
        )

    return planted(
        (walk, "_may_step", always),
        (walk, "_partial_is_over", lambda state, now: False),
        (walk, "overfill_possible", lambda state: False),
        (orders, "why_not_step", lambda *_: ""),
    )


def walk_has_no_worst_price() -> Plant:
    """The ladder goes on where the plan's worst price should end it."""

    def unbounded(state: TradeState, index: int) -> Decimal:
        assert state.ticket is not None
        plan = state.plan
        return state.ticket.start_price + plan.side.sign * plan.walk.step * 10 * index

    return planted((walk, "_price_at", unbounded))
