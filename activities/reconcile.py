"""One reconcile pass of an account: broker truth against the ledger, each finding with an owner.

What stream and fast loop repair by themselves (executions, ends of orders) is repaired here with
the same code; the rest is classified by `domain.recon` from two looks and acted on once. A pass
may die or run twice: every repair is idempotent (R8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from temporalio import activity
from temporalio.client import Client

from activities.baseline import take_baseline
from activities.doorbell import Doorbell, Send, temporal_sender
from activities.reporting import report
from activities.services import Services, attempt_token
from activities.stream_events import StreamBooker
from domain.base import Frozen
from domain.commands import AlertSeverity
from domain.errors import HoldfastError, Uncertain
from domain.facts import AdjustmentKind, DiscrepancyFound, Fact, PositionAdjusted
from domain.ids import trade_prefix
from domain.money import total
from domain.order import OrderSnapshot, Position
from domain.recon.classify import (
    Discrepancy,
    DiscrepancyKind,
    LedgerIntent,
    Look,
    OwnedQuantity,
    confirmed,
)
from ledger.records import (
    EXTERNAL,
    AdjustmentRecord,
    ChildOrder,
    IntentRecord,
    IntentState,
    TradePosition,
    TradeRecord,
)

PASS_LEASE_S = 60.0
CHOICES = "choose: adopt it to a trade, ignore it, or flatten it by name"


class ReconcileInput(Frozen):
    """`settle_s` is the wall time between the two looks; longer than an order is in flight."""

    account: str
    settle_s: float = 3.0


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
) -> Look:
    """What was read of both sides as one look; `trades` are the open ones.

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
        reconcile_pass = ReconcilePass(services, temporal_sender(self._client))
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


class ReconcilePass:
    """Two looks, one list of findings, one outcome for each."""

    def __init__(self, services: Services, send: Send) -> None:
        self._services = services
        self._doorbell = Doorbell(
            send,
            sender=f"reconcile/{services.account}",
            now=services.now,
            on_delivered=self._delivered,
        )
        self._booker = StreamBooker(services, self._doorbell)

    async def _delivered(self, trade_id: str, facts: tuple[Fact, ...]) -> None:
        await self._booker.delivered(trade_id, facts)

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
        first = await self._look()
        await asyncio.sleep(input.settle_s)
        await self._booker.compare()
        second = await self._look()
        findings = confirmed(first, second)
        for finding in findings:
            await self._settle(finding)
        await self._remember_foreign(findings)
        return ReconcileReport(missed=missed, findings=findings)

    async def _look(self) -> Look:
        """Both sides, the ledger last: what fills between the reads is booked by then."""
        services, ledger = self._services, self._services.ledger
        account = services.account
        orders = await services.broker.open_orders()
        positions = await services.broker.positions()
        is_flat = False
        if not any(position.quantity for position in positions):
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
            booking = await ledger.record_snapshot(account, order)
            if booking.known:
                known_broker_ids.add(order.broker_order_id)
        owned = await ledger.positions_by_trade(account)
        return look_of(
            services.installation,
            orders=orders,
            positions=positions,
            intents=intents,
            children=children,
            trades=trades,
            owned=owned,
            known_broker_ids=known_broker_ids,
            account_is_flat=is_flat,
            now=services.now(),
        )

    # --- outcomes ---------------------------------------------------------------------------------

    async def _settle(self, finding: Discrepancy) -> None:
        """The one outcome of the finding's class."""
        match finding.kind:
            case DiscrepancyKind.ORPHAN_ENTRY:
                await self._cancel(finding)
            case DiscrepancyKind.ORPHAN_EXIT:
                if finding.trade_id:
                    self._tell(finding)
                    await self._alert(finding)
                else:
                    await self._cancel(finding)
            case DiscrepancyKind.FOREIGN_ORDER:
                pass  # Told once by `_remember_foreign`, never touched.
            case DiscrepancyKind.INTENT_STUCK:
                self._tell(finding)
                await self._alert(finding)
            case DiscrepancyKind.POSITION_MISMATCH:
                await self._book_external(finding)
            case DiscrepancyKind.POSITION_VANISHED:
                await self._book_vanished(finding)
            case DiscrepancyKind.POSITIONS_UNTRUSTED:
                await self._alert(finding)

    async def _cancel(self, finding: Discrepancy) -> None:
        """An order of ours that no trade answers for ends here (R1)."""
        outcome = await self._services.broker.cancel(finding.broker_order_id)
        await self._alert(finding, f"cancel: {outcome.kind}")

    def _tell(self, finding: Discrepancy) -> None:
        fact = DiscrepancyFound(
            at=self._services.now(), code=finding.kind.upper(), text=finding.text
        )
        self._doorbell.ring(finding.trade_id, fact)

    async def _alert(self, finding: Discrepancy, more: str = "") -> None:
        text = f"{finding.text} {more}".strip()
        severity = AlertSeverity.CRITICAL
        await report(self._services, finding.kind.upper(), text, finding.trade_id, severity)

    async def _book_external(self, finding: Discrepancy) -> None:
        """The difference goes to EXTERNAL, which freezes entries in the symbol (R2, I20)."""
        services = self._services
        is_new = await services.ledger.record_adjustment(
            AdjustmentRecord(
                adjustment_id=await self._adjustment_id(finding.symbol, EXTERNAL),
                account=services.account,
                symbol=finding.symbol,
                quantity=finding.quantity,
                kind=AdjustmentKind.EXTERNAL,
                text=finding.text[:200],
                at=services.now(),
            )
        )
        if is_new:
            await self._alert(finding, CHOICES)

    async def _book_vanished(self, finding: Discrepancy) -> None:
        """Each owner loses what the broker took; a flat trade drops its exits at once (R3)."""
        services = self._services
        quotes = await services.broker.quotes([finding.symbol])
        quote = quotes.get(finding.symbol)
        rows = await services.ledger.positions_by_trade(services.account)
        owned = {r.trade_id: r.quantity for r in rows if r.symbol == finding.symbol}
        if sorted(owned) != sorted(finding.owners):
            raise Uncertain(f"owners of {finding.symbol} moved during the pass", code="MOVED")
        gone = finding.quantity
        if total(owned.values()) + gone != 0 and len(owned) != 1:
            raise Uncertain(f"{finding.symbol} moved during the pass", code="MOVED")
        for trade_id, quantity in owned.items():
            lost = gone if len(owned) == 1 else -quantity
            adjustment_id = await self._adjustment_id(finding.symbol, trade_id)
            fact = PositionAdjusted(
                at=services.now(),
                adjustment_id=adjustment_id,
                symbol=finding.symbol,
                quantity=lost,
                price=None if quote is None else quote.mid,
                adjustment=AdjustmentKind.LIQUIDATION,
            )
            await services.ledger.record_adjustment(
                AdjustmentRecord(
                    adjustment_id=adjustment_id,
                    account=services.account,
                    trade_id=trade_id,
                    symbol=finding.symbol,
                    quantity=lost,
                    price=fact.price,
                    kind=fact.adjustment,
                    text=finding.text[:200],
                    at=fact.at,
                )
            )
            self._doorbell.ring(trade_id, fact)
        await self._alert(finding)

    async def _adjustment_id(self, symbol: str, owner: str) -> str:
        """Counts up per owner and symbol: two passes that saw the same book it once (R8)."""
        rows = await self._services.ledger.adjustments(self._services.account)
        number = sum(1 for r in rows if r.symbol == symbol and (r.trade_id or EXTERNAL) == owner)
        return f"recon/{owner}/{symbol}/{number + 1}"

    async def _remember_foreign(self, findings: tuple[Discrepancy, ...]) -> None:
        """Alerts a foreign order once, not in every pass."""
        services, name = self._services, f"foreign-orders/{self._services.account}"
        foreign = {f.broker_order_id: f for f in findings if f.kind == "foreign_order"}
        known = set(filter(None, (await services.ledger.get_cursor(name) or "").split(",")))
        for broker_order_id in sorted(foreign.keys() - known):
            await self._alert(foreign[broker_order_id], "it is left alone")
        if known != foreign.keys():
            await services.ledger.set_cursor(name, ",".join(sorted(foreign)))


def _unknown(
    orders: tuple[OrderSnapshot, ...], client_ids: set[str], broker_ids: set[str]
) -> list[OrderSnapshot]:
    return [
        order
        for order in orders
        if order.client_id not in client_ids and order.broker_order_id not in broker_ids
    ]
