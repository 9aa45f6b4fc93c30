"""One trading session: bars to decisions, decisions to trades."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue
from temporalio import workflow
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    VersioningBehavior,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ActivityError, FailureError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.flatten import FlattenInput, flatten_id
    from activities.operations import EngageInput, OperationActivities
    from activities.session import (
        AcceptInput,
        DecideInput,
        NoteSessionInput,
        NoteSignalInput,
        SessionActivities,
    )
    from domain.commands import Urgency
    from domain.control import KillMode, KillScope, KillScopeKind
    from domain.facts import FactEnvelope, KillEngaged
    from domain.ids import trade_workflow_id
    from domain.messages import OperatorSignal, TradeInput, TradeResult
    from domain.session import (
        OPEN_TRADES_MAX,
        Candidate,
        Evaluation,
        SessionInput,
        SessionResult,
        SessionState,
        SessionStatus,
        SignalEnvelope,
    )
    from domain.trade_state import Stage
    from workflows import _lifecycle as life

INBOX_MAX = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@workflow.defn(name="Session", versioning_behavior=VersioningBehavior.PINNED)
class SessionWorkflow:
    """One strategy set on one account and universe.

    Every bar interval an activity evaluates the new bars and records what each strategy said; a
    signal counts as taken once its `Trade` has *started*. Trades are children in name only
    (ABANDON): they outlive the session. Continue-as-new carries the bar cursor.
    """

    @workflow.init
    def __init__(self, input: SessionInput) -> None:
        self._spec = input.spec
        self._clock = input.clock
        self._state: SessionState = input.state
        self._inbox: list[JsonValue] = list(input.state.inbox)
        self._told = ""

    @workflow.run
    async def run(self, input: SessionInput) -> SessionResult:
        if self._state.looked_at is None:
            await self._note("start", "session", f"strategies {', '.join(self._spec.strategies)}")
        while not self._is_over():
            await self._take_outside_signals()
            await self._look_at_market()
            self._tell()
            if self._is_over():
                break
            if self._wants_new_run():
                await self._continue_as_new()
            await self._wait()
        await self._end()
        return SessionResult(
            name=self._spec.name,
            reason=self._state.stopping,
            counts=self._state.counts,
            open_trades=self._state.open_trades,
        )

    # --- messages: none of them may raise (A6) ----------------------------------------------------

    @workflow.signal
    def signal_generated(self, envelope: SignalEnvelope) -> None:
        """A signal from outside; read, recorded and judged by an activity, once by its id."""
        if len(self._inbox) < INBOX_MAX:
            self._inbox.append(envelope.body)

    @workflow.signal
    async def pause(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Bars go on being evaluated and recorded; nothing is taken."""
        self._change(paused=signal.reason or "paused")
        await self._note("pause", signal.by, signal.reason)

    @workflow.signal
    async def resume(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Takes signals again. It lifts no kill."""
        self._change(paused="")
        await self._note("resume", signal.by, signal.reason)

    @workflow.signal
    async def stop(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Ends the session: working entries die, positions keep their exits and `flat_by`."""
        self._change(stopping=signal.reason or f"stopped by {signal.by}")
        await self._note("stop", signal.by, signal.reason)

    @workflow.signal
    async def kill(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Kill of the account: first the control row, then the trades hear of it."""
        mode = KillMode(signal.mode) if signal.mode in list(KillMode) else KillMode.BLOCK
        await self._kill(mode, signal, self._command_id(signal, "kill"))

    @workflow.signal
    async def flatten(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Kill of the account in mode flatten; a Flatten workflow gives the receipt."""
        command_id = self._command_id(signal, "flatten")
        await self._kill(KillMode.FLATTEN, signal, command_id)
        account = self._spec.account
        scope = KillScope(kind=KillScopeKind.ACCOUNT, value=account)
        try:
            await workflow.start_child_workflow(
                "Flatten",
                FlattenInput(
                    command_id=command_id,
                    account=account,
                    scope=scope,
                    by=signal.by,
                    reason=signal.reason or "session flatten",
                ),
                id=flatten_id(command_id, scope, account),
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                task_timeout=life.TASK_TIMEOUT,
                static_summary=f"flatten {scope.text} by {signal.by}",
            )
        except WorkflowAlreadyStartedError:
            workflow.logger.info("flatten %s runs already", command_id)

    @workflow.query
    def status(self) -> SessionStatus:
        state = self._state
        return SessionStatus(
            name=self._spec.name,
            stage=self._stage(),
            reason=state.stopping or state.paused,
            market_time=self._market_now(),
            cursor=state.cursor,
            counts=state.counts,
            open_trades=state.open_trades,
        )

    # --- the market -------------------------------------------------------------------------------

    async def _look_at_market(self) -> None:
        """Asks for decisions until the feed has no more bars before now."""
        while not self._state.stopping:
            now = self._market_now()
            found = await self._evaluate(
                SessionActivities.next_decisions,
                DecideInput(
                    spec=self._spec,
                    clock=self._clock,
                    cursor=self._state.cursor,
                    market_now=now,
                    paused=bool(self._state.paused),
                ),
                f"bars to {now:%H:%M} UTC",
            )
            await self._start_trades(found)
            self._change(cursor=found.cursor, looked_at=now)
            if not found.more:
                return

    async def _take_outside_signals(self) -> None:
        while self._inbox:
            body = self._inbox[0]
            found = await self._evaluate(
                SessionActivities.accept_signal,
                AcceptInput(
                    spec=self._spec,
                    clock=self._clock,
                    market_now=self._market_now(),
                    body=body,
                    paused=bool(self._state.paused or self._state.stopping),
                ),
                "signal from outside",
            )
            await self._start_trades(found)
            self._inbox.pop(0)

    async def _evaluate(self, step: Any, argument: Any, summary: str) -> Evaluation:
        found: Evaluation = await workflow.execute_activity_method(
            step,
            argument,
            start_to_close_timeout=life.DECIDE_TIMEOUT,
            retry_policy=life.REPEAT,
            priority=life.PRIORITY[Urgency.ENTRY],
            summary=summary,
        )
        self._count(**found.counts.model_dump())
        return found

    async def _start_trades(self, found: Evaluation) -> None:
        for candidate in found.candidates:
            if self._state.stopping or self._state.paused:
                reason = "SESSION_STOPPING" if self._state.stopping else "SESSION_PAUSED"
                self._count(not_taken=1)
                await self._note_signal(candidate, "not_taken", reason, "")
                continue
            await self._start_trade(candidate)

    async def _start_trade(self, candidate: Candidate) -> None:
        """Starts the trade and waits for its start; only then the signal is taken."""
        plan = candidate.plan
        try:
            child = await workflow.start_child_workflow(
                "Trade",
                TradeInput(
                    plan=plan,
                    installation=self._spec.installation,
                    clock=self._clock,
                    mode=self._spec.mode,
                    build_id=self._spec.build_id,
                ),
                id=trade_workflow_id(plan.trade_id),
                result_type=TradeResult,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                task_timeout=life.TASK_TIMEOUT,
                search_attributes=self._attributes(candidate),
                static_summary=f"{plan.side} {plan.symbol} · {plan.note or plan.strategy}",
            )
        except WorkflowAlreadyStartedError:
            # A repeat after a crash, or the id was used by hand: one id is one trade.
            await self._note_signal(candidate, "taken", "TRADE_EXISTS", plan.trade_id)
            return
        self._change(open_trades=(*self._state.open_trades, plan.trade_id)[-OPEN_TRADES_MAX:])
        child.add_done_callback(lambda done: self._trade_ended(plan.trade_id, done))
        self._count(taken=1)
        await self._note_signal(candidate, "taken", "", plan.trade_id)

    def _trade_ended(self, trade_id: str, done: asyncio.Future[Any]) -> None:
        """A trade's end is its own affair; the session only stops counting it as open."""
        if not done.cancelled():
            done.exception()
        rest = tuple(each for each in self._state.open_trades if each != trade_id)
        self._change(open_trades=rest)

    def _attributes(self, candidate: Candidate) -> TypedSearchAttributes:
        plan = candidate.plan
        return TypedSearchAttributes(
            [
                SearchAttributePair(life.TRADE_ID, plan.trade_id),
                SearchAttributePair(life.ACCOUNT, plan.account),
                SearchAttributePair(life.STRATEGY, plan.strategy),
                SearchAttributePair(life.SYMBOL, plan.symbol),
                SearchAttributePair(life.MODE, self._spec.mode),
                SearchAttributePair(life.STAGE, Stage.RESERVING),
            ]
        )

    # --- operators --------------------------------------------------------------------------------

    async def _kill(self, mode: KillMode, signal: OperatorSignal, command_id: str) -> None:
        self._change(paused=f"kill {mode} by {signal.by}")
        reason = signal.reason or "session signal"
        try:
            await workflow.execute_activity_method(
                OperationActivities.engage_kill,
                EngageInput(
                    account=self._spec.account,
                    scope=KillScope(kind=KillScopeKind.ACCOUNT, value=self._spec.account),
                    mode=mode,
                    command_id=command_id,
                    by=signal.by,
                    reason=reason,
                ),
                start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
                retry_policy=life.READ_RETRY,
                priority=life.PRIORITY[Urgency.EXIT],
                summary=f"kill {mode}",
            )
        except ActivityError as error:
            # Raised on, it would fail the session. The session takes nothing any more all the same.
            workflow.logger.error("control row of the kill was not written: %s", error.cause)
        fact = KillEngaged(
            at=workflow.now(), command_id=command_id, mode=mode, by=signal.by, reason=reason
        )
        await self._tell_trades(FactEnvelope.of(fact, sender="session"))

    def _command_id(self, signal: OperatorSignal, verb: str) -> str:
        self._change(commands=self._state.commands + 1)
        return signal.command_id or f"ui-{verb}-{self._spec.name}-{self._state.commands}"

    async def _tell_trades(self, envelope: FactEnvelope) -> None:
        """Doorbells to all open trades; one that has ended meanwhile does not hear it."""
        await asyncio.gather(
            *(self._tell_trade(trade_id, envelope) for trade_id in self._state.open_trades)
        )

    async def _tell_trade(self, trade_id: str, envelope: FactEnvelope) -> None:
        handle = workflow.get_external_workflow_handle(trade_workflow_id(trade_id))
        try:
            await handle.signal("facts", envelope)
        except FailureError as error:
            workflow.logger.info("trade %s did not hear: %s", trade_id, error)

    # --- platform ---------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Entries that still work die with the session; exits stay with their trades."""
        self._change(stopping=self._state.stopping or "session closed")
        fact = KillEngaged(
            at=workflow.now(),
            command_id=f"stop-{self._spec.name}",
            mode=KillMode.CANCEL_ENTRIES,
            by="session",
            reason=self._state.stopping,
        )
        await self._tell_trades(FactEnvelope.of(fact, sender="session"))
        await self._take_outside_signals()
        await self._note("end", "session", self._state.stopping)
        await workflow.execute_activity_method(
            SessionActivities.close_session,
            self._spec.name,
            start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
            retry_policy=life.READ_RETRY,
            priority=life.REPORT_PRIORITY,
        )
        self._tell()
        await workflow.wait_condition(workflow.all_handlers_finished)

    async def _wait(self) -> None:
        """Sleeps until the next bar is complete, the session's end, or somebody says something."""
        now = workflow.now()
        due = self._clock.wall(self._next_look())
        if self._spec.closes_at is not None:
            due = min(due, max(self._clock.wall(self._spec.closes_at), now))
        wait = max(due - now, timedelta(milliseconds=1))
        try:
            await workflow.wait_condition(
                lambda: bool(self._inbox or self._state.stopping), timeout=wait
            )
        except TimeoutError:
            return

    def _next_look(self) -> datetime:
        """The next market instant that is a multiple of the polling interval."""
        looked = self._state.looked_at or self._market_now()
        passed_s = int((looked - _EPOCH) / timedelta(seconds=1))
        return _EPOCH + timedelta(
            seconds=passed_s - passed_s % self._spec.poll_s + self._spec.poll_s
        )

    def _is_over(self) -> bool:
        closes_at = self._spec.closes_at
        if self._state.stopping:
            return True
        looked = self._state.looked_at
        return closes_at is not None and looked is not None and looked >= closes_at

    def _wants_new_run(self) -> bool:
        info = workflow.info()
        length = info.get_current_history_length()
        return length >= life.EVENTS_WISH_MAX or info.is_continue_as_new_suggested()

    async def _continue_as_new(self) -> None:
        """Hands over at a quiet point: no handler under way, nothing awaited."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._state.stopping:
            return
        state = self._state.model_copy(update={"inbox": tuple(self._inbox)})
        workflow.continue_as_new(SessionInput(spec=self._spec, clock=self._clock, state=state))

    def _market_now(self) -> datetime:
        return self._clock.market(workflow.now())

    def _change(self, **update: object) -> None:
        self._state = self._state.model_copy(update=update)

    def _count(self, **more: int) -> None:
        self._change(counts=self._state.counts.plus(**more))

    def _stage(self) -> str:
        if self._is_over():
            return "ended"
        return "paused" if self._state.paused else "running"

    def _tell(self) -> None:
        """Shows the session in the Web UI; the search attribute moves only with the stage."""
        stage, state, counts = self._stage(), self._state, self._state.counts
        if stage != self._told:
            self._told = stage
            workflow.upsert_search_attributes([life.STAGE.value_set(stage)])
        reason = state.stopping or state.paused
        workflow.set_current_details(
            f"### session {self._spec.name} · {stage}{f' ({reason})' if reason else ''}\n\n"
            f"- account {self._spec.account} · strategies {', '.join(self._spec.strategies)}\n"
            f"- {counts.bars} bars · {counts.signals} signals · {counts.taken} taken · "
            f"{counts.refused} refused · {counts.late} late · {counts.not_taken} not taken\n"
            f"- {len(state.open_trades)} open trades"
        )

    async def _note_signal(self, candidate: Candidate, word: str, code: str, trade: str) -> None:
        await workflow.execute_activity_method(
            SessionActivities.note_signal,
            NoteSignalInput(
                signal_id=candidate.signal_id, decision=word, code=code, trade_id=trade
            ),
            start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
            retry_policy=life.REPEAT,
            priority=life.REPORT_PRIORITY,
            summary=f"signal {word}",
        )

    async def _note(self, action: str, by: str, reason: str) -> None:
        """Audits what happened to the session; a handler goes on when the ledger is away."""
        try:
            await workflow.execute_activity_method(
                SessionActivities.note_session,
                NoteSessionInput(
                    session=self._spec.name, action=action, by=by or "unknown", reason=reason[:500]
                ),
                start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
                retry_policy=life.READ_RETRY,
                priority=life.REPORT_PRIORITY,
                summary=f"session {action}",
            )
        except ActivityError as error:
            workflow.logger.error("session %s was not audited: %s", action, error.cause)
