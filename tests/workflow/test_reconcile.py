"""Reconcile on the real stack: each class of difference has its one outcome (R1–R8, I20)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import Client

import worker
from activities.doorbell import temporal_sender
from activities.reconcile import (
    ReconcileInput,
    ReconcilePass,
    ReconcileReport,
    reconcile_age_s,
)
from domain.ids import IntentKey, Purpose, reconcile_workflow_id
from domain.order import OrderBody, OrderIntent, OrderType, Position, Side
from domain.recon.classify import DiscrepancyKind
from ledger.records import EXTERNAL, TradePosition
from ledger.repository import Ledger
from tests.rig import Rig, running_rig
from tests.workflow.test_trade_thread import plan_of
from workflows.reconcile import ReconcileWorkflow

D = Decimal


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    """Without streams: what happens here, reconcile alone has seen."""
    async with running_rig(temporal_client, ledger, f"acct-{unique}", streams=False) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made


@asynccontextmanager
async def reconciling(rig: Rig) -> AsyncIterator[Callable[[], Any]]:
    """Runs passes as the schedule does, one workflow each."""
    account = rig.services.account

    async def one_pass() -> ReconcileReport:
        report: ReconcileReport = await rig.client.execute_workflow(
            ReconcileWorkflow.run,
            ReconcileInput(account=account, settle_s=0.3),
            id=reconcile_workflow_id(account),
            task_queue=rig.queue,
        )
        return report

    async with worker.streams_worker(rig.client, rig.services):
        yield one_pass


def order_of(rig: Rig, name: str, purpose: Purpose, side: Side) -> OrderIntent:
    """An intent that no row of the ledger knows."""
    body = OrderBody(
        symbol="ESX",
        side=side,
        quantity=D(3),
        order_type=OrderType.LIMIT,
        limit_price=D(90) if side is Side.BUY else D(120),
        intent_date=date(2026, 3, 2),
    )
    key = IntentKey(trade_id=name, purpose=purpose, sequence=1)
    increasing = purpose is Purpose.ENTRY
    return OrderIntent.derive(rig.services.installation, key, body, increasing=increasing)


def kinds(report: ReconcileReport) -> list[str]:
    return sorted(finding.kind.value for finding in report.findings)


async def protected_trade(rig: Rig) -> Any:
    handle = await rig.start_trade(plan_of(rig))
    await rig.until(
        lambda: any(o.stop_price is not None for o in rig.exchange.open_orders), "protected"
    )
    return handle


@pytest.mark.covers("R1", "R8")
async def test_orphan_of_ours_is_cancelled_and_a_foreign_order_is_left_alone(rig: Rig) -> None:
    """R1, and R8: the second pass finds nothing new to do."""
    orphan = order_of(rig, "nobody", Purpose.ENTRY, Side.BUY)
    foreign = order_of(rig, "x", Purpose.ENTRY, Side.BUY)
    foreign = foreign.model_copy(update={"client_id": "by-hand"})
    await rig.broker.place(orphan)
    await rig.broker.place(foreign)

    async with reconciling(rig) as one_pass:
        first = await one_pass()
        second = await one_pass()

    assert kinds(first) == ["foreign_order", "orphan_entry"]
    assert kinds(second) == ["foreign_order"]
    assert [order.client_id for order in rig.exchange.open_orders] == ["by-hand"]
    actions = [row.action for row in await rig.ledger.list_audit()]
    assert actions.count("alert.FOREIGN_ORDER") == 1
    age_s = await reconcile_age_s(rig.services)
    assert age_s is not None
    assert age_s < 20


async def test_fill_that_nobody_told_is_booked_and_closes_its_trade(rig: Rig) -> None:
    handle = await protected_trade(rig)
    rig.quote("ESX", "103.50", "103.75")

    async with reconciling(rig) as one_pass:
        report = await one_pass()
        result = await handle.result()

    assert report.missed >= 1
    assert (result.outcome, result.exit_reason) == ("closed", "target")


@pytest.mark.covers("R7")
async def test_quiet_account_with_an_open_trade_has_no_findings(rig: Rig) -> None:
    """R7: live orders and a held position are not differences."""
    handle = await protected_trade(rig)

    async with reconciling(rig) as one_pass:
        report = await one_pass()

    assert report == ReconcileReport()
    await handle.terminate("done")


class EmptyPositions:
    """The broker of the rig whose position list is empty, as in an outage (R6)."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def positions(self) -> tuple[Position, ...]:
        return ()


async def test_empty_position_list_is_not_believed_and_only_alerts(rig: Rig) -> None:
    handle = await protected_trade(rig)
    account = rig.services.account
    held = await rig.ledger.positions_by_trade(account)
    services = replace(rig.services, broker=EmptyPositions(rig.broker))

    report = await ReconcilePass(services, temporal_sender(rig.client)).run(
        ReconcileInput(account=account, settle_s=0.2)
    )

    assert kinds(report) == [DiscrepancyKind.POSITIONS_UNTRUSTED.value]
    assert await rig.ledger.adjustments(account) == ()
    assert await rig.ledger.positions_by_trade(account) == held
    assert any(o.stop_price is not None for o in rig.exchange.open_orders)
    await handle.terminate("done")


@pytest.mark.covers("R2", "R8")
async def test_unexplained_quantity_goes_to_external_once_and_freezes_the_symbol(rig: Rig) -> None:
    """R2, I20: a person bought five in the same account."""
    handle = await protected_trade(rig)
    rig.exchange.set_position("ESX", D(15), "MANUAL", D(100))

    async with reconciling(rig) as one_pass:
        first = await one_pass()
        second = await one_pass()

    assert kinds(first) == ["position_mismatch"]
    assert kinds(second) == []
    owned = await rig.ledger.positions_by_trade(rig.services.account)
    assert TradePosition(trade_id=EXTERNAL, symbol="ESX", quantity=D(5)) in owned
    refused = await rig.start_trade(plan_of(rig, "2"))
    assert (await refused.result()).outcome == "refused"
    await handle.terminate("done")


@pytest.mark.covers("R3")
async def test_vanished_position_is_booked_to_its_trade_and_its_exits_are_cancelled(
    rig: Rig,
) -> None:
    """R3: gone without a word; a stop that stayed would open the other side."""
    handle = await protected_trade(rig)
    rig.exchange.set_position("ESX", D(0), "VANISHED", D(98))

    async with reconciling(rig) as one_pass:
        report = await one_pass()
        assert kinds(report) == ["position_vanished"]
        result = await handle.result()

    assert result.outcome == "closed"
    assert rig.exchange.open_orders == []
    assert await rig.ledger.positions_by_trade(rig.services.account) == ()
