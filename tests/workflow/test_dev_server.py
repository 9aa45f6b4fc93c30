"""The shared dev server does what the workflow tests count on (architecture §11)."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client
from temporalio.testing import TimeSkipper
from temporalio.worker import Worker

from deploy.temporal.attributes import SEARCH_ATTRIBUTES


@workflow.defn(name="TestNap")
class NapWorkflow:
    """Sleeps in two stretches and tells how many were slept."""

    def __init__(self) -> None:
        self._slept = 0

    @workflow.run
    async def run(self, hours: int) -> int:
        for _ in range(2):
            await workflow.sleep(timedelta(hours=hours))
            self._slept += 1
        return self._slept

    @workflow.query
    def slept(self) -> int:
        return self._slept


async def test_virtual_time_moves_only_as_far_as_it_is_told(
    temporal_client: Client, virtual_time: TimeSkipper, unique: str
) -> None:
    async with Worker(temporal_client, task_queue=unique, workflows=[NapWorkflow]):
        handle = await virtual_time.client.start_workflow(
            NapWorkflow.run, 6, id=unique, task_queue=unique
        )

        assert await virtual_time.fast_forward(handle, timedelta(hours=7))
        assert await handle.query(NapWorkflow.slept) == 1

        await virtual_time.fast_forward(handle, timedelta(hours=6))
        assert await handle.result() == 2


async def test_search_attributes_are_registered_by_the_servers_flags(
    temporal_client: Client,
) -> None:
    for attribute in SEARCH_ATTRIBUTES:
        # Backquotes: `Mode` alone is a word of the query language.
        query = f"`{attribute.name}` = 'nothing'"
        assert (await temporal_client.count_workflows(query)).count == 0
