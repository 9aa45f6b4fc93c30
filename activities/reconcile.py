"""One reconcile pass of an account: broker truth against the ledger, each finding with an owner.

What stream and fast loop repair by themselves (executions, ends of orders) is repaired here with
the same code; the rest is classified by `domain.recon` from two looks and acted on once. A pass
may die or run twice: every repair is idempotent (R8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client

from activities.baseline import take_baseline
from activities.direct_orders import book_direct_orders
from activities.doorbell import Doorbell, Send, temporal_sender
from activities.fee_job import settle_fees
from activities.recon_outcomes import Outcomes
from activities.recon_reading import CashRead, Statement, read_cash, read_statement, set_anchor
from activities.restore import Restorer
from activities.services import Services, attempt_token
from activities.stream_events import StreamBooker
from activities.stuck_intents import StuckIntents
from domain.account import MarketClock
from domain.base import Frozen
from domain.errors import HoldfastError
from domain.facts import Fact
from domain.ids import TRADE_QUEUE, trade_prefix
from domain.order import OrderSnapshot, Position
from domain.recon.cash import CashRule
from domain.recon.classify import (
    Discrepancy,
    LedgerIntent,
    Look,
    OwnedQuantity,
    classify,
    confirmed,
)
from ledger.records import (
    ChildOrder,
    IntentRecord,
    IntentState,
    TradePosition,
    TradeRecord,
)

PASS_LEASE_S = 60.0
DIRECT_ORDERS_BACK = timedelta(days=1)
DIRECT_ORDERS_BACK_FIRST = timedelta(days=7)


class ReconcileInput(Frozen):
    """`settle_s` is the wall time between the two looks; longer than an order is in flight.

    `trade_queue` is where a trade that must be opened again is started.
    """

    account: str
    settle_s: float = 3.0
    cash_rule: CashRule = CashRule()
    trade_queue: str = TRADE_QUEUE


class ReconcileReport(Frozen):
    """What a pass found and did.

    `missed` counts executions and order ends that nobody had told (F1); they are booked and told.
    `skipped`: another pass was running.
    """

    skipped: bool = False
    missed: int = 0
    findings: tuple[Discrepancy, ...] = ()


def good_pass_cursor(account: str) -> str:
    """Ledger cursor that holds the instant of the last good pass."""
    return f"reconcile/{account}"


async def reconcile_age_s(services: Services) -> float | None:
    """Wall seconds since the last good pass; None if there was none. Old age is an alert."""
    stored = await services.ledger.get_cursor(good_pass_cursor(services.account))
    if stored is None:
        return None
    return (services.now() - datetime.fromisoformat(stored)) / timedelta(seconds=1)


def look_of(
    installation: str,
    *,
    orders: Sequence[OrderSnapshot],
    positions: Sequence[Position],
    intents: Sequence[IntentRecord],
    children: Sequence[ChildOrder],
    trades: Sequence[TradeRecord],
    owned: Sequence[TradePosition],
    known_broker_ids: Collection[str] = (),
    account_is_flat: bool,
    now: datetime,
    **more: Any,
) -> Look:
    """What was read of both sides as one look; `trades` are the open ones, `more` the optional
    fields of `Look`.

    Pure, and shared with `preflight`, which concludes the same but repairs nothing.
    """
    known = {record.broker_order_id for record in intents if record.broker_order_id is not None}
    known |= {child.broker_order_id for child in children}
    unresolved = (IntentState.SENDING, IntentState.UNKNOWN)
    return Look(
        installation=installation,
        orders=tuple(orders),
        known_client_ids=frozenset(record.intent.client_id for record in intents),
        known_broker_ids=frozenset(known | set(known_broker_ids)),
        intents=tuple(
            LedgerIntent(
                client_id=record.intent.client_id,
                trade_id=record.owner.trade_id,
                symbols=record.owner.symbols,
                is_unresolved=record.state in unresolved,
                age_s=(now - record.gate_at) / timedelta(seconds=1),
            )
            for record in intents
        ),
        open_trades={
            trade_prefix(installation, trade.trade_id): trade.trade_id for trade in trades
        },
        owned=tuple(
            OwnedQuantity(owner=row.trade_id, symbol=row.symbol, quantity=row.quantity)
            for row in owned
        ),
        positions=tuple(positions),
        account_is_flat=account_is_flat,
        **more,
    )


class ReconcileActivities:
    """Reconciliation on the stream workers, inside their share of the request budget."""

    def __init__(self, services: Services, client: Client) -> None:
        self._services = services
        self._client = client

    @activity.defn(name="reconcile_account")
    async def reconcile_account(self, input: ReconcileInput) -> ReconcileReport:
        """One pass.

        Raises:
            HoldfastError: a side could not be read; nothing was concluded, ask again.
        """
        services, name = self._services, f"reconcile/{self._services.account}"
        holder = attempt_token()
        epoch = await services.ledger.take_lease(name, holder, PASS_LEASE_S)
        if epoch is None:
            return ReconcileReport(skipped=True)
        restorer = Restorer(services, self._client, input.trade_queue)
        reconcile_pass = ReconcilePass(services, temporal_sender(self._client), restorer)
        try:
            found = await reconcile_pass.run(input)
            await services.ledger.set_cursor(
                good_pass_cursor(services.account), services.now().isoformat()
            )
            await _keep_baseline(services)
        finally:
            await reconcile_pass.aclose()
            await services.ledger.release_lease(name, holder, epoch)
        return found


async def _keep_baseline(services: Services) -> None:
    """The day's equity baseline minutes after the roll, whether or not anybody trades (row 17)."""
    try:
        await take_baseline(services)
    except HoldfastError as error:
        activity.logger.warning("equity baseline was not taken: %s", error.code)


class _Reading(Frozen):
    """One look, and the cash behind it."""

    look: Look
    cash: CashRead | None


class ReconcilePass:
    """Two looks, one list of findings, one outcome for each.

    Without a restorer a trade that must be opened again waits for a pass that has one.
    """

    def __init__(self, services: Services, send: Send, restorer: Restorer | None = None) -> None:
        self._services = services
        self._restorer = restorer
        self._doorbell = Doorbell(
            send,
            sender=f"reconcile/{services.account}",
            now=services.now,
            on_delivered=self._delivered,
            on_closed=self._closed,
        )
        self._booker = StreamBooker(services, self._doorbell)
        self._outcomes = Outcomes(services, self._doorbell)
        self._stuck = StuckIntents(services, self._doorbell)

    async def _delivered(self, trade_id: str, facts: tuple[Fact, ...]) -> None:
        await self._booker.delivered(trade_id, facts)
        await self._outcomes.delivered(facts)

    async def _closed(self, trade_id: str, facts: tuple[Fact, ...]) -> None:
        """A trade that ended before a split or another's deed gave it shares again (R5, D9)."""
        if self._restorer and await self._outcomes.gave_shares(trade_id, facts):
            await self._restorer.reopen(trade_id, "an adjustment came after the end")
            await self._outcomes.delivered(facts)

    async def told(self) -> None:
        """Waits until trades have taken what they were told."""
        await self._doorbell.drain()

    async def aclose(self) -> None:
        """Sends what still waits, for a moment."""
        await self._booker.aclose()
        await self._doorbell.aclose()

    async def run(self, input: ReconcileInput) -> ReconcileReport:
        """Repairs what is plain, then settles what stands in both looks."""
        missed = await self._booker.compare()
        if missed:
            # Information, not an alarm: both usual paths were late or away.
            activity.logger.warning("reconcile told %d things that nobody had told", missed)
        clock = await self._services.broker.market_clock()
        await self._outcomes.tell_untold()
        await self._book_direct_orders(clock.market_now)
        settled = await self._stuck.settle(clock.market_now)
        if settled:
            activity.logger.warning("reconcile closed %d orders without an answer", settled)
        statement = await self._read_statement(clock.market_now)
        first = await self._look(input, clock, statement)
        await asyncio.sleep(input.settle_s)
        await self._booker.compare()
        second = await self._look(input, clock, statement)
        findings = confirmed(first.look, second.look)
        for finding in findings:
            await self._outcomes.settle(finding, statement.events, clock.market_now)
        await self._outcomes.remember_foreign(findings)
        await self._anchor_cash(first, second, findings)
        await settle_fees(self._services, clock.market_now)
        return ReconcileReport(missed=missed + statement.booked, findings=findings)

    async def _book_direct_orders(self, market_now: datetime) -> None:
        """Rows for what a flatten sent without the ledger, back to before the last good pass."""
        age_s = await reconcile_age_s(self._services)
        back = DIRECT_ORDERS_BACK_FIRST
        if age_s is not None:
            back = max(DIRECT_ORDERS_BACK, timedelta(seconds=age_s))
        booked = await book_direct_orders(self._services, market_now - back)
        if booked:
            activity.logger.warning("reconcile booked %d orders of a direct flatten", booked)

    async def _read_statement(self, market_now: datetime) -> Statement:
        """Rows of the broker's statement; money that it tells is booked and told on the way."""
        statement = await read_statement(self._services, market_now)
        for trade_id, fact in statement.told:
            self._doorbell.ring(trade_id, fact)
        return statement

    async def _anchor_cash(
        self, first: _Reading, second: _Reading, findings: Sequence[Discrepancy]
    ) -> None:
        """Cash is compared from the first quiet pass on: what was before is the account's own."""
        one, two = first.cash, second.cash
        if one is None or two is None or two.anchor is not None or findings:
            return
        if one.broker - one.booked == two.broker - two.booked and not classify(second.look):
            await set_anchor(self._services, two.broker - two.booked)

    async def _look(
        self, input: ReconcileInput, clock: MarketClock, statement: Statement
    ) -> _Reading:
        """Both sides, the ledger last: what fills between the reads is booked by then."""
        services, ledger = self._services, self._services.ledger
        account = services.account
        asked_at = services.now()
        orders = await services.broker.open_orders()
        positions = await services.broker.positions()
        shown = await services.broker.account()
        is_flat = shown.equity is not None and shown.equity == shown.cash
        intents = await ledger.open_orders(account)
        children = await ledger.open_children(account)
        trades = await ledger.list_trades(account=account, open_only=True)
        known_client_ids = {record.intent.client_id for record in intents}
        known_broker_ids = {r.broker_order_id for r in intents if r.broker_order_id is not None}
        known_broker_ids |= {child.broker_order_id for child in children}
        for order in _unknown(orders, known_client_ids, known_broker_ids):
            # Booking finds owners that the live lists do not show (a dead row, a replacement).
            booking = await ledger.record_snapshot(account, order, seen_at=asked_at)
            if booking.known:
                known_broker_ids.add(order.broker_order_id)
        owned = await ledger.positions_by_trade(account)
        cash = await read_cash(services, shown, trades)
        tells = services.broker.capabilities.tells_account_events
        look = look_of(
            services.installation,
            orders=orders,
            positions=positions,
            intents=intents,
            children=children,
            trades=trades,
            owned=owned,
            known_broker_ids=known_broker_ids,
            account_is_flat=is_flat and not any(position.quantity for position in positions),
            now=services.now(),
            events=statement.events,
            fees=statement.fees,
            tells_events=tells,
            today=clock.session_date or clock.market_now.date(),
            cash=None if cash is None else cash.look,
            cash_rule=input.cash_rule if tells else input.cash_rule.coarse,
        )
        return _Reading(look=look, cash=cash)


def _unknown(
    orders: tuple[OrderSnapshot, ...], client_ids: set[str], broker_ids: set[str]
) -> list[OrderSnapshot]:
    return [
        order
        for order in orders
        if order.client_id not in client_ids and order.broker_order_id not in broker_ids
    ]
