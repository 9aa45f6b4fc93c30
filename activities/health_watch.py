"""What nobody reports about itself: trades that are stuck, were ended or set back, a reconcile that
stopped.

Runs beside the alert sender and looks every few seconds. A wedged workflow task is seen by
Temporal's own search attribute; the ledger says which trades are this account's. A trade that
somebody terminated while it is open is rebuilt from the ledger (faults.md K7, B4): it finds its
orders at the broker, never enters again, and gives its reservation back when it has closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from activities.day_reading import is_bare, night_stops
from activities.older_ledger import OlderLedger
from activities.protective_orders import protection_by_ledger, protective_orders
from activities.reconcile import reconcile_age_s
from activities.reporting import report
from activities.restore import Restorer
from activities.rewound import RewoundWatch
from activities.services import Services
from domain.account import AccountSnapshot
from domain.errors import HoldfastError, Transient
from domain.ids import TRADE_QUEUE, trade_workflow_id
from domain.money import ZERO
from domain.occ import OPTION_MULTIPLIER, looks_like_option
from domain.order import Position, Quote
from ledger.records import IntentRecord, TradeRecord

LOOK_EVERY_S = 5.0
VALUE_EVERY_S = 60.0
BROKER_AWAY_S = 30.0
"""From the first reading that failed: a key that was revoked shows nowhere else while nothing is
traded, and no exit would go out (I18)."""
RECONCILE_LATE_S = 660.0
"""Two passes of five minutes and a minute: one pass that failed is not an alarm."""
BARE_TOLD_S = 10.0
"""Twice what a position may stand bare after a fill (I4): an exit in a slow lane takes less."""
ALL_SEEN_EVERY_S = 30.0
ORDERS_ONE_BY_ONE_MAX = 10
STUCK = (
    "WorkflowType = 'Trade' AND ExecutionStatus = 'Running'"
    " AND TemporalReportedProblems IS NOT NULL"
)
ENDED = (
    "WorkflowType = 'Trade' AND ExecutionStatus IN ('Terminated', 'Failed', 'TimedOut', 'Canceled')"
    " AND CloseTime > '{since}'"
)
ENDED_WITHIN = timedelta(minutes=15)
"""Behind the last look that came through: a restart may fail, and an end be listed late."""
ENDED_BEFORE = timedelta(days=7)
"""Before the first look: nobody may have looked for a while."""
REOPEN_MAX = 3
LIST_TIMEOUT = timedelta(seconds=3)
NET_BATCH, NET_BATCHES_MAX = 500, 20

_log = logging.getLogger(__name__)


class HealthWatch:
    """Tells stuck trades, a late reconcile and a mute broker, and brings back ended trades."""

    def __init__(
        self, services: Services, client: Client, *, task_queue: str = TRADE_QUEUE
    ) -> None:
        self._services = services
        self._client = client
        self._restorer = Restorer(services, client, task_queue)
        self._rewound = RewoundWatch(services, client, OlderLedger(services, client))
        self._reopened: Counter[str] = Counter()
        self._left: set[str] = set()
        self._ended_until: datetime | None = None
        self._began_s = services.monotonic()
        self._stuck: frozenset[str] = frozenset()
        self._bare_since_s: dict[str, float] = {}
        self._all_seen_s: float | None = None
        self._bare_told: frozenset[str] = frozenset()
        self._is_late = False
        self._valued_s: float | None = None
        self._away_since_s: float | None = None
        self._away_told = False

    async def run(self) -> None:
        """Looks for ever; what cannot be asked now is asked again."""
        while True:
            try:
                await self.look()
            except (HoldfastError, RPCError, RuntimeError) as error:
                if isinstance(error, RPCError):
                    self._rewound.begin_again()
                _log.warning("health of %s was not seen: %s", self._services.account, error)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """One look at workflows and reconcile; each trouble is told when it begins."""
        await self._look_for_bare()
        await self._look_for_stuck()
        await self._look_for_ended()
        await self._rewound.look()
        await self._look_at_reconcile()
        now_s = self._services.monotonic()
        if self._valued_s is None or now_s - self._valued_s >= VALUE_EVERY_S:
            self._valued_s = now_s
            await self._net()
            await self._look_at_broker()

    async def _net(self) -> None:
        """Flat positions are summed no more: the gate's reading does not grow with the years."""
        services = self._services
        try:
            for _ in range(NET_BATCHES_MAX):
                if await services.ledger.net_positions(services.account, NET_BATCH) < NET_BATCH:
                    return
        except Transient as error:
            _log.info("flat positions of %s are netted later: %s", services.account, error)

    async def _look_at_broker(self) -> None:
        """Three requests a minute; what does not answer is asked at each look, and told once."""
        broker, now_s = self._services.broker, self._services.monotonic()
        try:
            account, positions = await broker.account(), await broker.positions()
        except HoldfastError as error:
            self._valued_s = None
            if self._away_since_s is None:
                self._away_since_s = now_s
            if now_s - self._away_since_s >= BROKER_AWAY_S and not self._away_told:
                self._away_told = True
                text = f"{error.code}: account and positions cannot be read; no exit may go out now"
                await report(self._services, "BROKER_UNREADABLE", text)
            return
        self._away_since_s, self._away_told = None, False
        await self._value(account, positions)

    async def _value(self, account: AccountSnapshot, positions: Sequence[Position]) -> None:
        """Equity and what open positions are worth, for eyes only."""
        services, meter = self._services, self._services.meter
        if account.equity is not None:
            meter.set("equity_amount", float(account.equity))
            baseline = await services.ledger.equity_baseline(services.account)
            if baseline is not None:
                meter.set("daily_result_amount", float(account.equity - baseline.equity))
        held = [p for p in positions if p.quantity]
        quotes = await services.broker.quotes([p.symbol for p in held]) if held else {}
        results = [_unrealised(position, quotes.get(position.symbol)) for position in held]
        # Without one price there is no sum: a wrong number is worse than an old one.
        if None not in results:
            meter.set("unrealised_amount", float(sum(filter(None, results), ZERO)))

    async def _look_for_bare(self) -> None:
        """Positions that stand without their stop for longer than an exit or a fill explains (I4).

        Where the ledger alone proves it: the trade's own word is older than its last step.
        """
        ledger, account = self._services.ledger, self._services.account
        now_s, bare = self._services.monotonic(), dict[str, float]()
        suspects = await self._may_be_bare(now_s)
        owned = await ledger.positions_by_trade(account) if suspects else ()
        stops = night_stops(await self._orders_of(suspects), {})
        for trade in suspects:
            if is_bare(trade, owned, stops.get(trade.trade_id, ())):
                bare[trade.trade_id] = self._bare_since_s.get(trade.trade_id, now_s)
        self._bare_since_s = bare
        late = {each for each, since_s in bare.items() if now_s - since_s >= BARE_TOLD_S}
        for trade in suspects:
            if trade.trade_id in late - self._bare_told:
                seconds = now_s - bare[trade.trade_id]
                text = f"{trade.symbol} without a stop for {seconds:.0f} s ({trade.stage})"
                await report(self._services, "POSITION_NAKED", text, trade.trade_id)
        self._bare_told = frozenset(late)

    async def _may_be_bare(self, now_s: float) -> tuple[TradeRecord, ...]:
        """Those whose row says so at every look, all others every half minute.

        A row is written with a step at the broker: an exit that waits for a price after it has
        released the stop makes none, and its row says `resting`.
        """
        ledger, account = self._services.ledger, self._services.account
        is_full = self._all_seen_s is None or now_s - self._all_seen_s >= ALL_SEEN_EVERY_S
        if is_full:
            self._all_seen_s = now_s
        word = None if is_full or self._bare_since_s else "naked"
        return await ledger.list_trades(account=account, open_only=True, protection=word)

    async def _orders_of(self, trades: Sequence[TradeRecord]) -> list[IntentRecord]:
        """Live orders of these trades, read one by one or all at once, whichever is less."""
        ledger, account = self._services.ledger, self._services.account
        if len(trades) > ORDERS_ONE_BY_ONE_MAX:
            return list(await ledger.open_orders(account))
        return [
            order
            for trade in trades
            for order in await ledger.open_orders(account, trade_id=trade.trade_id)
        ]

    async def _look_for_stuck(self) -> None:
        listed = self._client.list_workflows(STUCK, rpc_timeout=LIST_TIMEOUT)
        reported = {each.id async for each in listed}
        if not reported:
            self._stuck = frozenset()
            return
        trades = await self._services.ledger.list_trades(
            account=self._services.account, open_only=True
        )
        stuck = {t.trade_id for t in trades if trade_workflow_id(t.trade_id) in reported}
        fresh = sorted(stuck - self._stuck)
        services = self._services
        found = await protective_orders(services.ledger, services.account) if fresh else {}
        for trade_id in fresh:
            protection = protection_by_ledger(found, services.installation, trade_id)
            text = f"the workflow cannot go on (see its Web UI page); protection: {protection}"
            await report(self._services, "TRADE_STUCK", text, trade_id)
        self._stuck = frozenset(stuck)

    async def _look_for_ended(self) -> None:
        """Trades that the ledger has open and whose workflow came to no end of its own."""
        now = self._services.now()
        since = (self._ended_until or now - ENDED_BEFORE) - ENDED_WITHIN
        found = self._client.list_workflows(
            ENDED.format(since=f"{since:%Y-%m-%dT%H:%M:%SZ}"), rpc_timeout=LIST_TIMEOUT
        )
        ended = {each.id: each.status async for each in found}
        if not ended:
            self._ended_until = now
            return
        trades = await self._services.ledger.list_trades(
            account=self._services.account, open_only=True
        )
        for trade in trades:
            status = ended.get(trade_workflow_id(trade.trade_id))
            if status is None:
                continue
            if self._reopened[trade.trade_id] >= REOPEN_MAX:
                await self._leave_to_a_person(trade)
                continue
            try:
                reason = f"its workflow was {status.name.lower()} while it was open"
                self._reopened[trade.trade_id] += await self._restorer.reopen(
                    trade.trade_id, reason
                )
            except HoldfastError as error:
                self._reopened[trade.trade_id] += 1
                await report(self._services, "RESTORE_FAILED", error.text, trade.trade_id)
        self._ended_until = now

    async def _leave_to_a_person(self, trade: TradeRecord) -> None:
        """Tells once that a trade whose every restart ended is started no more.

        Of one whose last restart runs, only an earlier run was listed.
        """
        if trade.trade_id in self._left:
            return
        handle = self._client.get_workflow_handle(trade_workflow_id(trade.trade_id))
        described = await handle.describe(rpc_timeout=LIST_TIMEOUT)
        if described.status is WorkflowExecutionStatus.RUNNING:
            return
        self._left.add(trade.trade_id)
        text = f"it ended again after {REOPEN_MAX} restarts and is left as it is ({trade.stage})"
        await report(self._services, "RESTORE_FAILED", text, trade.trade_id)

    async def _look_at_reconcile(self) -> None:
        age_s = await reconcile_age_s(self._services)
        if age_s is None:
            age_s = self._services.monotonic() - self._began_s
        is_late = age_s > RECONCILE_LATE_S
        if is_late and not self._is_late:
            text = "broker and ledger were not compared for more than eleven minutes"
            await report(self._services, "RECONCILE_LATE", text)
        self._is_late = is_late


def _unrealised(position: Position, quote: Quote | None) -> Decimal | None:
    """Long at the bid, short at the ask (docs/money.md); None without a price."""
    if quote is None or position.average_price is None:
        return None
    price = quote.bid if position.quantity > 0 else quote.ask
    if price is None:
        return None
    multiplier = OPTION_MULTIPLIER if looks_like_option(position.symbol) else 1
    return (price - position.average_price) * position.quantity * multiplier
