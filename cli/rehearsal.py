"""Plays a plan through the fold against a broker that agrees to everything. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from domain import trade_state as ts
from domain.base import Frozen
from domain.clock import ClockMap
from domain.commands import (
    CancelOrder,
    Command,
    PlaceOrder,
    ReadBroker,
    ReadQuote,
    ReplaceOrder,
    WalkStep,
)
from domain.entry import EntryTicket
from domain.facts import (
    BrokerSnapshot,
    Fact,
    FillReported,
    OrderAccepted,
    OrderReported,
    QuoteRead,
    ReplaceConfirmed,
    RiskReserved,
    SessionChanged,
)
from domain.fold import apply_all
from domain.ids import Purpose
from domain.money import ZERO
from domain.order import (
    BrokerOrderStatus,
    Fill,
    OrderBody,
    OrderClass,
    OrderIntent,
    OrderSnapshot,
    Position,
)
from domain.plan import TradePlan
from domain.steps import decide, next_deadline
from domain.trade_state import Role, TradeState

LOOKS_MAX = 200
LOOKS_PER_SLICE = 12
QUIET_LOOKS = 3


class RehearsedOrder(Frozen):
    """One order as it would go out: id and exact body."""

    client_id: str
    purpose: str
    why: str
    body: OrderBody


@dataclass
class _Yes:
    """The agreeable broker: accepts, replaces, and fills the entry when it is told to."""

    plan: TradePlan
    ticket: EntryTicket
    now: datetime
    orders: dict[str, OrderSnapshot] = field(default_factory=dict)
    fills: list[Fill] = field(default_factory=list)
    sent: list[RehearsedOrder] = field(default_factory=list)

    def answer(self, command: Command) -> tuple[Fact, ...]:
        match command:
            case PlaceOrder(intent=intent):
                order = self._accept(intent)
                return (OrderAccepted(at=self.now, client_id=intent.client_id, order=order),)
            case (
                WalkStep(intent=intent, old_client_id=old)
                | ReplaceOrder(intent=intent, old_client_id=old)
            ):
                return self._replace(intent, old)
            case CancelOrder(client_id=client_id):
                return self._cancel(client_id)
            case ReadBroker():
                return (self._snapshot(),)
            case ReadQuote():
                return (
                    QuoteRead(at=self.now, quote=self.ticket.arrival),
                    SessionChanged(at=self.now, is_open=True, next_close=self.ticket.next_close),
                )
            case _:
                return ()

    def _accept(self, intent: OrderIntent, replaces: str | None = None) -> OrderSnapshot:
        body = intent.body
        self.sent.append(
            RehearsedOrder(
                client_id=intent.client_id,
                purpose=intent.key.purpose.value,
                why=intent.reason or intent.key.purpose.value,
                body=body,
            )
        )
        order = OrderSnapshot(
            broker_order_id=f"would-be-{len(self.sent)}",
            client_id=intent.client_id,
            symbol=body.symbol,
            side=body.side,
            order_class=body.order_class,
            order_type=body.order_type,
            time_in_force=body.time_in_force,
            quantity=body.quantity,
            limit_price=body.limit_price,
            stop_price=body.stop_price,
            status=BrokerOrderStatus.WORKING,
            replaces_broker_id=replaces,
            submitted_at=self.now,
            updated_at=self.now,
        )
        self.orders[intent.client_id] = order
        return order

    def _replace(self, intent: OrderIntent, old_client_id: str) -> tuple[Fact, ...]:
        old = self.orders[old_client_id]
        order = self._accept(intent, old.broker_order_id)
        update = {
            "status": BrokerOrderStatus.REPLACED,
            "replaced_by_broker_id": order.broker_order_id,
        }
        gone = old.model_copy(update=update)
        self.orders[old_client_id] = gone
        confirmed = ReplaceConfirmed(
            at=self.now,
            old_client_id=old_client_id,
            new_client_id=intent.client_id,
            order=order,
        )
        return (confirmed, OrderReported(at=self.now, order=gone))

    def _cancel(self, client_id: str) -> tuple[Fact, ...]:
        """A stop stands aside for a slice. Pairs stay: they have no stop here and look broken."""
        order = self.orders[client_id]
        if order.order_class is OrderClass.OCO:
            return ()
        gone = order.model_copy(update={"status": BrokerOrderStatus.CANCELED})
        self.orders[client_id] = gone
        return (OrderReported(at=self.now, order=gone),)

    def fill_entry(self) -> tuple[Fact, ...]:
        """The last entry fills whole at its limit."""
        entries = [s for s in self.sent if s.purpose == Purpose.ENTRY.value]
        order = self.orders[entries[-1].client_id]
        price = order.limit_price if order.limit_price is not None else self.ticket.start_price
        for leg in self.plan.legs:
            is_single = not self.plan.is_combo
            leg_price = price if is_single else self._leg_price(leg.instrument.symbol)
            self.fills.append(
                Fill(
                    fill_key=f"{order.broker_order_id}-{leg.instrument.symbol}",
                    broker_order_id=order.broker_order_id,
                    client_id=order.client_id,
                    symbol=leg.instrument.symbol,
                    side=leg.side,
                    quantity=order.quantity * leg.ratio,
                    price=leg_price,
                    venue_time=self.ticket.arrival.venue_time,
                )
            )
        update = {"status": BrokerOrderStatus.FILLED, "filled_quantity": order.quantity}
        done = order.model_copy(update=update)
        self.orders[entries[-1].client_id] = done
        told = tuple(FillReported(at=self.now, fill=fill) for fill in self.fills)
        return (OrderReported(at=self.now, order=done), *told)

    def _leg_price(self, _symbol: str) -> Decimal:
        """Single legs of a combo have no quote of their own here; any price > 0 serves."""
        return Decimal(1)

    def _snapshot(self) -> BrokerSnapshot:
        held: dict[str, Decimal] = {}
        for fill in self.fills:
            held[fill.symbol] = held.get(fill.symbol, ZERO) + fill.signed_quantity
        return BrokerSnapshot(
            at=self.now,
            started_at=self.now,
            orders=tuple(self.orders.values()),
            positions=tuple(Position(symbol=s, quantity=q) for s, q in held.items()),
            fills=tuple(self.fills),
        )


def play(
    plan: TradePlan,
    installation: str,
    clock: ClockMap,
    ticket: EntryTicket,
    now: datetime,
) -> tuple[RehearsedOrder, ...]:
    """Every order of the good course: the whole ladder, then the exits for the filled entry.

    Of a sliced entry every slice fills as soon as it works.
    """
    broker = _Yes(plan, ticket, now)
    state = TradeState.planned(plan, installation, clock)
    state, _ = decide(state, now)
    state = apply_all(state, (RiskReserved(at=now, ticket=ticket),), now)
    filled, quiet = False, 0
    slices = 0 if plan.slices is None else plan.slices.count
    for _look in range(LOOKS_MAX + slices * LOOKS_PER_SLICE):
        state, commands = decide(state, broker.now)
        facts = tuple(fact for command in commands for fact in broker.answer(command))
        state = apply_all(state, facts, broker.now)
        if facts:
            quiet = 0
            continue
        may_fill = bool(state.live(Role.ENTRY)) if slices else _ladder_done(state, plan, broker)
        if not filled and may_fill:
            state = apply_all(state, broker.fill_entry(), broker.now)
            filled = not slices or ts.entry_quantity(state) >= ticket.approved.quantity
            continue
        quiet += 1
        if filled and quiet >= QUIET_LOOKS:
            break
        later = next_deadline(state, broker.now)
        broker.now = later or broker.now + timedelta(seconds=1)
    return tuple(broker.sent)


def _ladder_done(state: TradeState, plan: TradePlan, broker: _Yes) -> bool:
    """The last rung works: the next thing that happens in the good course is the fill."""
    entries = [s for s in broker.sent if s.purpose == Purpose.ENTRY.value]
    if not entries or ts.entry_is_dead(state):
        return False
    at_worst = entries[-1].body.limit_price == plan.instrument.tick_down(
        broker.ticket.approved.worst_price
    )
    return at_worst or len(entries) > plan.walk.steps_max or state.walk.step >= plan.walk.steps_max
