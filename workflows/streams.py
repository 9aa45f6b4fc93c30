"""Hosts the fill stream and the exit watch of one account for ever."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.services import StreamInput
    from activities.streams import StreamActivities
    from domain.ids import stream_queue
    from domain.messages import VersionSignal
    from workflows import _lifecycle as life

HEARTBEAT_TIMEOUT = timedelta(seconds=3)
HOSTED_FOR = timedelta(hours=24)
PAUSE_AFTER_FAILURE = timedelta(seconds=1)


@workflow.defn(name="Streams", versioning_behavior=VersioningBehavior.PINNED)
class StreamsWorkflow:
    """Keeps the two long activities of an account running, whatever ends them.

    A crash is noticed by a missed heartbeat and repeated by the server; a worker that drains
    returns, and the activity starts elsewhere at once. `stop` ends it; a new build and a long
    history go on in a new run.
    """

    @workflow.init
    def __init__(self, input: StreamInput) -> None:
        self._input = input.model_copy(update={"trade_queue": workflow.info().task_queue})
        self._stopping = False
        self._new_build = False
        self._ending = False

    @workflow.run
    async def run(self, input: StreamInput) -> None:
        hosted = [asyncio.create_task(self._host(step)) for step in HOSTED]
        await workflow.wait_condition(lambda: self._stopping or self._wants_new_run())
        self._ending = True
        for task in hosted:
            task.cancel()
        await asyncio.gather(*hosted, return_exceptions=True)
        if self._stopping:
            return
        workflow.continue_as_new(
            self._input,
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE
            if self._new_build
            else None,
        )

    @workflow.signal
    def stop(self) -> None:
        """Ends both activities and then this workflow."""
        self._stopping = True

    @workflow.signal
    def version_changed(self, signal: VersionSignal) -> None:
        """A new build is current: go on in a run of it."""
        self._new_build = True

    def _wants_new_run(self) -> bool:
        return (
            self._new_build
            or workflow.info().get_current_history_length() >= life.EVENTS_WISH_MAX
            or workflow.info().is_continue_as_new_suggested()
        )

    async def _host(self, step: Any) -> None:
        """Runs one activity again and again.

        One that ended by itself just before it was to be cancelled swallows the cancellation.
        """
        while not self._ending:
            try:
                await workflow.execute_activity_method(
                    step,
                    self._input,
                    task_queue=stream_queue(self._input.account),
                    start_to_close_timeout=HOSTED_FOR,
                    heartbeat_timeout=HEARTBEAT_TIMEOUT,
                    retry_policy=life.REPEAT,
                    cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                    summary=f"{step.__name__} {self._input.account}",
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                workflow.logger.error("%s ended: %s", step.__name__, error.cause)
                await workflow.sleep(PAUSE_AFTER_FAILURE)


HOSTED: tuple[Any, ...] = (StreamActivities.run_fill_stream, StreamActivities.run_exit_watch)
