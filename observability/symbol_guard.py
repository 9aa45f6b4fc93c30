"""With encryption on, the `Symbol` search attribute stays away: the server keeps those in plain."""

from __future__ import annotations

from typing import Any

import temporalio.client
import temporalio.worker
from temporalio.client import OutboundInterceptor, StartWorkflowInput, WorkflowHandle
from temporalio.common import SearchAttributes, TypedSearchAttributes
from temporalio.worker import (
    StartChildWorkflowInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.workflow import ChildWorkflowHandle

SYMBOL = "Symbol"
Attributes = TypedSearchAttributes | SearchAttributes | None


class SymbolGuard(temporalio.client.Interceptor, temporalio.worker.Interceptor):
    """Takes the attribute off every workflow that a client or a workflow starts."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        return _Client(super().intercept_client(next))

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        return _Workflow


class _Client(OutboundInterceptor):
    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        input.search_attributes = without_symbol(input.search_attributes)
        return await super().start_workflow(input)


class _Workflow(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))


class _Outbound(WorkflowOutboundInterceptor):
    async def start_child_workflow(
        self, input: StartChildWorkflowInput
    ) -> ChildWorkflowHandle[Any, Any]:
        input.search_attributes = without_symbol(input.search_attributes)
        return await super().start_child_workflow(input)


def without_symbol(attributes: Attributes) -> Attributes:
    """The attributes without the symbol."""
    if isinstance(attributes, TypedSearchAttributes):
        kept = [pair for pair in attributes.search_attributes if pair.key.name != SYMBOL]
        return TypedSearchAttributes(kept)
    return attributes
