"""One trade from approved plan to settled position."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import RawValue, VersioningBehavior
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.operations import EngageInput, OperationActivities
    from activities.services import SettleInput, TradeRef
    from domain import trade_state as ts
    from domain.commands import Settle, Urgency
    from domain.control import KillMode, KillScope, KillScopeKind, kill_mode_of
    from domain.facts import (
        DiscrepancyFound,
        ExitTriggered,
        Fact,
        FactBatch,
        FactEnvelope,
        FlattenRequested,
        KillEngaged,
        VersionChanged,
    )
    from domain.fold import apply_all
    from domain.forgetting import carried
    from domain.knowledge import TradeKnowledge, knowledge_of
    from domain.messages import (
        CommandAnswer,
        OperatorRequest,
        OperatorSignal,
        Receipt,
        TradeInput,
        TradeResult,
        TradeStatus,
        VersionSignal,
    )
    from domain.operator_checks import body_of, why_not
    from domain.outcomes import progress_of
    from domain.steps import decide, next_deadline
    from domain.story import story_of, working_lines
    from domain.trade_state import TradeState
    from workflows import _lifecycle as life
    from workflows._commands import CommandTasks

INBOX_MAX = 20_000


@workflow.defn(name="Trade", versioning_behavior=VersioningBehavior.PINNED)
class TradeWorkflow:
    """One trade from approved plan to settled position.

    Facts arrive as doorbells and activity results and are only recorded. The main loop folds
    them through `domain.fold.apply` and starts the commands that `domain.steps.decide` gives; it
    never awaits a broker. A kill or flatten fact takes queued entries back. Continue-as-new
    happens at a quiet point and carries state and inbox; it is also the hand-over to a new build.
    """

    @workflow.init
    def __init__(self, input: TradeInput) -> None:
        self._input = input
        state = input.state or TradeState.planned(input.plan, input.installation, input.clock)
        self._state = state
        self._inbox: list[Fact] = list(input.carried.facts)
        self._trade = TradeRef.of(input.plan, input.clock)
        interval_s = input.clock.wall_duration_s(float(input.plan.walk.interval_s))
        self._running = CommandTasks(
            self._trade_ref, timedelta(seconds=interval_s), self._settle_input, input.build_id
        )
        told = workflow.info().typed_search_attributes.get(life.STAGE)
        self._told_stage = "" if told is None else told
        self._told: TradeState | None = None
        self._timer: asyncio.Task[None] | None = None
        self._timer_at: datetime | None = None

    @workflow.run
    async def run(self, input: TradeInput) -> TradeResult:
        while not self._is_done():
            self._fold_inbox()
            self._state, commands = decide(self._state, workflow.now(), self._running.keys)
            self._running.start(commands, into=self._inbox)
            self._tell()
            if self._is_done():
                break
            if self._state.rewound:
                await self._give_up()
            if self._wants_new_run() and self._running.is_quiet and not self._inbox:
                await self._continue_as_new()
            await self._wait_for_facts_or_deadline()
        self._stop_timer()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._result()

    # --- messages: they only record ---------------------------------------------------------------

    @workflow.signal
    def facts(self, envelope: FactEnvelope) -> None:
        """The doorbell: always decodes; what it cannot read becomes a discrepancy."""
        self._record(*envelope.as_facts(workflow.now()))

    @workflow.signal
    def exit_triggered(self, envelope: FactEnvelope) -> None:
        """A rule of the exit watch fired."""
        known = [f for f in envelope.as_facts(workflow.now()) if isinstance(f, ExitTriggered)]
        self._record(*known)

    @workflow.signal
    async def kill(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Kill of this trade from the Web UI: first the control row, then the trade."""
        command_id = signal.command_id or f"ui-kill-{workflow.info().get_current_history_length()}"
        # What is no mode stops what surely may be stopped, and a person is told.
        mode = kill_mode_of(signal.mode) or KillMode.BLOCK
        try:
            await self._engage(command_id, mode, signal)
        except ActivityError as error:
            # Raised on, it would fail the trade (A6). The trade itself still stops below.
            workflow.logger.error("control row of the kill was not written: %s", error.cause)
        self._record(
            KillEngaged(
                at=workflow.now(),
                command_id=command_id,
                mode=mode,
                by=signal.by,
                reason=signal.reason or "web ui",
            )
        )

    @workflow.signal
    def flatten(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Flatten this trade from the Web UI."""
        fallback = f"ui-flatten-{workflow.info().get_current_history_length()}"
        self._record(
            FlattenRequested(
                at=workflow.now(),
                command_id=signal.command_id or fallback,
                by=signal.by,
                reason=signal.reason or "web ui",
            )
        )

    @workflow.signal
    def version_changed(self, signal: VersionSignal) -> None:
        """A new build is current: hand over at the next quiet point."""
        self._record(VersionChanged(at=workflow.now(), build_id=signal.build_id))

    @workflow.update
    def request_flatten(self, request: OperatorRequest) -> Receipt:
        self._record(
            FlattenRequested(
                at=workflow.now(),
                command_id=request.command_id,
                by=request.by,
                reason=request.reason,
            )
        )
        return Receipt(command_id=request.command_id, recorded=True)

    @workflow.update(dynamic=True)
    def operate(self, verb: str, arguments: Sequence[RawValue]) -> Receipt:
        """A person's command; the update's name is its verb (`pause`, `close`, `move_stop`, …).

        Answered once recorded. What became of it tells the query `outcome`.
        """
        fact = _request_of(arguments).fact(verb, workflow.now())
        self._record(fact)
        return Receipt(command_id=fact.command_id, recorded=True, body_hash=body_of(fact))

    @request_flatten.validator
    def _check_flatten(self, request: OperatorRequest) -> None:
        _check_request(request)

    @operate.validator
    def _check_operate(self, verb: str, arguments: Sequence[RawValue]) -> None:
        """Refused commands leave nothing in history (faults.md §3 rows 35-37, 65, 66)."""
        request = _request_of(arguments)
        _check_request(request)
        try:
            refusal = why_not(self._state, request.fact(verb, workflow.now()))
        except ValueError as error:
            raise ApplicationError(f"COMMAND_INVALID verb: {verb}", type="BadInput") from error
        if refusal:
            raise ApplicationError(refusal, type=refusal.split(" ", 1)[0])

    @workflow.query
    def status(self) -> TradeStatus:
        state = self._state
        return TradeStatus(
            trade_id=state.plan.trade_id,
            stage=ts.stage(state),
            protection=ts.protection(state),
            held=ts.held_units(state),
            average_entry=ts.average_price(state, ts.Role.ENTRY),
            stop_price=state.stop_price,
            exit_reason=state.exit.reason,
            exit_pending=state.exit.pending,
            needs_operator=state.needs_operator,
            working=working_lines(state),
            naked_s=round(state.naked.total_s, 3),
            naked_since=state.naked.since,
            version=state.version,
            hand=ts.hand(state),
        )

    @workflow.query
    def known(self) -> TradeKnowledge:
        """For the comparison with the ledger after Temporal's store was lost or set back (H3)."""
        return knowledge_of(self._state, busy=bool(self._inbox) or not self._running.is_quiet)

    @workflow.query
    def whole(self) -> TradeInput:
        """All of it, as a next run would be given it: for a ledger that has lost rows of it."""
        return self._input.model_copy(update={"state": self._state})

    @workflow.query
    def outcome(self, command_id: str) -> CommandAnswer:
        """What became of a command of a person."""
        progress, text = progress_of(self._state, command_id)
        return CommandAnswer(
            command_id=command_id, progress=progress, text=text, version=self._state.version
        )

    @workflow.query
    def story(self) -> str:
        return story_of(self._state)

    # --- private steps ----------------------------------------------------------------------------

    def _record(self, *facts: Fact) -> None:
        """Bounded inbox; a kill or flatten takes queued entries back at once."""
        if len(self._inbox) < INBOX_MAX:
            self._inbox.extend(facts)
        elif not any(isinstance(fact, DiscrepancyFound) for fact in self._inbox[-1:]):
            # What does not fit is found again at broker and ledger: look instead of remembering.
            text = f"more than {INBOX_MAX} facts were waiting"
            self._inbox.append(DiscrepancyFound(at=workflow.now(), code="INBOX_FULL", text=text))
        if any(isinstance(f, KillEngaged | FlattenRequested) for f in facts):
            self._running.cancel_entries()

    async def _engage(self, command_id: str, mode: KillMode, signal: OperatorSignal) -> None:
        plan = self._input.plan
        await workflow.execute_activity_method(
            OperationActivities.engage_kill,
            EngageInput(
                account=plan.account,
                scope=KillScope(kind=KillScopeKind.TRADE, value=plan.trade_id),
                mode=mode,
                command_id=command_id,
                by=signal.by,
                reason=signal.reason or "web ui",
                unknown_mode="" if kill_mode_of(signal.mode) else signal.mode or "(empty)",
            ),
            start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
            retry_policy=life.READ_RETRY,
            priority=life.PRIORITY[Urgency.EXIT],
            summary=f"kill {mode}",
        )

    def _is_done(self) -> bool:
        return ts.is_final(self._state) and self._running.is_quiet

    def _fold_inbox(self) -> None:
        facts, self._inbox[:] = tuple(self._inbox), []
        self._state = apply_all(self._state, facts, workflow.now())

    def _tell(self) -> None:
        """Shows stage and story in the Web UI; the search attribute moves only with the stage."""
        if self._state is self._told:
            return
        self._told = self._state
        stage = ts.stage(self._state)
        if stage not in (self._told_stage, ts.Stage.CLOSING):
            self._told_stage = stage
            workflow.upsert_search_attributes([life.STAGE.value_set(stage)])
        workflow.set_current_details(story_of(self._state))

    def _wants_new_run(self) -> bool:
        return (
            bool(self._state.new_build)
            or workflow.info().get_current_history_length() >= life.EVENTS_WISH_MAX
            or workflow.info().get_current_history_size() >= life.BYTES_WISH_MAX
            or workflow.info().is_continue_as_new_suggested()
        )

    async def _give_up(self) -> None:
        """A history that was set back knows less than the ledger: it ends, and the health watch
        builds the trade again from there (faults.md K7, H3). What rests at the broker stays."""
        await workflow.wait_condition(lambda: self._running.is_quiet)
        await workflow.wait_condition(workflow.all_handlers_finished)
        text = "an order of this trade was sent by another run; the ledger knows more than this one"
        raise ApplicationError(text, type=ts.HISTORY_REWOUND, non_retryable=True)

    async def _continue_as_new(self) -> None:
        """Hands the state to a new run, of the new build if there is one (architecture §4)."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._inbox or not self._running.is_quiet:
            return
        self._stop_timer()
        facts = FactBatch(facts=tuple(self._inbox))
        update = {"state": carried(self._state), "carried": facts}
        handed = self._input.model_copy(update=update)
        workflow.continue_as_new(
            handed,
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE
            if self._state.new_build
            else None,
        )

    async def _wait_for_facts_or_deadline(self) -> None:
        """Sleeps until a fact, an answer or the next deadline; one timer at a time."""
        self._arm_timer(next_deadline(self._state, workflow.now()))
        running = self._running.keys
        await workflow.wait_condition(
            lambda: (
                bool(self._inbox)
                or self._running.keys != running
                or (self._timer is not None and self._timer.done())
            )
        )

    def _arm_timer(self, at: datetime | None) -> None:
        """Re-arms only when the deadline moved: every re-arming costs events."""
        if self._timer is not None and self._timer.done():
            self._timer, self._timer_at = None, None
        if at == self._timer_at:
            return
        self._stop_timer()
        if at is not None:
            wait = max(at - workflow.now(), timedelta(milliseconds=1))
            self._timer = asyncio.create_task(workflow.sleep(wait))
            self._timer_at = at

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, None

    def _trade_ref(self) -> TradeRef:
        state = self._state
        return self._trade.model_copy(
            update={
                "stage": ts.stage(state),
                "protection": ts.protection(state),
                "reopened_at": None if state.settled else state.closed_at,
            }
        )

    def _settle_input(self, command: Settle) -> SettleInput:
        final = self._state.changed(settled=True)
        return SettleInput(
            trade=self._trade,
            plan=self._input.plan,
            command=command,
            stage=ts.stage(final),
            story=story_of(final),
            known=knowledge_of(self._state, busy=False),
        )

    def _result(self) -> TradeResult:
        state = self._state
        return TradeResult(
            trade_id=state.plan.trade_id,
            outcome=ts.stage(state),
            exit_reason=ts.exit_reason(state) if not state.refusal_code else "",
            code=state.refusal_code,
            quantity=ts.entry_quantity(state),
            average_entry=ts.average_price(state, ts.Role.ENTRY),
            average_exit=ts.average_price(state, ts.Role.STOP, ts.Role.TARGET, ts.Role.EXIT),
            realised=state.realised,
            fees=state.fees,
            naked_s=round(state.naked.total_s, 3),
        )


def _request_of(arguments: Sequence[RawValue]) -> OperatorRequest:
    """The one argument of an operator's update.

    Raises:
        ApplicationError: COMMAND_INVALID, it does not decode (faults.md §3 row 64).
    """
    try:
        payload = arguments[0].payload
        request: OperatorRequest = workflow.payload_converter().from_payload(
            payload, OperatorRequest
        )
    except (IndexError, ValueError, RuntimeError) as error:
        raise ApplicationError(
            "COMMAND_INVALID request: it does not decode", type="BadInput"
        ) from error
    return request


def _check_request(request: OperatorRequest) -> None:
    """Refused before anything enters history."""
    if not request.command_id or not request.by:
        raise ApplicationError("FIELD_REQUIRED field=command_id,by", type="BadInput")
    if len(request.reason) > 500:
        raise ApplicationError("REASON_TOO_LONG max=500", type="BadInput")
