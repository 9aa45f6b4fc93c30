"""What a standard trade costs against a bare workflow, and of which events it consists."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from tests.bench.bare import running_bare, standard_steps
from tests.bench.figures import spread, verdict
from tests.bench.plans import STEP_INTERVAL_S
from tests.bench.servers import Servers
from tests.bench.standard import run_standard_trade
from tests.rig import running_rig

RATIO_MAX = 1.25
EVENTS_MAX = 125
WARM_UPS = 2


@dataclass(frozen=True)
class History:
    """Counts of one finished workflow."""

    events: int
    by_type: Counter[str]
    activities: Counter[str]
    activity_ms: dict[str, list[float]]


async def measure_trade_cost(servers: Servers, pairs: int = 12) -> list[str]:
    """Runs A B A B …, `pairs` of each after warm-ups; answers the lines to print."""
    interval_s = float(STEP_INTERVAL_S)
    steps = standard_steps(interval_s)
    trades: list[float] = []
    bares: list[float] = []
    histories: list[History] = []
    bare_events: list[int] = []
    cpu_s: list[float] = []
    bare_cpu_s: list[float] = []
    async with (
        running_rig(servers.client, servers.ledger, "bench") as rig,
        running_bare(servers.client) as bare,
    ):
        for number in range(-WARM_UPS, pairs):
            cpu = [time.process_time()]
            run = await run_standard_trade(rig, f"t{number + WARM_UPS}")
            cpu.append(time.process_time())
            bare_s = await bare.run(f"b{number + WARM_UPS}", steps)
            cpu.append(time.process_time())
            # About what passed on the wall: quotes from ahead of the clock hold the walk up.
            # Executions of the trades before stay behind the overlap of the next read.
            rig.server.step_s(4)
            if number < 0:
                continue
            cpu_s.append(cpu[1] - cpu[0])
            bare_cpu_s.append(cpu[2] - cpu[1])
            trades.append(run.seconds)
            bares.append(bare_s)
            histories.append(await read_history(servers.client, run.workflow_id))
            bare_id = f"bench-bare/b{number + WARM_UPS}"
            bare_events.append((await read_history(servers.client, bare_id)).events)
    timers_s = sum(step.timer_s for step in steps)
    return [
        *_lines(trades, bares, histories, bare_events, timers_s),
        f"CPU of this process (workers, stream and exchange): trade "
        f"{statistics.median(cpu_s):.2f} s, bare {statistics.median(bare_cpu_s):.2f} s",
    ]


def _lines(
    trades: list[float],
    bares: list[float],
    histories: list[History],
    bare_events: list[int],
    timers_s: float,
) -> list[str]:
    ratio = statistics.median(trades) / statistics.median(bares)
    busy = [value - timers_s for value in trades]
    bare_busy = [value - timers_s for value in bares]
    middle = sorted(histories, key=lambda history: history.events)[len(histories) // 2]
    lines = [
        f"standard trade  {spread(trades, 's')}",
        f"bare workflow   {spread(bares, 's')}",
        verdict("standard trade / bare workflow", ratio, RATIO_MAX),
        f"fastest of each (least disturbed by other load): {min(trades):.2f} s / "
        f"{min(bares):.2f} s = {min(trades) / min(bares):.2f}",
        f"both without their {timers_s:g} s of walk intervals: trade "
        f"{statistics.median(busy):.2f} s, bare {statistics.median(bare_busy):.2f} s, ratio "
        f"{statistics.median(busy) / statistics.median(bare_busy):.2f}",
        verdict("events of a standard trade", middle.events, EVENTS_MAX, digits=0)
        + f"; bare {statistics.median(bare_events):.0f}",
        "events by type: "
        + ", ".join(f"{name} {count}" for name, count in middle.by_type.most_common()),
        "activities (median ms from start to answer):",
    ]
    for name, count in middle.activities.most_common():
        all_ms = [ms for history in histories for ms in history.activity_ms.get(name, [])]
        lines.append(f"  {count} × {name} {statistics.median(all_ms):.0f} ms")
    return lines


async def read_history(client: Client, workflow_id: str) -> History:
    """Counts the events of a workflow that has ended."""
    fetched = await client.get_workflow_handle(workflow_id).fetch_history()
    by_type: Counter[str] = Counter()
    names: dict[int, str] = {}
    started_us: dict[int, int] = {}
    activity_ms: dict[str, list[float]] = {}
    for event in fetched.events:
        by_type[_type_name(event)] += 1
        if event.HasField("activity_task_scheduled_event_attributes"):
            scheduled = event.activity_task_scheduled_event_attributes
            names[event.event_id] = scheduled.activity_type.name
        if event.HasField("activity_task_started_event_attributes"):
            started = event.activity_task_started_event_attributes
            started_us[started.scheduled_event_id] = event.event_time.ToMicroseconds()
        if event.HasField("activity_task_completed_event_attributes"):
            scheduled_id = event.activity_task_completed_event_attributes.scheduled_event_id
            took_us = event.event_time.ToMicroseconds() - started_us[scheduled_id]
            activity_ms.setdefault(names[scheduled_id], []).append(took_us / 1000)
    return History(len(fetched.events), by_type, Counter(names.values()), activity_ms)


def _type_name(event: HistoryEvent) -> str:
    name = EventType.Name(event.event_type)
    return name.removeprefix("EVENT_TYPE_").replace("_", " ").lower()
