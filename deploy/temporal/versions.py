"""Which build takes new work (architecture §4, Versions)."""

from __future__ import annotations

import asyncio

from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from observability.build import DEPLOYMENT_NAME

POLLERS_TIMEOUT_S = 30.0
_POLL_S = 0.1


async def current_version(client: Client, deployment: str = DEPLOYMENT_NAME) -> str | None:
    """Build id that takes new work, or None while there is none."""
    try:
        answer = await client.workflow_service.describe_worker_deployment(
            DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=deployment)
        )
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return None
        raise
    routing = answer.worker_deployment_info.routing_config
    return routing.current_deployment_version.build_id or None


async def set_current_version(
    client: Client,
    build_id: str,
    *,
    deployment: str = DEPLOYMENT_NAME,
    timeout_s: float = POLLERS_TIMEOUT_S,
) -> None:
    """Makes `build_id` current; waits until a worker of that build polls.

    The server refuses a build that no worker has announced; that refusal is repeated until the
    deadline, because `up` starts the worker a moment before.

    Raises:
        RPCError: no worker of this build appeared within `timeout_s`.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            await client.workflow_service.set_worker_deployment_current_version(
                SetWorkerDeploymentCurrentVersionRequest(
                    namespace=client.namespace,
                    deployment_name=deployment,
                    build_id=build_id,
                    identity=client.identity,
                    # A new build need not serve queues of roles that were retired.
                    ignore_missing_task_queues=True,
                )
            )
            return
        except RPCError as error:
            waits = error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION)
            if not waits or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_POLL_S)
