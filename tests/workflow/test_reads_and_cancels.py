"""A thousand trades read while cancels go out (faults.md F8, I14).

Two halves, each on real parts: what the reads of a thousand trades cost at the venue's budget, and
that the lane's queue on the Temporal server lets a cancel pass every read that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from brokers.guarded import GuardedBroker
from brokers.port import Accepted, Broker
from deploy.temporal.lanes import limit_queue
from domain.ids import IntentKey, Purpose, order_queue
from domain.order import OrderBody, OrderIntent, OrderType, Side
from simulator.clock import SimClock
from simulator.config import CalendarConfig, ExchangeConfig, WireFace
from simulator.server import SimulatorServer
from simulator.venue import Venue
from tests.rig import broker_at

with workflow.unsafe.imports_passed_through():
    from domain.commands import Urgency
    from workflows import _lifecycle as life

D = Decimal
PER_MINUTE = 200
TRADES, CANCELS = 1_000, 20
READS, READ_BEFORE = 60, 5


# --- the venue's budget --------------------------------------------------------------------------


@dataclass
class Desk:
    """The adapter as workers have it, at a venue that counts requests."""

    server: SimulatorServer
    broker: Broker


async def nobody(*_: Any) -> None:
    return None


@pytest.fixture(params=list(WireFace))
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    config = ExchangeConfig(
        requests_per_minute=PER_MINUTE,
        calendar=CalendarConfig(always_open=True),
        face=request.param,
    )
    venue = Venue.open(config)
    clock = SimClock(venue.first.now, speed=D(1))
    async with SimulatorServer(venue, clock) as server:
        server.exchange.set_quote("ESX", D("99.75"), D("100.25"), D(1000), D(1000))
        inner = broker_at(server, "acct", config.keys[0])
        try:
            yield Desk(server, GuardedBroker(inner, nobody, lambda: datetime.now(UTC)))
        finally:
            await inner.aclose()


async def resting_order(broker: Broker, number: int) -> str:
    body = OrderBody(
        symbol="ESX",
        side=Side.BUY,
        quantity=D(1),
        order_type=OrderType.LIMIT,
        limit_price=D(90),
        intent_date=date(2026, 3, 2),
    )
    key = IntentKey(trade_id=f"t{number}", purpose=Purpose.ENTRY, sequence=1)
    outcome = await broker.place(OrderIntent.derive("7a8a", key, body, increasing=True))
    assert isinstance(outcome, Accepted), outcome
    return outcome.order.broker_order_id


async def read_as_a_trade(broker: Broker) -> None:
    """The reads of `read_broker` (activities/reads.py)."""
    await broker.executions_since(None)
    await broker.open_orders()
    await broker.positions()
    await broker.executions_since(None)


@pytest.mark.covers("F8")
async def test_reads_of_a_thousand_trades_leave_cancels_their_share_of_the_budget(
    desk: Desk,
) -> None:
    """I14: read one by one they would be four thousand requests of two hundred a minute."""
    orders = [await resting_order(desk.broker, number) for number in range(CANCELS)]
    reading = [asyncio.create_task(read_as_a_trade(desk.broker)) for _ in range(TRADES)]
    for broker_order_id in orders:
        await desk.broker.cancel(broker_order_id)
    await asyncio.gather(*reading)
    rows = desk.server.exchange.journal.rows
    assert [row for row in rows if row["kind"] == "throttled"] == []
    assert desk.server.exchange.open_orders == []


# --- the lane ------------------------------------------------------------------------------------


@dataclass
class LaneWork:
    """Stands for the order activities: the order in which the lane lets them through."""

    done: list[str] = field(default_factory=list)

    @activity.defn(name="lane_work")
    async def lane_work(self, name: str) -> None:
        self.done.append(name)


@workflow.defn(name="TestCrowdedLane")
class CrowdedLane:
    """Trades that read, and one that cancels when some of the reads are done."""

    @workflow.run
    async def run(self, queue: str) -> None:
        reads = [self._send(queue, f"read-{n}", Urgency.PROTECT) for n in range(READS)]
        for done, finished in enumerate(workflow.as_completed(reads), start=1):
            await finished
            if done == READ_BEFORE:
                await self._send(queue, "cancel", Urgency.EXIT)

    def _send(self, queue: str, name: str, urgency: Urgency) -> Any:
        return workflow.start_activity(
            "lane_work",
            name,
            task_queue=queue,
            start_to_close_timeout=timedelta(seconds=30),
            priority=life.PRIORITY[urgency],
        )


@pytest.mark.covers("F8")
async def test_cancel_passes_every_read_that_waits_in_its_lane(
    temporal_client: Client, unique: str
) -> None:
    """I14: the lane lets ten a second through; the cancel does not stand behind fifty reads."""
    queue = order_queue(unique)
    await limit_queue(temporal_client, queue, D(10), "ten a second")
    work = LaneWork()
    async with (
        Worker(temporal_client, task_queue=unique, workflows=[CrowdedLane]),
        Worker(
            temporal_client,
            task_queue=queue,
            activities=[work.lane_work],
            max_concurrent_activities=1,
        ),
    ):
        await temporal_client.execute_workflow(CrowdedLane.run, queue, id=unique, task_queue=unique)
    assert sorted(set(work.done)) == sorted(["cancel", *(f"read-{n}" for n in range(READS))])
    # What the worker had fetched and what went by while the workflow was woken comes before it.
    assert work.done.index("cancel") < READS // 2, work.done
