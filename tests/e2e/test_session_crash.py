"""A session whose worker is killed in the middle: every bar once, the signal taken once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from temporalio.client import Client

from deploy.temporal.versions import set_current_version
from ledger.repository import Ledger
from observability.build import build_id
from tests.conftest import TemporalServer
from tests.e2e.crash_worker import WorkerSpec, run_worker
from tests.rig import Rig, running_rig
from tests.workflow.test_session import STRATEGY, start

KILLED = -9
DEATH_TIMEOUT_S = 60.0
# The trade has started and the signal is not yet marked as taken.
DEATH = "note_signal.enter:1:kill"
_forks = get_context("forkserver")
_forks.set_forkserver_preload(["tests.e2e.crash_worker"])


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    account = f"acct-{unique}"
    async with running_rig(temporal_client, ledger, account, workers=False) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made


def started(spec: WorkerSpec) -> BaseProcess:
    process = _forks.Process(target=run_worker, args=(spec,), daemon=True)
    process.start()
    return process


async def death_of(process: BaseProcess) -> int | None:
    await asyncio.to_thread(process.join, DEATH_TIMEOUT_S)
    return process.exitcode


async def test_killed_session_evaluates_every_bar_once_and_starts_one_trade(
    rig: Rig, temporal_server: TemporalServer, ledger_dsn: str, tmp_path: Path
) -> None:
    """A1, I1: the answer of a killed worker is asked for again, with the same ids."""
    strategy = tmp_path / "on_second_bar.py"
    strategy.write_text(STRATEGY)
    key = rig.server.exchange.config.keys[0]
    spec = WorkerSpec(
        temporal=temporal_server.address,
        namespace=temporal_server.namespace,
        ledger_dsn=ledger_dsn,
        account=rig.services.account,
        queue=rig.queue,
        deployment=rig.services.account,
        key_id=key.key,
        secret=key.secret,
        trading_url=rig.server.url,
        stream_url=rig.server.stream_url,
        log_file=str(tmp_path / "worker.log"),
    )
    running = started(replace(spec, failpoint=DEATH))
    await set_current_version(rig.client, build_id(), deployment=spec.deployment)
    session = await start(rig, strategy, tmp_path)
    assert await death_of(running) == KILLED
    last = started(spec)
    try:
        async with asyncio.timeout(DEATH_TIMEOUT_S):
            result = await session.handle.result()
    finally:
        last.kill()
        await death_of(last)

    assert (result.counts.bars, result.counts.signals, result.counts.taken) == (4, 1, 1)
    assert len(await session.signals()) == 4
    (trade,) = await rig.ledger.list_trades(session=session.spec.name)
    assert result.open_trades in ((trade.trade_id,), ())
