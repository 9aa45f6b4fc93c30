"""A worker with one workflow of two activities, for `test_failpoints.py`.

`python -m tests.e2e.failpoint_program ADDRESS QUEUE JOURNAL [SPANS]`: each activity appends its
attempt to the journal before it answers, so that the journal tells what really ran.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

JOURNAL = 3
SPANS = 4


@activity.defn(name="write_line")
async def write_line(text: str) -> str:
    with Path(sys.argv[JOURNAL]).open("a") as journal:  # noqa: ASYNC230 - one short line
        journal.write(f"{text}\n")
    return text


@workflow.defn(name="TestTwoLines")
class TwoLinesWorkflow:
    """Writes two lines, one after the other."""

    @workflow.run
    async def run(self) -> list[str]:
        return [
            await workflow.execute_activity(
                "write_line", text, start_to_close_timeout=timedelta(seconds=1)
            )
            for text in ("first", "second")
        ]


async def serve(address: str, queue: str) -> None:
    # Not at the top: the sandbox imports this file again for the workflow.
    from observability.activity_watch import ActivityWatch
    from observability.plugin import holdfast_plugin
    from observability.tracing import file_exporter, tracer_provider, trade_tracer

    provider = tracer_provider(file_exporter(Path(sys.argv[SPANS])), role="failpoint-test")
    interceptor = ActivityWatch(tracer=trade_tracer(provider))
    client = await Client.connect(address, plugins=[holdfast_plugin(interceptors=[interceptor])])
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Worker(
        client,
        task_queue=queue,
        workflows=[TwoLinesWorkflow],
        activities=[write_line],
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    ):
        await ended.wait()
    provider.shutdown()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
    sys.stdout.flush()
    # Interpreter exits after a worker crashed now and then (architecture §10).
    os._exit(0)
