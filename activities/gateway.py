"""The kill's hands in the gateway: woken by the ledger, it cancels without any workflow.

Runs beside the order lane in the same process, with its own broker connections (F5). Trades are
told afterwards, best effort: telling a thousand of them takes half a minute (architecture §7).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable

from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from activities.flatten import FlattenInput, flatten_id
from activities.kill import (
    SECOND_SWEEP_AFTER_S,
    EntrySweep,
    KillReceipt,
    known_entries,
    owner_by_ledger,
    receipt_of,
)
from activities.services import Services
from brokers.port import Broker
from domain.control import KillMode, KillSwitch
from domain.errors import HoldfastError
from domain.facts import FactEnvelope, KillEngaged
from domain.ids import TRADE_QUEUE, trade_workflow_id
from ledger.records import TradeRecord

CONTROL_CHANNEL = "holdfast_control"
RECEIPT_ACTION = "kill_receipt"
POLL_S = 1.0
LEASE_S = 5.0
TELL_CONCURRENCY = 40
TELL_TIMEOUT_S = 30.0
LISTEN_AGAIN_S = 0.5

_log = logging.getLogger(__name__)


def sweeper_lease(account: str) -> str:
    """Name of the lease that tells whether a gateway sweeps for this account."""
    return f"sweeper/{account}"


async def _nothing() -> None:
    return None


class GatewaySweeper:
    """Works off every engaged kill of one account, once per process."""

    def __init__(
        self,
        services: Services,
        broker: Broker,
        *,
        client: Client | None = None,
        copy_waiting: Callable[[], Awaitable[None]] = _nothing,
        trade_queue: str = TRADE_QUEUE,
        second_sweep_after_s: float = SECOND_SWEEP_AFTER_S,
    ) -> None:
        self._services = services
        self._broker = broker
        self._client = client
        self._copy_waiting = copy_waiting
        self._trade_queue = trade_queue
        self._second_sweep_after_s = second_sweep_after_s
        # Two processes may well have this object at the same address.
        self._holder = f"gateway-{uuid.uuid4().hex[:16]}"
        self._rung = asyncio.Event()
        self._work: dict[str, asyncio.Task[None]] = {}
        self._untold: set[str] = set()
        """Kills that were worked off while there was no Temporal to tell trades through."""
        self.receipts: dict[str, KillReceipt] = {}

    def use_client(self, client: Client) -> None:
        """Trades can be told from now on, also of what was swept without."""
        self._client = client
        for command_id in self._untold:
            self._work.pop(command_id, None)
        self._untold.clear()
        self._rung.set()

    async def run(self) -> None:
        """Serves until cancelled; an error of ledger or broker is told and asked again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._keep_lease())
            while True:
                await self._look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._rung.wait()
                self._rung.clear()

    async def _listen(self) -> None:
        while True:
            try:
                async for _channel, _payload in self._services.ledger.listen(CONTROL_CHANNEL):
                    self._rung.set()
            except HoldfastError as error:
                _log.warning("the control line was lost: %s", error.code)
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def _keep_lease(self) -> None:
        name = sweeper_lease(self._services.account)
        while True:
            with contextlib.suppress(HoldfastError):
                await self._services.ledger.take_lease(name, self._holder, LEASE_S)
            await asyncio.sleep(LEASE_S / 3)

    async def _look(self) -> None:
        try:
            await self._copy_waiting()
            control = await self._services.ledger.read_control(self._services.account)
        except HoldfastError as error:
            _log.warning("control could not be read: %s", error.code)
            return
        except ValueError as error:
            _log.error("kill journal: %s", error)
            return
        for kill in control.kills:
            if kill.command_id not in self._work:
                task = asyncio.create_task(self._work_off(kill))
                self._work[kill.command_id] = task

    async def _work_off(self, kill: KillSwitch) -> None:
        """First sweep, trades told, second sweep, receipt into the audit."""
        try:
            await self._sweep_and_tell(kill)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("kill %s is worked off again", kill.command_id)
            self._work.pop(kill.command_id, None)

    async def _sweep_and_tell(self, kill: KillSwitch) -> None:
        services, ledger = self._services, self._services.ledger
        loop = asyncio.get_running_loop()
        second_at = loop.time() + self._second_sweep_after_s
        sweep = EntrySweep(
            self._broker,
            services.account,
            services.installation,
            kill,
            owner_of=owner_by_ledger(ledger),
        )
        cancels = kill.mode is not KillMode.BLOCK
        if cancels:
            await sweep.run_once(await known_entries(ledger, services.account, kill.scope))
        told, not_told = await self._tell_trades(kill)
        await self._start_flatten(kill)
        await asyncio.sleep(max(0.0, second_at - loop.time()))
        entries = await known_entries(ledger, services.account, kill.scope)
        if cancels:
            await sweep.run_once(entries)
            await self._book(sweep)
        in_flight = [entry.intent.client_id for entry in entries if entry.answered_at is None]
        receipt = receipt_of(
            sweep,
            kill,
            services.account,
            services.now(),
            in_flight=in_flight,
            told=told,
            not_told=not_told,
        )
        await ledger.append_audit(
            "gateway", RECEIPT_ACTION, kill.command_id, receipt.model_dump(mode="json")
        )
        self.receipts[kill.command_id] = receipt

    async def _book(self, sweep: EntrySweep) -> None:
        """The ends that were seen go into the ledger, so that lists are right at once."""
        for swept in sweep.orders:
            with contextlib.suppress(HoldfastError):
                order = await self._broker.order(swept.broker_order_id)
                if order is not None:
                    await self._services.ledger.record_snapshot(self._services.account, order)

    async def _tell_trades(self, kill: KillSwitch) -> tuple[int, list[str]]:
        """Doorbell to every open trade in the scope; bounded in number and in time."""
        client, services = self._client, self._services
        trades = await services.ledger.list_trades(account=services.account, open_only=True)
        covered = [trade for trade in trades if covers_trade(kill, trade)]
        if client is None:
            self._untold.add(kill.command_id)
            return 0, [trade.trade_id for trade in covered]
        fact = KillEngaged(
            at=services.now(),
            command_id=kill.command_id,
            mode=kill.mode,
            by=kill.by,
            reason=kill.reason,
        )
        envelope = FactEnvelope.of(fact, sender="gateway")
        free, not_told = asyncio.Semaphore(TELL_CONCURRENCY), [t.trade_id for t in covered]

        async def tell(trade_id: str) -> None:
            async with free:
                handle = client.get_workflow_handle(trade_workflow_id(trade_id))
                await handle.signal("facts", envelope)
                not_told.remove(trade_id)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELL_TIMEOUT_S):
                tasks = [tell(trade.trade_id) for trade in covered]
                await asyncio.gather(*tasks, return_exceptions=True)
        return len(covered) - len(not_told), not_told

    async def _start_flatten(self, kill: KillSwitch) -> None:
        """A Flatten execution per kill: visible in the Web UI, idempotent by its id."""
        if kill.mode is not KillMode.FLATTEN or self._client is None:
            return
        given = FlattenInput(
            command_id=kill.command_id,
            account=self._services.account,
            scope=kill.scope,
            by=kill.by,
            reason=kill.reason,
        )
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await self._client.start_workflow(
                "Flatten",
                given,
                id=flatten_id(kill.command_id, kill.scope, self._services.account),
                task_queue=self._trade_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary=f"flatten {kill.scope.text}: {kill.reason}"[:200],
            )


def covers_trade(kill: KillSwitch, trade: TradeRecord) -> bool:
    """Whether the kill's scope covers an open trade."""
    symbols = (trade.symbol, *(leg.instrument.symbol for leg in trade.plan.legs))
    return kill.scope.covers(
        account=trade.account,
        strategy=trade.strategy,
        symbols=symbols,
        trade_id=trade.trade_id,
    )
