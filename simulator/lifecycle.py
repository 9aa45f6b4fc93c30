"""The life of an order at the exchange: accepted, live, filled, cancelled - and its group.

Only this file changes an order. Every change is journalled first and then told to the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from domain.money import ZERO
from simulator.faults import FaultKind
from simulator.orders import (
    DONE,
    Group,
    OrderClass,
    Role,
    Side,
    SimOrder,
    Status,
    TimeInForce,
)
from simulator.state import Notice, State


class Lifecycle:
    """Verbs on orders; the market side is `simulator.matching`."""

    def __init__(self, state: State) -> None:
        self._state = state

    def admit(self, order: SimOrder) -> None:
        """Registers an order and its legs; from here on it exists."""
        state = self._state
        state.version += 1
        for member in (order, *order.legs):
            state.orders[member.id] = member
            state.by_client[member.client_id] = member
            state.open_orders[member.id] = member
            member.updated_at = state.now
        parent = order.group.parent if order.group is not None else None
        state.record(
            "accepted",
            order_id=order.id,
            client_id=order.client_id,
            symbol=order.symbol or None,
            side=order.side,
            quantity=order.quantity,
            type=order.kind,
            time_in_force=order.time_in_force,
            limit_price=order.limit_price,
            stop_price=order.stop_price,
            order_class=order.order_class,
            role=order.role,
            parent_id=parent.id if parent is not None and parent is not order else None,
            replaces=order.replaces,
            legs=[
                {"order_id": leg.id, "symbol": leg.symbol, "side": leg.side, "ratio": leg.ratio}
                for leg in order.legs
            ]
            or None,
        )

    def go_live(self, order: SimOrder, event: str = "new") -> None:
        """Puts an order into the market and tells it."""
        order.is_working = True
        self._set(order, Status.PARTIALLY_FILLED if order.filled else Status.NEW)
        self._tell(event, order)

    def queue(self, order: SimOrder) -> None:
        """The session is closed: the order waits for the next one."""
        self._set(order, Status.ACCEPTED)
        self._tell("accepted", order)

    def hold(self, order: SimOrder, *, working: bool) -> None:
        """A group member that waits; a working one watches its stop price meanwhile."""
        order.is_working = working
        self._set(order, Status.HELD)

    def fill(self, order: SimOrder, quantity: Decimal, price: Decimal) -> None:
        """Books one execution of a plain order."""
        assert quantity > 0, "a fill moves something"
        late = order.is_done
        order.book_fill(quantity, price)
        if order.remaining == 0:
            self._finish(order, Status.FILLED)
        elif not late:
            self._set(order, Status.PARTIALLY_FILLED)
        self._execute(order, quantity, price)
        self._after_fill(order)

    def fill_combo(self, order: SimOrder, units: Decimal, prices: dict[str, Decimal]) -> None:
        """Books whole units of a combo, each leg at its own price."""
        late = order.is_done
        net = order.net_at(prices)
        for leg in order.legs:
            leg.book_fill(units * leg.ratio, prices[leg.symbol])
        order.book_fill(units, net)
        for member in (*order.legs, order):
            if order.remaining == 0:
                self._finish(member, Status.FILLED)
            elif not late:
                self._set(member, Status.PARTIALLY_FILLED)
        for leg in order.legs:
            self._execute(leg, units * leg.ratio, prices[leg.symbol])
        self._tell_units(order, units, net)

    def _tell_units(self, order: SimOrder, units: Decimal, net: Decimal) -> None:
        self._state.record(
            "combo_fill",
            order_id=order.id,
            client_id=order.client_id,
            units=units,
            net_price=net,
            cumulative=order.filled,
        )
        event = "fill" if order.remaining == 0 else "partial_fill"
        self._tell(event, order, price=net, quantity=units)

    def fill_leg(self, leg: SimOrder, quantity: Decimal, price: Decimal) -> None:
        """Books an execution of one leg of a combo alone: the other legs are late (GT7).

        The combo itself fills by the units that every leg has.
        """
        combo = leg.combo
        assert combo is not None, "a leg belongs to a combo"
        leg.book_fill(quantity, price)
        if leg.remaining == 0:
            self._finish(leg, Status.FILLED)
        else:
            self._set(leg, Status.PARTIALLY_FILLED)
        self._execute(leg, quantity, price)
        units = min(each.filled // each.ratio for each in combo.legs) - combo.filled
        if units <= 0:
            return
        prices = [(each.average_price or ZERO) * each.ratio * each.side.sign for each in combo.legs]
        self._book_units(combo, units, sum(prices, ZERO))

    def _book_units(self, order: SimOrder, units: Decimal, net: Decimal) -> None:
        """Whole units of a combo whose legs are booked already."""
        order.book_fill(units, net)
        if order.remaining == 0:
            self._finish(order, Status.FILLED)
        else:
            order.status = Status.PARTIALLY_FILLED
            order.updated_at = self._state.now
        self._tell_units(order, units, net)

    def trigger(self, order: SimOrder) -> None:
        """A stop was reached: the sibling is taken out first, then the stop enters the market."""
        order.is_triggered = True
        self._state.version += 1
        self._state.record(
            "triggered",
            order_id=order.id,
            client_id=order.client_id,
            symbol=order.symbol,
            stop_price=order.stop_price,
            last=self._state.books[order.symbol].last,
        )
        sibling = self._sibling(order)
        if sibling is not None and not sibling.is_done and not self._both_fill(order):
            self._finish(sibling, Status.CANCELED, "sibling triggered")
            self._tell("canceled", sibling)
        if order.status is Status.HELD:
            self.go_live(order)

    def cancel(self, order: SimOrder, reason: str) -> None:
        """Cancels an order and everything grouped with it.

        An order that should have been replaced but lives on has left its group (D1).
        """
        members = () if order.group is None else tuple(order.group.members)
        grouped = any(member is order for member in members)
        for member in members if grouped else (order,):
            if not member.is_done:
                self._finish_with_legs(member, Status.CANCELED, reason)
                self._tell("canceled", member)

    def expire(self, order: SimOrder) -> None:
        """The session or the order's time is over."""
        if not order.is_done:
            self._finish_with_legs(order, Status.EXPIRED, "time in force is over")
            self._tell("expired", order)

    def reject(self, order: SimOrder, text: str) -> None:
        """The venue says no after it had said yes (C10)."""
        if order.is_done:
            return
        order.reject_text = text
        self._finish_with_legs(order, Status.REJECTED, text)
        self._tell("rejected", order)
        if order.group is not None:
            self.cancel(order, "group member was rejected")

    def ask_cancel(self, order: SimOrder) -> None:
        self._set(order, Status.PENDING_CANCEL)
        self._tell("pending_cancel", order)

    def ask_replace(self, order: SimOrder) -> None:
        self._set(order, Status.PENDING_REPLACE)
        self._tell("pending_replace", order)

    def keep(self, order: SimOrder) -> None:
        """A replacement came to nothing: the order works on as before."""
        order.status = Status.PARTIALLY_FILLED if order.filled else Status.NEW

    def tell_failed(self, order: SimOrder, event: str) -> None:
        """A cancel or replace came too late: the order was done before."""
        self._state.record(event, order_id=order.id, client_id=order.client_id)
        self._tell(event, order)

    def take_over(self, old: SimOrder, new: SimOrder, *, doubled: bool) -> None:
        """`new` takes the place of `old` (in its group too); doubled: both live (D1)."""
        was_held = old.status is Status.HELD
        group, working = old.group, old.is_working
        if group is not None:
            _swap(group, old, new)
        new.replaces = old.id
        old.replaced_by = new.id
        self.admit(new)
        if doubled:
            if old.status is Status.PENDING_REPLACE:
                self.keep(old)
        else:
            self._finish_with_legs(old, Status.REPLACED, "")
            self._tell("replaced", old)
        if new.waits_for_entry or was_held:
            self.hold(new, working=working)
        elif self._state.is_open():
            self.go_live(new)
        else:
            self.queue(new)
        if new.role is Role.ENTRY:
            self._resize_waiting(new, old.filled + new.remaining)
        else:
            self._sync_sibling(new)

    def bust(
        self, orders: Sequence[SimOrder], quantity: Decimal, price: Decimal, execution_id: str
    ) -> None:
        """Takes an execution back (D9): position and cash are reversed, the row says which.

        `orders` count it: the one that it was of first, then those that took over from it.
        """
        state, order = self._state, orders[0]
        for each in orders:
            each.book_fill(-quantity, price)
            each.updated_at = state.now
        state.version += 1
        change = state.account.book(order.symbol, -quantity * order.side.sign, price)
        state.record(
            "bust",
            execution_id=execution_id,
            order_id=order.id,
            symbol=order.symbol,
            quantity=quantity,
            price=price,
            cash_change=change,
            cash=state.account.cash,
        )
        self._position_row(order.symbol)
        state.add_activity(
            "JNLC",
            symbol=order.symbol,
            order_id=order.id,
            net_amount=change,
            text=f"trade bust {execution_id}",
        )
        self._tell("trade_bust", order, execution_id=execution_id, price=price, quantity=quantity)

    def correct(
        self,
        orders: Sequence[SimOrder],
        quantity: Decimal,
        before: Decimal,
        price: Decimal,
        old: str,
    ) -> None:
        """An execution had another price than was told: cash moves, a new id names it (D9)."""
        state, order = self._state, orders[0]
        execution_id = state.new_id("execution")
        signed = quantity * order.side.sign
        change = (before - price) * signed * state.account.multiplier(order.symbol)
        state.account.cash += change
        for each in orders:
            each.book_fill(-quantity, before)
            each.book_fill(quantity, price)
            each.updated_at = state.now
        state.version += 1
        state.record(
            "corrected",
            execution_id=execution_id,
            previous=old,
            order_id=order.id,
            symbol=order.symbol,
            quantity=quantity,
            price=price,
            cash_change=change,
            cash=state.account.cash,
        )
        state.notify(
            Notice(
                "trade_correct",
                order,
                state.now,
                execution_id,
                price,
                quantity,
                previous_execution_id=old,
            )
        )

    # --- private ------------------------------------------------------------------------------

    def _after_fill(self, order: SimOrder) -> None:
        group = order.group
        if group is None:
            return
        if order.role is Role.ENTRY:
            if order.status is Status.FILLED:
                self._wake(group)
            return
        sibling = self._sibling(order)
        if sibling is None or sibling.is_done:
            return
        if order.status is not Status.FILLED:
            self._sync_sibling(order)
            return
        if self._both_fill(order):
            price = sibling.stop_price or sibling.limit_price
            assert price is not None, "an exit of a group has a price"
            self.fill(sibling, sibling.remaining, price)
            return
        self._finish(sibling, Status.CANCELED, "sibling filled")
        self._tell("canceled", sibling)

    def _both_fill(self, order: SimOrder) -> bool:
        rule = self._state.fault(FaultKind.OCO_BOTH, client_id=order.client_id, symbol=order.symbol)
        return rule is not None

    def _wake(self, group: Group) -> None:
        """The entry has filled completely: the exits start (only then; alpaca.md §2)."""
        for exit_order in (group.take_profit, group.stop_loss):
            if exit_order is None or exit_order.is_done:
                continue
            if exit_order.role is Role.STOP_LOSS and group.take_profit is not None:
                self.hold(exit_order, working=True)
            else:
                self.go_live(exit_order)
            self._state.record(
                "activated",
                order_id=exit_order.id,
                client_id=exit_order.client_id,
                role=exit_order.role,
                quantity=exit_order.remaining,
            )

    def _sibling(self, order: SimOrder) -> SimOrder | None:
        group = order.group
        if group is None or order.role not in (Role.TAKE_PROFIT, Role.STOP_LOSS):
            return None
        return group.stop_loss if order.role is Role.TAKE_PROFIT else group.take_profit

    def _sync_sibling(self, order: SimOrder) -> None:
        """Both exits of a group always stand for the same rest."""
        sibling = self._sibling(order)
        if sibling is None or sibling.is_done or sibling.remaining == order.remaining:
            return
        self._resize(sibling, sibling.filled + order.remaining)

    def _resize_waiting(self, entry: SimOrder, quantity: Decimal) -> None:
        """The exits of an entry stand for everything that the entry can fill."""
        assert entry.group is not None, "an entry belongs to a group"
        for member in entry.group.members:
            if member is not entry and not member.is_done and member.quantity != quantity:
                self._resize(member, quantity)

    def _resize(self, order: SimOrder, quantity: Decimal) -> None:
        order.quantity = quantity
        order.updated_at = self._state.now
        self._state.record(
            "resized",
            order_id=order.id,
            client_id=order.client_id,
            quantity=order.quantity,
            remaining=order.remaining,
        )

    def _execute(self, order: SimOrder, quantity: Decimal, price: Decimal) -> None:
        state = self._state
        execution_id = state.new_id("execution")
        change = state.account.book(order.symbol, quantity * order.side.sign, price)
        position = state.account.quantity(order.symbol)
        owner = order.combo or order
        state.record(
            "fill",
            execution_id=execution_id,
            order_id=order.id,
            client_id=order.client_id,
            parent_client_id=owner.client_id if owner is not order else None,
            symbol=order.symbol,
            side=order.side,
            quantity=quantity,
            price=price,
            cumulative=order.filled,
            leaves=order.remaining,
            cash_change=change,
        )
        self._position_row(order.symbol)
        state.record("cash", change=change, cash=state.account.cash, execution_id=execution_id)
        state.add_activity(
            "FILL",
            execution_id,
            symbol=order.symbol,
            order_id=order.id,
            side=order.side.value,
            price=price,
            quantity=quantity,
            cumulative=order.filled,
            leaves=order.remaining,
            order_status=order.status.value,
        )
        self._charge_fee(order, quantity, price, execution_id)
        self._tell(
            "fill" if order.remaining == 0 else "partial_fill",
            order,
            execution_id=execution_id,
            price=price,
            quantity=quantity,
            position=position,
        )

    def _charge_fee(
        self, order: SimOrder, quantity: Decimal, price: Decimal, execution_id: str
    ) -> None:
        state = self._state
        fee = state.account.fee_for(order.symbol, quantity, price)
        if fee == 0:
            return
        state.account.charge(fee)
        if state.config.daily_fees:
            state.account.accrue(fee, quantity if order.side is Side.SELL else ZERO)
            return
        row = state.add_activity(
            "FEE",
            symbol=order.symbol,
            order_id=order.id,
            net_amount=-fee,
            quantity=quantity,
            text=f"fee for order {order.id}",
        )
        state.record(
            "fee",
            activity_id=row.id,
            amount=fee,
            symbol=order.symbol,
            order_id=order.id,
            execution_id=execution_id,
            cash=state.account.cash,
        )

    def _position_row(self, symbol: str) -> None:
        account = self._state.account
        holding = account.holdings.get(symbol)
        self._state.record(
            "position",
            symbol=symbol,
            quantity=account.quantity(symbol),
            average_price=holding.average_price if holding is not None else ZERO,
        )

    def _set(self, order: SimOrder, status: Status) -> None:
        assert status not in DONE, "an end goes through _finish"
        self._state.version += 1
        pending = order.status in (Status.PENDING_CANCEL, Status.PENDING_REPLACE)
        if not (pending and status is Status.PARTIALLY_FILLED):
            order.status = status
        order.updated_at = self._state.now
        for leg in order.legs:
            leg.status = order.status

    def _finish_with_legs(self, order: SimOrder, status: Status, reason: str) -> None:
        for leg in order.legs:
            if not leg.is_done:
                self._finish(leg, status)
        self._finish(order, status, reason)

    def _finish(self, order: SimOrder, status: Status, reason: str = "") -> None:
        state = self._state
        state.version += 1
        order.status = status
        order.is_working = False
        order.updated_at = state.now
        state.open_orders.pop(order.id, None)
        stamp = {
            Status.FILLED: "filled_at",
            Status.CANCELED: "canceled_at",
            Status.EXPIRED: "expired_at",
            Status.REPLACED: "replaced_at",
            Status.REJECTED: "failed_at",
        }[status]
        setattr(order, stamp, state.now)
        if status is not Status.FILLED and order.combo is None:
            state.record(
                status.value,
                order_id=order.id,
                client_id=order.client_id,
                symbol=order.symbol or None,
                filled=order.filled,
                reason=reason or None,
                replaced_by=order.replaced_by,
            )

    def _tell(
        self,
        event: str,
        order: SimOrder,
        execution_id: str | None = None,
        price: Decimal | None = None,
        quantity: Decimal | None = None,
        position: Decimal | None = None,
    ) -> None:
        state = self._state
        state.notify(Notice(event, order, state.now, execution_id, price, quantity, position))


def _swap(group: Group, old: SimOrder, new: SimOrder) -> None:
    new.group, new.role = group, old.role
    if group.entry is old:
        group.entry = new
    elif group.take_profit is old:
        group.take_profit = new
    else:
        group.stop_loss = new


def is_immediate(order: SimOrder) -> bool:
    """IOC and FOK orders do not rest."""
    return order.time_in_force in (TimeInForce.IOC, TimeInForce.FOK)


def is_grouped(order_class: OrderClass) -> bool:
    return order_class in (OrderClass.BRACKET, OrderClass.OCO, OrderClass.OTO)
