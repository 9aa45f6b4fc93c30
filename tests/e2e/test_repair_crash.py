"""SIGKILL inside of a repair: the next compare completes it, and nothing is booked or told twice.

faults.md R8: the process dies after the repair's row is booked and before anybody has heard of
it, or after everything. Real worker, ledger, Temporal and exchange; only the minute until a dead
process's lease runs out and the schedule gives up its pass is not waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest
from temporalio.client import Client, WorkflowHandle

from activities.reconcile import ReconcileInput, ReconcileReport
from domain.facts import AdjustmentKind
from domain.ids import reconcile_workflow_id
from domain.messages import TradeResult
from ledger.records import EXTERNAL
from ledger.repository import Ledger
from simulator.events import OrdersOnSplit
from simulator.orders import Side as SimSide
from tests import trade_scenarios as play
from tests.conftest import TemporalServer
from tests.e2e.crash_ground import Ground, running_ground
from tests.e2e.crash_process import WorkerProcess
from tests.fixtures_postgres import run_as_superuser
from tests.rig import Rig
from workflows.reconcile import ReconcileWorkflow
from workflows.trade import TradeWorkflow

pytestmark = pytest.mark.timeout(480)
D = Decimal
RESULT_DEADLINE_S = 150.0
BOOKED = "after_repair:1:kill"
Trade = WorkflowHandle[TradeWorkflow, TradeResult]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Pass:
    """A protected trade, and compares of its account."""

    ground: Ground
    trade: Trade

    @property
    def rig(self) -> Rig:
        return self.ground.rig

    async def ask(self) -> WorkflowHandle[ReconcileWorkflow, ReconcileReport]:
        """One pass, as the schedule starts it."""
        account = self.rig.services.account
        return await self.rig.client.start_workflow(
            ReconcileWorkflow.run,
            ReconcileInput(account=account, settle_s=0.2),
            id=reconcile_workflow_id(account),
            task_queue=self.rig.queue,
        )

    async def adjustments(self) -> list[tuple[str, Decimal, AdjustmentKind]]:
        rows = await self.rig.ledger.adjustments(self.rig.services.account)
        return sorted((row.trade_id or EXTERNAL, row.quantity, row.kind) for row in rows)

    async def alerts(self, code: str) -> int:
        rows = await self.rig.ledger.list_alerts(account=self.rig.services.account)
        return len([row for row in rows if row.code == code])


@pytest.fixture
async def desk(
    temporal_client: Client,
    temporal_server: TemporalServer,
    ledger: Ledger,
    ledger_dsn: str,
    unique: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Pass]:
    """The worker dies at the failpoint that the test names as the parameter of this fixture."""
    async with running_ground(
        temporal_server,
        temporal_client,
        ledger,
        ledger_dsn,
        f"acct-{unique}",
        tmp_path,
        failpoint=request.param,
    ) as ground:
        yield Pass(ground, await ground.protect())


async def told(desk: Pass, handle: WorkflowHandle[Any, Answer]) -> Answer:
    """The result of the workflow; one that does not end is told with what it waits for."""
    try:
        async with asyncio.timeout(RESULT_DEADLINE_S):
            return await handle.result()
    except TimeoutError:
        waits = (await handle.describe()).raw_description
        seen = f"{waits.pending_activities} {waits.pending_workflow_task}"
        raise AssertionError(f"{handle.id}: {seen} {desk.rig.journal()[-8:]}") from None


@asynccontextmanager
async def after_the_crash(
    desk: Pass, ledger_dsn: str
) -> AsyncIterator[Callable[[], Awaitable[ReconcileReport]]]:
    """A pass dies with its process; yields how passes go on the one that follows."""
    broken = await desk.ask()
    await desk.ground.worker.killed()
    await broken.terminate("the schedule gives a pass two minutes")
    await run_as_superuser(ledger_dsn, "UPDATE leases SET expires_at = now() - interval '1 second'")
    successor = WorkerProcess.start(desk.ground.spec)

    async def one_pass() -> ReconcileReport:
        return await told(desk, await desk.ask())

    try:
        yield one_pass
    finally:
        await successor.kill()


def dying_at(point: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("desk", [point], indirect=True)


@pytest.mark.covers("R8")
@pytest.mark.parametrize("desk", [BOOKED, "reconcile_account.exit:1:kill"], indirect=True)
async def test_vanished_position_is_booked_once_and_its_trade_told_by_the_next_pass(
    desk: Pass, ledger_dsn: str
) -> None:
    """R3, R8: until then the stop would have opened the other side."""
    rig = desk.rig
    rig.exchange.set_position("ESX", D(0), "VANISHED", D(98))
    async with after_the_crash(desk, ledger_dsn) as one_pass:
        booked = await desk.adjustments()
        assert [quantity for _, quantity, _ in booked] == [D(-10)]
        for _ in range(2):
            assert (await one_pass()).findings == ()
        result = await told(desk, desk.trade)
    assert result.outcome == "closed"
    assert rig.exchange.open_orders == []
    assert await desk.adjustments() == booked
    assert await desk.alerts("POSITION_VANISHED") == 1
    assert await rig.ledger.positions_by_trade(rig.services.account) == ()


@pytest.mark.covers("R5", "R8")
@dying_at(BOOKED)
async def test_split_that_reached_one_owner_reaches_the_other_one_by_the_next_pass(
    desk: Pass, ledger_dsn: str
) -> None:
    """R5, R8: a trade of ten and three of nobody; the process dies between their two rows."""
    rig, trade_id = desk.rig, f"{desk.rig.services.account}-1"
    rig.exchange.events.trade_by_hand("ESX", SimSide.BUY, D(3), D(100))
    rig.exchange.events.split("ESX", 2, orders=OrdersOnSplit.RESCALE)
    async with after_the_crash(desk, ledger_dsn) as one_pass:
        for _ in range(3):
            await one_pass()
        owned = await rig.ledger.positions_by_trade(rig.services.account)
        assert {(row.trade_id, row.quantity) for row in owned} == {
            (trade_id, D(20)),
            (EXTERNAL, D(6)),
        }
        await rig.until(lambda: play.stops_at(rig, D("49.62")) == 1, "protected again")
        await desk.trade.terminate("shown")


@pytest.mark.covers("R2", "R8")
@dying_at(BOOKED)
async def test_unexplained_quantity_is_told_although_the_pass_died_behind_its_booking(
    desk: Pass, ledger_dsn: str
) -> None:
    """R2, R8, I17: the symbol is frozen for entries, so somebody has to hear of it."""
    desk.rig.exchange.set_position("ESX", D(15), "MANUAL", D(100))
    async with after_the_crash(desk, ledger_dsn) as one_pass:
        for _ in range(2):
            assert (await one_pass()).findings == ()
        await desk.trade.terminate("shown")
    assert [row for row in await desk.adjustments() if row[0] == EXTERNAL] == [
        (EXTERNAL, D(5), AdjustmentKind.EXTERNAL)
    ]
    assert await desk.alerts("POSITION_MISMATCH") == 1
