"""The evening's report of an account, started by its schedule at 16:15 New York."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from activities.day_report import DayReportActivities, DayReportInput, DayReportWritten
    from domain.ids import stream_queue
    from workflows import _lifecycle as life

REPORT_TIMEOUT = timedelta(seconds=60)


@workflow.defn(name="DayReport", versioning_behavior=VersioningBehavior.PINNED)
class DayReportWorkflow:
    """Writes the report and tells it in one alert; repeated until the ledger answers."""

    @workflow.run
    async def run(self, input: DayReportInput) -> DayReportWritten:
        written: DayReportWritten = await workflow.execute_activity_method(
            DayReportActivities.report_day,
            input,
            task_queue=stream_queue(input.account),
            start_to_close_timeout=REPORT_TIMEOUT,
            retry_policy=life.REPEAT,
            priority=life.REPORT_PRIORITY,
            summary=f"evening of {input.account}",
        )
        workflow.set_current_details(written.line)
        return written
