"""Schedules as code (architecture §4): reconcile every five minutes, a report every evening."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from domain.ids import TRADE_QUEUE, day_report_workflow_id, reconcile_workflow_id

RECONCILE_WORKFLOW = "Reconcile"
RECONCILE_EVERY = timedelta(minutes=5)
DAY_REPORT_WORKFLOW = "DayReport"
# A quarter of an hour after the close; holidays and weekends tell what stays open over them.
DAY_REPORT_AT = (16, 15)
DAY_REPORT_ZONE = "America/New_York"
# Late is better than never: the evening is long.
DAY_REPORT_CATCH_UP = timedelta(hours=6)
DAY_REPORT_TIMEOUT = timedelta(hours=1)
# The default is a year: a recovered server would run a storm of stale passes.
CATCH_UP_WINDOW = timedelta(minutes=5)
# Under SKIP one wedged run would silently stop the schedule for ever.
EXECUTION_TIMEOUT = timedelta(minutes=2)
TASK_TIMEOUT = timedelta(seconds=3)


def reconcile_schedule_id(account: str) -> str:
    return f"schedule/{reconcile_workflow_id(account)}"


def reconcile_schedule(
    account: str,
    arguments: Sequence[Any],
    *,
    task_queue: str = TRADE_QUEUE,
    every: timedelta = RECONCILE_EVERY,
) -> Schedule:
    """Starts `Reconcile` with these arguments; a pass that still runs is not overlapped."""
    return Schedule(
        action=ScheduleActionStartWorkflow(
            RECONCILE_WORKFLOW,
            args=list(arguments),
            id=reconcile_workflow_id(account),
            task_queue=task_queue,
            execution_timeout=EXECUTION_TIMEOUT,
            task_timeout=TASK_TIMEOUT,
            static_summary=f"broker truth against ledger, account {account}",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP_WINDOW),
    )


def day_report_schedule_id(account: str) -> str:
    return f"schedule/{day_report_workflow_id(account)}"


def day_report_schedule(
    account: str, arguments: Sequence[Any], *, task_queue: str = TRADE_QUEUE
) -> Schedule:
    """Starts `DayReport` on weekdays at 16:15 New York, summer and winter."""
    hour, minute = DAY_REPORT_AT
    evening = ScheduleCalendarSpec(
        hour=[ScheduleRange(hour)],
        minute=[ScheduleRange(minute)],
        day_of_week=[ScheduleRange(1, 5)],
        comment="after the close of New York",
    )
    return Schedule(
        action=ScheduleActionStartWorkflow(
            DAY_REPORT_WORKFLOW,
            args=list(arguments),
            id=day_report_workflow_id(account),
            task_queue=task_queue,
            execution_timeout=DAY_REPORT_TIMEOUT,
            task_timeout=TASK_TIMEOUT,
            static_summary=f"evening of account {account}",
        ),
        spec=ScheduleSpec(calendars=[evening], time_zone_name=DAY_REPORT_ZONE),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP, catchup_window=DAY_REPORT_CATCH_UP
        ),
    )


async def start_now(client: Client, schedule_id: str) -> None:
    """One run besides the regular ones; not of a paused schedule: the kill may have paused it."""
    handle = client.get_schedule_handle(schedule_id)
    if not (await handle.describe()).schedule.state.paused:
        await handle.trigger()


async def ensure_schedule(client: Client, schedule_id: str, schedule: Schedule) -> None:
    """Creates the schedule, or brings the existing one to this definition.

    A paused schedule stays paused: the kill may have paused it.
    """
    try:
        await client.create_schedule(schedule_id, schedule)
    except ScheduleAlreadyRunningError:

        async def replaced(current: ScheduleUpdateInput) -> ScheduleUpdate:
            schedule.state = current.description.schedule.state
            return ScheduleUpdate(schedule)

        await client.get_schedule_handle(schedule_id).update(replaced)
