"""Which payload keys the open workflows and the schedules need, read from what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from google.protobuf.message import Message
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DescribeScheduleRequest,
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from observability.payload_codec import (
    HoldfastCodec,
    key_named,
    payloads_in,
    sealed_payloads,
)

OPEN = "ExecutionStatus = 'Running'"
NEWEST_EVENTS = 50


async def keys_needed(client: Client) -> Mapping[str, int]:
    """Open workflows and schedules by `id:check` of the keys that sealed what they hold.

    Of a workflow the first and the newest events are read. A key that sealed only the middle of
    a history is found when that is read; the codec names it.
    """
    found: Counter[str] = Counter()
    async for each in client.list_workflows(OPEN):
        try:
            found.update(await _keys_of(client, WorkflowExecution(workflow_id=each.id)))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
    async for schedule in await client.list_schedules():
        described = await client.workflow_service.describe_schedule(
            DescribeScheduleRequest(namespace=client.namespace, schedule_id=schedule.id)
        )
        found.update(_names_in(described))
    return found


async def is_readable(client: Client, codec: HoldfastCodec, workflow_id: str) -> bool:
    """False if what the newest run of the workflow holds cannot be opened with these keys.

    True if there is none. Read as `keys_needed` reads.
    """
    try:
        ends = await _ends_of(client, WorkflowExecution(workflow_id=workflow_id))
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return True
    return all(codec.knows(payload) for end in ends for payload in payloads_in(end))


async def _keys_of(client: Client, execution: WorkflowExecution) -> set[str]:
    first, newest = await _ends_of(client, execution)
    return _names_in(first) | _names_in(newest)


async def _ends_of(client: Client, execution: WorkflowExecution) -> tuple[Message, Message]:
    """The first event and the newest ones, as the server keeps them."""
    service, namespace = client.workflow_service, client.namespace
    first = await service.get_workflow_execution_history(
        GetWorkflowExecutionHistoryRequest(
            namespace=namespace, execution=execution, maximum_page_size=1
        )
    )
    newest = await service.get_workflow_execution_history_reverse(
        GetWorkflowExecutionHistoryReverseRequest(
            namespace=namespace, execution=execution, maximum_page_size=NEWEST_EVENTS
        )
    )
    return first, newest


def _names_in(answer: Message) -> set[str]:
    return {":".join(key_named(each)) for each in sealed_payloads(answer)}
