"""What the order lane makes of an answer: facts for the fold, with what stands behind them."""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.executions import booked_fill_facts, fresh_fill_facts
from activities.order_facts import any_filled, not_sent, same_order
from activities.order_sending import OrderSender
from activities.services import Services, TradeRef
from brokers.port import (
    Accepted,
    AuthNeeded,
    Duplicate,
    NotExecuted,
    PlaceOutcome,
    Rejected,
    UnknownOutcome,
)
from domain.errors import HoldfastError
from domain.facts import (
    DiscrepancyFound,
    Fact,
    OrderAccepted,
    OrderNotSent,
    OrderRejected,
    OrderReported,
    OrderUnknown,
)
from domain.order import OrderIntent, OrderSnapshot

READ_BACK_S = 1.0


class OrderAnswers:
    """Reads orders of one account back and tells them as facts."""

    def __init__(self, services: Services, sender: OrderSender) -> None:
        self._services = services
        self._sender = sender

    async def facts_of(
        self,
        trade: TradeRef,
        intent: OrderIntent,
        outcome: PlaceOutcome | OrderSnapshot | DiscrepancyFound,
    ) -> tuple[Fact, ...]:
        """Facts for the fold from the outcome of a place."""
        now, client_id = self._services.now(), intent.client_id
        match outcome:
            case DiscrepancyFound():
                return (outcome,)
            case Accepted(order=order):
                pass
            case OrderSnapshot():
                order = outcome
            case Rejected():
                return (
                    OrderRejected(
                        at=now, client_id=client_id, code=outcome.code, text=outcome.text
                    ),
                )
            case NotExecuted():
                return (not_sent(now, client_id, outcome),)
            case AuthNeeded():
                return (OrderNotSent(at=now, client_id=client_id, code="AUTH", text=outcome.text),)
            case Duplicate():
                return await self._adopt(trade, intent)
            case UnknownOutcome():
                return (OrderUnknown(at=now, client_id=client_id, reason=outcome.reason),)
        accepted: tuple[Fact, ...] = (OrderAccepted(at=now, client_id=client_id, order=order),)
        if self._services.broker.capabilities.answers_with_id_only:
            again = await self.read_back(order.broker_order_id)
            if again is not None:
                await self.book_snapshot(again)
                order = again
                accepted = (*accepted, OrderReported(at=self._services.now(), order=again))
        return (*accepted, *await self.fills_behind(trade, order))

    async def fills_behind(self, trade: TradeRef, *orders: OrderSnapshot) -> tuple[Fact, ...]:
        """Executions behind an answer that shows a filled quantity.

        Legs may have filled before the ledger knew whose they are: nobody was rung then, so what
        is booked is told with the answer that names them.
        """
        if any(any_filled(order) for order in orders):
            return await fresh_fill_facts(self._services, trade.trade_id)
        if any(order.legs for order in orders):
            return await booked_fill_facts(self._services, trade.trade_id)
        return ()

    async def _adopt(self, trade: TradeRef, intent: OrderIntent) -> tuple[Fact, ...]:
        """A duplicate id is our own earlier success: look it up and adopt it (C11)."""
        order = await self.look_up(intent.client_id)
        now = self._services.now()
        if order is None:
            return (OrderUnknown(at=now, client_id=intent.client_id, reason="duplicate, not seen"),)
        if not same_order(intent, order):
            text = f"the broker's {order.quantity} {order.symbol} is not our body"
            return (
                OrderNotSent(
                    at=now, client_id=intent.client_id, code="INTENT_BODY_DIFFERS", text=text
                ),
            )
        await self._sender.record(intent, None, Accepted(order=order))
        accepted: tuple[Fact, ...] = (
            OrderAccepted(at=now, client_id=intent.client_id, order=order),
        )
        return (*accepted, *await self.fills_behind(trade, order))

    async def look_up(self, client_id: str) -> OrderSnapshot | None:
        """The order by its client id; None if it is not seen or the look-up failed."""
        try:
            return await self._services.broker.order_by_client_id(client_id)
        except HoldfastError:
            return None

    async def read_back(self, broker_order_id: str) -> OrderSnapshot | None:
        """The order as the broker shows it now; a miss costs nothing, the next look repairs it."""
        try:
            async with asyncio.timeout(READ_BACK_S):
                return await self._services.broker.order(broker_order_id)
        except (HoldfastError, TimeoutError):
            return None

    async def book_snapshot(self, order: OrderSnapshot) -> None:
        """Writes how the order stands; without the ledger the next read does."""
        try:
            await self._services.ledger.record_snapshot(self._services.account, order)
        except HoldfastError as error:
            activity.logger.warning("order %s not booked: %s", order.broker_order_id, error.code)
