"""Moves open workflows from old builds to the current one (architecture §4, Versions; H12).

The normal way is a signal: each workflow hands its state over at its next quiet point by
continue-as-new. A workflow whose build is gone has no worker to do that; its pin can be moved by
force, after its history has replayed clean on the new build.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus as Status
from temporalio.api.workflow.v1 import VersioningOverride, WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import UpdateWorkflowExecutionOptionsRequest
from temporalio.client import Client
from temporalio.common import PinnedVersioningOverride, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode

from observability.build import DEPLOYMENT_NAME

KINDS_THAT_HEAR = ("Trade", "Session", "Streams")
KINDS = (*KINDS_THAT_HEAR, "Flatten")
VERSION_CHANGED = "version_changed"
LOOK_S = 0.3


@dataclass(frozen=True, slots=True)
class Pinned:
    """One open workflow and the build of its deployment that it is pinned to."""

    workflow_id: str
    run_id: str
    kind: str
    build_id: str
    deployment: str = DEPLOYMENT_NAME


async def pinned_elsewhere(
    client: Client, build_id: str, deployment: str = DEPLOYMENT_NAME
) -> list[Pinned]:
    """Open workflows that another build than `build_id` has to serve, by kind and id."""
    pins = await open_workflows(client, deployment)
    return [pin for pin in pins if pin.build_id not in ("", build_id)]


async def open_workflows(client: Client, deployment: str = DEPLOYMENT_NAME) -> list[Pinned]:
    """Open workflows of this deployment with the builds that serve them, by kind and id."""
    kinds = " OR ".join(f"WorkflowType = '{kind}'" for kind in KINDS)
    query = f"ExecutionStatus = 'Running' AND ({kinds})"
    names = sorted({found.id async for found in client.list_workflows(query)})
    pins = [pin for name in names if (pin := await pin_of(client, name)) is not None]
    ours = [pin for pin in pins if pin.deployment == deployment]
    return sorted(ours, key=lambda pin: (pin.kind, pin.workflow_id))


async def pin_of(client: Client, workflow_id: str) -> Pinned | None:
    """The newest run and its build; None when it has ended."""
    try:
        described = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    info = described.raw_description.workflow_execution_info
    if info.status != Status.WORKFLOW_EXECUTION_STATUS_RUNNING:
        return None
    version = info.versioning_info.deployment_version
    return Pinned(
        workflow_id,
        info.execution.run_id,
        info.type.name,
        version.build_id,
        version.deployment_name,
    )


async def hand_over(
    client: Client, build_id: str, pins: Sequence[Pinned], *, wait_s: float
) -> list[Pinned]:
    """Tells each that `build_id` is current and waits; answers those that have not moved."""
    untold = [pin for pin in pins if pin.kind in KINDS_THAT_HEAR]
    deadline = asyncio.get_running_loop().time() + wait_s
    left = list(pins)
    while left:
        untold = [pin for pin in untold if not await _tell(client, pin, build_id)]
        seen = [await pin_of(client, pin.workflow_id) for pin in left]
        left = [pin for pin in seen if pin is not None and pin.build_id != build_id]
        if asyncio.get_running_loop().time() >= deadline:
            break
        await asyncio.sleep(LOOK_S if left else 0)
    return left


async def _tell(client: Client, pin: Pinned, build_id: str) -> bool:
    """False if the run is full of signals and has to be told again (A4)."""
    try:
        handle = client.get_workflow_handle(pin.workflow_id)
        await handle.signal(VERSION_CHANGED, {"build_id": build_id})
    except RPCError as error:
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            return False
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    return True


async def move_pin(client: Client, pin: Pinned, build_id: str) -> None:
    """Pins the open run to `build_id` by force. Its history must have replayed clean before.

    Raises:
        RPCError: the server refused, for instance a build that no worker has announced.
    """
    version = WorkerDeploymentVersion(deployment_name=pin.deployment, build_id=build_id)
    # The SDK sends an override only with a start; this is the same value.
    await _set_override(client, pin, PinnedVersioningOverride(version)._to_proto())
    if pin.kind in KINDS_THAT_HEAR:
        await _tell(client, pin, build_id)


async def free_pin(client: Client, workflow_id: str) -> None:
    """Takes a forced pin away; left there, every later run would inherit it."""
    pin = await pin_of(client, workflow_id)
    if pin is not None:
        await _set_override(client, pin, None)


async def _set_override(client: Client, pin: Pinned, override: VersioningOverride | None) -> None:
    await client.workflow_service.update_workflow_execution_options(
        UpdateWorkflowExecutionOptionsRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=pin.workflow_id, run_id=pin.run_id),
            workflow_execution_options=WorkflowExecutionOptions(versioning_override=override),
            update_mask=FieldMask(paths=["versioning_override"]),
            identity=client.identity,
        )
    )
