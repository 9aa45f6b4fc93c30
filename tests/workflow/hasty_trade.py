"""A build that should never have been deployed: its trade decides otherwise than its history.

In a file of its own with few imports: the sandbox imports it anew for every run.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from domain.messages import TradeInput, TradeResult
    from workflows.trade import TradeWorkflow


@workflow.defn(name="Trade", versioning_behavior=VersioningBehavior.PINNED)
class HastyTrade(TradeWorkflow):
    """Naps before it does anything: a timer that no recorded history has."""

    @workflow.init
    def __init__(self, input: TradeInput) -> None:
        super().__init__(input)

    @workflow.run
    async def run(self, input: TradeInput) -> TradeResult:
        await workflow.sleep(1)
        return await super().run(input)
