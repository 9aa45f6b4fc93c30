"""Sending an order: gate, one attempt, record (architecture §5, the order protocol).

Every send passes the gate of the ledger in one transaction, is made once, with one HTTP attempt,
and its answer is recorded before it is told. Whatever cannot be known is told as unknown.
"""

from __future__ import annotations

import math
from datetime import datetime

from temporalio import activity

from activities.late_rows import LateRows
from activities.order_facts import intent_state
from activities.reducing import ASK_AGAIN_S, NOT_REDUCING, why_not_reducing
from activities.self_halt import stop_account
from activities.services import Services, TradeRef, attempt_token
from brokers.port import AuthNeeded, NotExecuted, PlaceOutcome, Rejected, UnknownOutcome
from domain.errors import HoldfastError
from domain.facts import DiscrepancyFound
from domain.order import OrderIntent, OrderSnapshot, OrderType
from domain.trade_state import HISTORY_REWOUND
from ledger.records import (
    SELF_HALTING,
    GateAnswer,
    GateCode,
    GatePermit,
    GateRefused,
    IntentExists,
    IntentRecord,
    IntentState,
)

GATE_AGE_MAX_S = 0.150
REDUCING_GATE_AGE_MAX_S = 1.0
LOOKS_MAX = 5
REPOST_REFUSED = "REPOST_REFUSED"
MARKET_ORDERS_DISALLOWED = "MARKET_ORDERS_DISALLOWED"
UNSENT_WITHIN_S = 0.3
"""The gate may have taken most of the step; the next order then need not count this one (I15)."""


class OrderSender:
    """Sends orders of one account, each exactly once."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._late_rows = LateRows()

    async def send(
        self, trade: TradeRef, intent: OrderIntent, replaces: str | None, *, resend: bool = False
    ) -> PlaceOutcome | OrderSnapshot | DiscrepancyFound:
        """Gate, send, record. An earlier attempt's order comes back as its snapshot."""
        services, token = self._services, attempt_token()
        if intent.increasing and (why := services.entry_blocked()):
            return NotExecuted(code="KILLED", text=why)
        if self._is_banned_market_order(intent):
            text = "entries are limit orders"
            if resend:
                return NotExecuted(code=MARKET_ORDERS_DISALLOWED, text=text)
            return Rejected(code=MARKET_ORDERS_DISALLOWED, text=text)
        if not intent.increasing and (why := await why_not_reducing(services, intent)):
            return NotExecuted(code=NOT_REDUCING, text=why, retry_after_s=ASK_AGAIN_S)
        services.failpoint("before_intent_row")
        try:
            answer, gate_asked_s = await self._knock(trade, intent, token, resend)
        except HoldfastError as error:
            if intent.increasing:
                await self._book_unsent(intent, token, error, resend)
                return NotExecuted(code=error.code, text=error.text)
            return await self._send_without_ledger(trade, intent, replaces, token, resend)
        services.failpoint("after_intent_row")
        match answer:
            case GateRefused():
                if answer.code in SELF_HALTING:
                    await self._stop_ourselves(intent, answer)
                taken = None if resend else await self._place_is_taken(intent, answer)
                return taken or NotExecuted(code=answer.code, text=answer.text)
            case IntentExists():
                rewound = None if resend else await self._sent_before(answer.record, token)
                return rewound or await self._earlier(answer)
            case GatePermit():
                outcome = await self._send_once(intent, replaces, gate_asked_s)
        known = _of_all_posts(outcome) if resend else outcome
        await self.record(intent, token, known, replaces, made_nothing=known is not outcome)
        services.failpoint("after_ledger")
        return outcome if isinstance(outcome, NotExecuted) else known

    async def _stop_ourselves(self, intent: OrderIntent, refused: GateRefused) -> None:
        """A loop is at work: no entry of the account goes out until people lift the kill.

        Should the ledger be away just now, the next knock of the loop is refused and stops it.
        """
        text = f"{refused.code}: {refused.text}"
        try:
            await stop_account(self._services, intent.client_id, text)
        except HoldfastError as error:
            activity.logger.error("%s, and no kill was engaged: %s", text, error.code)

    async def _sent_before(self, known: IntentRecord, token: str) -> DiscrepancyFound | None:
        """A new order that this trade has sent before: its history was set back (K7, H3).

        By another run, as a reset makes one, or in a store that is older than the ledger: before
        this step was scheduled at all. A step that was given up and comes late was scheduled before
        its resolver sent the order. A trade whose end is booked ends as it had.
        """
        run, earlier = token.partition("/")[0], known.attempt_token.partition("/")[0]
        if run == earlier and known.gate_at >= activity.info().scheduled_time:
            return None
        trade = await self._services.ledger.trade(known.owner.trade_id)
        if trade is not None and trade.closed_at is not None:
            return None
        text = f"{known.intent.client_id} was sent by run {earlier} at {known.gate_at:%H:%M:%S}"
        return DiscrepancyFound(at=self._services.now(), code=HISTORY_REWOUND, text=text)

    async def _place_is_taken(
        self, intent: OrderIntent, refused: GateRefused
    ) -> DiscrepancyFound | None:
        """Another order of this trade stands under this sequence: its history was set back (H3).

        It decides otherwise than it did, on another day say. Refused alone, it would send the same
        under the next sequence, beside the order that it does not know.
        """
        if refused.code is not GateCode.INTENT_BODY_DIFFERS:
            return None
        try:
            book = await self._services.ledger.trade_book(intent.key.trade_id)
        except HoldfastError:
            return None
        if book is None or book.trade.closed_at is not None:
            return None
        mine = (o.intent for o in book.orders if o.intent.key == intent.key)
        if all(each.client_id == intent.client_id for each in mine):
            return None
        return DiscrepancyFound(at=self._services.now(), code=HISTORY_REWOUND, text=refused.text)

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
        self, trade: TradeRef, intent: OrderIntent, replaces: str | None, token: str, resend: bool
    ) -> PlaceOutcome:
        """Exits stay open: the scheduled activity is the durable intent (architecture §5.7)."""
        services, asked_at = self._services, activity.info().scheduled_time
        outcome = await self._send_once(intent, replaces, services.monotonic())
        known = _of_all_posts(outcome) if resend else outcome
        state, snapshot, code = intent_state(known, replaces)
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

        if known is outcome:
            await self._late_rows.book(intent.client_id, write)
        # Else a second post made nothing: the row stands as the first one left it (C8).
        return outcome if isinstance(outcome, NotExecuted) else known

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

    async def record(
        self,
        intent: OrderIntent,
        token: str | None,
        outcome: PlaceOutcome,
        replaces: str | None = None,
        *,
        made_nothing: bool = False,
    ) -> None:
        """Books what came of an order; the attempt's token keeps a barred attempt out (C8).

        Of a second post that surely `made_nothing` no order will arrive: the doubt is about the
        earlier ones, and the settle window counts from them.
        """
        state, snapshot, code = intent_state(outcome, replaces)
        now = self._services.now()
        at = None if made_nothing else now

        async def write() -> None:
            await self._services.ledger.record_answer(
                intent.client_id, token, state, snapshot=snapshot, code=code, at=at, sent_at=now
            )

        # What was refused or not sent is in no read of the broker: nobody else could tell it.
        await self._late_rows.book(intent.client_id, write)

    async def record_found(
        self, trade: TradeRef, intent: OrderIntent, order: OrderSnapshot, sent_at: datetime
    ) -> None:
        """Books an order that the broker shows, with its row if it has none.

        It went out while the ledger was away, and its process died before it could write the row:
        without one the executions of a stop that hangs on it would be nobody's (H5, I12).
        """
        token, now = attempt_token(), self._services.now()

        async def write() -> None:
            await self._services.ledger.book_sent_intent(
                intent,
                trade.owner,
                token,
                IntentState.ACCEPTED,
                sent_at,
                snapshot=order,
                answered_at=now,
            )

        await self._late_rows.book(intent.client_id, write)

    async def _book_unsent(
        self, intent: OrderIntent, token: str, why: HoldfastError, resend: bool
    ) -> None:
        """The gate may have passed although its answer was lost (B3): nothing goes out on it.

        Its trade goes on with the next order, so nobody would ask for this one again, and a row
        that stays open hides from reconcile what becomes of the symbol (I10). One that was posted
        before stays unknown since then: its resolver asks on.
        """
        state = IntentState.UNKNOWN if resend else IntentState.NOT_SENT
        at = None if resend else self._services.now()

        async def write() -> None:
            await self._services.ledger.record_answer(
                intent.client_id, token, state, code=why.code, text=why.text, at=at
            )

        await self._late_rows.book_within(UNSENT_WITHIN_S, intent.client_id, write)


def _gate_age_max_s(intent: OrderIntent) -> float:
    """How old a permit may be at the send; a slow ledger must not hold up exits for ever (H5)."""
    return GATE_AGE_MAX_S if intent.increasing else REDUCING_GATE_AGE_MAX_S


def _of_all_posts(outcome: PlaceOutcome) -> PlaceOutcome:
    """What the answer to a second post says of the order: a refusal speaks of that post alone.

    The first one may have been taken. A venue may look at what is free to sell before it looks at
    the id, and then it refuses the second post for what the first one holds or has done (C5).
    """
    match outcome:
        case Rejected(code=code):
            return UnknownOutcome(reason=f"{REPOST_REFUSED} {code}")
        case AuthNeeded():
            return UnknownOutcome(reason=f"{REPOST_REFUSED} AUTH")
        case NotExecuted(code=code):
            return UnknownOutcome(reason=code)
    return outcome
