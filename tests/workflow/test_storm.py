"""Signal storms: the kill still works and the trade comes back (faults.md A4, I9, I11)."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from activities.doorbell import Doorbell, temporal_sender
from activities.executions import booked_fill_facts
from activities.kill import OrderFate, engage
from activities.services import wall_now
from deploy.local.temporal import SIGNALS_OF_A_RUN_MAX
from domain.control import KillMode
from domain.facts import FactEnvelope
from tests import trade_scenarios as play
from tests.long_life import assert_small, count, runs_of
from tests.rig import Rig
from tests.workflow.test_kill import entries, kill_of, patient, sweeping
from tests.workflow.test_trade_thread import plan_of

FILLS = 12_000
SIGNALS_PER_S_MAX = 20
SENDERS = 40
SIGNALED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED


def is_protected(rig: Rig) -> bool:
    return any(o.stop_price is not None for o in rig.exchange.open_orders)


# --- our own sender -------------------------------------------------------------------------------


@pytest.mark.covers("A4")
async def test_twelve_thousand_fills_leave_the_doorbell_as_twenty_signals_a_second(
    rig: Rig,
) -> None:
    """A4: every fill is told again and again; the trade hears little of it and books it once."""
    handle = await rig.start_trade(plan_of(rig, "1"))
    await rig.until(lambda: is_protected(rig), "protected")
    [fill] = await booked_fill_facts(rig.services, plan_of(rig, "1").trade_id)
    real, sent_at = temporal_sender(rig.client), list[float]()
    loop = asyncio.get_running_loop()

    async def noted(trade_id: str, signal: str, envelope: FactEnvelope) -> bool:
        sent_at.append(loop.time())
        return await real(trade_id, signal, envelope)

    bell = Doorbell(noted, sender="storm", now=wall_now)
    for number in range(FILLS):
        bell.ring(plan_of(rig, "1").trade_id, fill)
        if number % 100 == 99:
            await asyncio.sleep(0.02)  # two seconds and more of fills
    await bell.drain()

    for at in sent_at:
        # A timer may come a clock tick early.
        assert sum(at <= other < at + 0.98 for other in sent_at) <= SIGNALS_PER_S_MAX
    rig.quote("ESX", "103.50", "103.75")
    result = await play.newest_run(rig, handle).result()
    assert (result.exit_reason, result.quantity) == ("target", Decimal(10))
    runs = await runs_of(rig.client, handle.id)
    assert_small(runs)
    assert count(runs, SIGNALED) < FILLS / 64


# --- signals of strangers -------------------------------------------------------------------------


async def storm(handle: WorkflowHandle[Any, Any], total: int) -> int:
    """Raw signals, as fast as the server takes them; answers how many it took."""
    numbers, taken = iter(range(total)), 0

    async def send() -> None:
        nonlocal taken
        for number in numbers:
            facts = {"facts": [{"kind": f"stranger-{number}"}]}
            envelope = FactEnvelope(sender="a stranger", body=facts)
            try:
                await handle.signal("facts", envelope)
                taken += 1
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return  # the kill has ended the trade that walked
                # The run is full: the server refuses until the trade goes on in a new one.
                if error.status is not RPCStatusCode.INVALID_ARGUMENT:
                    raise

    await asyncio.gather(*(send() for _ in range(SENDERS)))
    return taken


async def outlive(rig: Rig, offered: int) -> None:
    """A trade that is held and one that walks, each under half of the offered signals."""
    async with sweeping(rig) as sweeper:
        held = await rig.start_trade(plan_of(rig, "held"))
        await rig.until(lambda: is_protected(rig), "protected")
        walking = await rig.start_trade(patient(rig, "walks"))
        await rig.until(lambda: len(entries(rig)) == 1, "the entry walks")
        stormed = [play.newest_run(rig, held), play.newest_run(rig, walking)]
        storms = asyncio.gather(*(storm(each, offered // 2) for each in stormed))
        await asyncio.sleep(0.5)
        await engage(rig.ledger, rig.services.account, kill_of(rig, KillMode.CANCEL_ENTRIES))
        late = await rig.start_trade(patient(rig, "late"))
        await rig.until(lambda: not entries(rig), "the entry is cancelled under the storm")
        await rig.until(lambda: "kill-1" in sweeper.receipts, "the receipt is final")
        receipt = sweeper.receipts["kill-1"]
        assert {each.fate for each in receipt.orders} <= {
            OrderFate.CANCELLED,
            OrderFate.ALREADY_DEAD,
        }
        assert (await late.result()).outcome == "refused"
        taken = await storms
        assert is_protected(rig), "the stop rests all the while"
        rig.quote("ESX", "103.50", "103.75")
        results = [await each.result() for each in stormed]
    assert [each.outcome for each in results] == ["closed", "not_filled"]
    for handle, took in zip(stormed, taken, strict=True):
        runs = await runs_of(rig.client, handle.id)
        assert_small(runs)
        assert took <= len(runs) * SIGNALS_OF_A_RUN_MAX
    alerts = [each.code for each in await rig.ledger.list_alerts()]
    assert "FACT_UNREADABLE" in alerts, "a person is told of the strangers"
    assert len(alerts) < 50, "and not by every single signal"
    play.assert_one_order_per_intent(rig)


@pytest.mark.covers("A4")
async def test_strangers_signals_stop_neither_the_kill_nor_the_trades(rig: Rig) -> None:
    await outlive(rig, 2 * SIGNALS_OF_A_RUN_MAX + 400)


@pytest.mark.nightly
@pytest.mark.timeout(900)
async def test_twelve_thousand_signals_of_strangers_are_outlived(rig: Rig) -> None:
    rig.deadline_s = 300
    await outlive(rig, 12_000)
