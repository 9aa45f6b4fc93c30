"""The exchange in this process, `worker.py` of the product in a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from temporalio.client import WorkflowHandle

from activities.services import StreamInput
from deploy.local.stack import READY_FILE_VARIABLE
from deploy.temporal.versions import set_current_version
from domain.clock import ClockMap
from domain.ids import TRADE_QUEUE, streams_workflow_id, trade_workflow_id
from domain.instrument import Instrument
from domain.messages import TradeInput, TradeResult
from domain.plan import TradePlan
from observability.build import build_id, repository_root
from simulator.clock import SimClock
from simulator.config import ExchangeConfig, Listing
from simulator.exchange import Exchange
from simulator.journal import Journal
from simulator.server import SimulatorServer
from tests.bench.figures import until
from tests.bench.plans import SYMBOL, WALK_SYMBOL, TradeBook
from tests.bench.servers import Servers
from tests.rig import prepare_account, roomy_limits
from workflows import _lifecycle as life
from workflows.streams import StreamsWorkflow
from workflows.trade import TradeWorkflow

Handle = WorkflowHandle[TradeWorkflow, TradeResult]


@dataclass
class Stage:
    """The exchange in this process, the worker in one of its own."""

    servers: Servers
    exchange: Exchange
    journal: Journal
    server: SimulatorServer
    book: TradeBook
    installation: str
    config: Path

    def quote(self, symbol: str, bid: str, ask: str) -> None:
        size = Decimal(100_000)
        self.exchange.set_quote(symbol, Decimal(bid), Decimal(ask), size, size)


@asynccontextmanager
async def running_stage(
    servers: Servers,
    account: str,
    cash: Decimal = Decimal(100_000),
    symbols: Sequence[str] = (SYMBOL, WALK_SYMBOL),
) -> AsyncIterator[Stage]:
    journal = Journal(wall=lambda: datetime.now(UTC))
    listings = tuple(Listing(Instrument(symbol=symbol)) for symbol in symbols)
    settings = ExchangeConfig(requests_per_minute=None, listings=listings, cash=cash)
    exchange = Exchange(settings, (), journal)
    installation = await servers.ledger.installation_id()
    await prepare_account(servers.ledger, account)
    config = servers.folder / f"{account}.toml"
    await asyncio.to_thread(config.write_text, _settings_text(account, installation))
    # Market time runs like the wall's: with it standing still every order would have been submitted
    # at the same instant, and no venue's order list can be paged by that.
    async with SimulatorServer(exchange, SimClock(exchange.now, speed=Decimal(1))) as server:
        clock = ClockMap(wall0=server.clock.wall0, market0=server.clock.market0)
        book = TradeBook(account, clock)
        yield Stage(servers, exchange, journal, server, book, installation, config)


def _settings_text(account: str, installation: str) -> str:
    limits = roomy_limits(
        max_total_notional="10000000",
        max_messages_per_minute=100_000,
        max_open_positions=2_000,
        quote_max_age_s="3600",  # the stage shows a quote only when it moves
        batch_max_age_s="3600",
        repeat_window_s="60",  # no strategy enters a thousand times within its window
    )
    lines = [
        "[account]",
        f'name = "{account}"',
        f'installation = "{installation}"',
        "[broker]",
        'venue = "alpaca"',
        'mode = "simulator"',
        "requests_per_minute = 100000",
        "[safety]",
        "dry_run = false",
        "[restricted]",
        "symbols = []",
        "[limits]",
    ]
    for name, value in limits.model_dump().items():
        shown = str(value).lower() if isinstance(value, bool) else value
        lines.append(f"{name} = {shown}")
    return "\n".join(lines) + "\n"


async def start_worker(stage: Stage, *, first: bool = False) -> subprocess.Popen[bytes]:
    """`worker.py --role all` of the product; returns when it polls. The first one makes the build
    current and starts the account's streams."""
    account = stage.book.account
    ready = stage.servers.folder / "worker.ready"
    ready.unlink(missing_ok=True)
    environment = {**product_environment(stage), READY_FILE_VARIABLE: str(ready)}
    command = [sys.executable, "worker.py", "--role", "all", "--config", str(stage.config)]
    process = await asyncio.to_thread(_spawn, command, environment, stage.servers.folder)
    await until(lambda: ready.exists() or process.poll() is not None, "the worker polls")
    if process.poll() is not None:
        tail = (stage.servers.folder / "worker.log").read_text()[-2000:]
        raise AssertionError(f"the worker ended with {process.poll()}\n{tail}")
    if first:
        client = stage.servers.client
        await set_current_version(client, build_id())
        await client.start_workflow(
            StreamsWorkflow.run,
            StreamInput(account=account),
            id=streams_workflow_id(account),
            task_queue=TRADE_QUEUE,
            task_timeout=life.TASK_TIMEOUT,
        )
    return process


def _spawn(
    command: list[str], environment: dict[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, cwd=repository_root(), stdout=log, stderr=log
        )


def product_environment(stage: Stage) -> dict[str, str]:
    """Where a process of the product finds the servers and the exchange of this stage."""
    key = stage.exchange.config.keys[0]
    return {
        **os.environ,
        "HOLDFAST_TEMPORAL_ADDRESS": stage.servers.address,
        "HOLDFAST_LEDGER_DSN": stage.servers.dsn,
        "HOLDFAST_BROKER_TRADING_URL": stage.server.url,
        "HOLDFAST_BROKER_DATA_URL": stage.server.url,
        "HOLDFAST_BROKER_STREAM_URL": stage.server.stream_url,
        "HOLDFAST_BROKER_KEY_ID": key.key,
        "HOLDFAST_BROKER_SECRET": key.secret,
    }


async def start_trade(stage: Stage, plan: TradePlan) -> Handle:
    return await stage.servers.client.start_workflow(
        TradeWorkflow.run,
        TradeInput(plan=plan, installation=stage.installation, clock=stage.book.clock),
        id=trade_workflow_id(plan.trade_id),
        task_queue=TRADE_QUEUE,
        task_timeout=life.TASK_TIMEOUT,
    )
