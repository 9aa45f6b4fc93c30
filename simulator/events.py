"""What happens to an account without an order of its own: options end, shares split, cash moves.

A venue books such a thing at night and tells it next morning by statement rows (alpaca.md §6):
the assigned option (`OPASN`) beside the shares that it became (`OPTRD`). Everything is journalled
under its own name, so that tests have an oracle for it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import partial

from domain.instrument import Instrument, OptionRight
from domain.money import ZERO, divide, multiply
from simulator.account import AccruedFees
from simulator.config import Listing
from simulator.lifecycle import Lifecycle
from simulator.orders import Kind, OrderClass, Side, SimOrder, TimeInForce
from simulator.refusals import Reason, Refusal
from simulator.state import State

# The statement of a night is there this long before the next open (02:00-05:00 in New York).
NIGHT_BEFORE_OPEN = timedelta(hours=5)
DELIVERY = "OPTRD"


class OrdersOnSplit(StrEnum):
    """What becomes of working orders: the venue scales them, cancels them, or forgets them."""

    RESCALE = "rescale"
    CANCEL = "cancel"
    KEEP = "keep"


class Events:
    """Verbs of the venue and of other people; times are market time."""

    def __init__(self, state: State, lifecycle: Lifecycle) -> None:
        self._state = state
        self._lifecycle = lifecycle

    # --- options ------------------------------------------------------------------------------

    def assign(self, symbol: str, contracts: Decimal | None = None) -> None:
        """Short contracts are assigned now: shares change hands at the strike (R4)."""
        self._option_ends("OPASN", symbol, contracts, is_short=True)

    def exercise(self, symbol: str, contracts: Decimal | None = None) -> None:
        """Long contracts are exercised now."""
        self._option_ends("OPEXC", symbol, contracts, is_short=False)

    def expire(self, symbol: str) -> None:
        """The contracts end worthless now."""
        held = self._held(symbol)
        self._take_option(symbol, held)
        self._row("OPEXP", symbol, -held, ZERO, None, "Option Expiry")

    def assign_overnight(self, symbol: str, contracts: Decimal | None = None) -> None:
        """The same as `assign`, booked the next morning before the open."""
        self._at_night(partial(self.assign, symbol, contracts))

    def end_expired(self, day: date) -> None:
        """The close of an expiry day: in the money is delivered next morning, the rest is gone."""
        for symbol in list(self._state.account.holdings):
            instrument = self._state.listings[symbol].instrument
            if instrument.expiry is not None and instrument.expiry <= day:
                self._at_night(partial(self._end_one, symbol))

    def _end_one(self, symbol: str) -> None:
        held = self._state.account.quantity(symbol)
        if held == 0:
            return
        instrument = self._state.listings[symbol].instrument
        book = self._state.books.get(instrument.underlying or "")
        last = None if book is None else book.mark
        if last is None or instrument.strike is None:
            return
        sign = 1 if instrument.right is OptionRight.CALL else -1
        if (last - instrument.strike) * sign <= 0:
            self.expire(symbol)
        elif held > 0:
            self.exercise(symbol)
        else:
            self.assign(symbol)

    def _option_ends(
        self, kind: str, symbol: str, contracts: Decimal | None, *, is_short: bool
    ) -> None:
        held = self._held(symbol)
        if (held < 0) is not is_short:
            raise Refusal(Reason.INVALID, f"position in {symbol} was {held}")
        ending = abs(held) if contracts is None else min(contracts, abs(held))
        signed = -ending if is_short else ending
        option = self._state.listings[symbol].instrument
        underlying = self._state.listing(option.underlying or "").symbol
        assert option.strike is not None, "an option has a strike"
        is_call = option.right is OptionRight.CALL
        shares = multiply(signed, option.multiplier) * (1 if is_call else -1)
        self._take_option(symbol, signed)
        words = "Option Assignment" if is_short else "Option Exercise"
        self._row(kind, symbol, -signed, ZERO, None, words)
        change = self._state.account.book(underlying, shares, option.strike)
        self._state.record("cash", change=change, cash=self._state.account.cash, reason=kind)
        self._position_row(underlying, kind)
        self._row(DELIVERY, underlying, shares, change, option.strike, "Option Trade")

    def _take_option(self, symbol: str, signed: Decimal) -> None:
        """The contracts leave the account for nothing; orders for them end."""
        self._cancel_orders(symbol, "option ended")
        self._state.account.book(symbol, -signed, ZERO)
        self._position_row(symbol, "option")

    # --- corporate actions --------------------------------------------------------------------

    def split(
        self,
        symbol: str,
        new: int,
        old: int = 1,
        orders: OrdersOnSplit = OrdersOnSplit.RESCALE,
    ) -> None:
        """`old` shares become `new` ones; a fraction that is left is paid out (R5)."""
        state, ratio = self._state, divide(Decimal(new), Decimal(old))
        listing = state.listing(symbol)
        book = state.books[symbol]
        for name in ("bid", "ask", "last"):
            price = getattr(book, name)
            if price is not None:
                setattr(book, name, listing.instrument.tick_down(divide(price, ratio)))
        state.record("split", symbol=symbol, new=new, old=old, orders=orders)
        for order in [o for o in state.open_orders.values() if o.symbol == symbol]:
            if order.is_done or order.id not in state.open_orders:
                continue
            if orders is OrdersOnSplit.RESCALE and not order.filled:
                self._rescale(order, ratio, listing.instrument)
            elif orders is not OrdersOnSplit.KEEP:
                self._lifecycle.cancel(order, "corporate action")
        holding = state.account.holdings.get(symbol)
        if holding is None:
            return
        before, scaled = holding.quantity, multiply(holding.quantity, ratio)
        after = listing.instrument.lot_down(abs(scaled)) * (1 if scaled > 0 else -1)
        price = divide(holding.average_price, ratio)
        state.account.set_quantity(symbol, after, price)
        if after != 0:
            state.account.holdings[symbol].average_price = price
        self._position_row(symbol, "SPLIT")
        self._row("SPLIT", symbol, after - before, ZERO, None, f"Split {new}:{old}")
        if after != scaled:
            self.cash("CIL", multiply(scaled - after, book.mark or price), symbol)

    def change_symbol(self, old: str, new: str) -> None:
        """The issuer has a new symbol: the position moves, orders in the old one end (R5)."""
        state = self._state
        listing = state.listing(old)
        if new not in state.listings:
            instrument = listing.instrument.model_copy(update={"symbol": new})
            fresh = Listing(instrument, shortable=listing.shortable, fees=listing.fees)
            state.add_listing(fresh)
        self._cancel_orders(old, "symbol changed")
        state.books[old].is_halted = True
        holding = state.account.holdings.pop(old, None)
        state.record("symbol_change", symbol=old, new=new)
        if holding is None:
            return
        state.account.set_quantity(new, holding.quantity, holding.average_price)
        for symbol, quantity in ((old, -holding.quantity), (new, holding.quantity)):
            self._position_row(symbol, "NC")
            self._row("NC", symbol, quantity, ZERO, None, f"Name Change {old} to {new}")

    # --- perpetuals ---------------------------------------------------------------------------

    def pay_funding(self, symbol: str, rate: Decimal) -> Decimal:
        """Longs pay `rate` of their value, shorts get it; the change of cash."""
        held, mark = self._state.account.quantity(symbol), self._state.books[symbol].mark
        if held == 0 or mark is None:
            return ZERO
        amount = -multiply(held, mark, rate, self._state.account.multiplier(symbol))
        self.cash("FUND", amount, symbol)
        return amount

    def liquidate(self, symbol: str, price: Decimal, fee: Decimal = ZERO) -> None:
        """The venue takes the position away at `price`; exits that rest stay (R3)."""
        state, held = self._state, self._held(symbol)
        change = state.account.book(symbol, -held, price)
        state.record("liquidation", symbol=symbol, quantity=held, price=price, fee=fee)
        state.record("cash", change=change, cash=state.account.cash, reason="LIQ")
        self._position_row(symbol, "LIQ")
        self._row("LIQ", symbol, -held, change, price, "Liquidation")
        if fee:
            self.cash("FEE", -fee, symbol, "liquidation fee")

    # --- other people and money ---------------------------------------------------------------

    def trade_by_hand(self, symbol: str, side: Side, quantity: Decimal, price: Decimal) -> SimOrder:
        """A person trades in the same account on another screen: an order of nobody, filled."""
        state = self._state
        order = SimOrder(
            id=state.new_id("order"),
            client_id=state.new_id("hand"),
            symbol=state.listing(symbol).symbol,
            side=side,
            quantity=quantity,
            kind=Kind.LIMIT,
            time_in_force=TimeInForce.DAY,
            order_class=OrderClass.SIMPLE,
            created_at=state.now,
            number=len(state.orders) + 1,
            limit_price=price,
        )
        self._lifecycle.admit(order)
        self._lifecycle.go_live(order)
        self._lifecycle.fill(order, quantity, price)
        return order

    def cash(self, kind: str, amount: Decimal, symbol: str = "", text: str = "") -> None:
        """Cash moves: `DIV`, `INT`, `CSD`, `CSW`, `FEE`, `FUND`; no row if the kind is empty."""
        state = self._state
        state.account.cash += amount
        state.record("cash", change=amount, cash=state.account.cash, reason=kind or "untold")
        if kind == "FEE":
            self._fee_row(symbol, -amount, text)
        elif kind:
            self._row(kind, symbol, ZERO, amount, None, text or kind)

    def book_fees(self, day: date) -> None:
        """The day's accrued fees as rows that name no order (`daily_fees`)."""
        accrued = self._state.account.accrued
        if accrued.of_sales:
            shares = f"{accrued.sold:f} shares ({accrued.sales} trades)"
            text = f"TAF fee for proceed of {shares} on {day:%Y-%m-%d}"
            self._fee_row("", accrued.of_sales, text)
        if accrued.of_purchases:
            text = f"CAT fee for proceed of {accrued.purchases} trades on {day:%Y-%m-%d}"
            self._fee_row("", accrued.of_purchases, text)
        self._state.account.accrued = AccruedFees()

    # --- private ------------------------------------------------------------------------------

    def _held(self, symbol: str) -> Decimal:
        held = self._state.account.quantity(self._state.listing(symbol).symbol)
        if held == 0:
            raise Refusal(Reason.NOT_FOUND, f"no position in {symbol}")
        return held

    def _cancel_orders(self, symbol: str, reason: str) -> None:
        for order in [o for o in self._state.open_orders.values() if o.symbol == symbol]:
            if not order.is_done and order.combo is None:
                self._lifecycle.cancel(order, reason)

    def _rescale(self, order: SimOrder, ratio: Decimal, instrument: Instrument) -> None:
        order.quantity = instrument.lot_down(multiply(order.quantity, ratio))
        for name in ("limit_price", "stop_price"):
            price = getattr(order, name)
            if price is not None:
                setattr(order, name, instrument.tick_down(divide(price, ratio)))
        order.updated_at = self._state.now
        self._state.version += 1
        self._state.record(
            "rescaled",
            order_id=order.id,
            client_id=order.client_id,
            quantity=order.quantity,
            limit_price=order.limit_price,
            stop_price=order.stop_price,
        )

    def _position_row(self, symbol: str, reason: str) -> None:
        quantity = self._state.account.quantity(symbol)
        self._state.record("position", symbol=symbol, quantity=quantity, reason=reason)

    def _fee_row(self, symbol: str, amount: Decimal, text: str) -> None:
        row = self._state.add_activity("FEE", symbol=symbol, net_amount=-amount, text=text)
        self._state.record("fee", activity_id=row.id, amount=amount, symbol=symbol or None)

    def _row(
        self,
        kind: str,
        symbol: str,
        quantity: Decimal,
        amount: Decimal,
        price: Decimal | None,
        text: str,
    ) -> None:
        self._state.add_activity(
            kind, symbol=symbol, quantity=quantity, net_amount=amount, price=price, text=text
        )

    def _at_night(self, action: Callable[[], None]) -> None:
        """Runs before the next open; a venue without one books at once."""
        state = self._state
        opens = state.calendar.next_open(state.now)
        due = state.now if opens is None else max(state.now, opens - NIGHT_BEFORE_OPEN)
        state.schedule((due - state.now).total_seconds(), action)
