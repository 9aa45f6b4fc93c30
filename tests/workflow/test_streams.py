"""The streamer on the real stack: what frames tell, what they lose, and rule exits (F1–F3)."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from domain.ids import Purpose, parse_client_order_id
from domain.messages import TradeResult
from domain.order import OrderIntent
from domain.plan import ExitRule, PlanPrice, RuleKind, StopPlan, TradePlan
from ledger.errors import LedgerDown
from ledger.records import GateAnswer, IntentRecord
from ledger.repository import Ledger
from tests.rig import Rig, running_rig, running_streams
from tests.workflow.test_trade_thread import plan_of
from workflows.trade import TradeWorkflow

D = Decimal
TradeHandle = WorkflowHandle[TradeWorkflow, TradeResult]


async def opened(rig: Rig, plan: TradePlan | None = None) -> TradeHandle:
    """A trade that holds its position behind a resting stop."""
    handle = await rig.start_trade(plan or plan_of(rig))
    await rig.until(
        lambda: any(o.stop_price is not None for o in rig.exchange.open_orders), "protected"
    )
    return handle


async def check_books(rig: Rig) -> None:
    """Ledger executions equal the journal's, as sets, each once."""
    told = Counter(
        (row.fill.broker_order_id, row.fill.quantity, row.fill.price)
        for row in await rig.ledger.fills_of_account(rig.services.account)
    )
    truth = Counter(
        (row["order_id"], D(row["quantity"]), D(row["price"])) for row in rig.journal("fill")
    )
    assert told == truth
    assert sum(truth.values()) >= 2


@pytest.mark.covers("F1", "F2", "F3")
@pytest.mark.parametrize("kind", ["stream_drop", "stream_duplicate", "stream_reorder"])
async def test_damaged_stream_still_closes_the_trade_with_equal_books(rig: Rig, kind: str) -> None:
    rig.exchange.state.faults.add({"kind": kind, "match": {"count": None}})
    handle = await opened(rig)

    rig.quote("ESX", "103.50", "103.75")

    result = await handle.result()
    assert (result.outcome, result.exit_reason) == ("closed", "target")
    assert rig.exchange.open_orders == []
    await check_books(rig)


@pytest.mark.covers("F1")
async def test_cut_stream_is_connected_again_and_the_gap_is_read_from_rest(rig: Rig) -> None:
    handle = await opened(rig)
    rig.exchange.state.faults.add({"kind": "stream_disconnect"})

    rig.quote("ESX", "103.50", "103.75")

    assert (await handle.result()).outcome == "closed"
    assert rig.exchange.state.faults.fired["stream_disconnect"] == 1
    await check_books(rig)


@pytest.mark.covers("F2")
async def test_two_streamers_tell_each_fill_once(rig: Rig) -> None:
    async with running_streams(rig.client, rig.services, rig.queue, number=2):
        handle = await opened(rig)
        rig.quote("ESX", "103.50", "103.75")
        assert (await handle.result()).exit_reason == "target"
    await check_books(rig)
    assert await rig.ledger.untold_fills(rig.services.account) == ()


async def test_volatility_spike_is_seen_by_the_exit_watch_and_flattens_the_trade(rig: Rig) -> None:
    rule = ExitRule(rule_id="spike", kind=RuleKind.VOLATILITY_SPIKE, threshold=D(10))
    stop = StopPlan(price=PlanPrice(offset=D(-20)))
    plan = plan_of(rig).model_copy(update={"targets": (), "rules": (rule,), "stop": stop})
    handle = await opened(rig, plan)
    account = rig.services.account
    while not any(w.evaluated_at for w in await rig.ledger.list_watches(account)):
        await rig.breathe()

    rig.quote("ESX", "113.00", "113.25")

    result = await handle.result()
    assert (result.outcome, result.exit_reason) == ("closed", "spike")
    assert await rig.ledger.list_watches(account) == ()

    async def told() -> list[str]:
        return [each.code for each in await rig.ledger.list_alerts(account=account)]

    async def is_told() -> bool:
        return "VOLATILITY_EXIT" in await told()

    await rig.until_async(is_told, "the volatility exit was not told")
    assert (await told()).count("VOLATILITY_EXIT") == 1
    await check_books(rig)


@pytest.mark.covers("G3")
async def test_halt_is_told_to_the_open_trade(rig: Rig) -> None:
    handle = await opened(rig)

    rig.exchange.halt("ESX")

    while (await handle.query(TradeWorkflow.status)).protection != "dormant":
        await rig.breathe()
    rig.exchange.resume("ESX")
    while (await handle.query(TradeWorkflow.status)).protection != "resting":
        await rig.breathe()
    rig.quote("ESX", "103.50", "103.75")
    assert (await handle.result()).outcome == "closed"


class ForgetfulLedger(Ledger):
    """PostgreSQL is away whenever the answer of a protective order is to be booked (H5)."""

    async def record_answer(self, client_id: str, *rest: Any, **values: Any) -> IntentRecord:
        parts = parse_client_order_id(client_id)
        if parts is not None and parts.purpose in (Purpose.OCO, Purpose.STOP):
            raise LedgerDown("planted")
        return await super().record_answer(client_id, *rest, **values)


async def test_order_whose_answer_was_not_booked_and_that_filled_unseen_is_found(
    temporal_client: Client, ledger_dsn: str, unique: str
) -> None:
    """Found by make chaos: its row stayed `sending`, its fill nobody's, its trade open."""
    ledger = await ForgetfulLedger.connect(ledger_dsn)
    try:
        async with running_rig(temporal_client, ledger, f"acct-{unique}") as rig:
            rig.exchange.state.faults.add({"kind": "stream_drop", "match": {"count": None}})
            rig.quote("ESX", "99.75", "100.25")
            handle = await opened(rig)
            rig.quote("ESX", "103.50", "103.75")
            async with asyncio.timeout(rig.deadline_s):
                result = await handle.result()
            assert (result.outcome, result.exit_reason) == ("closed", "target")
            await check_books(rig)
            left = await ledger.unresolved_intents(rig.services.account)
            assert [record.intent.client_id for record in left] == []
    finally:
        await ledger.aclose()


class AwayLedger(Ledger):
    """PostgreSQL is away while a protective order goes out, and for two tries behind it (H5)."""

    missed = 0

    async def open_gate(self, intent: OrderIntent, *rest: Any, **values: Any) -> GateAnswer:
        if intent.key.purpose in (Purpose.OCO, Purpose.STOP):
            raise LedgerDown("planted")
        return await super().open_gate(intent, *rest, **values)

    async def book_sent_intent(self, *rest: Any, **values: Any) -> IntentRecord:
        if self.missed < 2:
            self.missed += 1
            raise LedgerDown("planted")
        return await super().book_sent_intent(*rest, **values)


async def test_row_of_an_exit_that_went_out_without_the_ledger_is_written_when_it_is_back(
    temporal_client: Client, ledger_dsn: str, unique: str
) -> None:
    """I12. Found by make chaos: nobody tried again, and the order had no row for ever."""
    ledger = await AwayLedger.connect(ledger_dsn)
    try:
        async with running_rig(
            temporal_client, ledger, f"acct-{unique}", with_wall_times=True
        ) as rig:
            rig.exchange.state.faults.add({"kind": "stream_drop", "match": {"count": None}})
            rig.quote("ESX", "99.75", "100.25")
            handle = await opened(rig)
            rig.quote("ESX", "103.50", "103.75")
            async with asyncio.timeout(rig.deadline_s):
                result = await handle.result()
            assert (result.outcome, result.exit_reason) == ("closed", "target")
            assert ledger.missed == 2
            await check_books(rig)
            rows = {
                r.intent.client_id: r for r in await ledger.orders_of_account(rig.services.account)
            }
            for asked in rig.journal("request"):
                assert rows[asked["client_id"]].gate_at <= datetime.fromisoformat(asked["wall"])
    finally:
        await ledger.aclose()
