"""Which payload keys the open workflows need: read from the two ends of their histories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from observability.payload_codec import key_named, sealed_payloads

OPEN = "ExecutionStatus = 'Running'"
NEWEST_EVENTS = 50


async def keys_needed(client: Client) -> Mapping[str, int]:
    """Open workflows by `id:check` of the keys that sealed their first and newest payloads.

    A key that sealed only the middle of a history is found when that is read; the codec names it.
    """
    found: Counter[str] = Counter()
    async for each in client.list_workflows(OPEN):
        try:
            found.update(await _keys_of(client, WorkflowExecution(workflow_id=each.id)))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
    return found


async def _keys_of(client: Client, execution: WorkflowExecution) -> set[str]:
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
    events = (*first.history.events, *newest.history.events)
    return {":".join(key_named(each)) for event in events for each in sealed_payloads(event)}
