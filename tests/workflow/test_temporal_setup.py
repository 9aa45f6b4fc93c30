"""`deploy/temporal` brings a real server to what architecture §4 asks, however often it is run."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    ScheduleOverlapPolicy,
)
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import Worker, WorkerDeploymentConfig

from deploy.temporal.lanes import OrderLane
from deploy.temporal.prepare import prepare
from deploy.temporal.schedules import reconcile_schedule, reconcile_schedule_id, start_now
from deploy.temporal.versions import current_version, set_current_version


@workflow.defn(name="TestVersioned", versioning_behavior=VersioningBehavior.PINNED)
class VersionedWorkflow:
    """Does nothing; a versioned worker must serve some workflow."""

    @workflow.run
    async def run(self) -> None:
        return None


async def test_prepare_run_twice_leaves_one_schedule_and_thirty_days_of_history(
    temporal_client: Client, unique: str
) -> None:
    lane = OrderLane(account=unique, broker_requests_per_minute=200)
    schedule_id = reconcile_schedule_id(unique)
    for every_minutes in (7, 5):
        schedule = reconcile_schedule(unique, [unique], every=timedelta(minutes=every_minutes))
        schedule.state.paused = every_minutes == 7
        await prepare(temporal_client, lanes=[lane], schedules={schedule_id: schedule})

    namespace = await temporal_client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=temporal_client.namespace)
    )
    kept = namespace.config.workflow_execution_retention_ttl.ToTimedelta()
    assert kept >= timedelta(days=30)

    described = await temporal_client.get_schedule_handle(schedule_id).describe()
    assert described.schedule.spec.intervals[0].every == timedelta(minutes=5)
    assert described.schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert described.schedule.policy.catchup_window == timedelta(minutes=5)
    # What an operator paused stays paused over a deploy.
    assert described.schedule.state.paused
    await temporal_client.get_schedule_handle(schedule_id).delete()


async def test_start_runs_the_reconcile_at_once_unless_its_schedule_is_paused(
    temporal_client: Client, unique: str
) -> None:
    """R6: five minutes long a new simulated exchange was taken for one that holds our stops."""
    schedule_id = reconcile_schedule_id(unique)
    schedule = reconcile_schedule(unique, [unique], task_queue=unique, every=timedelta(days=300))
    schedule.state.paused = True
    await prepare(temporal_client, schedules={schedule_id: schedule})
    handle = temporal_client.get_schedule_handle(schedule_id)
    await start_now(temporal_client, schedule_id)
    assert (await handle.describe()).info.num_actions == 0
    await handle.unpause()
    await start_now(temporal_client, schedule_id)
    (run,) = (await handle.describe()).info.recent_actions
    await handle.delete()
    assert isinstance(run.action, ScheduleActionExecutionStartWorkflow)
    started = temporal_client.get_workflow_handle(run.action.workflow_id)
    assert (await started.describe()).workflow_type == "Reconcile"
    await started.terminate()


@pytest.mark.covers("F8")
async def test_lane_gets_half_of_the_brokers_limit_and_the_server_bounds_its_burst(
    temporal_client: Client, unique: str
) -> None:
    lane = OrderLane(account=unique, broker_requests_per_minute=200)
    assert lane.activities_per_second == Decimal(50) / 60
    assert lane.burst == 20
    assert lane.max_concurrent_walks(Decimal(30)) == 25

    await prepare(temporal_client, lanes=[lane])

    described = await temporal_client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=temporal_client.namespace,
            task_queue=TaskQueue(name=lane.queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            report_config=True,
        )
    )
    rate = described.config.queue_rate_limit.rate_limit.requests_per_second
    assert rate == 20.0


async def test_current_version_is_the_build_whose_worker_polls(
    temporal_client: Client, unique: str
) -> None:
    deployment = f"test-{unique}"
    assert await current_version(temporal_client, deployment) is None
    config = WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=deployment, build_id="build-1"),
        use_worker_versioning=True,
    )
    async with Worker(
        temporal_client,
        task_queue=unique,
        workflows=[VersionedWorkflow],
        deployment_config=config,
    ):
        await set_current_version(temporal_client, "build-1", deployment=deployment)
        assert await current_version(temporal_client, deployment) == "build-1"
        await temporal_client.execute_workflow(VersionedWorkflow.run, id=unique, task_queue=unique)
