"""The simulated exchange: one account, one thread, no clock and no I/O of its own.

Time moves only by `advance_to`. In between, requests arrive (`submit`, `cancel`, `replace`) and
the market moves (tape, generated book, or direct control). Everything that happens is in
`journal`, the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace as changed
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from domain.money import ZERO
from simulator.account import Holding
from simulator.book import Book
from simulator.building import OrderBuilder
from simulator.checks import Checks
from simulator.config import ExchangeConfig, Listing, ReplaceQuantity
from simulator.events import Events
from simulator.faults import FaultKind
from simulator.generated import generated_events, merged
from simulator.journal import Journal, Row
from simulator.lifecycle import Lifecycle
from simulator.margin import Margin
from simulator.matching import Matcher
from simulator.orders import (
    OrderRequest,
    ReplaceRequest,
    Side,
    SimOrder,
    Status,
    TimeInForce,
)
from simulator.perpetuals import Perpetuals
from simulator.refusals import Reason, Refusal
from simulator.replacing import Asked, Replacer
from simulator.state import Listener, MarketListener, State
from simulator.tape import TapeEvent, TapeKind

Observer = Callable[[SimOrder], None]


class Exchange:
    """Order entry, market and time of one simulated venue.

    Deterministic: the same configuration, tape and calls give the same ids and the same journal.
    """

    def __init__(
        self,
        config: ExchangeConfig | None = None,
        tape: Iterable[TapeEvent] = (),
        journal: Journal | None = None,
    ) -> None:
        config = config or ExchangeConfig()
        self.state = State(config, journal or Journal())
        self.margin = Margin(self.state)
        self.lifecycle = Lifecycle(self.state)
        self.matcher = Matcher(self.state, self.lifecycle)
        self.checks = Checks(self.state, self.margin)
        self.events = Events(self.state, self.lifecycle)
        self.perpetuals = Perpetuals(self.state, self.events)
        self._builder = OrderBuilder(self.state)
        self._replacer = Replacer(self.state, self.checks, self.margin)
        sources = [iter(tape)]
        sources += [
            generated_events(book, self.state.listing(book.symbol), config.start, config.seed)
            for book in config.generated
        ]
        self._tape: Iterator[TapeEvent] = merged(sources)
        self._next_event: TapeEvent | None = next(self._tape, None)
        self.tape_events_played = 0
        self.tape_events_unknown = 0
        self._next_boundary = self._boundary_after(config.start)
        self.state.record(
            "start",
            account=config.account or None,
            seed=config.seed,
            cash=config.cash,
            symbols=sorted(self.state.listings),
        )

    # --- reading ------------------------------------------------------------------------------

    @property
    def config(self) -> ExchangeConfig:
        return self.state.config

    @property
    def journal(self) -> Journal:
        return self.state.journal

    @property
    def now(self) -> datetime:
        return self.state.now

    @property
    def tape_ended(self) -> bool:
        return self._next_event is None

    @property
    def next_event_time(self) -> datetime | None:
        """When the tape moves next; None at its end."""
        return self._next_event.time if self._next_event is not None else None

    def order(self, order_id: str) -> SimOrder | None:
        return self.state.orders.get(order_id)

    def order_by_client_id(self, client_id: str) -> SimOrder | None:
        return self.state.by_client.get(client_id)

    def holdings(self) -> list[Holding]:
        return list(self.state.account.holdings.values())

    def book(self, symbol: str) -> Book:
        return self.state.books[symbol]

    def available(self, symbol: str) -> Decimal:
        """Quantity of the position that no working exit reserves, unsigned."""
        position = self.state.account.quantity(symbol)
        side = Side.SELL if position > 0 else Side.BUY
        return max(ZERO, abs(position) - self.checks.held_for(symbol, side))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` at every order event; the answer ends the subscription."""
        self.state.listeners.append(listener)
        return lambda: self.state.listeners.remove(listener)

    def subscribe_market(self, listener: MarketListener) -> None:
        """Calls `listener` at every quote, trade and trading status, in the order of the tape."""
        self.state.market_listeners.append(listener)

    # --- orders -------------------------------------------------------------------------------

    def submit(
        self,
        request: OrderRequest,
        observer: Observer | None = None,
        *,
        late: Callable[[Refusal], str | None] = lambda _refusal: None,
        check: Callable[[OrderRequest], None] = lambda _request: None,
    ) -> SimOrder:
        """Accepts an order or raises `Refusal`.

        `observer` sees the order as accepted, before the market touches it: that is what a
        venue's reply shows. The returned order is live and already matched. `check` adds a rule of
        the face; what `late` has a text for is accepted first and rejected with it then (C10).
        """
        self.state.record(
            "request", action="submit", client_id=request.client_id, order=_shown(request)
        )
        try:
            order = self._accept(request, late, check)
        except Refusal as refusal:
            self.record_refusal("submit", refusal, client_id=request.client_id)
            raise
        self._start(order, observer)
        return order

    def cancel(self, order_id: str) -> SimOrder:
        """Asks for a cancel; raises `Refusal` NOT_FOUND or NOT_CANCELABLE."""
        self.state.record("request", action="cancel", order_id=order_id)
        try:
            order = self._existing(order_id)
            if order.is_done or order.status is Status.PENDING_CANCEL:
                raise Refusal(Reason.NOT_CANCELABLE, f'order is already in "{order.status}" state')
        except Refusal as refusal:
            self.record_refusal("cancel", refusal, order_id=order_id)
            raise
        facts = {"client_id": order.client_id, "symbol": order.symbol}
        if self.state.fault(FaultKind.CANCEL_LOST, **facts):
            return order
        latency_s = float(self.config.matching.cancel_latency_s)
        if latency_s > 0:
            self.lifecycle.ask_cancel(order)
            self.state.schedule(latency_s, lambda: self._cancel_now(order))
        else:
            self._cancel_now(order)
        return order

    def cancel_all(self) -> list[SimOrder]:
        """Asks for a cancel of every open order; group members go with the first of them."""
        asked = []
        for order in list(self.state.open_orders.values()):
            if order.combo is None and not order.is_done and order.id in self.state.open_orders:
                if order.status is not Status.PENDING_CANCEL:
                    self.cancel(order.id)
                asked.append(order)
        return asked

    def replace(
        self, order_id: str, request: ReplaceRequest, observer: Observer | None = None
    ) -> SimOrder:
        """Makes a new order that takes over from a working one; raises `Refusal`.

        The quantity means what `MatchingConfig.replace_quantity` says.
        """
        self.state.record(
            "request",
            action="replace",
            order_id=order_id,
            client_id=request.client_id,
            changes=_shown(request),
        )
        try:
            old = self._existing(order_id)
            new = self._replacer.prepare(old, request)
        except Refusal as refusal:
            self.record_refusal("replace", refusal, order_id=order_id, client_id=request.client_id)
            raise
        latency_s = float(self.config.matching.replace_latency_s)
        if latency_s > 0:
            self.lifecycle.ask_replace(old)
            new.replaces = old.id
            self.state.orders[new.id] = new
            self.state.by_client[new.client_id] = new
            asked = Asked(old.quantity, old.filled)
            self.state.schedule(latency_s, lambda: self._replace_later(old, new, asked))
            if observer is not None:
                observer(new)
        else:
            self._replace_now(old, new, observer)
        return new

    def record_refusal(self, action: str, refusal: Refusal, **fields: object) -> None:
        """Journals a refusal; the wire face uses it for bodies that it cannot even read."""
        self.state.record(
            "refused", action=action, reason=refusal.reason, text=refusal.text, **fields
        )

    # --- market control -----------------------------------------------------------------------

    def set_quote(
        self,
        symbol: str,
        bid: Decimal | None,
        ask: Decimal | None,
        bid_size: Decimal = Decimal(1000),
        ask_size: Decimal = Decimal(1000),
        last: Decimal | None = None,
    ) -> None:
        """Direct control: shows a quote now. `last` moves the price that stops look at; without
        it the middle of the quote, rounded down to the tick, takes that place."""
        book = self.state.books[self.state.listing(symbol).symbol]
        if last is not None:
            book.last, book.trade_time, book.has_traded = last, self.now, True
        elif bid is not None and ask is not None:
            book.last = self.state.listings[symbol].instrument.tick_down((bid + ask) / 2)
            book.trade_time = self.now
        # Not so the tape's: the tape itself tells those, and there are millions.
        self.state.record("quote", symbol=symbol, bid=bid, ask=ask, last=book.last)
        self.matcher.quote(symbol, bid, ask, bid_size, ask_size)

    def trade(self, symbol: str, price: Decimal, size: Decimal = Decimal(100)) -> None:
        """Direct control: a trade prints now."""
        self.matcher.trade(self.state.listing(symbol).symbol, price, size)

    def halt(self, symbol: str) -> None:
        """Stops matching in a symbol; orders are still accepted."""
        book = self.state.books[self.state.listing(symbol).symbol]
        book.is_halted = True
        self.state.record("halted", symbol=symbol)
        self.state.tell_market("status", book)

    def restrict_short_sales(self, symbol: str, *, on: bool = True) -> None:
        """The short-sale restriction of a symbol: no short sale takes the bid."""
        book = self.state.books[self.state.listing(symbol).symbol]
        book.is_restricted = on
        self.state.record("short_sales", symbol=symbol, restricted=on)
        self.matcher.match(symbol)

    def resume(self, symbol: str) -> None:
        book = self.state.books[self.state.listing(symbol).symbol]
        book.is_halted = False
        self.state.record("resumed", symbol=symbol)
        self.state.tell_market("status", book)
        self.matcher.match(symbol)

    def set_position(self, symbol: str, quantity: Decimal, kind: str, price: Decimal) -> None:
        """Direct control: a position changes without an order (liquidation, assignment, split).

        Cash does not move for a vanished position; for `OPASN`, `OPEXC` and `LIQ` the difference
        is booked at `price`. Exits that it no longer covers stay, as they do at a real venue.
        """
        state = self.state
        before = state.account.quantity(state.listing(symbol).symbol)
        if kind in ("OPASN", "OPEXC", "LIQ"):
            change = state.account.book(symbol, quantity - before, price)
            state.record("cash", change=change, cash=state.account.cash, reason=kind)
        else:
            change = ZERO
            state.account.set_quantity(symbol, quantity, price)
        state.record("position", symbol=symbol, quantity=quantity, reason=kind)
        state.add_activity(
            kind, symbol=symbol, quantity=quantity - before, price=price, net_amount=change
        )

    def bust(self, execution_id: str) -> None:
        """Direct control: the venue takes an execution back (D9)."""
        orders, row = self._execution(execution_id)
        quantity, price = Decimal(row["quantity"]), Decimal(row["price"])
        self.lifecycle.bust(orders, quantity, price, str(row["execution_id"]))

    def correct(self, execution_id: str, price: Decimal) -> None:
        """Direct control: the venue corrects the price of an execution (D9)."""
        orders, row = self._execution(execution_id)
        quantity, before = Decimal(row["quantity"]), Decimal(row["price"])
        self.lifecycle.correct(orders, quantity, before, price, str(row["execution_id"]))

    def _execution(self, execution_id: str) -> tuple[list[SimOrder], Row]:
        """The orders that count an execution, its own first, and its row as last corrected."""
        fills = self.journal.of("fill")
        fill = next((row for row in fills if row["execution_id"] == execution_id), None)
        if fill is None:
            raise Refusal(Reason.NOT_FOUND, f"execution {execution_id} not found")
        last = fill
        for row in self.journal.of("corrected"):
            if row["previous"] == last["execution_id"]:
                last = row
        return self._counting(self._existing(str(fill["order_id"])), fill), last

    def _counting(self, order: SimOrder, fill: Row) -> list[SimOrder]:
        """The order of a fill and those that took it over when they replaced it."""
        orders = [order]
        if self.config.matching.replace_quantity is not ReplaceQuantity.TOTAL:
            return orders
        # An order that should be dead and fills on (D1) keeps those fills to itself.
        began = {row["order_id"]: row["seq"] for row in self.journal.of("accepted")}
        whole = order.combo or order
        place = [leg.id for leg in whole.legs].index(order.id) if order.combo else None
        while whole.replaced_by is not None and fill["seq"] < began[whole.replaced_by]:
            whole = self.state.orders[whole.replaced_by]
            orders.append(whole if place is None else whole.legs[place])
        return orders

    # --- time ---------------------------------------------------------------------------------

    def advance_to(self, moment: datetime) -> None:
        """Plays everything that is due up to `moment`, in order of time: session boundaries,
        then scheduled answers, then market events of the same instant."""
        state = self.state
        while True:
            candidates = [
                (due, rank)
                for rank, due in enumerate(
                    (self._next_boundary, state.next_due(), self.next_event_time)
                )
                if due is not None and due <= moment
            ]
            if not candidates:
                break
            due, rank = min(candidates)
            state.now = max(state.now, due)
            if rank == 0:
                self._cross_boundary()
            elif rank == 1:
                state.pop_due()()
            else:
                self._play()
        state.now = max(state.now, moment)

    # --- private: orders ----------------------------------------------------------------------

    def _accept(
        self,
        request: OrderRequest,
        late: Callable[[Refusal], str | None],
        check: Callable[[OrderRequest], None],
    ) -> SimOrder:
        facts = {"client_id": request.client_id or "", "symbol": request.symbol}
        rule = self.state.fault(FaultKind.REJECT, **facts)
        if rule is not None:
            raise Refusal(Reason.INJECTED, str(rule.params.get("text", "order was refused")))
        self.checks.client_id(request.client_id)
        if request.notional is not None:
            request = changed(request, quantity=self._builder.quantity_for(request))
        self.checks.form(request)
        members = self._builder.build(request)
        order = members[0]
        refused = self._refusal_of(request, order, check)
        late_text = late(refused) if refused is not None else None
        if refused is not None and late_text is None:
            raise refused
        for member in members:
            self.lifecycle.admit(member)
        if late_text is not None:
            self.lifecycle.reject(order, late_text)
            return order
        rule = self.state.fault(FaultKind.HALT, **facts)
        if rule is not None:
            self._halt_for(request, rule.seconds("duration_s", 60.0))
        rule = self.state.fault(FaultKind.LATE_REJECT, **facts)
        if rule is not None:
            text = str(rule.params.get("text", "order was rejected by the venue"))
            self.state.schedule(
                rule.seconds("delay_s", 1.0), lambda: self.lifecycle.reject(order, text)
            )
        return order

    def _halt_for(self, request: OrderRequest, duration_s: float) -> None:
        """A combo has no symbol of its own: those of its legs halt."""
        for symbol in [leg.symbol for leg in request.legs] or [request.symbol]:
            self.halt(symbol)
            self.state.schedule(duration_s, partial(self.resume, symbol))

    def _refusal_of(
        self, request: OrderRequest, order: SimOrder, check: Callable[[OrderRequest], None]
    ) -> Refusal | None:
        """What the account says against the order, after the face's own rule."""
        try:
            check(request)
            self.checks.against_account(order)
        except Refusal as refusal:
            return refusal
        return None

    def _start(self, order: SimOrder, observer: Observer | None) -> None:
        """Brings an accepted order into the market, now or after the venue's latency."""
        if order.is_done:
            if observer is not None:
                observer(order)
            return
        if not self.state.is_open():
            self._each(order, self.lifecycle.queue)
            if observer is not None:
                observer(order)
            return
        if self._is_short_sale(order) and self._locate(order):
            if observer is not None:
                observer(order)
            return
        latency_s = float(self.config.matching.accept_latency_s)
        if latency_s > 0:
            if observer is not None:
                observer(order)
            self.state.schedule(latency_s, lambda: self._go_live(order, None))
        else:
            self._go_live(order, observer)

    def _is_short_sale(self, order: SimOrder) -> bool:
        if order.side is Side.BUY or order.legs or order.symbol not in self.state.listings:
            return False
        return self.state.account.quantity(order.symbol) <= 0

    def _locate(self, order: SimOrder) -> bool:
        """Looks for shares to borrow; True if the order waits for them, queued."""
        listing = self.state.listings[order.symbol]
        if listing.locate_s == 0:
            return False
        self.lifecycle.queue(order)
        self.state.record("locate", order_id=order.id, symbol=order.symbol)
        self.state.schedule(float(listing.locate_s), lambda: self._located(order, listing))
        return True

    def _located(self, order: SimOrder, listing: Listing) -> None:
        if order.is_done:
            return
        self.state.record("located", order_id=order.id, found=listing.can_borrow)
        if listing.can_borrow:
            self._go_live(order, None)
        else:
            self.lifecycle.reject(order, f"no shares of {order.symbol} to borrow")

    def _go_live(self, order: SimOrder, observer: Observer | None) -> None:
        if order.is_done or order.is_working:
            return
        if not self.state.is_open():
            self._each(order, self.lifecycle.queue)
            return
        self._each(order, self.lifecycle.go_live)
        if observer is not None:
            observer(order)
        self.matcher.try_at_once(order)

    def _each(self, order: SimOrder, verb: Callable[[SimOrder], None]) -> None:
        """The first member gets the verb, the waiting members of its group are held."""
        # They are held before the first one is told: its frame shows them too.
        for member in order.group.members if order.group is not None else ():
            if member is not order and not member.is_done:
                self.lifecycle.hold(member, working=not member.waits_for_entry)
        if not order.is_done:
            verb(order)

    def _existing(self, order_id: str) -> SimOrder:
        order = self.state.orders.get(order_id)
        if order is None:
            raise Refusal(Reason.NOT_FOUND, f"order not found for {order_id}")
        return order

    def _cancel_now(self, order: SimOrder) -> None:
        if order.is_done:
            self.lifecycle.tell_failed(order, "order_cancel_rejected")
            return
        rule = self.state.fault(FaultKind.LATE_FILL, client_id=order.client_id, symbol=order.symbol)
        self.lifecycle.cancel(order, "requested")
        if rule is not None:
            quantity = min(rule.number("quantity") or order.remaining, order.remaining)
            self.state.schedule(
                rule.seconds("delay_s", 1.0), lambda: self.matcher.fill_late(order, quantity)
            )

    def _replace_later(self, old: SimOrder, new: SimOrder, asked: Asked) -> None:
        """After the venue's latency: what became of the old order meanwhile counts too (D2).

        A new order that was cancelled before it took over leaves the old one at work.
        """
        if new.is_done:
            if not old.is_done:
                self.lifecycle.keep(old)
                self.lifecycle.tell_failed(old, "order_replace_rejected")
            return
        if not old.is_done and not self._replacer.count_since(asked, old, new):
            self.lifecycle.keep(old)
            self.lifecycle.admit(new)
            self.lifecycle.reject(new, "the order to replace has filled that much")
            self.lifecycle.tell_failed(old, "order_replace_rejected")
            return
        self._replace_now(old, new, None)

    def _replace_now(self, old: SimOrder, new: SimOrder, observer: Observer | None) -> None:
        state = self.state
        if old.is_done:
            self.lifecycle.admit(new)
            self.lifecycle.reject(new, "the order to replace was done")
            self.lifecycle.tell_failed(old, "order_replace_rejected")
            return
        doubled = state.fault(FaultKind.REPLACE_DOUBLES, client_id=old.client_id, symbol=old.symbol)
        self.lifecycle.take_over(old, new, doubled=doubled is not None)
        if observer is not None:
            observer(new)
        if new.is_working and not new.waits_for_trigger:
            self.matcher.try_at_once(new)
        elif new.is_working:
            self.matcher.match(new.symbol)

    # --- private: time ------------------------------------------------------------------------

    def _play(self) -> None:
        event = self._next_event
        assert event is not None, "only played when there is one"
        self._next_event = next(self._tape, None)
        if event.symbol not in self.state.books:
            self.tape_events_unknown += 1
            return
        self.tape_events_played += 1
        if event.kind is TapeKind.QUOTE:
            # A tape without sizes shows the listing's own size: nothing would ever fill else.
            unsized = self.state.listings[event.symbol].synthetic_size
            bid_size = unsized if event.bid_size is None else event.bid_size
            ask_size = unsized if event.ask_size is None else event.ask_size
            self.matcher.quote(event.symbol, event.bid, event.ask, bid_size, ask_size)
        elif event.kind is TapeKind.TRADE:
            assert event.price is not None
            self.matcher.trade(event.symbol, event.price, event.size or ZERO)
        else:
            self.matcher.bar(event)

    def _boundary_after(self, moment: datetime) -> datetime | None:
        calendar = self.state.calendar
        found = (calendar.next_open(moment), calendar.next_close(moment))
        return min((instant for instant in found if instant is not None), default=None)

    def _cross_boundary(self) -> None:
        """Close first (day orders expire), then open (queued orders go live)."""
        state = self.state
        boundary = state.now
        before = boundary - timedelta(microseconds=1)
        if state.calendar.is_open(before):
            self._close_session()
        if state.calendar.is_open(boundary):
            self._open_session()
        self._next_boundary = self._boundary_after(boundary)

    def _close_session(self) -> None:
        state = self.state
        state.record("clock", event="close")
        for order in list(state.open_orders.values()):
            over = order.time_in_force is not TimeInForce.GTC or (
                order.expires_at is not None and order.expires_at <= state.now
            )
            if over and order.combo is None and not order.is_done:
                self.lifecycle.expire(order)
        for book in state.books.values():
            book.bid_left = book.ask_left = ZERO
        state.account.last_equity = self.margin.equity()
        day = (state.now - timedelta(microseconds=1)).date()
        self.events.book_fees(day)
        self.events.end_expired(day)

    def _open_session(self) -> None:
        state = self.state
        state.record("clock", event="open")
        for order in list(state.open_orders.values()):
            if order.status is Status.ACCEPTED:
                self._go_live(order, None)

    @property
    def open_orders(self) -> list[SimOrder]:
        """Orders that are not done, combo legs left out, oldest first."""
        return [order for order in self.state.open_orders.values() if order.combo is None]


def _shown(request: OrderRequest | ReplaceRequest) -> dict[str, object]:
    """The set fields of a request, for the journal."""
    shown: dict[str, object] = {}
    for name in request.__slots__:
        value = getattr(request, name)
        if name == "legs":
            value = [{"symbol": leg.symbol, "side": leg.side, "ratio": leg.ratio} for leg in value]
        if value not in (None, (), [], False):
            shown[name] = value
    return shown
