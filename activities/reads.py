"""Broker truth for one trade: orders, positions, executions; quote and trading hours."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

from temporalio import activity

from activities.executions import book_executions, book_shown, fills_and_corrections
from activities.quotes import exit_quote, read_quotes
from activities.services import QuoteInput, ReadInput, Services, note_stage
from domain.account import MarketClock
from domain.errors import HoldfastError
from domain.facts import (
    BrokerSnapshot,
    Fact,
    FactBatch,
    QuoteRead,
    SessionChanged,
    TradingHalted,
    TradingResumed,
)
from domain.ids import is_direct_order_id, trade_prefix
from domain.order import Fill, OrderSnapshot, Position, Quote
from domain.plan import PlanLeg


class ReadActivities:
    """Reads of the order lane; they book what they see and never send."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @activity.defn(name="read_broker")
    async def read_broker(self, input: ReadInput) -> FactBatch:
        """Orders by id and by our prefix, positions, and all executions of the trade.

        Answers one BrokerSnapshot; `complete` is False if any part could not be read, and then
        nothing may be concluded from absence (R6).
        """
        services = self._services
        started_at = services.now()
        complete = True
        orders: dict[str, OrderSnapshot] = {}
        positions: tuple[Position, ...] = ()
        try:
            # Side by side: behind a slow line a position stands bare while it is looked at (I4).
            seen, held = await asyncio.gather(self._orders(input), services.broker.positions())
            orders |= {order.broker_order_id: order for order in seen}
            positions = tuple(p for p in held if p.symbol in input.command.symbols)
        except HoldfastError as error:
            activity.logger.warning("read of %s incomplete: %s", input.trade.trade_id, error.code)
            complete = False
        try:
            # Last: an order that filled between the two reads shows here, not as a gap.
            await book_executions(services, input.trade.trade_id)
        except HoldfastError as error:
            activity.logger.warning("fills of %s not read: %s", input.trade.trade_id, error.code)
            complete = False
        for order in orders.values():
            try:
                await services.ledger.record_snapshot(services.account, order)
            except HoldfastError:
                complete = False
        try:
            await book_shown(services, orders.values(), input.trade.trade_id)
            fills, corrections = await fills_and_corrections(services, input.trade.trade_id)
            for order in await self._direct_orders(input, fills, orders):
                orders[order.broker_order_id] = order
        except HoldfastError:
            fills, corrections, complete = (), (), False
        await note_stage(services, input.trade)
        snapshot = BrokerSnapshot(
            at=services.now(),
            started_at=started_at,
            orders=tuple(orders.values()),
            positions=positions,
            fills=fills,
            complete=complete,
        )
        return FactBatch(facts=(*corrections, snapshot))

    async def _orders(self, input: ReadInput) -> list[OrderSnapshot]:
        """Working orders with the trade's prefix, and every order that the trade asked for."""
        broker = self._services.broker
        prefix = trade_prefix(self._services.installation, input.trade.trade_id)
        listed = await broker.open_orders()
        ours = [o for o in listed if o.client_id is not None and o.client_id.startswith(prefix)]
        wanted = input.command.broker_order_ids
        known = [o for o in listed if o.broker_order_id in wanted and o not in ours]
        seen = [o.broker_order_id for o in [*ours, *known]]
        seen += [leg.broker_order_id for o in [*ours, *known] for leg in o.legs]
        extra: list[OrderSnapshot] = []
        for broker_order_id in wanted:
            if broker_order_id not in seen:
                order = await broker.order(broker_order_id)
                if order is not None:
                    extra.append(order)
                    seen += [order.broker_order_id, *(leg.broker_order_id for leg in order.legs)]
        for client_id in input.command.client_ids:
            order = await broker.order_by_client_id(client_id)
            if order is not None and order.broker_order_id not in seen:
                extra.append(order)
        return [*ours, *known, *extra]

    async def _direct_orders(
        self, input: ReadInput, fills: Sequence[Fill], read: Mapping[str, OrderSnapshot]
    ) -> list[OrderSnapshot]:
        """Orders that a flatten sent past the workflow: the trade knows only their fills (K8).

        Executions from REST carry no id of ours; the ledger's row does, where it was up.
        """
        services, trade_id = self._services, input.trade.trade_id
        rows = await services.ledger.orders_of_trade(trade_id)
        told = [(row.intent.client_id, row.broker_order_id) for row in rows]
        told += [(fill.client_id or "", fill.broker_order_id) for fill in fills]
        ids = dict.fromkeys(
            broker_order_id
            for client_id, broker_order_id in told
            if broker_order_id is not None
            and broker_order_id not in read
            and is_direct_order_id(client_id, services.installation, trade_id)
        )
        found = [await services.broker.order(each) for each in ids]
        return [order for order in found if order is not None]

    @activity.defn(name="read_quote")
    async def read_quote(self, input: QuoteInput) -> FactBatch:
        """Net quote of one unit, trading hours and halts; what cannot be read is left out."""
        services, legs = self._services, input.command.legs
        facts: list[Fact] = []
        try:
            (quotes, quoted_at), clock = await asyncio.gather(self._quotes(legs), self._clock())
        except HoldfastError as error:
            activity.logger.warning("quote of %s: %s", input.trade.trade_id, error.code)
            return FactBatch(facts=())
        quote = exit_quote(legs, quotes, input.trade.symbols[0])
        if quote is not None:
            facts.append(QuoteRead(at=quoted_at, quote=quote))
        if clock is None:
            return FactBatch(facts=tuple(facts))
        now = services.now()
        facts.append(
            SessionChanged(
                at=now,
                is_open=clock.is_open,
                next_open=clock.next_open,
                next_close=clock.next_close,
            )
        )
        for symbol in input.trade.symbols:
            if symbol in clock.halted_symbols:
                facts.append(TradingHalted(at=now, symbol=symbol))
            elif not clock.halts_unread:
                facts.append(TradingResumed(at=now, symbol=symbol))
        return FactBatch(facts=tuple(facts))

    async def _quotes(self, legs: Sequence[PlanLeg]) -> tuple[dict[str, Quote], datetime]:
        """The quotes, and when they came."""
        quotes = await read_quotes(self._services.broker, legs)
        return quotes, self._services.now()

    async def _clock(self) -> MarketClock | None:
        try:
            return await self._services.broker.market_clock()
        except HoldfastError as error:
            activity.logger.warning("no market clock: %s", error.code)
            return None
