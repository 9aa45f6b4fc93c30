"""A few lines of combo venue for tests of the fold: units fill, and legs can be filled alone.

It keeps what Alpaca does with `mleg`: the combo has no symbol, each leg is an order with an id of
its own, executions name the leg order only. Quotes are one net bid and ask; single legs trade at
their own quotes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from domain.facts import BrokerSnapshot
from domain.order import (
    BrokerOrderStatus,
    Fill,
    OrderClass,
    OrderIntent,
    OrderSnapshot,
    OrderType,
    Position,
    Quote,
    Side,
)
from domain.plan import PlanLeg
from tests.unit.toy_broker import START

ZERO = Decimal(0)


@dataclass
class LegOrder:
    broker_id: str
    symbol: str
    side: Side
    quantity: Decimal
    filled: Decimal = ZERO


@dataclass
class ComboOrder:
    """A combo, or with `is_single` one plain order whose only leg is the order itself."""

    broker_id: str
    intent: OrderIntent
    legs: list[LegOrder]
    quantity: Decimal
    limit: Decimal | None
    status: BrokerOrderStatus = BrokerOrderStatus.WORKING
    replaces: str | None = None
    is_single: bool = False

    @property
    def live(self) -> bool:
        return self.status is BrokerOrderStatus.WORKING

    @property
    def filled(self) -> Decimal:
        return min(leg.filled * self.quantity / leg.quantity for leg in self.legs)


@dataclass
class ToyComboBroker:
    """One structure. `size` bounds the units that one look at the market fills."""

    legs: tuple[PlanLeg, ...]
    quotes: dict[str, tuple[Decimal, Decimal]]
    now: datetime = START
    orders: list[ComboOrder] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    undelivered: list[Fill] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    size: Decimal = Decimal(10**6)
    open_session: bool = True
    counter: int = 0
    quote_shown: Quote | None = None

    def position(self, symbol: str) -> Decimal:
        return sum((f.signed_quantity for f in self.fills if f.symbol == symbol), ZERO)

    @property
    def is_flat(self) -> bool:
        return all(self.position(symbol) == 0 for symbol in self.quotes)

    @property
    def quote(self) -> Quote:
        """Net quote of the structure as planned, or what the test wants to be shown."""
        if self.quote_shown is not None:
            return self.quote_shown
        bid = ask = gross = ZERO
        for leg in self.legs:
            low, high = self.quotes[leg.instrument.symbol]
            sold = leg.side is Side.SELL
            ask += leg.ratio * (-low if sold else high)
            bid += leg.ratio * (-high if sold else low)
            gross += leg.ratio * (low + high) / 2
        return Quote(symbol="SPY", bid=bid, ask=ask, gross=gross, venue_time=self.now)

    # --- orders -----------------------------------------------------------------------------------

    def place(self, intent: OrderIntent) -> ComboOrder | str:
        """The accepted order, or a reject code: what Alpaca refuses is refused."""
        body = intent.body
        single = body.order_class is OrderClass.SIMPLE
        parts = [(body.symbol, body.side, 1)]
        if not single:
            parts = [(leg.symbol, leg.side, leg.ratio) for leg in body.legs]
        if not intent.increasing and self._exceeds_position(parts, body.quantity):
            return "QTY_HELD"
        if single and body.side is Side.SELL and self._uncovers(body.symbol, body.quantity):
            return "UNCOVERED"
        order = self._add(intent, parts, body.quantity, single)
        self.journal.append(
            f"accept {order.broker_id} {body.side} {body.quantity} {body.symbol}"
            f" {body.order_type} {body.limit_price}"
        )
        self.match()
        return order

    def _exceeds_position(self, parts: list[tuple[str, Side, int]], quantity: Decimal) -> bool:
        return any(
            -self.position(symbol) * side.sign < quantity * ratio for symbol, side, ratio in parts
        )

    def _uncovers(self, symbol: str, quantity: Decimal) -> bool:
        """True if fewer longs than shorts of the structure would be left."""
        longs = sum((max(self.position(s), ZERO) for s in self.quotes), ZERO) - quantity
        shorts = sum((max(-self.position(s), ZERO) for s in self.quotes), ZERO)
        return shorts > longs

    def _add(
        self,
        intent: OrderIntent,
        parts: list[tuple[str, Side, int]],
        quantity: Decimal,
        single: bool,
    ) -> ComboOrder:
        self.counter += 1
        name = f"c{self.counter}"
        legs = [
            LegOrder(name if single else f"{name}.{number}", symbol, side, quantity * ratio)
            for number, (symbol, side, ratio) in enumerate(parts, start=1)
        ]
        order = ComboOrder(name, intent, legs, quantity, intent.body.limit_price, is_single=single)
        self.orders.append(order)
        return order

    def replace(self, old: ComboOrder, intent: OrderIntent) -> ComboOrder | str:
        if not old.live:
            return "NOT_REPLACEABLE"
        parts = [(leg.symbol, leg.side, int(leg.quantity / old.quantity)) for leg in old.legs]
        new = self._add(intent, parts, old.quantity - old.filled, old.is_single)
        new.replaces = old.broker_id
        old.status = BrokerOrderStatus.REPLACED
        self.journal.append(f"replace {old.broker_id} {new.broker_id} {intent.body.limit_price}")
        self.match()
        return new

    def cancel(self, order: ComboOrder) -> bool:
        if not order.live:
            return False
        order.status = BrokerOrderStatus.CANCELED
        self.journal.append(f"cancel {order.broker_id}")
        return True

    def by_id(self, broker_id: str | None) -> ComboOrder | None:
        return next((o for o in self.orders if o.broker_id == broker_id), None)

    # --- market -----------------------------------------------------------------------------------

    def move(self, **quotes: tuple[str, str]) -> None:
        """New quotes by symbol, then matching."""
        for symbol, (bid, ask) in quotes.items():
            self.quotes[symbol] = (Decimal(bid), Decimal(ask))
        self.match()

    def match(self) -> None:
        if not self.open_session:
            return
        for order in list(self.orders):
            rest = order.quantity - order.filled
            if order.live and rest > 0 and self._is_marketable(order):
                aims = []
                for leg in order.legs:
                    ratio = leg.quantity / order.quantity
                    wanted = (order.filled + min(rest, self.size)) * ratio - leg.filled
                    aims.append((leg, wanted))
                for leg, wanted in aims:
                    if wanted > 0:
                        self.fill_leg(leg, wanted)
                self._settle(order)

    def _is_marketable(self, order: ComboOrder) -> bool:
        if order.intent.body.order_type is OrderType.MARKET:
            return True
        net = sum(
            (
                self._price(leg) * leg.side.sign * leg.quantity / order.quantity
                for leg in order.legs
            ),
            ZERO,
        )
        assert order.limit is not None
        if order.is_single and order.legs[0].side is Side.SELL:
            return -net >= order.limit
        return net <= order.limit

    def _price(self, leg: LegOrder) -> Decimal:
        bid, ask = self.quotes[leg.symbol]
        return ask if leg.side is Side.BUY else bid

    def _settle(self, order: ComboOrder) -> None:
        if all(leg.filled == leg.quantity for leg in order.legs):
            order.status = BrokerOrderStatus.FILLED

    def fill_leg(self, leg: LegOrder, quantity: Decimal, *, told: bool = True) -> Fill:
        """Executes one leg alone; `told` False keeps the execution from the trade for now."""
        leg.filled += quantity
        fill = Fill(
            fill_key=f"{leg.broker_id}:{leg.filled}",
            broker_order_id=leg.broker_id,
            symbol=leg.symbol,
            side=leg.side,
            quantity=quantity,
            price=self._price(leg),
            venue_time=self.now,
        )
        self.fills.append(fill)
        if told:
            self.undelivered.append(fill)
        self.journal.append(f"fill {leg.broker_id} {leg.side} {quantity} {leg.symbol}")
        return fill

    # --- views ------------------------------------------------------------------------------------

    def snapshot(self, order: ComboOrder, *, with_legs: bool = True) -> OrderSnapshot:
        """The order as `GET /v2/orders` shows it: a combo has no symbol and no side."""
        single = order.is_single
        return OrderSnapshot(
            broker_order_id=order.broker_id,
            client_id=order.intent.client_id,
            symbol=order.legs[0].symbol if single else "",
            side=order.legs[0].side if single else None,
            order_class=OrderClass.SIMPLE if single else OrderClass.COMBO,
            quantity=order.quantity,
            filled_quantity=order.filled,
            limit_price=order.limit,
            status=order.status,
            replaces_broker_id=order.replaces,
            updated_at=self.now,
            legs=tuple(self.leg_snapshot(leg) for leg in order.legs)
            if with_legs and not single
            else (),
        )

    def leg_snapshot(self, leg: LegOrder) -> OrderSnapshot:
        """A leg as an order of its own, under a client id that the broker made."""
        done = leg.filled == leg.quantity
        return OrderSnapshot(
            broker_order_id=leg.broker_id,
            client_id=f"made-{leg.broker_id}",
            symbol=leg.symbol,
            side=leg.side,
            order_class=OrderClass.COMBO,
            quantity=leg.quantity,
            filled_quantity=leg.filled,
            status=BrokerOrderStatus.FILLED if done else BrokerOrderStatus.WORKING,
            updated_at=self.now,
        )

    def read(self, *, hide: tuple[Fill, ...] = ()) -> BrokerSnapshot:
        """Everything there is, but for executions that the venue does not list yet."""
        return BrokerSnapshot(
            at=self.now + timedelta(milliseconds=1),
            started_at=self.now + timedelta(microseconds=1),
            orders=tuple(self.snapshot(order) for order in self.orders),
            positions=tuple(
                Position(symbol=symbol, quantity=self.position(symbol)) for symbol in self.quotes
            ),
            fills=tuple(fill for fill in self.fills if fill not in hide),
        )
