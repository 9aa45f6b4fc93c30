"""Makes orders out of checked requests: plain ones, groups and combos."""

from __future__ import annotations

from dataclasses import replace as changed
from datetime import timedelta
from decimal import Decimal

from domain.money import divide, round_down_to_step
from simulator.checks import FRACTION_STEP
from simulator.orders import (
    Group,
    Kind,
    OrderClass,
    OrderRequest,
    Role,
    SimOrder,
    Status,
    TimeInForce,
)
from simulator.refusals import Reason, Refusal
from simulator.state import State

GTC_LIFE = timedelta(days=90)


class OrderBuilder:
    """Gives ids and fills in what the request leaves open; registers nothing."""

    def __init__(self, state: State) -> None:
        self._state = state

    def build(self, request: OrderRequest) -> list[SimOrder]:
        """The order with its group; the member that goes live first comes first."""
        if request.order_class is OrderClass.COMBO:
            return [self._build_combo(request)]
        if request.order_class is OrderClass.SIMPLE:
            return [self._new(request, request.client_id)]
        group = Group(request.order_class)
        if request.order_class is OrderClass.OCO:
            target = changed(request, limit_price=request.take_profit_price)
            group.take_profit = self._new(target, request.client_id)
            first = group.take_profit
            exit_side = request.side
        else:
            group.entry = self._new(request, request.client_id)
            first = group.entry
            exit_side = request.side.opposite
            if request.take_profit_price is not None:
                target = changed(
                    request,
                    side=exit_side,
                    kind=Kind.LIMIT,
                    limit_price=request.take_profit_price,
                    stop_price=None,
                )
                group.take_profit = self._new(target, None)
        if request.stop_loss_price is not None:
            limit = request.stop_loss_limit_price
            stop = changed(
                request,
                side=exit_side,
                kind=Kind.STOP if limit is None else Kind.STOP_LIMIT,
                limit_price=limit,
                stop_price=request.stop_loss_price,
            )
            group.stop_loss = self._new(stop, None)
        roles = (
            (group.entry, Role.ENTRY),
            (group.take_profit, Role.TAKE_PROFIT),
            (group.stop_loss, Role.STOP_LOSS),
        )
        for member, role in roles:
            if member is not None:
                member.group, member.role = group, role
        return [first, *(member for member in group.members if member is not first)]

    def _build_combo(self, request: OrderRequest) -> SimOrder:
        order = self._new(request, request.client_id)
        legs = []
        for leg in request.legs:
            part = self._new(
                changed(
                    request,
                    symbol=leg.symbol,
                    side=leg.side,
                    quantity=order.quantity * leg.ratio,
                    limit_price=None,
                    intent=leg.intent,
                ),
                None,
            )
            part.ratio, part.combo, part.status = leg.ratio, order, Status.NEW
            legs.append(part)
        order.legs = tuple(legs)
        return order

    def _new(self, request: OrderRequest, client_id: str | None) -> SimOrder:
        assert request.quantity is not None, "the form was checked"
        state = self._state
        order_id = state.new_id("order")
        close = state.calendar.next_close(state.now)
        is_gtc = request.time_in_force is TimeInForce.GTC
        return SimOrder(
            id=order_id,
            client_id=client_id or state.new_id("client"),
            symbol=request.symbol,
            side=request.side,
            quantity=request.quantity,
            kind=request.kind,
            time_in_force=request.time_in_force,
            order_class=request.order_class,
            created_at=state.now,
            number=len(state.orders) + 1,
            limit_price=request.limit_price,
            stop_price=request.stop_price,
            notional=request.notional,
            extended_hours=request.extended_hours,
            intent=request.intent,
            expires_at=state.now + GTC_LIFE if is_gtc else close,
        )

    def quantity_for(self, request: OrderRequest) -> Decimal:
        """Quantity that a notional amount buys at the touch."""
        book = self._state.books[self._state.listing(request.symbol).symbol]
        touch = book.touch(request.side)
        if touch is None or request.notional is None or request.notional <= 0:
            raise Refusal(Reason.INVALID, "notional needs a price and must be > 0")
        return round_down_to_step(divide(request.notional, touch), FRACTION_STEP)
