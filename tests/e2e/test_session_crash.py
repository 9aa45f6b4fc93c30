"""A session whose worker is killed in the middle: every bar once, the signal taken once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.client import Client

from ledger.repository import Ledger
from tests.conftest import TemporalServer
from tests.e2e.crash_process import WorkerProcess
from tests.e2e.crash_worker import WorkerSpec
from tests.rig import Rig, running_rig
from tests.workflow.test_session import STRATEGY, start

RESULT_TIMEOUT_S = 60.0
# The trade has started and the signal is not yet marked as taken.
DEATH = "note_signal.enter:1:kill"


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    account = f"acct-{unique}"
    async with running_rig(temporal_client, ledger, account, workers=False) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made


@pytest.fixture
def spec(rig: Rig, temporal_server: TemporalServer, ledger_dsn: str, tmp_path: Path) -> WorkerSpec:
    key = rig.server.exchange.config.keys[0]
    return WorkerSpec(
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


@pytest.mark.covers("A1", "A2")
async def test_killed_session_evaluates_every_bar_once_and_starts_one_trade(
    rig: Rig, spec: WorkerSpec, tmp_path: Path
) -> None:
    """A1, I1: the answer of a killed worker is asked for again, with the same ids."""
    strategy = tmp_path / "on_second_bar.py"
    strategy.write_text(STRATEGY)
    first = WorkerProcess.start(replace(spec, failpoint=DEATH))
    await first.make_current(rig.client)
    session = await start(rig, strategy, tmp_path)
    await first.killed()
    last = WorkerProcess.start(spec)
    try:
        async with asyncio.timeout(RESULT_TIMEOUT_S):
            result = await session.handle.result()
    finally:
        await last.kill()

    assert (result.counts.bars, result.counts.signals, result.counts.taken) == (4, 1, 1)
    assert len(await session.signals()) == 4
    (trade,) = await rig.ledger.list_trades(session=session.spec.name)
    assert result.open_trades in ((trade.trade_id,), ())


async def test_worker_that_fails_at_its_start_is_told_with_its_log(
    rig: Rig, spec: WorkerSpec
) -> None:
    """A crash test must not mistake it for one that was killed, or for a slow one."""
    nowhere = "postgresql+asyncpg://nobody@127.0.0.1:1/none"
    broken = WorkerProcess.start(replace(spec, ledger_dsn=nowhere))
    with pytest.raises(AssertionError, match=r"(?s)exit 1:.*LedgerDown"):
        await broken.make_current(rig.client)
