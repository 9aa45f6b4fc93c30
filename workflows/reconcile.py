"""One reconcile pass of an account, started by its schedule every five minutes."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from activities.reconcile import ReconcileActivities, ReconcileInput, ReconcileReport
    from domain.ids import stream_queue
    from workflows import _lifecycle as life

PASS_TIMEOUT = timedelta(seconds=60)


@workflow.defn(name="Reconcile", versioning_behavior=VersioningBehavior.PINNED)
class ReconcileWorkflow:
    """Broker truth against the ledger; its result lists every finding.

    The schedule gives it two minutes and never overlaps passes. A pass that cannot read one side
    is repeated until then; the age of the last good pass is an alert elsewhere.
    """

    @workflow.run
    async def run(self, input: ReconcileInput) -> ReconcileReport:
        report: ReconcileReport = await workflow.execute_activity_method(
            ReconcileActivities.reconcile_account,
            input.model_copy(update={"trade_queue": workflow.info().task_queue}),
            task_queue=stream_queue(input.account),
            start_to_close_timeout=PASS_TIMEOUT,
            retry_policy=life.REPEAT,
            priority=life.REPORT_PRIORITY,
            summary=f"reconcile {input.account}",
        )
        found = ", ".join(sorted({finding.kind.value for finding in report.findings}))
        workflow.set_current_details(found or "no difference")
        return report
