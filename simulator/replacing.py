"""Replacing an order: a new order with a new id takes over (alpaca.md §3)."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as changed
from decimal import Decimal

from domain.money import ZERO
from simulator.checks import Checks, is_changeable
from simulator.config import ReplaceQuantity
from simulator.margin import Margin
from simulator.orders import ReplaceRequest, Role, SimOrder, Status
from simulator.refusals import Reason, Refusal
from simulator.state import State


@dataclass(frozen=True, slots=True)
class Asked:
    """How the old order stood when its replace was asked for."""

    quantity: Decimal
    filled: Decimal


class Replacer:
    """Prepares and checks the new order; taking over is the life cycle's work."""

    def __init__(self, state: State, checks: Checks, margin: Margin) -> None:
        self._state = state
        self._checks = checks
        self._margin = margin

    def prepare(self, old: SimOrder, request: ReplaceRequest) -> SimOrder:
        """The order that would take over, checked but not registered; raises `Refusal`."""
        self._checks.client_id(request.client_id)
        self._check_changeable(old, request)
        quantity = old.quantity if request.quantity is None else request.quantity
        carried = ZERO
        if quantity <= old.filled:
            raise Refusal(Reason.NOT_REPLACEABLE, "qty must be > filled_qty")
        if self._state.config.matching.replace_quantity is ReplaceQuantity.TOTAL:
            carried = old.filled
        elif self._state.config.matching.replace_quantity is ReplaceQuantity.REST:
            quantity -= old.filled
        state = self._state
        new = changed(
            old,
            id=state.new_id("order"),
            client_id=request.client_id or state.new_id("client"),
            number=len(state.orders) + 1,
            created_at=state.now,
            quantity=quantity,
            filled=carried,
            average_price=old.average_price if carried else None,
            limit_price=old.limit_price if request.limit_price is None else request.limit_price,
            stop_price=old.stop_price if request.stop_price is None else request.stop_price,
            time_in_force=request.time_in_force or old.time_in_force,
            status=Status.PENDING_NEW,
            is_working=False,
            has_rested=False,
            legs=(),
            replaces=None,
            replaced_by=None,
        )
        new.legs = tuple(self._replacement_leg(leg, new) for leg in old.legs)
        self._check_replacement(old, new)
        return new

    def count_since(self, asked: Asked, old: SimOrder, new: SimOrder) -> bool:
        """Counts into `new` what has happened to `old` since the replace was asked for.

        What its partner in a group filled has made `old` smaller: a pair never grows by itself,
        whatever a quantity means at this venue. False if nothing is left, or if a leg has traded
        alone.
        """
        if old.has_leg_ahead:
            return False
        new.quantity -= asked.quantity - old.quantity
        if new.remaining <= 0:
            return False
        meanwhile = old.filled - asked.filled
        meaning = self._state.config.matching.replace_quantity
        if meanwhile == 0 or meaning is ReplaceQuantity.FRESH:
            return True
        if new.remaining <= meanwhile:
            return False
        if meaning is ReplaceQuantity.TOTAL:
            for mine, its in zip((new, *new.legs), (old, *old.legs), strict=True):
                mine.filled, mine.average_price = its.filled, its.average_price
        else:
            new.quantity -= meanwhile
        return True

    def _replacement_leg(self, leg: SimOrder, combo: SimOrder) -> SimOrder:
        state = self._state
        return changed(
            leg,
            id=state.new_id("order"),
            client_id=state.new_id("client"),
            number=len(state.orders) + 2,
            created_at=state.now,
            quantity=combo.quantity * leg.ratio,
            filled=combo.filled * leg.ratio,
            combo=combo,
            status=Status.NEW,
        )

    def _check_changeable(self, old: SimOrder, request: ReplaceRequest) -> None:
        if old.status is Status.REPLACED:
            raise Refusal(Reason.NOT_REPLACEABLE, "order already replaced")
        if not is_changeable(old) or old.combo is not None:
            raise Refusal(Reason.NOT_REPLACEABLE, f"cannot replace order in {old.status} status")
        if old.has_leg_ahead:
            # A new order for the same units would buy the leg twice.
            raise Refusal(Reason.NOT_REPLACEABLE, "a leg of the order is being executed")
        wishes = (
            (request.quantity, old.quantity),
            (request.limit_price, old.limit_price),
            (request.stop_price, old.stop_price),
            (request.time_in_force, old.time_in_force),
        )
        if all(wish is None or wish == present for wish, present in wishes):
            raise Refusal(Reason.NOT_REPLACEABLE, "order parameters are not changed")
        if request.limit_price is not None and old.limit_price is None:
            raise Refusal(Reason.INVALID, f"{old.kind} orders do not allow limit_price")
        if request.stop_price is not None and old.stop_price is None:
            raise Refusal(Reason.INVALID, f"{old.kind} orders do not allow stop_price")

    def _check_replacement(self, old: SimOrder, new: SimOrder) -> None:
        """Step, lot, held quantity and buying power; what the old one held counts as free."""
        symbol = old.symbol or old.legs[0].symbol
        instrument = self._state.listings[symbol].instrument
        if old.legs:
            if new.limit_price is not None and not instrument.is_on_tick(new.limit_price):
                raise Refusal(
                    Reason.TICK, "sub-penny increment does not fulfill minimum pricing criteria"
                )
        else:
            self._checks.price_step(instrument, "limit_price", new.limit_price)
            self._checks.price_step(instrument, "stop_price", new.stop_price)
            if new.quantity % instrument.lot_size != 0 and new.quantity != old.quantity:
                raise Refusal(Reason.LOT, "qty must be a whole number of lots")
            self._check_held(old, new)
        if old.group is None or old.role is Role.ENTRY:
            self._checks.buying_power(new, freed=self._margin.needed(old))

    def _check_held(self, old: SimOrder, new: SimOrder) -> None:
        """An exit may not grow beyond what other exits leave of the position."""
        symbol = old.symbol
        position = self._state.account.quantity(symbol)
        if position * old.side.sign < 0 and not old.waits_for_entry:
            held = self._checks.held_for(symbol, old.side, without=old)
            free = max(ZERO, abs(position) - held)
            if new.remaining > free:
                raise Refusal(
                    Reason.QUANTITY_HELD,
                    f"insufficient qty available for order (requested: {new.remaining:f}, "
                    f"available: {free:f})",
                    available=free,
                    existing_qty=abs(position),
                    held_for_orders=held,
                    symbol=symbol,
                )
