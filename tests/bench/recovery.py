"""SIGKILL of the only worker with 50 open trades: how long until each of them acts again."""

from __future__ import annotations

import asyncio
import signal
import statistics
import subprocess
import time
from datetime import datetime
from decimal import Decimal

from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.client import WorkflowExecutionStatus

from domain.ids import trade_prefix
from tests.bench.figures import spread, until, verdict
from tests.bench.plans import (
    FAR_QUOTE,
    SYMBOL,
    TARGET_QUOTES,
    WALK_SYMBOL,
    endless_walk_plan,
    resting_plan,
)
from tests.bench.servers import Servers
from tests.bench.stage import Handle, Stage, running_stage, start_trade, start_worker

ACCOUNT = "bench-recovery"
IDLE = 40
WALKING = 10
IDLE_MAX_S = 3.0
IN_FLIGHT_MAX_S = 5.0
WALK_INTERVAL_S = Decimal(2)
# While it lasts, every replace waits at the exchange: the kill finds sends in flight.
SLOW_S = 1.0
START_GAP_S = 0.2
OPEN_TIMEOUT_S = 300.0


async def measure_recovery(servers: Servers) -> list[str]:
    """Kills the worker with idle, walking and sending trades; answers the lines to print."""
    async with running_stage(servers, ACCOUNT) as stage:
        stage.quote(SYMBOL, "99.90", "100.10")
        stage.quote(WALK_SYMBOL, *FAR_QUOTE)
        process = await start_worker(stage, first=True)
        try:
            idle, walking = await _open_trades(stage)
            in_flight = await _kill_mid_send(stage, process, walking)
            # The first target of every idle trade fills while nobody looks.
            stage.quote(SYMBOL, *TARGET_QUOTES[0])
            killed_rows = len(stage.journal.rows)
            born = time.time()
            process = await start_worker(stage)
            ready_s = time.time() - born
            return await _figures(stage, idle, walking, in_flight, born, ready_s, killed_rows)
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


async def _open_trades(stage: Stage) -> tuple[dict[str, Handle], dict[str, Handle]]:
    """Idle trades with all stops resting, and trades on their walk."""
    idle = await _open_idle(stage)
    walking: dict[str, Handle] = {}
    for number in range(WALKING):
        plan = endless_walk_plan(stage.book, f"w{number}", WALK_INTERVAL_S, WALK_SYMBOL)
        walking[plan.trade_id] = await start_trade(stage, plan)
        await asyncio.sleep(START_GAP_S)
    await until(lambda: _walkers(stage) == WALKING, f"{WALKING} trades walk")
    await asyncio.sleep(float(WALK_INTERVAL_S))
    return idle, walking


async def _open_idle(stage: Stage) -> dict[str, Handle]:
    """A trade whose entry was refused or not filled in time is replaced by another."""
    idle: dict[str, Handle] = {}
    number = 0
    async with asyncio.timeout(OPEN_TIMEOUT_S):
        while len(idle) < IDLE or _stops(stage) != 3 * IDLE:
            if len(idle) < IDLE:
                plan = resting_plan(stage.book, f"i{number}")
                idle[plan.trade_id] = await start_trade(stage, plan)
                number += 1
            await asyncio.sleep(START_GAP_S)
            if len(idle) == IDLE:
                described = {name: await handle.describe() for name, handle in idle.items()}
                running = WorkflowExecutionStatus.RUNNING
                idle = {
                    name: idle[name] for name, one in described.items() if one.status == running
                }
    return idle


def _stops(stage: Stage) -> int:
    return sum(order.stop_price is not None for order in stage.exchange.open_orders)


def _walkers(stage: Stage) -> int:
    return sum(order.symbol == WALK_SYMBOL for order in stage.exchange.open_orders)


async def _kill_mid_send(
    stage: Stage, process: subprocess.Popen[bytes], walking: dict[str, Handle]
) -> set[str]:
    """SIGKILL while replaces hang at the exchange; answers the trades whose step was running."""
    slow = {
        "kind": "slow",
        "match": {"method": "PATCH", "count": None},
        "params": {"delay_s": SLOW_S},
    }
    stage.exchange.state.faults.add(slow)
    seen = len(stage.journal.rows)
    await until(
        lambda: any(row["kind"] == "fault" for row in stage.journal.after(seen)), "a send hangs"
    )
    process.send_signal(signal.SIGKILL)
    stage.exchange.state.faults.clear()
    await asyncio.to_thread(process.wait)
    found: set[str] = set()
    for trade_id, handle in walking.items():
        pending = (await handle.describe()).raw_description.pending_activities
        started = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        if any(one.state == started for one in pending):
            found.add(trade_id)
    return found


async def _figures(
    stage: Stage,
    idle: dict[str, Handle],
    walking: dict[str, Handle],
    in_flight: set[str],
    born: float,
    ready_s: float,
    killed_rows: int,
) -> list[str]:
    prefixes = {trade_id: trade_prefix(stage.installation, trade_id) for trade_id in idle}

    def ratcheted() -> dict[str, float]:
        """Seconds after the birth at which the exchange accepted each trade's moved stop."""
        found: dict[str, float] = {}
        for row in stage.journal.after(killed_rows):
            if row["kind"] == "accepted" and row.get("replaces"):
                at_s = datetime.fromisoformat(row["wall"]).timestamp() - born
                found.setdefault(str(row["client_id"])[:16], at_s)
        return found

    await until(lambda: set(prefixes.values()) <= set(ratcheted()), "every stop moved", 120)
    moved = [ratcheted()[prefix] for prefix in prefixes.values()]
    idle_s = [await _first_task_s(handle, born) for handle in idle.values()]
    sending_s = [await _first_task_s(walking[trade_id], born) for trade_id in sorted(in_flight)]
    waiting_s = [
        await _first_task_s(handle, born)
        for trade_id, handle in walking.items()
        if trade_id not in in_flight
    ]
    lines = [
        f"new process polls after {ready_s:.2f} s; {IDLE} idle, {len(waiting_s)} between two walk "
        f"steps, {len(in_flight)} with a step in flight",
        f"first decision of an idle trade (fill while the worker was dead): {spread(idle_s, 's')}",
        f"first moved stop of an idle trade at the exchange: {spread(moved, 's')}",
    ]
    if waiting_s:
        lines.append(f"first decision of a walking trade: {spread(waiting_s, 's')}")
    lines.append(
        verdict("median idle trade acts again", statistics.median(idle_s), IDLE_MAX_S, " s")
    )
    lines.append(verdict("last idle trade acts again", max(idle_s), IDLE_MAX_S, " s"))
    if sending_s:
        lines.append(f"first decision of a trade with a step in flight: {spread(sending_s, 's')}")
        lines.append(verdict("last one acts again", max(sending_s), IN_FLIGHT_MAX_S, " s"))
    return lines


async def _first_task_s(handle: Handle, born: float) -> float:
    """Seconds from the birth of the process to the trade's first finished workflow task."""
    completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED

    async def look() -> float | None:
        history = await handle.fetch_history()
        times = [
            event.event_time.ToMicroseconds() / 1e6
            for event in history.events
            if event.event_type == completed
        ]
        later = [at for at in times if at > born]
        return later[0] - born if later else None

    for _ in range(100):
        found = await look()
        if found is not None:
            return found
        await asyncio.sleep(0.2)
    raise AssertionError(f"{handle.id} did not act within 20 s")
