"""Bugs of sending: answers lost, asked again, believed too soon (architecture §5)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from activities import order_sending
from activities.order_answers import OrderAnswers
from activities.order_resolving import OrderResolver
from brokers.alpaca.client import AlpacaBroker
from brokers.port import (
    Duplicate,
    NotExecuted,
    PlaceOutcome,
    Rejected,
    ReplaceOutcome,
    UnknownOutcome,
)
from brokers.tradier import mapping as tradier_mapping
from brokers.tradier.client import TradierBroker
from domain import fold, fold_orders
from domain.facts import Fact, KillEngaged, OrderNotSent, OrderResolved, OrderUnknown
from domain.order import OrderIntent, OrderSnapshot
from domain.trade_state import TradeState
from ledger.records import IntentState
from tests.museum.exhibit import Plant, planted
from tests.simulation import ledger as memory

_place = AlpacaBroker.place
_tradier_place = TradierBroker.place
_facts_of = OrderAnswers.facts_of
_next_key = TradeState.next_key


async def _timeout_is_failure(
    self: OrderAnswers, trade: Any, intent: OrderIntent, outcome: PlaceOutcome | OrderSnapshot
) -> tuple[Fact, ...]:
    if isinstance(outcome, UnknownOutcome):
        outcome = NotExecuted(code="NOT_CONNECTED", text=outcome.reason)
    return await _facts_of(self, trade, intent, outcome)


def timeout_is_failure() -> Plant:
    """No answer counts as "was not sent"; the trade asks again with the next number."""
    return planted((OrderAnswers, "facts_of", _timeout_is_failure))


async def _retry_with_new_id(self: AlpacaBroker, intent: OrderIntent) -> PlaceOutcome:
    outcome = await _place(self, intent)
    if not isinstance(outcome, UnknownOutcome):
        return outcome
    body_part = f"{int(intent.client_id[-8:], 16) ^ 1:08x}"
    again = intent.model_copy(update={"client_id": intent.client_id[:-8] + body_part})
    return await _place(self, again)


def client_retries_with_new_id() -> Plant:
    """The broker client sends a request that was not answered once more, with a fresh id."""
    return planted((AlpacaBroker, "place", _retry_with_new_id))


async def _retry_with_same_tag(self: TradierBroker, intent: OrderIntent) -> PlaceOutcome:
    outcome = await _tradier_place(self, intent)
    return await _tradier_place(self, intent) if isinstance(outcome, UnknownOutcome) else outcome


def client_retries_with_same_tag() -> Plant:
    """As above with the same tag, at a venue where a tag is only a label."""
    return planted((TradierBroker, "place", _retry_with_same_tag))


def resends_where_ids_are_labels() -> Plant:
    """An unknown order is posted again although the venue takes one id twice."""
    believed = tradier_mapping.TRADIER_CAPABILITIES.model_copy(
        update={"client_id_unique_for_ever": True}
    )
    return planted((tradier_mapping, "TRADIER_CAPABILITIES", believed))


async def _absent_at_first_look(self: OrderResolver, input: Any) -> tuple[Fact, ...]:
    services, client_id = self._services, input.command.intent.client_id
    await services.ledger.record_answer(
        client_id, None, IntentState.NOT_SENT, code="PROVEN_ABSENT", at=services.now()
    )
    return (
        OrderResolved(at=services.now(), client_id=client_id, order=None, evidence="not found"),
    )


def not_found_is_absent() -> Plant:
    """The first look-up that does not find an order proves that there is none."""
    return planted((OrderResolver, "_prove_absent", _absent_at_first_look))


async def _duplicate_is_rejection(self: AlpacaBroker, intent: OrderIntent) -> PlaceOutcome:
    outcome = await _place(self, intent)
    if isinstance(outcome, Duplicate):
        return Rejected(code="DUPLICATE", text=outcome.text)
    return outcome


def duplicate_is_rejection() -> Plant:
    """The venue's "id is known" of our own earlier success counts as a refusal, and as final."""
    return planted(
        (AlpacaBroker, "place", _duplicate_is_rejection),
        (order_sending, "_of_all_posts", lambda outcome: outcome),
    )


def refusal_of_a_second_post_is_final() -> Plant:
    """What is posted again and refused counts as refused, whatever became of the first post."""
    return planted((order_sending, "_of_all_posts", lambda outcome: outcome))


async def _replace_without_confirmation(
    self: AlpacaBroker, broker_order_id: str, intent: OrderIntent
) -> ReplaceOutcome:
    await self.cancel(broker_order_id)
    return await _place(self, intent)


def replaces_before_the_cancel_is_confirmed() -> Plant:
    """A change is a cancel that nobody waits for, and a new order of the full size."""
    return planted((AlpacaBroker, "replace", _replace_without_confirmation))


def _asked_is_not_sent(state: TradeState, fact: OrderUnknown, now: datetime) -> TradeState:
    told = OrderNotSent(at=fact.at, client_id=fact.client_id, code="NOT_CONNECTED")
    return fold_orders.order_not_sent(state, told, now)


def sends_again_after_restart() -> Plant:
    """What a dead process had been asked to send is sent again by the next one."""
    return planted((fold._HANDLERS, OrderUnknown, _asked_is_not_sent))


def counts_from_one_again() -> Plant:
    """Order numbers are taken from a counter that a restart, or a venue, rolls back."""

    def rolled_back(self: TradeState, *args: Any, **options: Any) -> Any:
        key = _next_key(self, *args, **options)
        return key.model_copy(update={"sequence": 1})

    return planted((TradeState, "next_key", rolled_back))


def kill_is_not_asked_at_the_last_hop() -> Plant:
    """Those who send do not ask for the kill, and who decides was not told of it."""
    return planted(
        (memory, "_verdict", lambda *_, **__: None),
        (fold._HANDLERS, KillEngaged, lambda state, fact, now: state),
    )
