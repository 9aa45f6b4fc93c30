"""The worker process of a chaos cell: all roles of one account, with failpoints and short times.

Forked from a clean server that has imported everything (`forkserver`), so that a cell costs
little. Nothing is shared with the driver but PostgreSQL, Temporal, the exchange's sockets and a
pipe. Its deadlines are short (`Times`), its sticky timeout is one second.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import traceback
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

import httpx
from pydantic import SecretStr
from temporalio.client import Client

import worker
from activities.gateway import GatewaySweeper
from activities.services import Services
from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig, AlpacaMode
from brokers.port import Broker
from brokers.tradier.client import TradierBroker
from brokers.tradier.config import TradierConfig
from domain.risk.limits import Limits, RestrictedList
from ledger.repository import Ledger
from observability.plugin import holdfast_plugin
from tests.chaos.points import ChaosPoints, ChaosTransport, Target
from tests.chaos.times import Times

BUILD = "chaos"
CACHED_WORKFLOWS = 1_000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class WorkerSpec:
    """Addresses of the parts, the account, and what this process does at its target."""

    temporal: str
    namespace: str
    ledger_dsn: str
    face: str
    account: str
    queue: str
    deployment: str
    key_id: str
    secret: str
    trading_url: str
    stream_url: str
    log_file: str
    limits: Limits
    times: Times
    is_cold: bool = False
    target: Target | None = None


def run_worker(spec: WorkerSpec, driver: Connection) -> None:
    """Serves until it is killed; an error is exit 1 and in the log."""
    if sys.platform.startswith("linux"):
        # The fork server ends with the driver, however that ends.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(spec.log_file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        asyncio.run(_serve(spec, ChaosPoints(spec.target, driver)))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Interpreter exits after a worker crashed now and then (architecture §10).
        os._exit(1)


async def _serve(spec: WorkerSpec, points: ChaosPoints) -> None:
    spec.times.shorten_workflows()
    client = await Client.connect(
        spec.temporal, namespace=spec.namespace, plugins=[holdfast_plugin(failpoints=points)]
    )
    ledger = await Ledger.connect(spec.ledger_dsn, pool_size=4)
    services = Services(
        ledger=ledger,
        broker=await worker.guarded(_broker(spec, points), ledger, spec.face, spec.account),
        account=spec.account,
        broker_name=spec.face,
        installation=await ledger.installation_id(),
        limits=spec.limits,
        restricted=RestrictedList(as_of=datetime.now(UTC)),
        request_timeout_s=spec.times.request_s,
        lag_max_s=spec.times.lag_max_s,
        failpoint=points.hit,
    )
    sweeper = GatewaySweeper(services, _broker(spec, None), client=client, trade_queue=spec.queue)
    async with AsyncExitStack() as stack:
        worker.run_beside(sweeper.run, "kill-sweeper", stack)
        for made in (
            worker.trade_worker(
                client,
                services,
                task_queue=spec.queue,
                deployment_name=spec.deployment,
                build=BUILD,
                cached_workflows=0 if spec.is_cold else CACHED_WORKFLOWS,
            ),
            worker.gateway_worker(client, services),
            worker.streams_worker(client, services),
        ):
            await stack.enter_async_context(made)
        points.tell("serving")
        await asyncio.Event().wait()


def _broker(spec: WorkerSpec, points: ChaosPoints | None) -> Broker:
    """The adapter of the face; with points its writes pass them."""
    network: Any = {}
    if points is not None:
        direct = httpx.AsyncHTTPTransport(verify=False, trust_env=False)
        network = {"http_transport": ChaosTransport(direct, points)}
    if spec.face == "tradier":
        return TradierBroker(
            TradierConfig(
                account=spec.account,
                key_id=spec.key_id,
                secret=SecretStr(spec.secret),
                trading_url=spec.trading_url,
                request_timeout_s=spec.times.request_s,
            ),
            **network,
        )
    return AlpacaBroker(
        AlpacaConfig(
            mode=AlpacaMode.SIMULATOR,
            account=spec.account,
            key_id=spec.key_id,
            secret=SecretStr(spec.secret),
            trading_url=spec.trading_url,
            data_url=spec.trading_url,
            stream_url=spec.stream_url,
            request_timeout_s=spec.times.request_s,
        ),
        **network,
    )
