"""Matching: our orders against the displayed market, in price-time priority.

A marketable order takes the displayed size at the touch; what is left waits for the next event.
An order that rested fills at its own price when the opposite quote reaches it or a trade prints
through it. Stops trigger on the last trade.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from domain.money import ZERO, divide
from simulator.book import Book
from simulator.faults import FaultKind
from simulator.lifecycle import Lifecycle, is_immediate
from simulator.orders import Kind, Side, SimOrder, TimeInForce
from simulator.state import State
from simulator.tape import TapeEvent

PASSES_MAX = 1_000
BAR_QUOTE_TICKS = 1


@dataclass(slots=True)
class Interest:
    """What the market must show before an order of ours in a symbol can move.

    Lets thousands of events pass without looking at every resting order; made anew whenever an
    order has changed (`version`). Orders that must be looked at each time make it `urgent`.
    """

    version: int
    is_urgent: bool = False
    buy_limit: Decimal | None = None
    sell_limit: Decimal | None = None
    buy_stop: Decimal | None = None
    sell_stop: Decimal | None = None

    def add(self, order: SimOrder) -> None:
        if order.waits_for_trigger:
            if order.side is Side.BUY:
                self.buy_stop = _least(self.buy_stop, order.stop_price)
            else:
                self.sell_stop = _most(self.sell_stop, order.stop_price)
        elif order.legs or order.acts_as_market or not order.has_rested:
            self.is_urgent = True
        elif order.side is Side.BUY:
            self.buy_limit = _most(self.buy_limit, order.limit_price)
        else:
            self.sell_limit = _least(self.sell_limit, order.limit_price)

    def is_met_by(self, book: Book) -> bool:
        """True when matching could change something."""
        return (
            self.is_urgent
            or _reaches(self.buy_limit, book.ask)
            or _reaches(book.bid, self.sell_limit)
            or _reaches(book.last, self.buy_stop)
            or _reaches(self.sell_stop, book.last)
        )

    def is_behind(self, price: Decimal) -> bool:
        """True when a trade at `price` prints through a resting order."""
        return self.is_urgent or _reaches(self.buy_limit, price) or _reaches(price, self.sell_limit)


class Matcher:
    """Moves the books and fills what can be filled."""

    def __init__(self, state: State, lifecycle: Lifecycle) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._capped: dict[str, int] = {}
        self._interests: dict[str, Interest] = {}

    def quote(
        self,
        symbol: str,
        bid: Decimal | None,
        ask: Decimal | None,
        bid_size: Decimal,
        ask_size: Decimal,
    ) -> None:
        """A new best quote; displayed size is fresh again."""
        self._state.books[symbol].is_synthetic = False
        self._show(self._state.books[symbol], bid, ask, bid_size, ask_size)
        self.match(symbol)

    def trade(
        self, symbol: str, price: Decimal, size: Decimal, quote_ticks: int | None = None
    ) -> None:
        """A trade printed: stops look at it, resting orders behind it fill.

        `quote_ticks` makes a synthetic quote around it where the listing does not say so itself.
        """
        state = self._state
        book = state.books[symbol]
        book.last, book.last_size, book.has_traded = price, size, True
        book.trade_time = state.now
        state.tell_market("trade", book, price, size)
        listing = state.listings[symbol]
        ticks = listing.synthetic_quote_ticks
        ticks = quote_ticks if ticks is None else ticks
        if ticks is None:
            state.event_number += 1
            self._print_through(book, price, size)
        else:
            book.is_synthetic = True
            away = listing.instrument.tick_at(price) * ticks
            size_shown = listing.synthetic_size
            self._show(book, price - away, price + away, size_shown, size_shown)
        self.match(symbol)

    def bar(self, event: TapeEvent) -> None:
        """Walks the bar: the extreme next to the close comes last (O-L-H-C when it rose).

        Between the four points the walk stops at every price where an order of ours would
        trigger or trade, so that nothing jumps over a resting order.
        """
        assert event.open is not None
        assert event.high is not None
        assert event.low is not None
        assert event.close is not None
        turns = (event.low, event.high) if event.close >= event.open else (event.high, event.low)
        path = (event.open, *turns, event.close)
        size = divide(event.volume or Decimal(4), Decimal(4))
        book = self._state.books[event.symbol]
        ticks = BAR_QUOTE_TICKS if book.quote_time is None or book.is_synthetic else None
        self.trade(event.symbol, path[0], size, ticks)
        for start, end in pairwise(path):
            for price in self._stations(event.symbol, start, end):
                self.trade(event.symbol, price, size, ticks)
            self.trade(event.symbol, end, size, ticks)

    def match(self, symbol: str) -> None:
        """Fills what the present book allows; returns when nothing moves any more."""
        state = self._state
        if not state.open_orders or not state.can_trade(symbol):
            return
        if not self._interest(symbol).is_met_by(state.books[symbol]):
            return
        for _ in range(PASSES_MAX):
            if not self._one_pass(symbol):
                self._interests.pop(symbol, None)
                return
        raise AssertionError(f"matching of {symbol} did not come to rest")

    def try_at_once(self, order: SimOrder) -> None:
        """First look at a new order; IOC and FOK end here."""
        symbols = [leg.symbol for leg in order.legs] or [order.symbol]
        if order.time_in_force is TimeInForce.FOK and not self._fills_whole(order):
            self._lifecycle.cancel(order, "fill or kill")
            return
        for symbol in symbols:
            self.match(symbol)
        if is_immediate(order) and not order.is_done:
            self._lifecycle.cancel(order, "immediate or cancel")

    def fill_late(self, order: SimOrder, quantity: Decimal) -> None:
        """The venue had traded before a cancel reached it (D9); nothing where it has no price."""
        if quantity <= 0:
            return
        if order.legs:
            prices = self._late_prices(order)
            if prices is not None:
                self._lifecycle.fill_combo(order, quantity, prices)
            return
        price = order.limit_price or self._state.books[order.symbol].touch(order.side)
        if price is not None:
            self._lifecycle.fill(order, quantity, price)

    # --- private ------------------------------------------------------------------------------

    def _interest(self, symbol: str) -> Interest:
        state = self._state
        known = self._interests.get(symbol)
        if known is not None and known.version == state.version:
            return known
        known = Interest(state.version)
        for order in state.open_orders.values():
            if order.is_working and (
                order.symbol == symbol or any(leg.symbol == symbol for leg in order.legs)
            ):
                known.add(order)
        self._interests[symbol] = known
        return known

    def _show(
        self,
        book: Book,
        bid: Decimal | None,
        ask: Decimal | None,
        bid_size: Decimal,
        ask_size: Decimal,
    ) -> None:
        state = self._state
        state.event_number += 1
        book.bid, book.ask = bid, ask
        book.bid_size, book.ask_size = bid_size, ask_size
        book.bid_left = self._offered(book.symbol, bid_size) if bid is not None else ZERO
        book.ask_left = self._offered(book.symbol, ask_size) if ask is not None else ZERO
        book.quote_time = state.now
        if not book.has_traded and bid is not None and ask is not None:
            book.last = state.listings[book.symbol].instrument.tick_down((bid + ask) / 2)
        state.tell_market("quote", book)

    def _offered(self, symbol: str, size: Decimal) -> Decimal:
        """Share of a displayed size that one event gives us, in whole lots, at least one."""
        if size <= 0:
            return ZERO
        instrument = self._state.listings[symbol].instrument
        share = self._state.config.matching.participation
        return max(instrument.lot_down(size * share), min(size, instrument.lot_size))

    def _one_pass(self, symbol: str) -> bool:
        working = [
            order
            for order in self._state.open_orders.values()
            if order.is_working and order.symbol == symbol
        ]
        moved = self._trigger_stops(symbol, working)
        for side in (Side.BUY, Side.SELL):
            for order in _by_priority(working, side):
                moved = self._take(order) or moved
        combos = [
            order
            for order in self._state.open_orders.values()
            if order.is_working and any(leg.symbol == symbol for leg in order.legs)
        ]
        for order in combos:
            moved = self._take_combo(order) or moved
        return moved

    def _trigger_stops(self, symbol: str, working: list[SimOrder]) -> bool:
        last = self._state.books[symbol].last
        moved = False
        for order in working:
            if last is None or not order.waits_for_trigger or not order.is_working:
                continue
            assert order.stop_price is not None, "a stop has a stop price"
            if (last - order.stop_price) * order.side.sign >= 0:
                self._lifecycle.trigger(order)
                moved = True
        return moved

    def _take(self, order: SimOrder) -> bool:
        """One order against the touch. True when it filled something."""
        if not order.is_working or order.waits_for_trigger:
            return False
        book = self._state.books[order.symbol]
        touch = book.touch(order.side)
        if not order.acts_as_market:
            limit = order.limit_price
            assert limit is not None, "a limit order has a limit price"
            if touch is None or (touch - limit) * order.side.sign > 0:
                order.has_rested = True
                return False
        if touch is None or self._takes_the_bid_short(order, book):
            return False
        quantity = self._allowed(order, min(order.remaining, book.left(order.side)))
        if quantity <= 0:
            return False
        price = touch
        if order.has_rested and order.limit_price is not None and not order.acts_as_market:
            price = order.limit_price
        book.take(order.side, quantity)
        self._lifecycle.fill(order, quantity, price)
        return True

    def _takes_the_bid_short(self, order: SimOrder, book: Book) -> bool:
        """Under the short-sale restriction a short sale waits above the bid until it is lifted."""
        if not book.is_restricted or order.side is Side.BUY or order.has_rested:
            return False
        return self._state.account.quantity(order.symbol) <= 0

    def _allowed(self, order: SimOrder, quantity: Decimal) -> Decimal:
        """Applies the minimum partial size and the partial-fill fault."""
        if quantity <= 0 or self._capped.get(order.id) == self._state.event_number:
            return ZERO
        if quantity < order.remaining and quantity < self._state.config.matching.min_partial:
            return ZERO
        rule = self._state.fault(
            FaultKind.PARTIAL_FILL, client_id=order.client_id, symbol=order.symbol
        )
        if rule is None:
            return quantity
        wish = rule.number("quantity")
        if wish is None:
            fraction = rule.number("fraction", "0.5")
            assert fraction is not None, "the fraction has a default"
            wish = order.quantity * fraction
        lot = order.legs[0].ratio if order.legs else None
        step = Decimal(1) if lot else self._state.listings[order.symbol].instrument.lot_size
        self._capped[order.id] = self._state.event_number
        return min(quantity, max(step, wish - wish % step))

    def _take_combo(self, order: SimOrder) -> bool:
        """Whole units at the natural price of the legs, when the net limit allows it."""
        prices: dict[str, Decimal] = {}
        units = order.remaining
        if order.has_leg_ahead:
            return False
        for leg in order.legs:
            if not self._state.can_trade(leg.symbol):
                return False
            book = self._state.books[leg.symbol]
            touch = book.touch(leg.side)
            if touch is None:
                return False
            prices[leg.symbol] = touch
            units = min(units, book.left(leg.side) // leg.ratio)
        net = order.net_at(prices)
        if order.kind is Kind.LIMIT and order.limit_price is not None and net > order.limit_price:
            return False
        units = self._allowed(order, units)
        if units <= 0:
            return False
        for leg in order.legs:
            self._state.books[leg.symbol].take(leg.side, units * leg.ratio)
        self._lifecycle.fill_combo(order, units, prices)
        return True

    def _late_prices(self, order: SimOrder) -> dict[str, Decimal] | None:
        """What the legs of a combo traded at; the dearest makes up what the net limit was better.

        None where a leg has no price, or has traded alone: it is whole units or nothing.
        """
        prices: dict[str, Decimal] = {}
        if order.has_leg_ahead:
            return None
        for leg in order.legs:
            touch = self._state.books[leg.symbol].touch(leg.side)
            if touch is None:
                return None
            prices[leg.symbol] = touch
        if order.limit_price is None:
            return prices
        better = order.limit_price - order.net_at(prices)
        dearest = max(order.legs, key=lambda leg: prices[leg.symbol])
        prices[dearest.symbol] += divide(better * dearest.side.sign, Decimal(dearest.ratio))
        return prices if prices[dearest.symbol] > 0 else None

    def _print_through(self, book: Book, price: Decimal, size: Decimal) -> None:
        """A trade beyond a resting limit means that limit was traded first."""
        if not self._state.open_orders or not self._state.can_trade(book.symbol):
            return
        if not self._interest(book.symbol).is_behind(price):
            return
        left = self._offered(book.symbol, size)
        working = [
            order
            for order in self._state.open_orders.values()
            if order.is_working and order.symbol == book.symbol and not order.waits_for_trigger
        ]
        for side in (Side.BUY, Side.SELL):
            for order in _by_priority(working, side):
                limit = order.limit_price
                if order.acts_as_market or limit is None or not order.has_rested:
                    continue
                if not order.is_working or (limit - price) * side.sign <= 0:
                    continue
                quantity = self._allowed(order, min(order.remaining, left))
                if quantity > 0:
                    left -= quantity
                    self._lifecycle.fill(order, quantity, limit)

    def _fills_whole(self, order: SimOrder) -> bool:
        if order.legs:
            return all(
                self._state.books[leg.symbol].left(leg.side) >= order.remaining * leg.ratio
                for leg in order.legs
            )
        return self._state.books[order.symbol].left(order.side) >= order.remaining

    def _stations(self, symbol: str, start: Decimal, end: Decimal) -> list[Decimal]:
        """Prices of our orders strictly between two points of a bar, in walking order."""
        low, high = min(start, end), max(start, end)
        found = set()
        for order in self._state.open_orders.values():
            if order.symbol != symbol or not order.is_working:
                continue
            price = order.stop_price if order.waits_for_trigger else order.limit_price
            if price is not None and low < price < high:
                found.add(price)
        return sorted(found, reverse=end < start)


def _reaches(upper: Decimal | None, lower: Decimal | None) -> bool:
    return upper is not None and lower is not None and upper >= lower


def _least(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return other if one is None or (other is not None and other < one) else one


def _most(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return other if one is None or (other is not None and other > one) else one


def _by_priority(orders: Iterable[SimOrder], side: Side) -> list[SimOrder]:
    """Market orders first, then the best limit, then the older order."""

    def rank(order: SimOrder) -> tuple[int, Decimal, int]:
        if order.acts_as_market or order.limit_price is None:
            return (0, ZERO, order.number)
        return (1, -order.limit_price * side.sign, order.number)

    return sorted((order for order in orders if order.side is side), key=rank)
