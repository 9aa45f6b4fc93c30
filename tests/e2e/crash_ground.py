"""One account with a worker process of its own, and a trade that it serves, for crash tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from temporalio.client import Client, WorkflowHandle

from activities.services import StreamInput
from domain.ids import streams_workflow_id
from domain.messages import TradeResult
from ledger.repository import Ledger
from simulator.config import ExchangeConfig
from tests import trade_scenarios as play
from tests.conftest import TemporalServer
from tests.e2e.crash_process import WorkerProcess
from tests.e2e.crash_worker import WorkerSpec
from tests.rig import Rig, running_rig
from workflows import _lifecycle as life
from workflows.streams import StreamsWorkflow
from workflows.trade import TradeWorkflow

DEADLINE_S = 90.0


@dataclass(frozen=True)
class Ground:
    """The account's rig without workers, and the process that serves it."""

    rig: Rig
    spec: WorkerSpec
    worker: WorkerProcess

    async def protect(self) -> WorkflowHandle[TradeWorkflow, TradeResult]:
        """A trade of ten behind one stop; what happens afterwards no stream will tell."""
        rig, account = self.rig, self.rig.services.account
        play.calm_market(rig)
        streams = await rig.client.start_workflow(
            StreamsWorkflow.run,
            StreamInput(account=account, compare_interval_s=2.0),
            id=streams_workflow_id(account),
            task_queue=rig.queue,
            task_timeout=life.TASK_TIMEOUT,
        )
        trade = await rig.start_trade(play.plan_of(rig, "1", targets=(), ratchet=()))
        await play.fill_entry(rig)
        await rig.until(lambda: play.stops_at(rig, play.STOP) == 1, "protected")
        await streams.terminate("the entry is told")
        return trade


@asynccontextmanager
async def running_ground(
    server: TemporalServer,
    client: Client,
    ledger: Ledger,
    ledger_dsn: str,
    account: str,
    folder: Path,
    *,
    failpoint: str = "",
) -> AsyncIterator[Ground]:
    """The exchange, and a worker process that dies at the failpoint if there is one."""
    config = ExchangeConfig(requests_per_minute=None)
    async with running_rig(client, ledger, account, config=config, workers=False) as rig:
        rig.deadline_s = DEADLINE_S
        key = config.keys[0]
        spec = WorkerSpec(
            temporal=server.address,
            namespace=server.namespace,
            ledger_dsn=ledger_dsn,
            account=account,
            queue=rig.queue,
            deployment=account,
            key_id=key.key,
            secret=key.secret,
            trading_url=rig.server.url,
            stream_url=rig.server.stream_url,
            log_file=str(folder / "worker.log"),
        )
        worker = WorkerProcess.start(replace(spec, failpoint=failpoint))
        try:
            await worker.make_current(client)
            yield Ground(rig, spec, worker)
        finally:
            worker.process.kill()
            await worker.ended()
