"""The order lane: place, replace, walk, cancel, resolve (architecture §5, the order protocol).

Every send passes the gate of the ledger in one transaction, is made once, with one HTTP attempt,
and its answer is recorded before it is told. Whatever cannot be known is told as unknown.
Answers are facts; no activity here raises for anything that a broker or a limit says.
"""

from __future__ import annotations

import asyncio
import math
from datetime import datetime, timedelta

from temporalio import activity

from activities.absence import LIST_MARGIN_S, NOT_SEEN, bar_senders, look_for
from activities.executions import booked_fill_facts, fresh_fill_facts
from activities.late_rows import LateRows
from activities.making_room import cancel_entries_against
from activities.order_facts import (
    any_filled,
    cancel_refused,
    has_prices,
    intent_state,
    is_same_exchange_day,
    may_be_replaced,
    named,
    not_sent,
    same_order,
    why_not_quoted,
    why_not_restricted,
    why_not_step,
)
from activities.quotes import net_quote, read_quotes
from activities.reducing import ASK_AGAIN_S, NOT_REDUCING, why_not_reducing
from activities.self_halt import stop_account
from activities.services import (
    CancelInput,
    PlaceInput,
    ReplaceInput,
    ResolveInput,
    Services,
    TradeRef,
    WalkInput,
    attempt_token,
    note_stage,
)
from brokers.port import (
    Accepted,
    AuthNeeded,
    CancelOutcome,
    CancelRequested,
    Duplicate,
    NotCancelable,
    NotExecuted,
    OrderNotFound,
    PlaceOutcome,
    Rejected,
    UnknownOutcome,
)
from domain.errors import HoldfastError
from domain.facts import (
    CancelAsked,
    CancelRejected,
    DiscrepancyFound,
    Fact,
    FactBatch,
    OrderAccepted,
    OrderNotSent,
    OrderRejected,
    OrderReported,
    OrderResolved,
    OrderUnknown,
    QuoteRead,
    ReplaceConfirmed,
    ReplaceRejected,
)
from domain.fold_orders import AMENDED, PROVEN_ABSENT
from domain.order import (
    BrokerOrderStatus,
    OrderIntent,
    OrderSnapshot,
    OrderType,
    Quote,
)
from domain.trade_state import HISTORY_REWOUND
from ledger.records import (
    SELF_HALTING,
    GateAnswer,
    GatePermit,
    GateRefused,
    IntentExists,
    IntentRecord,
    IntentState,
)

GATE_AGE_MAX_S = 0.150
REDUCING_GATE_AGE_MAX_S = 1.0
LOOKS_MAX = 5
READ_BACK_S = 1.0
CANCELS_MORE_MAX = 2
CANCEL_AGAIN_S = 0.2
CANCEL_AGAIN_WITHIN_S = 1.0
"""Another cancel takes up to 4 s with its read: it must end within the step."""
SETTLED_SOON_S = 1.2
"""A look that would come so shortly before its proof waits for it: the next is a second later."""
UNSENT_WITHIN_S = 0.3
"""The gate may have taken most of the step; the next order then need not count this one (I15)."""
_UNTOUCHED = (BrokerOrderStatus.WORKING, BrokerOrderStatus.HELD)


class OrderActivities:
    """Activities of the order lane of one account."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._late_rows = LateRows()

    # --- place ----------------------------------------------------------------------------------

    @activity.defn(name="place_order")
    async def place_order(self, input: PlaceInput) -> FactBatch:
        """Sends one order exactly once, or says definitely that it was not sent."""
        intent = input.command.intent
        outcome = await self._send(input.trade, intent, replaces=None)
        if isinstance(outcome, Rejected) and not intent.increasing:
            await cancel_entries_against(self._services, intent)
        facts = await self._facts_of(input.trade, intent, outcome)
        await note_stage(self._services, input.trade)
        return FactBatch(facts=facts)

    async def _send(
        self, trade: TradeRef, intent: OrderIntent, replaces: str | None, *, resend: bool = False
    ) -> PlaceOutcome | OrderSnapshot | DiscrepancyFound:
        """Gate, send, record. An earlier attempt's order comes back as its snapshot."""
        services, token = self._services, attempt_token()
        if intent.increasing and (why := services.entry_blocked()):
            return NotExecuted(code="KILLED", text=why)
        if self._is_banned_market_order(intent):
            return Rejected(code="MARKET_ORDERS_DISALLOWED", text="entries are limit orders")
        if not intent.increasing and (why := await why_not_reducing(services, intent)):
            return NotExecuted(code=NOT_REDUCING, text=why, retry_after_s=ASK_AGAIN_S)
        services.failpoint("before_intent_row")
        try:
            answer, gate_asked_s = await self._knock(trade, intent, token, resend)
        except HoldfastError as error:
            if intent.increasing:
                await self._book_unsent(intent, token, error)
                return NotExecuted(code=error.code, text=error.text)
            return await self._send_without_ledger(trade, intent, replaces, token)
        services.failpoint("after_intent_row")
        match answer:
            case GateRefused():
                if answer.code in SELF_HALTING:
                    await self._stop_ourselves(intent, answer)
                return NotExecuted(code=answer.code, text=answer.text)
            case IntentExists():
                rewound = None if resend else self._sent_by_another_run(answer.record, token)
                return rewound or await self._earlier(answer)
            case GatePermit():
                outcome = await self._send_once(intent, replaces, gate_asked_s)
        await self._record(intent, token, outcome, replaces)
        services.failpoint("after_ledger")
        return outcome

    async def _stop_ourselves(self, intent: OrderIntent, refused: GateRefused) -> None:
        """A loop is at work: no entry of the account goes out until people lift the kill.

        Should the ledger be away just now, the next knock of the loop is refused and stops it.
        """
        text = f"{refused.code}: {refused.text}"
        try:
            await stop_account(self._services, intent.client_id, text)
        except HoldfastError as error:
            activity.logger.error("%s, and no kill was engaged: %s", text, error.code)

    def _sent_by_another_run(self, known: IntentRecord, token: str) -> DiscrepancyFound | None:
        """A new order that another run of this trade has sent: the history was set back (K7, H3).

        A run that goes on from an earlier one knows its orders and never places them again.
        """
        run, earlier = token.partition("/")[0], known.attempt_token.partition("/")[0]
        if run == earlier:
            return None
        text = f"{known.intent.client_id} was sent by run {earlier}"
        return DiscrepancyFound(at=self._services.now(), code=HISTORY_REWOUND, text=text)

    def _is_banned_market_order(self, intent: OrderIntent) -> bool:
        """DISALLOW_MARKET_ORDERS covers entries; stops and the last rung of an exit may be one."""
        market = intent.body.order_type is OrderType.MARKET
        return intent.increasing and market and self._services.disallow_market_orders

    async def _knock(
        self, trade: TradeRef, intent: OrderIntent, token: str, resend: bool
    ) -> tuple[GateAnswer, float]:
        """The gate's answer, and when it was asked for.

        A permit that was long on its way is looked at again: meanwhile a kill may have come, or a
        resolver may have taken the row over and called the order absent (C8, I9). That look is two
        statements; a ledger under load answers it in time where the gate itself cannot.
        """
        services, asked_s = self._services, self._services.monotonic()
        answer = await services.ledger.open_gate(
            intent,
            trade.owner,
            token,
            services.now(),
            build_id=services.build_id,
            config_hash=services.config_hash,
            resend=resend,
        )
        looks = LOOKS_MAX if isinstance(answer, GatePermit) else 0
        for _ in range(looks):
            if services.monotonic() - asked_s <= _gate_age_max_s(intent):
                break
            asked_s = services.monotonic()
            if not await services.ledger.may_still_send(
                intent,
                trade.owner,
                token,
                services.now(),
                build_id=services.build_id,
                config_hash=services.config_hash,
            ):
                return answer, -math.inf
        return answer, asked_s

    async def _send_once(
        self, intent: OrderIntent, replaces: str | None, gate_asked_s: float
    ) -> PlaceOutcome:
        """The 150 ms rule, then one attempt: a stopped and woken process does not send (C8)."""
        services = self._services
        if services.monotonic() - gate_asked_s > _gate_age_max_s(intent):
            return NotExecuted(code="STALE_GATE", text="the gate was passed too long ago")
        if replaces is None:
            outcome = await services.broker.place(intent)
        else:
            outcome = await services.broker.replace(replaces, intent)
        services.failpoint("after_response")
        return outcome

    async def _send_without_ledger(
        self, trade: TradeRef, intent: OrderIntent, replaces: str | None, token: str
    ) -> PlaceOutcome:
        """Exits stay open: the scheduled activity is the durable intent (architecture §5.7)."""
        services, asked_at = self._services, activity.info().scheduled_time
        outcome = await self._send_once(intent, replaces, services.monotonic())
        state, snapshot, code = intent_state(outcome, replaces)
        answered_at = services.now()

        async def write() -> None:
            await services.ledger.book_sent_intent(
                intent,
                trade.owner,
                token,
                state,
                asked_at,
                snapshot=snapshot,
                code=code,
                answered_at=answered_at,
            )

        await self._late_rows.book(intent.client_id, write)
        return outcome

    async def _earlier(self, answer: IntentExists) -> PlaceOutcome | OrderSnapshot:
        """What an earlier attempt of the same intent came to; never a second send (I1)."""
        record = answer.record
        if record.state is IntentState.REJECTED:
            return Rejected(code=record.code or "REJECTED", text=record.text)
        if record.state is IntentState.ACCEPTED and record.snapshot is not None:
            return record.snapshot
        if record.state is IntentState.NOT_SENT:
            return NotExecuted(code=record.code, text="this order was given up")
        return UnknownOutcome(reason=f"an earlier attempt left the order {record.state}")

    async def _record(
        self,
        intent: OrderIntent,
        token: str | None,
        outcome: PlaceOutcome,
        replaces: str | None = None,
    ) -> None:
        state, snapshot, code = intent_state(outcome, replaces)
        now = self._services.now()

        async def write() -> None:
            await self._services.ledger.record_answer(
                intent.client_id, token, state, snapshot=snapshot, code=code, at=now, sent_at=now
            )

        # What was refused or not sent is in no read of the broker: nobody else could tell it.
        await self._late_rows.book(intent.client_id, write)

    async def _book_unsent(self, intent: OrderIntent, token: str, why: HoldfastError) -> None:
        """The gate may have passed although its answer was lost (B3): nothing goes out on it.

        Its trade goes on with the next order, so nobody would ask for this one again, and a row
        that stays open hides from reconcile what becomes of the symbol (I10).
        """
        now = self._services.now()

        async def write() -> None:
            await self._services.ledger.record_answer(
                intent.client_id, token, IntentState.NOT_SENT, code=why.code, text=why.text, at=now
            )

        await self._late_rows.book_within(UNSENT_WITHIN_S, intent.client_id, write)

    async def _facts_of(
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
            again = await self._read_back(order.broker_order_id)
            if again is not None:
                await self._book_snapshot(again)
                order = again
                accepted = (*accepted, OrderReported(at=self._services.now(), order=again))
        return (*accepted, *await self._fills_behind(trade, order))

    async def _fills_behind(self, trade: TradeRef, *orders: OrderSnapshot) -> tuple[Fact, ...]:
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
        order = await self._look_up(intent.client_id)
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
        await self._record(intent, None, Accepted(order=order))
        accepted: tuple[Fact, ...] = (
            OrderAccepted(at=now, client_id=intent.client_id, order=order),
        )
        return (*accepted, *await self._fills_behind(trade, order))

    async def _look_up(self, client_id: str) -> OrderSnapshot | None:
        """The order by its client id; None if it is not seen or the look-up failed."""
        try:
            return await self._services.broker.order_by_client_id(client_id)
        except HoldfastError:
            return None

    # --- replace and walk -----------------------------------------------------------------------

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
        outcome = await self._send(trade, intent, replaces=old_broker_id)
        old = await self._read_back(old_broker_id)
        if old is not None:
            # Booked here, its end is no news to the stream, which would ring the trade for it.
            await self._book_snapshot(old)
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
                fills = () if old is None else await self._fills_behind(trade, old)
                # The order first: if it has ended, the refusal leaves no question to read for.
                return (*reported, rejected, *fills)
            case _:
                return (*await self._facts_of(trade, intent, outcome), *reported)
        confirmed = ReplaceConfirmed(
            at=now,
            old_client_id=old_client_id,
            new_client_id=new_id,
            order=order,
            amended=order.broker_order_id == old_broker_id,
        )
        seen = (order,) if old is None else (order, old)
        return (confirmed, *reported, *await self._fills_behind(trade, *seen))

    async def _read_back(self, broker_order_id: str) -> OrderSnapshot | None:
        """The order as the broker shows it now; a miss costs nothing, the next look repairs it."""
        try:
            async with asyncio.timeout(READ_BACK_S):
                return await self._services.broker.order(broker_order_id)
        except (HoldfastError, TimeoutError):
            return None

    @activity.defn(name="walk_step")
    async def walk_step(self, input: WalkInput) -> FactBatch:
        """One step of the walk in one activity: own order, quote, then the replace.

        The step is left out, and said so, if the order is not plainly working, has filled, or if
        the market has traded through the plan's bounds.
        """
        command, trade = input.command, input.trade
        now = self._services.now()
        own, quotes = await asyncio.gather(
            self._read_back(command.old_broker_id), self._read_quotes(input)
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
            fills = () if own is None else await self._fills_behind(trade, own)
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

    # --- cancel ---------------------------------------------------------------------------------

    @activity.defn(name="cancel_order")
    async def cancel_order(self, input: CancelInput) -> FactBatch:
        """Asks for the cancel and reads the order back. Needs no gate: it never adds risk."""
        services, command = self._services, input.command
        broker_id = command.broker_order_id
        if broker_id is None:
            found = await self._look_up(command.client_id)
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
        await self._book_snapshot(after)
        reported = OrderReported(at=services.now(), order=after)
        fills = await self._fills_behind(input.trade, after)
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
        after = await self._read_back(broker_id)
        for _ in range(CANCELS_MORE_MAX):
            is_over = after is None or after.status not in _UNTOUCHED
            late = services.monotonic() - began_s > CANCEL_AGAIN_WITHIN_S
            if is_over or late or not isinstance(outcome, UnknownOutcome):
                break
            await asyncio.sleep(CANCEL_AGAIN_S)
            outcome = await services.broker.cancel(broker_id)
            after = await self._read_back(broker_id) or after
        return outcome, after

    async def _book_snapshot(self, order: OrderSnapshot) -> None:
        try:
            await self._services.ledger.record_snapshot(self._services.account, order)
        except HoldfastError as error:
            activity.logger.warning("order %s not booked: %s", order.broker_order_id, error.code)

    # --- resolve --------------------------------------------------------------------------------

    @activity.defn(name="resolve_order")
    async def resolve_order(self, input: ResolveInput) -> FactBatch:
        """Broker evidence about an unknown order; 404 alone is never a proof (C5).

        Where ids are unique for ever the same body and id is posted again: accepted or duplicate,
        both are safe. Otherwise the order must be absent from look-up, order list and executions
        after the settle window.
        """
        services, command = self._services, input.command
        intent, old_id = command.intent, command.replaces_broker_id
        if old_id is not None and not services.broker.capabilities.replace_makes_new_id:
            return FactBatch(facts=await self._resolve_amend(input, old_id))
        order = await self._look_up(intent.client_id)
        if order is None and command.may_repost:
            outcome = await self._send(
                input.trade, intent, replaces=command.replaces_broker_id, resend=True
            )
            old = await self._old_of(command.replaces_broker_id)
            if isinstance(outcome, Rejected) and may_be_replaced(command, old):
                # Refused because the first attempt has already taken over: no proof of absence.
                outcome = UnknownOutcome(reason=f"{outcome.code}: the old order may be replaced")
            if not isinstance(outcome, NotExecuted):
                facts = await self._facts_of(input.trade, intent, outcome)
                return FactBatch(facts=(*facts, *old))
        if order is not None:
            await self._record(intent, None, Accepted(order=order))
            resolved = OrderResolved(
                at=services.now(), client_id=intent.client_id, order=order, evidence="look-up"
            )
            return FactBatch(
                facts=(
                    resolved,
                    *await self._old_of(command.replaces_broker_id),
                    *await self._fills_behind(input.trade, order),
                )
            )
        return FactBatch(facts=await self._prove_absent(input))

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
        old, now = await self._read_back(old_broker_id), services.now()
        unknown = OrderUnknown(at=now, client_id=client_id, reason="the change is not seen yet")
        if old is None or intent.replaces is None:
            return (unknown,)
        await self._book_snapshot(old)
        reported = OrderReported(at=now, order=old)
        fills = await self._fills_behind(input.trade, old)
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
        old = await self._read_back(broker_order_id)
        return () if old is None else (OrderReported(at=self._services.now(), order=old),)

    async def _prove_absent(self, input: ResolveInput) -> tuple[Fact, ...]:
        """Absent from look-up, list and executions after the settle window is proof.

        Sooner is not, and never for an id that the venue has called a duplicate: it has the
        order. An order that only the list shows is found. Where lists may lag for longer, an entry
        waits for all of it, as nothing is bare meanwhile. An exit does not, for what it protects
        may be, if the account holds what was booked: a hidden exit that fills shows there (C5).
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
            await self._record(command.intent, None, Accepted(order=found))
            resolved = OrderResolved(
                at=services.now(), client_id=client_id, order=found, evidence="order list"
            )
            return (resolved, *await self._fills_behind(input.trade, found))
        if not evidence.is_absent:
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

    async def _told_by_row(
        self, input: ResolveInput, record: IntentRecord
    ) -> tuple[Fact, ...] | None:
        """What the attempt has booked before it died; None if that is nothing definite.

        Where an id may be posted again a refusal speaks of one post only, and proves nothing.
        """
        services, now = self._services, self._services.now()
        client_id, code = record.intent.client_id, record.code
        if record.state is IntentState.ACCEPTED and record.snapshot is not None and not code:
            order = await self._read_back(record.snapshot.broker_order_id) or record.snapshot
            found = OrderResolved(at=now, client_id=client_id, order=order, evidence="ledger")
            old = await self._old_of(input.command.replaces_broker_id)
            return (found, *old, *await self._fills_behind(input.trade, order))
        if services.broker.capabilities.client_id_unique_for_ever:
            return None
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


def _gate_age_max_s(intent: OrderIntent) -> float:
    """How old a permit may be at the send; a slow ledger must not hold up exits for ever (H5)."""
    return GATE_AGE_MAX_S if intent.increasing else REDUCING_GATE_AGE_MAX_S
