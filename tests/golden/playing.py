"""Plays one golden trade: the script's hands at the market, and its eyes on the journal.

A script moves the market when the exchange has seen something, never after some time, so the
worker may be slow, dead or somebody else's process. When a trade has ended before the script has
seen what it waits for, the script is over, too: `Play.cut_short` says where.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NoReturn

from temporalio.client import (
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from activities.reconcile import ReconcileInput
from domain.ids import Purpose, trade_prefix, trade_workflow_id
from domain.messages import OperatorRequest, TradeInput, TradeResult, TradeStatus, VersionSignal
from domain.plan import TradePlan
from tests.golden.oracle import Rules, reducing, stopped_units
from tests.golden.seen import ZERO, Row, Seen, SeenOrder
from tests.rig import Rig
from workflows import _lifecycle as life
from workflows.reconcile import ReconcileWorkflow
from workflows.trade import TradeWorkflow

QUERY_TIMEOUT_S = 3.0
UPDATE_TIMEOUT_S = 5.0
_SETTLED = {"working", "held"}


class EndedEarlyError(Exception):
    """The trade has ended and the script still waited; no error in a run with faults."""


@dataclass
class Play:
    """One run of a golden trade. `interval_s` is the walk's; slower where workers are killed.

    `kill_all` lets a script kill every account of the ledger; False keeps to the own one.
    """

    rig: Rig
    interval_s: str = "0.4"
    kill_all: bool = False
    plans: list[TradePlan] = field(default_factory=list)
    results: dict[str, TradeResult] = field(default_factory=dict)
    cut_short: str = ""
    passes: int = 0
    _seen: Seen = field(default_factory=Seen)
    _ends: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    # --- trades -----------------------------------------------------------------------------------

    async def start(self, plan: TradePlan) -> TradePlan:
        """Starts the trade; one that runs already is watched on."""
        self.plans.append(plan)
        handle = await self.rig.client.start_workflow(
            TradeWorkflow.run,
            TradeInput(
                plan=plan, installation=self.rig.services.installation, clock=self.rig.clock
            ),
            id=trade_workflow_id(plan.trade_id),
            task_queue=self.rig.queue,
            task_timeout=life.TASK_TIMEOUT,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        self._ends[plan.trade_id] = asyncio.create_task(self._await_end(plan.trade_id, handle.id))
        return plan

    async def _await_end(self, trade_id: str, workflow_id: str) -> None:
        """Follows the trade over its hand-overs; a server that is away is asked again."""
        while True:
            handle = self.rig.client.get_workflow_handle(workflow_id, result_type=TradeResult)
            try:
                self.results[trade_id] = await handle.result()
                return
            except RPCError:
                await asyncio.sleep(0.2)

    def handle(self, plan: TradePlan) -> WorkflowHandle[TradeWorkflow, TradeResult]:
        """The trade as it is now, whatever run that is."""
        return self.rig.client.get_workflow_handle_for(
            TradeWorkflow.run, trade_workflow_id(plan.trade_id)
        )

    def prefix(self, plan: TradePlan) -> str:
        return trade_prefix(self.rig.services.installation, plan.trade_id)

    def is_over(self, plan: TradePlan) -> bool:
        """True when the trade has its result."""
        return self._ends[plan.trade_id].done()

    async def bring_home(self) -> None:
        """After a script that was cut short: trades that still go on are flattened."""
        for symbol in self.seen.halted:
            self.rig.exchange.resume(symbol)
        for plan in self.plans:
            await self.command(plan, "request_flatten")

    async def ended(self, plan: TradePlan) -> TradeResult:
        """Waits for the result of one trade.

        Raises:
            AssertionError: it did not end within the rig's deadline.
        """
        await self.rig.until(self._ends[plan.trade_id].done, f"{plan.trade_id} ends")
        return self.results[plan.trade_id]

    async def finish(self) -> tuple[TradeResult, ...]:
        """Waits for every trade; the results in the order of their start."""
        for plan in self.plans:
            await self.ended(plan)
        return tuple(self.results[plan.trade_id] for plan in self.plans)

    async def aclose(self) -> None:
        """Lets go of what it waits for; the trades themselves go on."""
        for task in self._ends.values():
            task.cancel()
        await asyncio.gather(*self._ends.values(), return_exceptions=True)

    # --- eyes -------------------------------------------------------------------------------------

    @property
    def journal(self) -> list[Row]:
        return list(self.rig.exchange.journal.rows)

    @property
    def seen(self) -> Seen:
        """The exchange as of now, from its journal."""
        return self._seen.feed(self.rig.exchange.journal.rows[self._seen.rows :])

    def rules(self, collar_fraction: Decimal | None = None) -> Rules:
        """What the oracle judges this play by."""
        listings = self.rig.exchange.state.listings.items()
        limits = self.rig.services.limits
        assert limits is not None
        return Rules(
            installation=self.rig.services.installation,
            plans=tuple(self.plans),
            collar_fraction=collar_fraction or limits.collar_fraction,
            multipliers={name: listing.instrument.multiplier for name, listing in listings},
        )

    def entries(self, plan: TradePlan) -> list[SeenOrder]:
        """Every accepted entry order of the trade, changes included, oldest first."""
        prefix = self.prefix(plan)
        return [
            order
            for order in self.seen.orders.values()
            if order.owner == prefix
            and order.parts is not None
            and order.parts.purpose is Purpose.ENTRY
        ]

    def held(self, plan: TradePlan, symbol: str | None = None) -> Decimal:
        """Units of the symbol that the trade owns, signed."""
        name = symbol or plan.instrument.symbol
        return self.seen.owned.get((self.prefix(plan), name), ZERO)

    def is_protected(self, plan: TradePlan, *, at: Decimal | None = None) -> bool:
        """True if stops cover what is held, no entry works, and the stops are at this price.

        Also true when nothing is held any more after an entry: what comes next may come.
        """
        prefix, symbol = self.prefix(plan), plan.instrument.symbol
        held = abs(self.held(plan))
        seen = self.seen
        if not held and not any(self._owns(plan, row) for row in seen.fills):
            return False
        if any(order.is_live for order in self.entries(plan)):
            return False
        stops = [o for o in seen.live(owner=prefix, symbol=symbol) if o.is_stop and not o.sleeps]
        if at is not None and any(stop.stop_price != at for stop in stops):
            return False
        covered = stopped_units(seen, prefix, symbol)
        return held == covered == reducing(seen, prefix, symbol, plan.side)

    def _owns(self, plan: TradePlan, row: Row) -> bool:
        order = self.seen.order_of_fill(row)
        return order is not None and order.owner == self.prefix(plan)

    async def when(self, plan: TradePlan, condition: Callable[[], bool], what: str) -> None:
        """Waits for what this trade shall have done.

        Raises:
            EndedEarlyError: the trade has ended and it is not so.
            AssertionError: it was not so within the rig's deadline.
        """
        await self.rig.until(lambda: condition() or self.is_over(plan), what)
        if not condition():
            self._end_early(what)

    async def when_works(self, plan: TradePlan) -> None:
        """Waits until the broker has the first entry order of the trade."""
        await self.when(plan, lambda: bool(self.entries(plan)), f"{plan.trade_id} enters")

    async def when_protected(self, plan: TradePlan, *, at: Decimal | None = None) -> None:
        """Waits until stops cover what is held, all at this price if one is given."""
        what = f"{plan.trade_id} is protected at {at or 'its stop'}"
        await self.when(plan, lambda: self.is_protected(plan, at=at), what)

    async def when_settled(self, plan: TradePlan) -> None:
        """Waits until the trade knows of all its exits: before a script lets days pass.

        The exchange's days pass faster than the trade's own clock, so that a doubt of yesterday
        would be judged by the list of a day that has not come for the trade.
        """

        def is_settled(now: TradeStatus) -> bool:
            states = [text.split(" ")[1] for text in now.working]
            return now.protection in ("resting", "dormant") and not set(states) - _SETTLED

        await self.when_it_says(plan, is_settled, f"{plan.trade_id} knows its exits")

    def _end_early(self, what: str) -> NoReturn:
        self.cut_short = what
        raise EndedEarlyError(what)

    async def status(self, plan: TradePlan) -> TradeStatus | None:
        """What the trade tells; None while nobody can answer for it."""
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_S):
                return await self.handle(plan).query(TradeWorkflow.status)
        except (RPCError, WorkflowQueryFailedError, TimeoutError):
            return None

    async def when_it_says(
        self, plan: TradePlan, condition: Callable[[TradeStatus], bool], what: str
    ) -> None:
        """Waits until the trade itself tells so; errors as of `when`."""
        answers: list[TradeStatus] = []

        async def is_so() -> bool:
            answer = await self.status(plan)
            answers[:] = [answer] if answer is not None else []
            return self.is_over(plan) or any(map(condition, answers))

        await self.rig.until_async(is_so, what)
        if not any(map(condition, answers)):
            self._end_early(what)

    # --- hands ------------------------------------------------------------------------------------

    def quote(self, symbol: str, bid: str, ask: str, size: str = "100000") -> None:
        """Shows a quote."""
        self.rig.quote(symbol, bid, ask, size)

    async def command(self, plan: TradePlan, verb: str, **values: Any) -> None:
        """An operator's update, sent again under one id until it is recorded or too late."""
        command_id = f"{verb}-{plan.trade_id}"[-48:]
        request = OperatorRequest(command_id=command_id, by="ann", **values)
        while not self.is_over(plan):
            try:
                async with asyncio.timeout(UPDATE_TIMEOUT_S):
                    await self.handle(plan).execute_update(verb, request, id=command_id)
                return
            except WorkflowUpdateFailedError:
                return  # It has ended meanwhile, or knows better.
            except (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError):
                await asyncio.sleep(0.1)

    async def signal(self, plan: TradePlan, name: str, payload: Any) -> None:
        """A signal to the newest run; nothing if the trade has ended."""
        with contextlib.suppress(RPCError):
            await self.handle(plan).signal(name, payload)

    async def hand_over(self, plan: TradePlan) -> None:
        """Tells the trade of a new build and waits until a new run goes on.

        Raises:
            EndedEarlyError: the trade has ended instead.
        """
        handle = self.handle(plan)
        before = (await handle.describe()).run_id
        await self.signal(plan, "version_changed", VersionSignal(build_id="same"))

        async def has_moved() -> bool:
            with contextlib.suppress(RPCError):
                return self.is_over(plan) or (await handle.describe()).run_id != before
            return False

        await self.rig.until_async(has_moved, "a new run goes on")
        if self.is_over(plan):
            self._end_early("a new run goes on")

    def take_over(self, plan: TradePlan, quantity: Decimal) -> None:
        """Notes in the journal that a person gives a trade what nobody owned."""
        self.rig.exchange.state.record(
            "taken_over", owner=self.prefix(plan), symbol=plan.symbol, quantity=quantity
        )

    async def reconciled(self, plan: TradePlan, condition: Callable[[], bool], what: str) -> None:
        """Reconcile passes, as the schedule makes them, until the trade has drawn its conclusion.

        Raises:
            EndedEarlyError: the trade has ended and it is not so.
            AssertionError: it was not so within the rig's deadline.
        """

        async def is_so() -> bool:
            if not (condition() or self.is_over(plan)):
                await self.reconcile()
            return condition() or self.is_over(plan)

        await self.rig.until_async(is_so, what)
        if not condition():
            self._end_early(what)

    async def reconcile(self) -> None:
        """One pass; one that a fault outlives ends with the play."""
        account, self.passes = self.rig.services.account, self.passes + 1
        with contextlib.suppress(RPCError, TimeoutError):
            async with asyncio.timeout(self.rig.deadline_s):
                await self.rig.client.execute_workflow(
                    ReconcileWorkflow.run,
                    ReconcileInput(account=account, settle_s=0.3),
                    id=f"reconcile/{account}/{self.passes}",
                    task_queue=self.rig.queue,
                    task_timeout=life.TASK_TIMEOUT,
                )

    def advance_to(self, moment: datetime) -> None:
        """Moves the exchange's time; what is due on the way happens."""
        self.rig.exchange.advance_to(moment)
