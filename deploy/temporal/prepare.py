"""Brings a Temporal namespace to what Holdfast needs; safe to repeat at every `up`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, UpdateNamespaceRequest
from temporalio.client import Client, Schedule
from temporalio.service import RPCError, RPCStatusCode

from deploy.temporal.attributes import SEARCH_ATTRIBUTES
from deploy.temporal.lanes import OrderLane, set_lane_rate
from deploy.temporal.schedules import ensure_schedule
from observability.payload_codec import HoldfastCodec
from observability.plugin import holdfast_plugin

RETENTION_MIN = timedelta(days=30)
CONNECT_TIMEOUT_S = 20.0
_POLL_S = 0.05


async def connect_when_ready(
    address: str,
    namespace: str,
    *,
    codec: HoldfastCodec | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> Client:
    """A client once the server serves the namespace; its port opens a moment earlier.

    Without a `codec` it seals nothing.

    Raises:
        RuntimeError, RPCError: the last reason when the deadline has passed.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    plugin = holdfast_plugin(codec=codec)
    while True:
        try:
            client = await Client.connect(address, namespace=namespace, plugins=[plugin])
            await client.count_workflows()
            return client
        except (RuntimeError, RPCError):
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_POLL_S)


async def prepare(
    client: Client,
    *,
    lanes: Sequence[OrderLane] = (),
    schedules: Mapping[str, Schedule] | None = None,
) -> None:
    """Retention, search attributes, order-lane rates and schedules (id to definition)."""
    await ensure_retention(client)
    await ensure_search_attributes(client)
    for lane in lanes:
        await set_lane_rate(client, lane)
    for schedule_id, schedule in (schedules or {}).items():
        await ensure_schedule(client, schedule_id, schedule)


async def ensure_retention(client: Client, retention: timedelta = RETENTION_MIN) -> None:
    """Keeps closed trades readable for at least `retention`; a longer one stays."""
    described = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=client.namespace)
    )
    if described.config.workflow_execution_retention_ttl.ToTimedelta() >= retention:
        return
    wanted = Duration()
    wanted.FromTimedelta(retention)
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(
            namespace=client.namespace,
            config=NamespaceConfig(workflow_execution_retention_ttl=wanted),
        )
    )


async def ensure_search_attributes(client: Client) -> None:
    """Registers what is missing; the dev server has them from its flags already."""
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    missing = {
        each.name: IndexedValueType.ValueType(int(each.indexed_value_type))
        for each in SEARCH_ATTRIBUTES
        if each.name not in known.custom_attributes
    }
    if not missing:
        return
    try:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
        )
    except RPCError as error:
        # Another `up` was a moment faster.
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise
