"""A worker process that cannot act: its event loop stands, or its memory is used up (H8, I9).

The gateway that works a kill off is another process than the one that is stuck (architecture §7);
in the test it is the test's own. What the stuck one does when it wakes is the exchange's to say.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from temporalio.client import Client

from activities.gateway import GatewaySweeper
from activities.kill import OrderFate, engage
from domain.control import KillMode
from ledger.repository import Ledger
from tests import trade_scenarios as play
from tests.conftest import TemporalServer
from tests.e2e.crash_ground import Ground, running_ground
from tests.e2e.crash_process import WorkerProcess
from tests.workflow.test_kill import accepted_buys, entries, kill_of

pytestmark = pytest.mark.timeout(480)
D = Decimal
BLOCKED_S = 5.0
STAGGERS_S = 10.0
"""Long enough to die by itself, or to be seen staggering."""
RESULT_DEADLINE_S = 150.0


@pytest.fixture
async def ground(
    temporal_client: Client,
    temporal_server: TemporalServer,
    ledger: Ledger,
    ledger_dsn: str,
    unique: str,
    tmp_path: Path,
) -> AsyncIterator[Ground]:
    async with running_ground(
        temporal_server, temporal_client, ledger, ledger_dsn, f"acct-{unique}", tmp_path
    ) as made:
        yield made


def pid_of(worker: WorkerProcess) -> int:
    assert worker.process.pid is not None
    return worker.process.pid


@pytest.mark.covers("H8")
async def test_kill_works_while_the_workers_loop_stands_and_nothing_follows_when_it_goes_on(
    ground: Ground,
) -> None:
    """H8, I9: five seconds without a turn, on a thread of its own or stopped by the system."""
    rig = ground.rig
    play.calm_market(rig)
    walk = play.walk_of(interval_s="0.4", max_time_s="900").model_copy(update={"steps_max": 500})
    trade = await rig.start_trade(
        play.plan_of(rig, "1", walk=walk.model_copy(update={"step": D("0.001")}))
    )
    await rig.until(lambda: len(entries(rig)) == 1, "the entry walks")
    sweeper = GatewaySweeper(rig.services, rig.broker, client=rig.client, trade_queue=rig.queue)
    sweeping = asyncio.create_task(sweeper.run())
    os.kill(pid_of(ground.worker), signal.SIGSTOP)
    stopped_at = datetime.now(UTC)
    try:
        await engage(
            rig.ledger, rig.services.account, kill_of(rig, KillMode.CANCEL_ENTRIES, "kill-1")
        )
        await rig.until(lambda: not entries(rig), "the entry is dead without its worker")
        await rig.until(lambda: "kill-1" in sweeper.receipts, "the receipt is final")
        accepted = accepted_buys(rig)
        rest_s = BLOCKED_S - (datetime.now(UTC) - stopped_at).total_seconds()
        await asyncio.sleep(max(0.0, rest_s))
    finally:
        os.kill(pid_of(ground.worker), signal.SIGCONT)
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
    async with asyncio.timeout(RESULT_DEADLINE_S):
        result = await trade.result()
    assert result.outcome == "not_filled"
    fates = {order.fate for order in sweeper.receipts["kill-1"].orders}
    assert fates <= {OrderFate.CANCELLED, OrderFate.ALREADY_DEAD}
    assert accepted_buys(rig) == accepted
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)


@pytest.mark.covers("H8")
async def test_trade_goes_on_behind_its_stop_after_its_worker_ran_out_of_memory(
    ground: Ground,
) -> None:
    """H8, I2, I4: no allocation succeeds any more; whatever that does, the successor goes on."""
    rig, worker = ground.rig, ground.worker
    trade = await ground.protect()
    (stop,) = [order.id for order in rig.exchange.open_orders]
    resource.prlimit(pid_of(worker), resource.RLIMIT_AS, (0, 0))
    await trade.signal("facts", {"facts": [], "sender": "test"})
    await asyncio.to_thread(worker.process.join, STAGGERS_S)
    # One that only staggers is ended by its supervisor, which misses its heartbeat.
    worker.process.kill()
    await worker.ended()
    assert [order.id for order in rig.exchange.open_orders] == [stop]

    successor = WorkerProcess.start(ground.spec)
    try:
        play.fall(rig)
        async with asyncio.timeout(RESULT_DEADLINE_S):
            result = await trade.result()
    finally:
        await successor.kill()
    assert (result.outcome, result.exit_reason) == ("closed", "stop")
    play.assert_one_order_per_intent(rig)
    play.assert_nothing_left(rig)
