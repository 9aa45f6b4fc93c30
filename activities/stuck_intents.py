"""Orders without an answer that nobody asks for any more: reconcile finds what became of them.

Their trade went on or ended before their row was closed. While a row is open, no difference in its
symbols is believed (R7): a liquidation would never be told, and its exits be refused for ever.
The first pass bars whoever may still send, a later one has the proof (C5, C8, I10).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import activity

from activities.absence import LIST_MARGIN_S, bar_senders, look_for
from activities.doorbell import Doorbell
from activities.order_facts import has_prices, is_same_exchange_day
from activities.services import Services
from domain.errors import HoldfastError
from domain.facts import OrderReported
from domain.fold_orders import AMENDED, PROVEN_ABSENT
from domain.order import BrokerOrderStatus, OrderSnapshot
from domain.recon.classify import STUCK_AFTER_S
from ledger.records import DUPLICATE, IntentRecord, IntentState

LOOKS_MAX = 5
LISTED_BACK = timedelta(days=1)
"""A market that runs faster than the wall is listed from far enough back all the same."""
_OPEN = (IntentState.SENDING, IntentState.UNKNOWN)


class StuckIntents:
    """Closes open rows of one account by broker evidence, whether or not their trade is open."""

    def __init__(self, services: Services, doorbell: Doorbell) -> None:
        self._services = services
        self._doorbell = doorbell

    async def settle(self, market_now: datetime) -> int:
        """Looks at each stuck row; how many have an end now.

        What cannot be read or proven stays open and is told by the pass. The newest come first:
        the old ones are those that no look can prove.

        Raises:
            LedgerDown: the rows could not be read.
        """
        services = self._services
        rows = await services.ledger.unresolved_intents(services.account)
        stuck = [row for row in rows if self._is_stuck(row)]
        stuck.sort(key=lambda row: (row.gate_at, row.intent.client_id), reverse=True)
        settled = 0
        for row in stuck[:LOOKS_MAX]:
            try:
                settled += await self._settle(row, market_now)
            except HoldfastError as error:
                client_id = row.intent.client_id
                activity.logger.warning("fate of %s not read: %s", client_id, error.code)
        return settled

    def _is_stuck(self, row: IntentRecord) -> bool:
        age = self._services.now() - row.gate_at
        return row.state in _OPEN and age >= timedelta(seconds=STUCK_AFTER_S)

    async def _settle(self, row: IntentRecord, market_now: datetime) -> bool:
        services, client_id = self._services, row.intent.client_id
        # Named after the run that owns it: a token of another run would mean a rewound trade (K7).
        run = row.attempt_token.partition("/")[0]
        token = f"{run}/reconcile/{services.now().isoformat()}"
        barred = await bar_senders(services, client_id, token)
        if barred is None or barred.attempt_token != token or not self._is_stuck(barred):
            return False
        barred_at = barred.answered_at or services.now()
        waited = services.now() - barred_at
        if waited < self._settle_window():
            return False
        has_own_id = services.broker.capabilities.replace_makes_new_id
        if row.intent.replaces is not None and not has_own_id:
            code = await self._fate_of_change(barred)
        else:
            code = await self._fate_of_order(barred, market_now)
        if not code or (code == PROVEN_ABSENT and waited < self._lists_may_lag(barred)):
            return False
        # By our own token: should somebody be sending it again by now, the row is his (C8).
        stands = await services.ledger.record_answer(
            client_id, token, IntentState.NOT_SENT, code=code, at=services.now()
        )
        if stands.state in _OPEN:
            return False
        details = {"code": code, "trade": row.owner.trade_id}
        await services.ledger.append_audit("reconcile", "intent.settled", client_id, details)
        return True

    def _settle_window(self) -> timedelta:
        """Nobody is bare for this order: it has all the time that a list may lag, and a request."""
        services = self._services
        listed_s = services.broker.capabilities.orders_listed_within_s
        return timedelta(
            seconds=max(services.settle_window_s, listed_s) + services.request_timeout_s
        )

    def _lists_may_lag(self, row: IntentRecord) -> timedelta:
        """How long an entry may be hidden where a second post is the proof: none is made here."""
        posts = self._services.broker.capabilities.client_id_unique_for_ever
        waits = row.intent.increasing and posts
        return timedelta(seconds=self._services.lag_max_s if waits else 0.0)

    async def _fate_of_order(self, row: IntentRecord, market_now: datetime) -> str:
        """The code of a row that is proven absent; empty if it is there or nothing is known."""
        services, client_id = self._services, row.intent.client_id
        age = services.now() - row.gate_at
        today_only = services.broker.capabilities.lists_orders_of_today_only
        found = await services.broker.order_by_client_id(client_id)
        if found is None:
            if today_only and not is_same_exchange_day(market_now - age, market_now):
                return ""
            if await self._is_replacing(row):
                return ""
            margin = timedelta(seconds=LIST_MARGIN_S)
            since = market_now - max(age, LISTED_BACK) - margin
            evidence = await look_for(services, row, since)
            if evidence.is_absent:
                return PROVEN_ABSENT
            found = evidence.found
        if found is not None:
            await self._found(row, found)
        return ""

    async def _is_replacing(self, row: IntentRecord) -> bool:
        """True while the venue still works at the replace that was to make this order."""
        old_id = await self._changed_order(row) if row.intent.replaces is not None else None
        old = await self._services.broker.order(old_id) if old_id is not None else None
        return old is not None and old.status is BrokerOrderStatus.PENDING_REPLACE

    async def _found(self, row: IntentRecord, order: OrderSnapshot) -> None:
        services, now = self._services, self._services.now()
        await services.ledger.record_answer(
            row.intent.client_id, None, IntentState.ACCEPTED, snapshot=order, at=now
        )
        self._doorbell.ring(row.owner.trade_id, OrderReported(at=now, order=order))

    async def _fate_of_change(self, row: IntentRecord) -> str:
        """A change in place is no order of its own: the order shows if it was made (ADR 0017)."""
        broker_order_id = await self._changed_order(row)
        if broker_order_id is None or row.code == DUPLICATE:
            return ""
        order = await self._services.broker.order(broker_order_id)
        if order is None:
            return ""
        await self._services.ledger.record_snapshot(self._services.account, order)
        return AMENDED if has_prices(row.intent, broker_order_id, order) else PROVEN_ABSENT

    async def _changed_order(self, row: IntentRecord) -> str | None:
        """Broker id of the order that was to be changed: one of ours, or a child of ours."""
        name = row.intent.replaces or ""
        old = await self._services.ledger.intent(name)
        if old is not None:
            return old.broker_order_id
        parent_id, _, number = name.rpartition(".")
        parent = await self._services.ledger.intent(parent_id)
        if parent is None or parent.snapshot is None or not number.isdecimal():
            return None
        legs = parent.snapshot.legs
        return legs[int(number) - 1].broker_order_id if 0 < int(number) <= len(legs) else None
