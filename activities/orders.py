"""The order lane: place, replace, walk, cancel, resolve (architecture §5, the order protocol).

Answers are facts; no activity here raises for anything that a broker or a limit says.
"""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.making_room import cancel_entries_against
from activities.order_answers import READ_BACK_S, OrderAnswers
from activities.order_facts import cancel_refused, why_not_quoted, why_not_restricted, why_not_step
from activities.order_resolving import OrderResolver
from activities.order_sending import OrderSender
from activities.quotes import net_quote, read_quotes
from activities.services import (
    CancelInput,
    PlaceInput,
    ReplaceInput,
    ResolveInput,
    Services,
    TradeRef,
    WalkInput,
    note_stage,
)
from brokers.port import (
    Accepted,
    AuthNeeded,
    CancelOutcome,
    CancelRequested,
    NotCancelable,
    NotExecuted,
    OrderNotFound,
    Rejected,
    UnknownOutcome,
)
from domain.errors import HoldfastError
from domain.facts import (
    CancelAsked,
    CancelRejected,
    Fact,
    FactBatch,
    OrderNotSent,
    OrderReported,
    QuoteRead,
    ReplaceConfirmed,
    ReplaceRejected,
)
from domain.order import BrokerOrderStatus, OrderIntent, OrderSnapshot, Quote

CANCELS_MORE_MAX = 2
CANCEL_AGAIN_S = 0.2
CANCEL_AGAIN_WITHIN_S = 1.0
"""Another cancel takes up to 4 s with its read: it must end within the step."""
_UNTOUCHED = (BrokerOrderStatus.WORKING, BrokerOrderStatus.HELD)


class OrderActivities:
    """Activities of the order lane of one account."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sender = OrderSender(services)
        self._answers = OrderAnswers(services, self._sender)
        self._resolver = OrderResolver(services, self._sender, self._answers)

    @activity.defn(name="place_order")
    async def place_order(self, input: PlaceInput) -> FactBatch:
        """Sends one order exactly once, or says definitely that it was not sent."""
        intent = input.command.intent
        outcome = await self._sender.send(input.trade, intent, replaces=None)
        if isinstance(outcome, Rejected) and not intent.increasing:
            await cancel_entries_against(self._services, intent)
        facts = await self._answers.facts_of(input.trade, intent, outcome)
        await note_stage(self._services, input.trade)
        return FactBatch(facts=facts)

    @activity.defn(name="replace_order")
    async def replace_order(self, input: ReplaceInput) -> FactBatch:
        """Swaps one order for another; both count as live until the old one is proven dead."""
        command = input.command
        return FactBatch(
            facts=await self._replace(
                input.trade, command.old_client_id, command.old_broker_id, command.intent
            )
        )

    async def _replace(
        self, trade: TradeRef, old_client_id: str, old_broker_id: str, intent: OrderIntent
    ) -> tuple[Fact, ...]:
        outcome = await self._sender.send(trade, intent, replaces=old_broker_id)
        old = await self._answers.read_back(old_broker_id)
        if old is not None:
            # Booked here, its end is no news to the stream, which would ring the trade for it.
            await self._answers.book_snapshot(old)
        now = self._services.now()
        reported: tuple[Fact, ...] = () if old is None else (OrderReported(at=now, order=old),)
        new_id = intent.client_id
        match outcome:
            case Accepted(order=order):
                pass
            case OrderSnapshot():
                order = outcome
            case Rejected():
                rejected = ReplaceRejected(
                    at=now,
                    old_client_id=old_client_id,
                    new_client_id=new_id,
                    code=outcome.code,
                    text=outcome.text,
                )
                fills = () if old is None else await self._answers.fills_behind(trade, old)
                # The order first: if it has ended, the refusal leaves no question to read for.
                return (*reported, rejected, *fills)
            case _:
                return (*await self._answers.facts_of(trade, intent, outcome), *reported)
        confirmed = ReplaceConfirmed(
            at=now,
            old_client_id=old_client_id,
            new_client_id=new_id,
            order=order,
            amended=order.broker_order_id == old_broker_id,
        )
        seen = (order,) if old is None else (order, old)
        return (confirmed, *reported, *await self._answers.fills_behind(trade, *seen))

    @activity.defn(name="walk_step")
    async def walk_step(self, input: WalkInput) -> FactBatch:
        """One step of the walk in one activity: own order, quote, then the replace.

        The step is left out, and said so, if the order is not plainly working, has filled, or if
        the market has traded through the plan's bounds.
        """
        command, trade = input.command, input.trade
        now = self._services.now()
        own, quotes = await asyncio.gather(
            self._answers.read_back(command.old_broker_id), self._read_quotes(input)
        )
        quote = net_quote(command.legs, quotes, command.intent.body.symbol)
        seen: tuple[Fact, ...] = ()
        if own is not None:
            seen = (OrderReported(at=now, order=own),)
        if quote is not None:
            seen = (*seen, QuoteRead(at=now, quote=quote))
        why_not = why_not_step(command.invalid_at_or_below, command.invalid_at_or_above, own, quote)
        why_not = why_not or why_not_restricted(command.legs, self._services.restricted)
        why_not = why_not or why_not_quoted(
            command.legs, quotes, self._services.limits, trade.clock, now
        )
        if why_not:
            skipped = OrderNotSent(
                at=now, client_id=command.intent.client_id, code="STEP_SKIPPED", text=why_not
            )
            fills = () if own is None else await self._answers.fills_behind(trade, own)
            return FactBatch(facts=(*seen, skipped, *fills))
        facts = await self._replace(
            trade, command.old_client_id, command.old_broker_id, command.intent
        )
        return FactBatch(facts=(*seen[1:], *facts))

    async def _read_quotes(self, input: WalkInput) -> dict[str, Quote]:
        try:
            async with asyncio.timeout(READ_BACK_S):
                return await read_quotes(self._services.broker, input.command.legs)
        except (HoldfastError, TimeoutError):
            return {}

    @activity.defn(name="cancel_order")
    async def cancel_order(self, input: CancelInput) -> FactBatch:
        """Asks for the cancel and reads the order back. Needs no gate: it never adds risk."""
        services, command = self._services, input.command
        broker_id = command.broker_order_id
        if broker_id is None:
            found = await self._answers.look_up(command.client_id)
            if found is None:
                return FactBatch(
                    facts=(cancel_refused(services.now(), command.client_id, "NOT_FOUND", ""),)
                )
            broker_id = found.broker_order_id
        outcome, after = await self._cancel(broker_id)
        now = services.now()
        match outcome:
            case CancelRequested() | UnknownOutcome():
                fact: Fact = CancelAsked(at=now, client_id=command.client_id)
            case NotCancelable():
                fact = cancel_refused(now, command.client_id, "NOT_CANCELABLE", outcome.text)
            case OrderNotFound():
                fact = cancel_refused(now, command.client_id, "NOT_FOUND", outcome.text)
            case NotExecuted():
                fact = cancel_refused(now, command.client_id, outcome.code, outcome.text)
            case AuthNeeded():
                fact = cancel_refused(now, command.client_id, "AUTH", outcome.text)
        await note_stage(services, input.trade)
        if after is None:
            return FactBatch(facts=(fact,))
        await self._answers.book_snapshot(after)
        reported = OrderReported(at=services.now(), order=after)
        fills = await self._answers.fills_behind(input.trade, after)
        if isinstance(fact, CancelRejected):
            # The order first: if it has ended, the refusal leaves no question to read for.
            return FactBatch(facts=(reported, fact, *fills))
        return FactBatch(facts=(fact, reported, *fills))

    async def _cancel(self, broker_id: str) -> tuple[CancelOutcome, OrderSnapshot | None]:
        """Asks for the cancel, and how the order stands then.

        Asked for again if the venue's answer was an error and the order shows that nothing came of
        it: a cancel never adds risk, and others of its position are off already (I4).
        """
        services = self._services
        began_s = services.monotonic()
        outcome = await services.broker.cancel(broker_id)
        services.failpoint("after_response")
        after = await self._answers.read_back(broker_id)
        for _ in range(CANCELS_MORE_MAX):
            is_over = after is None or after.status not in _UNTOUCHED
            late = services.monotonic() - began_s > CANCEL_AGAIN_WITHIN_S
            if is_over or late or not isinstance(outcome, UnknownOutcome):
                break
            await asyncio.sleep(CANCEL_AGAIN_S)
            outcome = await services.broker.cancel(broker_id)
            after = await self._answers.read_back(broker_id) or after
        return outcome, after

    @activity.defn(name="resolve_order")
    async def resolve_order(self, input: ResolveInput) -> FactBatch:
        """Broker evidence about an unknown order; 404 alone is never a proof (C5)."""
        return await self._resolver.resolve(input)
