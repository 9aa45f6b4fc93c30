"""Finding out what became of an order without an answer (architecture §5, C5, C8).

Whoever may still send it is barred first; then it is found, proven absent, or stays unknown.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from activities.absence import LIST_MARGIN_S, NOT_SEEN, bar_senders, look_for
from activities.order_answers import OrderAnswers
from activities.order_facts import has_prices, is_same_exchange_day, named
from activities.order_sending import OrderSender
from activities.services import ResolveInput, Services, attempt_token
from brokers.port import Accepted, NotExecuted, UnknownOutcome
from domain.commands import ResolveOrder
from domain.errors import HoldfastError
from domain.facts import (
    Fact,
    FactBatch,
    OrderNotSent,
    OrderRejected,
    OrderReported,
    OrderResolved,
    OrderUnknown,
    ReplaceConfirmed,
)
from domain.fold_orders import AMENDED, PROVEN_ABSENT
from ledger.records import DUPLICATE, IntentRecord, IntentState

SETTLED_SOON_S = 1.2
"""A look that would come so shortly before its proof waits for it: the next is a second later."""


class OrderResolver:
    """Broker evidence about unknown orders of one account."""

    def __init__(self, services: Services, sender: OrderSender, answers: OrderAnswers) -> None:
        self._services = services
        self._sender = sender
        self._answers = answers

    async def resolve(self, input: ResolveInput) -> FactBatch:
        """Broker evidence about an unknown order; 404 alone is never a proof (C5).

        Where ids are unique for ever the same body and id is posted again: accepted or duplicate,
        both are safe. A refusal proves nothing and passes, so each look posts until it is told one
        of the two. Otherwise, and meanwhile, the order must be absent from look-up, order list and
        executions after the settle window.
        """
        services, command = self._services, input.command
        intent, old_id = command.intent, command.replaces_broker_id
        if old_id is not None and not services.broker.capabilities.replace_makes_new_id:
            return FactBatch(facts=await self._resolve_amend(input, old_id))
        order = await self._answers.look_up(intent.client_id)
        old: tuple[Fact, ...] = ()
        if order is None and command.may_repost and not await self._is_at_venue(intent.client_id):
            outcome = await self._sender.send(input.trade, intent, replaces=old_id, resend=True)
            if not isinstance(outcome, NotExecuted):
                old = await self._old_of(old_id)
            if not isinstance(outcome, NotExecuted | UnknownOutcome):
                facts = await self._answers.facts_of(input.trade, intent, outcome)
                return FactBatch(facts=(*facts, *old))
        if order is not None:
            await self._sender.record_found(input.trade, intent, order, command.sent_at)
            resolved = OrderResolved(
                at=services.now(), client_id=intent.client_id, order=order, evidence="look-up"
            )
            return FactBatch(
                facts=(
                    resolved,
                    *await self._old_of(old_id),
                    *await self._answers.fills_behind(input.trade, order),
                )
            )
        return FactBatch(facts=(*await self._prove_absent(input), *old))

    async def _is_at_venue(self, client_id: str) -> bool:
        """True if the venue has called the id a duplicate: a further post could tell no more."""
        try:
            record = await self._services.ledger.intent(client_id)
        except HoldfastError:
            return False
        return record is not None and record.code == DUPLICATE

    async def _resolve_amend(self, input: ResolveInput, old_broker_id: str) -> tuple[Fact, ...]:
        """A change in place without an answer: the order itself shows whether it was made.

        If it is not seen after the settle window, it was not made: the request cannot be under
        way any longer, and what a later look shows of the prices counts anyway.
        """
        services, intent = self._services, input.command.intent
        client_id, settled_s = intent.client_id, services.settle_window_s
        settled_s += services.request_timeout_s
        never_sent = await self._was_never_sent(input)
        if not never_sent:
            await self._wait_if_soon(input.command.sent_at, settled_s)
        old, now = await self._answers.read_back(old_broker_id), services.now()
        unknown = OrderUnknown(at=now, client_id=client_id, reason="the change is not seen yet")
        if old is None or intent.replaces is None:
            return (unknown,)
        await self._answers.book_snapshot(old)
        reported = OrderReported(at=now, order=old)
        fills = await self._answers.fills_behind(input.trade, old)
        waited_s = (now - input.command.sent_at).total_seconds()
        fact: Fact = unknown
        if has_prices(intent, old_broker_id, old):
            fact = ReplaceConfirmed(
                at=now,
                old_client_id=intent.replaces,
                new_client_id=client_id,
                order=named(old, old_broker_id),
                amended=True,
            )
            await self._book_not_sent(client_id, AMENDED)
        elif never_sent or waited_s >= settled_s:
            fact = OrderResolved(at=now, client_id=client_id, order=None, evidence="not changed")
            await self._book_not_sent(client_id, PROVEN_ABSENT)
        return (fact, reported, *fills)

    async def _was_never_sent(self, input: ResolveInput) -> bool:
        """True if an entry has not even reached its gate, and now it cannot any more."""
        try:
            return (await self._bar_late_attempts(input))[1]
        except HoldfastError:
            return False

    async def _wait_if_soon(self, since: datetime, settled_s: float) -> None:
        """Waits for the end of a settle window that is near.

        The next look would come up to a second behind it, and what waits for it may be bare (I4).
        """
        rest_s = settled_s - (self._services.now() - since).total_seconds()
        if 0 < rest_s <= SETTLED_SOON_S:
            await asyncio.sleep(rest_s + 0.001)

    async def _book_not_sent(self, client_id: str, code: str) -> None:
        services = self._services
        if await services.ledger.claim_intent(client_id, attempt_token()) is not None:
            await services.ledger.record_answer(
                client_id, None, IntentState.NOT_SENT, code=code, at=services.now()
            )

    async def _old_of(self, broker_order_id: str | None) -> tuple[OrderReported, ...]:
        """The order that an unknown replacement was to take over from, as it stands now."""
        if broker_order_id is None:
            return ()
        old = await self._answers.read_back(broker_order_id)
        return () if old is None else (OrderReported(at=self._services.now(), order=old),)

    async def _prove_absent(self, input: ResolveInput) -> tuple[Fact, ...]:
        """Absent from look-up, list and executions after the settle window is proof.

        Sooner is not, and never for an id that the venue has called a duplicate: it has the
        order. An order that only the list shows is found. Where lists may lag for longer, an entry
        waits for all of it, as nothing is bare meanwhile (`_waits_for_lists`). An exit does not
        wait, for what it protects may be bare, if the account holds what was booked: a hidden exit
        that fills shows there (C5, ADR 0020).
        """
        services, command = self._services, input.command
        client_id = command.intent.client_id
        unknown = OrderUnknown(at=services.now(), client_id=client_id, reason="not seen yet")
        try:
            record, never_sent = await self._bar_late_attempts(input)
        except HoldfastError:
            return (unknown,)
        if (told := await self._told_by_row(input, record)) is not None:
            return told
        # Whoever was to send may have sent until the row was taken from him, however late that was.
        barred_at = max(command.sent_at, record.answered_at or command.sent_at)
        listed_by_s = services.broker.capabilities.orders_listed_within_s
        settled_s = services.settle_window_s
        if command.intent.increasing:
            settled_s = 0.0 if never_sent else max(settled_s, listed_by_s)
        settled_s += 0.0 if never_sent else services.request_timeout_s
        await self._wait_if_soon(barred_at, settled_s)
        waited_s = (services.now() - barred_at).total_seconds()
        if waited_s < settled_s:
            return (unknown,)
        waits_for_lists = not never_sent and self._waits_for_lists(command)
        lists_may_lag = waited_s < listed_by_s + services.request_timeout_s
        clock = input.trade.clock
        if services.broker.capabilities.lists_orders_of_today_only and not is_same_exchange_day(
            clock.market(command.sent_at), clock.market(services.now())
        ):
            return (unknown,)
        # The doubt began after the sending, and the venue lists by market time.
        since = input.trade.clock.market(command.sent_at - timedelta(seconds=LIST_MARGIN_S))
        try:
            evidence = await look_for(
                services,
                record,
                since,
                told_to=input.trade.trade_id,
                lists_may_lag=lists_may_lag,
            )
        except HoldfastError:
            return (unknown,)
        if (found := evidence.found) is not None:
            await self._sender.record(command.intent, None, Accepted(order=found))
            resolved = OrderResolved(
                at=services.now(), client_id=client_id, order=found, evidence="order list"
            )
            return (resolved, *await self._answers.fills_behind(input.trade, found))
        if not evidence.is_absent or (waits_for_lists and waited_s < services.lag_max_s):
            return (unknown,)
        stands = await services.ledger.record_answer(
            client_id, None, IntentState.NOT_SENT, code=PROVEN_ABSENT, at=services.now()
        )
        if stands.state is not IntentState.NOT_SENT:
            return (unknown,)
        absent = OrderResolved(
            at=services.now(), client_id=client_id, order=None, evidence="absent after settling"
        )
        return (absent,)

    def _waits_for_lists(self, command: ResolveOrder) -> bool:
        """True for an entry at a venue that promises nothing of its lists, whose proof is a post.

        One that its trade still wants although each post is refused: the next one would go out
        under another id. One that it wants no more is not posted again, and could work for a trade
        that has ended (I3). If something is bare, its exits wait for this and it may not (I4).
        """
        if not command.intent.increasing:
            return False
        has_proof = self._services.broker.capabilities.client_id_unique_for_ever
        return command.may_repost or (has_proof and not command.is_bare)

    async def _told_by_row(
        self, input: ResolveInput, record: IntentRecord
    ) -> tuple[Fact, ...] | None:
        """What the attempt has booked before it died; None if that is nothing definite.

        The row speaks of all posts of its order: the refusal of a second one leaves it unknown.
        """
        now = self._services.now()
        client_id, code = record.intent.client_id, record.code
        if record.state is IntentState.ACCEPTED and record.snapshot is not None and not code:
            seen = await self._answers.read_back(record.snapshot.broker_order_id)
            order = seen or record.snapshot
            found = OrderResolved(at=now, client_id=client_id, order=order, evidence="ledger")
            old = await self._old_of(input.command.replaces_broker_id)
            return (found, *old, *await self._answers.fills_behind(input.trade, order))
        if record.state is IntentState.REJECTED:
            return (OrderRejected(at=now, client_id=client_id, code=code, text=record.text),)
        if record.state is IntentState.NOT_SENT and code != PROVEN_ABSENT:
            return (OrderNotSent(at=now, client_id=client_id, code=code, text=record.text),)
        return None

    async def _bar_late_attempts(self, input: ResolveInput) -> tuple[IntentRecord, bool]:
        """Puts a token of ours on the row, so that no earlier attempt may still send (C8).

        It comes long before the proof: what an attempt sent until now arrives meanwhile. An
        attempt that has not even reached its gate has no row; it finds this one taken. Was it to
        add risk, it was never sent: True. What reduces may have gone without the ledger (H5).
        """
        services, intent, token = self._services, input.command.intent, attempt_token()
        record = await bar_senders(services, intent.client_id, token)
        if record is not None:
            return record, False
        owner, now = input.trade.owner, services.now()
        record = await services.ledger.book_sent_intent(
            intent, owner, token, IntentState.UNKNOWN, now, code=NOT_SEEN
        )
        return record, intent.increasing and record.attempt_token == token
