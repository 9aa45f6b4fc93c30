"""The whole stack in one process, on real parts: for workflow tests and crash tests.

Real Temporal dev server, real PostgreSQL, the simulated exchange over real sockets in step mode.
Only the process boundary is missing; `tests/e2e` has that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import SecretStr
from temporalio.client import Client, WorkflowHandle

import worker
from activities.services import Services, StreamInput
from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig, AlpacaMode
from brokers.port import Broker
from brokers.tradier.client import TradierBroker
from brokers.tradier.config import TradierConfig
from brokers.transport import Watch, unwatched
from deploy.temporal.lanes import OrderLane
from deploy.temporal.versions import set_current_version
from domain.clock import ClockMap
from domain.ids import streams_workflow_id, trade_workflow_id
from domain.messages import TradeInput, TradeResult
from domain.plan import TradePlan
from domain.risk.limits import Limits, RestrictedList
from ledger.repository import Ledger
from observability.build import build_id
from simulator.config import ApiKey, ExchangeConfig, WireFace
from simulator.exchange import Exchange
from simulator.journal import Journal
from simulator.server import SimulatorServer
from simulator.venue import Venue
from strategies.registry import StrategyProcess
from workflows import _lifecycle as life
from workflows.streams import StreamsWorkflow
from workflows.trade import TradeWorkflow

# Long: it costs nothing where all is well, and a busy machine stalls for seconds.
DEADLINE_S = 60.0


def roomy_limits(**changes: Any) -> Limits:
    """Limits that refuse nothing sensible; tests narrow the one they are about."""
    values: dict[str, Any] = {
        "max_order_notional": "100000",
        "max_order_quantity": "20000",
        "max_total_notional": "1000000",
        "collar_fraction": "0.02",
        "max_open_positions": 50,
        "max_symbol_fraction": "1",
        "max_daily_loss_fraction": "0.05",
        "max_messages_per_minute": 10_000,
        "repeat_entries_max": 100_000,
        "repeat_window_s": "3600",
        "duplicate_window_s": "0",
        "quote_max_age_s": "60",
        "option_quote_max_age_s": "300",
        "account_max_age_s": "60",
        "batch_max_age_s": "1800",
        "batch_fresh_fraction_min": "0.9",
        "entry_blocked_first_s": "0",
        "entry_blocked_last_s": "0",
        "exit_time_min_s": "0",
        "expiry_days_min": 0,
        "expiry_cutoff_s": "0",
        "options_level_min": 2,
        "allow_short": True,
    }
    return Limits.model_validate(values | changes)


@dataclass
class Rig:
    """Handles of everything that runs, and the exchange's journal as the oracle."""

    client: Client
    ledger: Ledger
    exchange: Exchange
    server: SimulatorServer
    broker: Broker
    services: Services
    clock: ClockMap
    queue: str
    stack: AsyncExitStack = field(repr=False)
    deadline_s: float = DEADLINE_S

    async def start_trade(self, plan: TradePlan) -> WorkflowHandle[TradeWorkflow, TradeResult]:
        """Starts the Trade workflow of this plan."""
        return await self.client.start_workflow(
            TradeWorkflow.run,
            TradeInput(plan=plan, installation=self.services.installation, clock=self.clock),
            id=trade_workflow_id(plan.trade_id),
            task_queue=self.queue,
            task_timeout=life.TASK_TIMEOUT,
        )

    def quote(self, symbol: str, bid: str, ask: str, size: str = "100000") -> None:
        """Moves the market of the exchange."""
        self.exchange.set_quote(symbol, Decimal(bid), Decimal(ask), Decimal(size), Decimal(size))

    def journal(self, *kinds: str) -> list[dict[str, Any]]:
        """Rows of the exchange's journal of these kinds, oldest first."""
        rows = [dict(row) for row in self.exchange.journal.rows]
        return [row for row in rows if not kinds or row["kind"] in kinds]

    async def breathe(self) -> None:
        """One turn of a polling loop; the test's own time limit is the deadline."""
        await asyncio.sleep(0.02)

    async def until_async(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Waits for a condition that has to be asked for, with a deadline."""
        deadline_s = asyncio.get_running_loop().time() + self.deadline_s
        while not await condition():
            if asyncio.get_running_loop().time() > deadline_s:
                raise AssertionError(await self._seen(what))
            await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for the condition with a deadline."""
        try:
            async with asyncio.timeout(self.deadline_s):
                while not condition():
                    await self.breathe()
        except TimeoutError:
            raise AssertionError(await self._seen(what)) from None

    async def _seen(self, what: str) -> str:
        """What a failed wait has to tell: the journal's end, the trades, the latest signals."""
        lines = [f"not within {self.deadline_s} s: {what}"]
        lines += [str(row) for row in self.journal()[-12:]]
        for trade in (await self.ledger.list_trades())[-8:]:
            lines.append(f"{trade.trade_id} {trade.stage} {trade.result} {trade.story}")
            lines.append(str([v for v in await self.ledger.verdicts(trade.trade_id) if v.code]))
        audit = await self.ledger.list_audit(limit=10_000)
        lines += [f"{row.action} {row.subject} {row.details}" for row in audit[-30:]]
        return "\n".join(lines)


@asynccontextmanager
async def running_rig(
    client: Client,
    ledger: Ledger,
    account: str,
    *,
    config: ExchangeConfig | None = None,
    limits: Limits | None = None,
    arm: bool = True,
    workers: bool = True,
    streams: bool = True,
    watch: Watch = unwatched,
    with_wall_times: bool = False,
    requests_per_minute: int | None = None,
    **service_changes: Any,
) -> AsyncIterator[Rig]:
    """Exchange, adapter, armed account and workers around one ledger.

    Without `workers` nothing serves the trade here: crash tests have processes of their own.
    `with_wall_times` puts the wall clock into the exchange's journal, `requests_per_minute` makes
    the gateway keep the order lane's rate.
    """
    async with AsyncExitStack() as stack:
        settings = config or ExchangeConfig(requests_per_minute=None)
        wall_clock = _wall_now if with_wall_times else None
        venue = Venue.open(settings, journal_of=lambda _account: Journal(wall=wall_clock))
        server = await stack.enter_async_context(SimulatorServer(venue))
        exchange = server.exchange
        broker = broker_at(server, account, settings.keys[0], watch)
        stack.push_async_callback(broker.aclose)
        await prepare_account(ledger, account, settings.face.value, arm=arm)
        wall = datetime.now(UTC)
        services = Services(
            ledger=ledger,
            broker=broker,
            account=account,
            broker_name=settings.face.value,
            installation=await ledger.installation_id(),
            limits=limits or roomy_limits(),
            restricted=RestrictedList(as_of=wall),
            **service_changes,
        )
        queue = f"trade-{account}"
        if workers:
            lane = None if requests_per_minute is None else OrderLane(account, requests_per_minute)
            await serve(stack, client, services, queue, lane)
        if workers and streams:
            await stack.enter_async_context(running_streams(client, services, queue))
        yield Rig(
            client=client,
            ledger=ledger,
            exchange=exchange,
            server=server,
            broker=broker,
            services=services,
            clock=ClockMap(wall0=wall, market0=exchange.now),
            queue=queue,
            stack=stack,
        )


def broker_at(
    server: SimulatorServer, account: str, key: ApiKey, watch: Watch = unwatched
) -> Broker:
    """The adapter of one account of the exchange, for the protocol that it speaks."""
    if server.exchange.config.face is WireFace.TRADIER:
        config = TradierConfig(
            account=account, key_id=key.key, secret=SecretStr(key.secret), trading_url=server.url
        )
        return TradierBroker(config, watch=watch)
    return AlpacaBroker(
        AlpacaConfig(
            mode=AlpacaMode.SIMULATOR,
            account=account,
            key_id=key.key,
            secret=key.secret,
            trading_url=server.url,
            data_url=server.url,
            stream_url=server.stream_url,
        ),
        watch=watch,
    )


@asynccontextmanager
async def second_account(rig: Rig, account: str, peers: dict[str, Services]) -> AsyncIterator[Rig]:
    """Another account of the same exchange and process: its own lane and streams, one queue.

    The rig was made with `peers=peers` and an exchange that has the account.
    """
    config = next(a for a in rig.exchange.config.accounts if a.name == account)
    broker = broker_at(rig.server, account, config.key)
    await prepare_account(rig.ledger, account, rig.services.broker_name)
    services = replace(rig.services, account=account, broker=broker, peers=peers)
    peers[account] = services
    exchange = rig.server.venue.account(account)
    try:
        async with (
            worker.gateway_worker(rig.client, services),
            running_streams(rig.client, services, rig.queue),
        ):
            yield replace(rig, exchange=exchange, broker=broker, services=services)
    finally:
        await broker.aclose()


async def serve(
    stack: AsyncExitStack,
    client: Client,
    services: Services,
    queue: str,
    lane: OrderLane | None = None,
) -> None:
    """Trade and gateway worker of the account; its build is current."""
    deployment = services.account

    def opened(name: str) -> StrategyProcess:
        """Ended with the rig, also when the test fails before its session ends."""
        host = worker.open_strategy(name)
        stack.callback(host.close)
        return host

    await stack.enter_async_context(
        worker.trade_worker(
            client,
            services,
            task_queue=queue,
            deployment_name=deployment,
            strategy_opener=opened,
        )
    )
    await set_current_version(client, build_id(), deployment=deployment)
    await stack.enter_async_context(worker.gateway_worker(client, services, lane=lane))


@asynccontextmanager
async def running_streams(
    client: Client, services: Services, queue: str, number: int = 1
) -> AsyncIterator[WorkflowHandle[StreamsWorkflow, None]]:
    """The Streams workflow and its worker; stopped at the end so that nothing is left hanging.

    `number` 2 and up make a second streamer on the same worker, which should not be but may.
    """
    async with worker.streams_worker(client, services) if number == 1 else nullcontext():
        handle = await client.start_workflow(
            StreamsWorkflow.run,
            StreamInput(
                account=services.account,
                compare_interval_s=2.0,
                clock_interval_s=0.5,
                quote_interval_s=0.2,
            ),
            id=streams_workflow_id(services.account) + ("" if number == 1 else f"/{number}"),
            task_queue=queue,
            task_timeout=life.TASK_TIMEOUT,
        )
        try:
            yield handle
        finally:
            await handle.signal(StreamsWorkflow.stop)
            await handle.result()


async def prepare_account(
    ledger: Ledger, account: str, broker: str = "alpaca", *, arm: bool = True
) -> None:
    """An account as an operator leaves it before the open: breakers reset, armed."""
    await ledger.ensure_account(account, broker)
    await ledger.reset_breaker(account, "test", "start of day")
    await ledger.set_api_breaker(broker, _closed())
    if arm:
        await ledger.arm(account, "test", "start of day")


def _wall_now() -> datetime:
    return datetime.now(UTC)


def _closed() -> Any:
    from domain.control import ApiBreakerState

    return ApiBreakerState.CLOSED
