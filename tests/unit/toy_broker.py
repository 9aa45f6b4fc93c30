"""A few lines of broker for tests of the fold: immediate, in one thread, with seeded mischief.

It keeps Alpaca's harsh rules (exits reserve the position, no opposite side beside a working
entry, OCO exits, a replace makes a new id). It is no simulated exchange: it exists so that
hypothesis can try thousands of orderings of facts against `decide`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from domain import trade_state as ts
from domain.capabilities import BracketChildren, Capabilities
from domain.clock import ClockMap
from domain.commands import (
    BookByHand,
    CancelOrder,
    Command,
    PlaceOrder,
    ReadBroker,
    ReadQuote,
    ReplaceOrder,
    ReserveRisk,
    ResolveOrder,
    Settle,
    WalkStep,
)
from domain.entry import EntryTicket, RiskApproved
from domain.facts import (
    BookedByHand,
    BrokerSnapshot,
    CancelAsked,
    CancelRejected,
    Fact,
    FillReported,
    OrderAccepted,
    OrderNotSent,
    OrderRejected,
    OrderReported,
    OrderResolved,
    OrderUnknown,
    QuoteRead,
    ReplaceConfirmed,
    ReplaceRejected,
    RiskReserved,
    SessionChanged,
    Settled,
)
from domain.fold import apply
from domain.forgetting import is_direct_order
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
    TimeInForce,
)
from domain.plan import TradePlan
from domain.steps import decide, next_deadline
from domain.trade_state import TradeState

START = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)

ALPACA_LIKE = Capabilities(
    broker="toy",
    bracket_children=BracketChildren.ON_FULL_FILL,
    oco=True,
    oto=True,
    combo_legs_max=4,
    client_id_unique_for_ever=True,
)
_LIVE = (BrokerOrderStatus.WORKING, BrokerOrderStatus.HELD)


@dataclass
class ToyOrder:
    broker_id: str
    client_id: str | None
    intent: OrderIntent | None
    side: Side
    quantity: Decimal
    order_type: OrderType
    limit_price: Decimal | None
    stop_price: Decimal | None
    status: BrokerOrderStatus
    group: str | None = None
    filled: Decimal = Decimal(0)
    carried: Decimal = Decimal(0)
    replaces: str | None = None
    triggered: bool = False

    @property
    def live(self) -> bool:
        return self.status in _LIVE

    @property
    def rest(self) -> Decimal:
        return self.quantity - self.filled - self.carried


@dataclass
class ToyBroker:
    """One symbol, one account. `journal` lists what was accepted and filled, in order."""

    symbol: str
    bid: Decimal
    ask: Decimal
    now: datetime = START
    orders: list[ToyOrder] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    undelivered: list[Fill] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    open_session: bool = True
    size: Decimal = Decimal(10**9)
    counter: int = 0
    replace_mode: str = "rest"
    allows_opposite: bool = False
    coin_fee: Decimal = Decimal(0)

    @property
    def position(self) -> Decimal:
        return sum((f.signed_quantity for f in self.fills), -self.coin_fee)

    def snapshot(self, order: ToyOrder) -> OrderSnapshot:
        children = [o for o in self.orders if o.group == order.broker_id and o is not order]
        return OrderSnapshot(
            broker_order_id=order.broker_id,
            client_id=order.client_id,
            symbol=self.symbol,
            side=order.side,
            order_type=order.order_type,
            quantity=order.quantity,
            filled_quantity=order.filled + order.carried,
            limit_price=order.limit_price,
            stop_price=order.stop_price,
            status=order.status,
            updated_at=self.now,
            legs=tuple(self.snapshot(child) for child in children),
        )

    def place(self, intent: OrderIntent) -> OrderSnapshot | str:
        """The accepted order, or a reject code."""
        body = intent.body
        if any(o.client_id == intent.client_id for o in self.orders):
            return "DUPLICATE"
        entries = [o for o in self.orders if o.live and o.intent and o.intent.increasing]
        is_exit = not intent.increasing
        meets = entries and body.order_class is OrderClass.SIMPLE
        if not is_exit:
            meets = any(o.live and o.side is not body.side for o in self.orders)
        if meets and not self.allows_opposite:
            return "WASH_TRADE"
        reserved = sum(
            (o.rest for o in self.orders if o.live and o.side is body.side and not _is_child(o)),
            Decimal(0),
        )
        if is_exit and body.quantity + reserved > abs(self.position):
            return "QTY_HELD"
        order = self._add(intent, body.order_type, body.limit_price, body.stop_price)
        if body.order_class is OrderClass.OCO:
            order.group = order.broker_id
            limit = body.stop_loss_limit_price
            kind = OrderType.STOP if limit is None else OrderType.STOP_LIMIT
            child = self._add(None, kind, limit, body.stop_loss_price, like=order)
            child.group = order.broker_id
            child.status = BrokerOrderStatus.HELD
        self.journal.append(
            f"accept {intent.client_id} {body.side} {body.quantity} {body.limit_price}"
            f" {body.stop_price} {body.stop_loss_price}"
        )
        self.match()
        if body.time_in_force is TimeInForce.IOC and order.live:
            order.status = BrokerOrderStatus.CANCELED
        return self.snapshot(order)

    def _add(
        self,
        intent: OrderIntent | None,
        order_type: OrderType,
        limit: Decimal | None,
        stop: Decimal | None,
        like: ToyOrder | None = None,
    ) -> ToyOrder:
        self.counter += 1
        side = intent.body.side if intent is not None else (like.side if like else Side.SELL)
        quantity = intent.body.quantity if intent is not None else (like.quantity if like else 0)
        order = ToyOrder(
            broker_id=f"b{self.counter}",
            client_id=intent.client_id if intent is not None else None,
            intent=intent,
            side=side,
            quantity=Decimal(quantity),
            order_type=order_type,
            limit_price=limit,
            stop_price=stop,
            status=BrokerOrderStatus.WORKING,
        )
        self.orders.append(order)
        return order

    def replace(self, old: ToyOrder, intent: OrderIntent) -> OrderSnapshot | str:
        if not old.live:
            return "NOT_REPLACEABLE"
        if any(o.client_id == intent.client_id for o in self.orders):
            return "DUPLICATE"
        body = intent.body
        if body.quantity <= old.filled:
            return "QTY_FILLED"
        new = self._add(intent, body.order_type, body.limit_price, body.stop_price)
        if self.replace_mode == "total":
            new.quantity, new.carried = old.quantity, old.filled + old.carried
        elif self.replace_mode == "fresh" and old.group is None:
            new.quantity = body.quantity
        else:
            new.quantity = old.rest
        new.group, new.replaces, new.status = old.group, old.broker_id, old.status
        old.status = BrokerOrderStatus.REPLACED
        self.journal.append(
            f"replace {old.client_id} by {intent.client_id} {body.quantity}"
            f" {body.limit_price} {body.stop_price}"
        )
        self.match()
        return self.snapshot(new)

    def cancel(self, order: ToyOrder) -> bool:
        if not order.live:
            return False
        for member in self.group_of(order):
            if member.live:
                member.status = BrokerOrderStatus.CANCELED
        return True

    def group_of(self, order: ToyOrder) -> list[ToyOrder]:
        if order.group is None:
            return [order]
        return [o for o in self.orders if o.group == order.group]

    def move(self, bid: Decimal, ask: Decimal) -> None:
        self.bid, self.ask = bid, ask
        self.match()

    def match(self) -> None:
        """Fills whatever the quote allows; stops trigger on the quote."""
        if not self.open_session:
            return
        for order in list(self.orders):
            if order.live and order.rest > 0 and self._marketable(order):
                self._fill(order, min(order.rest, self.size))

    def _marketable(self, order: ToyOrder) -> bool:
        if order.order_type is OrderType.MARKET:
            return True
        buy = order.side is Side.BUY
        if order.order_type is OrderType.STOP:
            assert order.stop_price is not None
            return self.ask >= order.stop_price if buy else self.bid <= order.stop_price
        if order.order_type is OrderType.STOP_LIMIT and not self._has_triggered(order):
            return False
        assert order.limit_price is not None
        return self.ask <= order.limit_price if buy else self.bid >= order.limit_price

    def _has_triggered(self, order: ToyOrder) -> bool:
        """A stop-limit that is reached becomes a limit order; the pair's target is taken out."""
        assert order.stop_price is not None
        buy = order.side is Side.BUY
        reached = self.ask >= order.stop_price if buy else self.bid <= order.stop_price
        if reached and not order.triggered:
            order.triggered = True
            order.status = BrokerOrderStatus.WORKING
            for member in self.group_of(order):
                if member is not order and member.live:
                    member.status = BrokerOrderStatus.CANCELED
        return order.triggered

    def _fill(self, order: ToyOrder, quantity: Decimal) -> None:
        order.filled += quantity
        price = self.ask if order.side is Side.BUY else self.bid
        fill = Fill(
            fill_key=f"{order.broker_id}:{order.filled}",
            broker_order_id=order.broker_id,
            client_id=order.client_id,
            symbol=self.symbol,
            side=order.side,
            quantity=quantity,
            price=price,
            venue_time=self.now,
        )
        self.fills.append(fill)
        self.undelivered.append(fill)
        self.journal.append(f"fill {order.broker_id} {order.side} {quantity} {price}")
        if order.rest == 0:
            order.status = BrokerOrderStatus.FILLED
        for member in self.group_of(order):
            if member is not order and member.live:
                if order.rest == 0:
                    member.status = BrokerOrderStatus.CANCELED
                else:
                    member.quantity = order.rest + member.filled

    def by_id(self, broker_id: str | None) -> ToyOrder | None:
        return next((o for o in self.orders if o.broker_id == broker_id), None)

    def by_client(self, client_id: str) -> ToyOrder | None:
        return next((o for o in self.orders if o.client_id == client_id), None)


def _is_child(order: ToyOrder) -> bool:
    return order.group is not None and order.group != order.broker_id


Mischief = Callable[[Command], str]


class Trade:
    """Drives one trade: state, toy broker and virtual time. `mischief` names a fault per command:

    "" none · "race" a fill between our look and our replace · "lost" answer lost after
    acceptance · "not_sent" · "reject". Fills are told later, by `deliver`.
    """

    def __init__(
        self,
        plan: TradePlan,
        broker: ToyBroker,
        *,
        quantity: Decimal = Decimal(10),
        start: Decimal = Decimal(100),
        worst: Decimal = Decimal(101),
        capabilities: Capabilities = ALPACA_LIKE,
        mischief: Mischief = lambda command: "",
        rng: random.Random | None = None,
        allow_market_exits: bool = True,
    ) -> None:
        self.broker = broker
        self.state = TradeState.planned(plan, "abcd", ClockMap(wall0=START, market0=START))
        self.mischief = mischief
        self.rng = rng
        self.commands: list[Command] = []
        self.stops_seen: list[Decimal] = []
        self.waiting: list[Command] = []
        self.allow_market_exits = allow_market_exits
        self.books_at_once = False
        self.ticket_values = (quantity, start, worst, capabilities)

    @property
    def now(self) -> datetime:
        return self.broker.now

    def tell(self, *facts: Fact) -> None:
        for fact in facts:
            self.state = apply(self.state, fact, self.now)

    def look(self) -> bool:
        """Decides once and runs what was asked; True if something was."""
        self.state, commands = decide(self.state, self.now, [c.key for c in self.waiting])
        self.commands += commands
        self.waiting += [c for c in commands if c.kind not in ("alert", "watch_exits")]
        if not self.waiting:
            return False
        index = self.rng.randrange(len(self.waiting)) if self.rng else 0
        command = self.waiting.pop(index)
        for fact in self.answer(command):
            self.tell(fact)
        return True

    def settle_down(self, looks: int = 60) -> None:
        """Looks until nothing more is asked and all fills are told."""
        for _ in range(looks):
            self.deliver()
            if not self.look():
                return
        raise AssertionError(f"still busy after {looks} looks: {self.commands[-6:]}")

    def deliver(self) -> None:
        fills, self.broker.undelivered = self.broker.undelivered, []
        if self.rng is not None:
            self.rng.shuffle(fills)
        for fill in fills:
            self.tell(FillReported(at=self.now, fill=fill))

    def pass_time(self, seconds: float) -> None:
        """Advances virtual time to the end, stopping at every deadline on the way."""
        end = self.now + timedelta(seconds=seconds)
        for _ in range(2000):
            self.settle_down()
            at = next_deadline(self.state, self.now)
            if at is None or at > end:
                break
            self.broker.now = at
        self.broker.now = end
        self.settle_down()

    # --- answers --------------------------------------------------------------------------------

    def answer(self, command: Command) -> list[Fact]:
        at = self.now
        match command:
            case ReserveRisk():
                return [RiskReserved(at=at, ticket=self._ticket())]
            case PlaceOrder():
                return self._placed(command.intent, self.mischief(command))
            case ReplaceOrder() | WalkStep():
                return self._replaced(command, self.mischief(command))
            case CancelOrder():
                return self._cancelled(command, self.mischief(command))
            case ResolveOrder():
                return self._resolved(command)
            case ReadBroker():
                return [self._as_read(command, self._snapshot())]
            case ReadQuote():
                return [
                    QuoteRead(at=at, quote=self._quote()),
                    SessionChanged(at=at, is_open=self.broker.open_session),
                ]
            case BookByHand() if self.books_at_once:
                return [
                    BookedByHand(
                        at=at,
                        adjustment_ids=tuple(a.adjustment_id for a in command.adjustments),
                        client_ids=tuple(a.client_id for a in command.answers),
                    )
                ]
            case Settle():
                return [Settled(at=at, realised=Decimal(0), fees=Decimal(0), fees_estimated=False)]
        return []

    def _ticket(self) -> EntryTicket:
        quantity, start, worst, capabilities = self.ticket_values
        return EntryTicket(
            approved=RiskApproved(
                reservation_id="r1",
                trade_id=self.state.plan.trade_id,
                quantity=quantity,
                worst_price=worst,
                reserved_notional=quantity * worst,
                reserved_loss=Decimal(10),
                approved_at=self.now,
            ),
            start_price=start,
            arrival=self._quote(),
            capabilities=capabilities,
            allow_market_exits=self.allow_market_exits,
        )

    def _quote(self) -> Quote:
        return Quote(
            symbol=self.broker.symbol,
            bid=self.broker.bid,
            ask=self.broker.ask,
            venue_time=self.now,
        )

    def _snapshot(self) -> BrokerSnapshot:
        top = [o for o in self.broker.orders if not _is_child(o)]
        return BrokerSnapshot(
            at=self.now + timedelta(milliseconds=1),
            started_at=self.now + timedelta(microseconds=1),
            orders=tuple(self.broker.snapshot(o) for o in top),
            positions=(Position(symbol=self.broker.symbol, quantity=self.broker.position),),
            fills=tuple(self.broker.fills),
        )

    def _as_read(self, command: ReadBroker, whole: BrokerSnapshot) -> BrokerSnapshot:
        """As `read_broker` answers: what works, and of what is over only what was asked for."""
        wanted = {*command.broker_order_ids, *command.client_ids}
        state = self.state
        wanted |= {f.broker_order_id for f in whole.fills if is_direct_order(state, f.client_id)}

        def is_shown(seen: OrderSnapshot) -> bool:
            is_wanted = seen.broker_order_id in wanted or seen.client_id in wanted
            return is_wanted or not seen.is_terminal or any(map(is_shown, seen.legs))

        return whole.model_copy(update={"orders": tuple(filter(is_shown, whole.orders))})

    def _placed(self, intent: OrderIntent, fault: str) -> list[Fact]:
        at = self.now
        if fault == "not_sent":
            return [OrderNotSent(at=at, client_id=intent.client_id, code="NOT_CONNECTED")]
        if fault == "reject":
            return [OrderRejected(at=at, client_id=intent.client_id, code="TICK")]
        result = self.broker.place(intent)
        if isinstance(result, str):
            return [OrderRejected(at=at, client_id=intent.client_id, code=result)]
        if fault == "lost":
            return [OrderUnknown(at=at, client_id=intent.client_id, reason="timeout")]
        return [OrderAccepted(at=at, client_id=intent.client_id, order=result)]

    def _replaced(self, command: ReplaceOrder | WalkStep, fault: str) -> list[Fact]:
        at, new_id = self.now, command.intent.client_id
        old = self.broker.by_id(command.old_broker_id)
        assert old is not None
        report = OrderReported(at=at, order=self.broker.snapshot(old))
        if isinstance(command, WalkStep) and (not old.live or old.filled):
            return [report, OrderNotSent(at=at, client_id=new_id, code="STEP_SKIPPED")]
        if fault == "not_sent":
            return [OrderNotSent(at=at, client_id=new_id, code="RATE_LIMITED")]
        if fault == "race" and old.live and old.group is None and old.rest > 1:
            self.broker._fill(old, Decimal(1))
        result = "TOO_LATE" if fault == "reject" else self.broker.replace(old, command.intent)
        after = OrderReported(at=at, order=self.broker.snapshot(old))
        if isinstance(result, str):
            return [
                ReplaceRejected(
                    at=at, old_client_id=command.old_client_id, new_client_id=new_id, code=result
                ),
                after,
            ]
        if fault == "lost":
            return [OrderUnknown(at=at, client_id=new_id, reason="timeout")]
        confirmed = ReplaceConfirmed(
            at=at, old_client_id=command.old_client_id, new_client_id=new_id, order=result
        )
        return [confirmed, after]

    def _cancelled(self, command: CancelOrder, fault: str) -> list[Fact]:
        at = self.now
        order = self.broker.by_id(command.broker_order_id)
        if order is None:
            return [CancelRejected(at=at, client_id=command.client_id, code="404")]
        if fault == "lost":
            self.broker.cancel(order)
            return [CancelAsked(at=at, client_id=command.client_id)]
        if not self.broker.cancel(order):
            return [
                CancelRejected(at=at, client_id=command.client_id, code="422"),
                OrderReported(at=at, order=self.broker.snapshot(order)),
            ]
        facts: list[Fact] = [CancelAsked(at=at, client_id=command.client_id)]
        group = self.broker.group_of(order)
        return [*facts, *(OrderReported(at=at, order=self._flat(o)) for o in group)]

    def _flat(self, order: ToyOrder) -> OrderSnapshot:
        return self.broker.snapshot(order).model_copy(update={"legs": ()})

    def _resolved(self, command: ResolveOrder) -> list[Fact]:
        at, client_id = self.now, command.intent.client_id
        order = self.broker.by_client(client_id)
        if order is not None:
            facts: list[Fact] = [
                OrderResolved(at=at, client_id=client_id, order=self.broker.snapshot(order))
            ]
            old = self.broker.by_id(command.replaces_broker_id)
            return (
                facts
                if old is None
                else [
                    *facts,
                    OrderReported(at=at, order=self._flat(old)),
                ]
            )
        if not command.may_repost:
            return [OrderResolved(at=at, client_id=client_id, order=None)]
        return self._placed(command.intent, "")


def live_exit_quantity(broker: ToyBroker, side: Side) -> Decimal:
    """What working exits at the broker could take off: each group counts once."""
    total = Decimal(0)
    groups: list[str] = []
    for order in broker.orders:
        if not order.live or order.side is not side:
            continue
        if order.group is not None:
            if order.group in groups:
                continue
            groups.append(order.group)
        total += order.rest
    return total


def trade_state_summary(state: TradeState) -> str:
    """One line for failure messages."""
    orders = ", ".join(f"{o.role}:{o.state}:{o.quantity}" for o in state.orders)
    return f"{ts.stage(state)} held={ts.held_units(state)} [{orders}]"
