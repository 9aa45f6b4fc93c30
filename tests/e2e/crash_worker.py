"""The worker process of the crash tests: all roles of one account, with a failpoint.

The process is forked from a clean server that has imported everything, so that the successor of
a killed worker polls within a moment even on a busy machine. Nothing is shared with the test but
PostgreSQL, Temporal and the exchange's sockets.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.client import Client

import worker
from activities.services import Services
from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig, AlpacaMode
from domain.risk.limits import RestrictedList
from ledger.repository import Ledger
from observability.failpoints import VARIABLE, parse_failpoints
from observability.plugin import holdfast_plugin
from tests.rig import roomy_limits


@dataclass(frozen=True)
class WorkerSpec:
    """Addresses of the parts, the account, and where this process dies (empty: nowhere)."""

    temporal: str
    namespace: str
    ledger_dsn: str
    account: str
    queue: str
    deployment: str
    key_id: str
    secret: str
    trading_url: str
    stream_url: str
    log_file: str
    failpoint: str = ""


def run_worker(spec: WorkerSpec) -> None:
    """Serves until SIGTERM (exit 0) or its failpoint; an error is exit 1 and in the log."""
    log = os.open(spec.log_file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        asyncio.run(_serve(spec))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Interpreter exits after a worker crashed now and then (architecture §10).
        os._exit(code)


async def _serve(spec: WorkerSpec) -> None:
    points = parse_failpoints({VARIABLE: spec.failpoint} if spec.failpoint else {})
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    client = await Client.connect(
        spec.temporal, namespace=spec.namespace, plugins=[holdfast_plugin(failpoints=points)]
    )
    ledger = await Ledger.connect(spec.ledger_dsn)
    broker = AlpacaBroker(
        AlpacaConfig(
            mode=AlpacaMode.SIMULATOR,
            account=spec.account,
            key_id=spec.key_id,
            secret=spec.secret,
            trading_url=spec.trading_url,
            data_url=spec.trading_url,
            stream_url=spec.stream_url,
        )
    )
    services = Services(
        ledger=ledger,
        broker=broker,
        account=spec.account,
        broker_name="alpaca",
        installation=await ledger.installation_id(),
        limits=roomy_limits(),
        restricted=RestrictedList(as_of=datetime.now(UTC)),
        failpoint=points.hit,
    )
    async with AsyncExitStack() as stack:
        for made in (
            worker.trade_worker(
                client,
                services,
                task_queue=spec.queue,
                deployment_name=spec.deployment,
                drain_s=1.0,
            ),
            worker.gateway_worker(client, services, drain_s=1.0),
            worker.streams_worker(client, services, drain_s=1.0),
        ):
            await stack.enter_async_context(made)
        await stopped.wait()
