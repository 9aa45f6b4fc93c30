"""Flatten: one execution per order of a person, ended only by the broker's word."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.emergency import FlattenLine
    from activities.flatten import (
        FlattenActivities,
        FlattenInput,
        FlattenLook,
        FlattenReceipt,
        FlattenStep,
    )
    from domain.commands import Urgency
    from domain.ids import order_queue
    from workflows import _lifecycle as life

POLL = timedelta(seconds=1)
POLL_SLOW = timedelta(seconds=5)
TAKE_OVER_AFTER = timedelta(seconds=30)
TAKE_OVER_TIMEOUT = timedelta(seconds=120)


@workflow.defn(name="Flatten", versioning_behavior=VersioningBehavior.PINNED)
class FlattenWorkflow:
    """Tells the trades of the scope, watches broker and ledger, takes over what is wedged.

    The result is the receipt. In a halt or a closed market it stays open and says PENDING with
    the reason; the trades keep their stops and go on at the open (K3).
    """

    @workflow.init
    def __init__(self, input: FlattenInput) -> None:
        self._input = input
        self._started = input.started_at or workflow.now()
        self._trade_ids = input.trade_ids
        self._lines: dict[tuple[str, str], FlattenLine] = {
            (line.trade_id, line.symbol): line for line in input.lines
        }
        self._taken_over = input.taken_over
        self._told: tuple[str, ...] = ()
        self._pending = "not looked at yet"
        self._done = False

    @workflow.run
    async def run(self, input: FlattenInput) -> FlattenReceipt:
        while True:
            look = await self._look()
            self._remember(look)
            if look.is_flat:
                self._done, self._pending = True, ""
                self._show()
                return self._receipt()
            await self._tell_new_trades(look)
            if workflow.now() - self._started >= TAKE_OVER_AFTER:
                await self._take_over(look)
            self._show()
            if workflow.info().get_current_history_length() >= life.EVENTS_WISH_MAX:
                workflow.continue_as_new(self._handed())
            is_young = workflow.now() - self._started < TAKE_OVER_AFTER
            await workflow.sleep(POLL if is_young else POLL_SLOW)

    @workflow.query
    def receipt(self) -> FlattenReceipt:
        """The receipt as it stands; `done` only when the broker says flat."""
        return self._receipt()

    async def _look(self) -> FlattenLook:
        # Once the trades know, a look must not stand before the cancels and exits it looks for.
        urgency = Urgency.PROTECT if self._told else Urgency.EXIT
        try:
            result: FlattenLook = await self._on_lane(
                FlattenActivities.look_for_flat,
                self._step(self._trade_ids),
                life.READ_TIMEOUT,
                urgency,
            )
        except ActivityError as error:
            return FlattenLook(
                complete=False, trade_ids=self._trade_ids, fault=str(error.cause)[:80]
            )
        return result

    def _remember(self, look: FlattenLook) -> None:
        """`found` stays what the first look found; the rest is as of now."""
        if not look.complete:
            self._pending = f"READ_FAILED {look.fault}".strip()
            return
        self._trade_ids = look.trade_ids
        for line in look.lines:
            key = (line.trade_id, line.symbol)
            before = self._lines.get(key)
            found = line.found if before is None or before.found == 0 else before.found
            self._lines[key] = line.model_copy(update={"found": found})
        reasons = [line.why.removeprefix("PENDING ") for line in look.lines if line.why]
        if look.working_entries:
            reasons.append(f"{len(look.working_entries)} entries still work")
        self._pending = ", ".join(dict.fromkeys(reasons))

    async def _tell_new_trades(self, look: FlattenLook) -> None:
        fresh = tuple(each for each in look.open_trades if each not in self._told)
        if not fresh:
            return
        try:
            not_told = await self._on_lane(
                FlattenActivities.tell_flatten, self._step(fresh), life.READ_TIMEOUT
            )
        except ActivityError as error:
            workflow.logger.warning("trades were not told: %s", error.cause)
            return
        self._told += tuple(each for each in fresh if each not in tuple(not_told))

    async def _take_over(self, look: FlattenLook) -> None:
        """Wedged trades are closed on their ledger legs, once each per attempt of this run."""
        if not look.wedged:
            return
        try:
            await self._on_lane(
                FlattenActivities.take_over_legs, self._step(look.wedged), TAKE_OVER_TIMEOUT
            )
        except ActivityError as error:
            workflow.logger.error("take-over failed: %s", error.cause)
            return
        new = tuple(each for each in look.wedged if each not in self._taken_over)
        self._taken_over += new

    async def _on_lane(
        self,
        step: Any,
        argument: FlattenStep,
        timeout: timedelta,
        urgency: Urgency = Urgency.EXIT,
    ) -> Any:
        return await workflow.execute_activity_method(
            step,
            argument,
            task_queue=order_queue(self._input.account),
            start_to_close_timeout=timeout,
            retry_policy=life.ONE_ATTEMPT,
            priority=life.PRIORITY[urgency],
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"flatten {self._input.scope.text}",
        )

    def _step(self, trade_ids: tuple[str, ...]) -> FlattenStep:
        given = self._input
        return FlattenStep(
            command_id=given.command_id,
            account=given.account,
            scope=given.scope,
            by=given.by,
            reason=given.reason,
            since=self._started,
            trade_ids=trade_ids,
        )

    def _handed(self) -> FlattenInput:
        return self._input.model_copy(
            update={
                "started_at": self._started,
                "trade_ids": self._trade_ids,
                "lines": tuple(self._lines.values()),
                "taken_over": self._taken_over,
            }
        )

    def _receipt(self) -> FlattenReceipt:
        given = self._input
        return FlattenReceipt(
            command_id=given.command_id,
            scope=given.scope.text,
            by=given.by,
            reason=given.reason,
            done=self._done,
            pending=self._pending,
            lines=tuple(self._lines.values()),
            trades=self._trade_ids,
            taken_over=self._taken_over,
            started_at=self._started,
            at=workflow.now(),
        )

    def _show(self) -> None:
        state = "done" if self._done else f"**PENDING** {self._pending}"
        rows = [
            f"| {line.symbol} | {line.found} | {line.sent} | {line.filled} | {line.left} |"
            for line in self._lines.values()
        ]
        head = ["| symbol | found | sent | filled | left |", "|---|---|---|---|---|"]
        lines = [f"### flatten {self._input.scope.text} · {state}", "", *head, *rows]
        workflow.set_current_details("\n".join(lines))
