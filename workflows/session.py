"""One trading session: bars to decisions, decisions to trades."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue
from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.flatten import FlattenInput, flatten_id
    from activities.operations import EngageInput
    from activities.session import AcceptInput, DecideInput, SessionActivities
    from activities.session_days import Drained
    from domain.control import KillMode, KillScope, KillScopeKind, kill_mode_of
    from domain.facts import FactEnvelope, FlattenRequested, KillEngaged
    from domain.messages import OperatorSignal, VersionSignal
    from domain.session import (
        DAYS_KEPT_MAX,
        Candidate,
        DayResult,
        Evaluation,
        SessionInput,
        SessionReceipt,
        SessionRequest,
        SessionResult,
        SessionState,
        SessionStatus,
        SignalEnvelope,
    )
    from domain.session_day import SessionDay
    from domain.session_orders import SessionVerb, obey, request_fault
    from workflows import _lifecycle as life
    from workflows import _session_steps as steps
    from workflows._session_trades import send_exit, start_trade, tell_trades

INBOX_MAX = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@workflow.defn(name="Session", versioning_behavior=VersioningBehavior.PINNED)
class SessionWorkflow:
    """One strategy set on one account and universe, for one day or many.

    Every bar interval an activity evaluates the new bars and records what each strategy said; a
    signal counts as taken once its `Trade` has *started*. Trades are children in name only
    (ABANDON): they outlive the session. Between two days one timer runs to the next open.
    Continue-as-new carries the bar cursor, and hands over to a new build.
    """

    @workflow.init
    def __init__(self, input: SessionInput) -> None:
        self._spec = input.spec
        self._clock = input.clock
        self._state: SessionState = input.state
        self._inbox: list[JsonValue] = list(input.state.inbox)
        self._told = ""
        self._has_ended = False

    @workflow.run
    async def run(self, input: SessionInput) -> SessionResult:
        if self._state.started_at is None:
            self._change(started_at=self._market_now())
            names = ", ".join(self._spec.strategies)
            await self._note("start", self._spec.started_by or "session", f"strategies {names}")
        while not self._state.stopping:
            if self._state.day is None and not await self._plan_day():
                break
            if self._wants_new_run():
                await self._continue_as_new()
            await self._run_day_once()
            self._tell()
            if self._day_is_over():
                await self._end_day()
            elif not (self._state.stopping or self._wants_new_run()):
                await self._wait()
        return await self._end()

    async def _run_day_once(self) -> None:
        """One look: the day begins shortly before its open; until then only the inbox is read."""
        if not self._state.day_began and self._market_now() >= self._prepare_at(self._day):
            await self._begin_day()
        await self._take_outside_signals()
        if self._state.day_began:
            await self._look_at_market()

    # --- messages: no signal may raise (A6) -------------------------------------------------------

    @workflow.signal
    async def signal_generated(self, envelope: SignalEnvelope) -> None:
        """A signal from outside; read, recorded and judged by an activity, once by its id."""
        if len(self._inbox) < INBOX_MAX:
            self._inbox.append(envelope.body)
            return
        self._count(dropped=1)
        if self._state.counts.dropped == 1:
            await self._note("inbox_full", envelope.sender, f"{INBOX_MAX} signals were waiting")

    @workflow.signal
    async def pause(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Bars go on being evaluated and recorded; nothing is taken."""
        await self._obey(SessionVerb.PAUSE, _request_of(signal))

    @workflow.signal
    async def resume(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Takes signals again. It lifts no kill."""
        await self._obey(SessionVerb.RESUME, _request_of(signal))

    @workflow.signal
    async def stop(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Ends the session: entries die; exits stay, or with mode `flatten` take all off now."""
        await self._obey(SessionVerb.STOP, _request_of(signal))

    @workflow.update
    async def request_pause(self, request: SessionRequest) -> SessionReceipt:
        return await self._obey(SessionVerb.PAUSE, request)

    @workflow.update
    async def request_resume(self, request: SessionRequest) -> SessionReceipt:
        return await self._obey(SessionVerb.RESUME, request)

    @workflow.update
    async def request_stop(self, request: SessionRequest) -> SessionReceipt:
        return await self._obey(SessionVerb.STOP, request)

    @request_pause.validator
    def _check_pause(self, request: SessionRequest) -> None:
        self._check(request)

    @request_resume.validator
    def _check_resume(self, request: SessionRequest) -> None:
        self._check(request)

    @request_stop.validator
    def _check_stop(self, request: SessionRequest) -> None:
        self._check(request)

    @workflow.signal
    def version_changed(self, signal: VersionSignal) -> None:
        """A new build is current: hand over at the next quiet point."""
        self._change(new_build=signal.build_id or "next")

    @workflow.signal
    async def kill(self, signal: OperatorSignal = OperatorSignal()) -> None:  # noqa: B008
        """Kill of the account: first the control row, then the trades hear of it."""
        known = kill_mode_of(signal.mode)
        unknown = "" if known else signal.mode or "(empty)"
        command_id = self._command_id(signal, "kill")
        await self._kill(known or KillMode.BLOCK, signal, command_id, unknown)

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
            version=state.version,
            day=state.day,
            today=state.counts.minus(state.counts_before_day),
            baseline=state.baseline,
            days_done=len(state.days),
        )

    # --- the day ----------------------------------------------------------------------------------

    @property
    def _day(self) -> SessionDay:
        assert self._state.day is not None
        return self._state.day

    async def _plan_day(self) -> bool:
        """The next day by the calendar; False when there is none."""
        done = self._state.days
        if done and not self._is_many_days:
            return False
        after = done[-1].day.opens_at if done else None
        day = await steps.next_day(self._spec, self._market_now(), after)
        if day is None:
            return False
        self._change(day=day, day_began=False, counts_before_day=self._state.counts)
        self._tell()
        return True

    def _prepare_at(self, day: SessionDay) -> datetime:
        return self._clock.market(self._clock.wall(day.opens_at) - life.PREPARE_DAY)

    async def _begin_day(self) -> None:
        """Baseline taken, strategies anew; what was between two days is no bar of either."""
        begun = await steps.begin_day(self._spec, self._day)
        cursor = self._state.cursor
        if self._state.days:
            cursor = max(cursor or self._day.opens_at, self._day.opens_at)
        self._change(day_began=True, baseline=begun.baseline, cursor=cursor)
        if self._is_many_days:
            await self._note("day", "session", f"opens {self._day.opens_at.isoformat()}")

    def _day_is_over(self) -> bool:
        closes_at, looked = self._day.closes_at, self._state.looked_at
        began = self._state.day_began and looked is not None
        return began and closes_at is not None and looked is not None and looked >= closes_at

    async def _end_day(self) -> None:
        """Entries die with their day; resting exits stay with their trades overnight."""
        state = self._state
        ended = DayResult(
            day=self._day,
            counts=state.counts.minus(state.counts_before_day),
            baseline=state.baseline,
            open_trades=state.open_trades,
        )
        if self._is_many_days:
            await self._tell_trades(
                self._entries_die(f"close-{self._day.opens_at:%Y%m%d}", "close")
            )
        self._change(days=(*state.days, ended)[-DAYS_KEPT_MAX:], day=None, day_began=False)

    @property
    def _is_many_days(self) -> bool:
        return bool(self._spec.calendar or self._spec.days)

    def _entries_die(self, name: str, reason: str) -> FactEnvelope:
        fact = KillEngaged(
            at=workflow.now(),
            command_id=f"{name}-{self._spec.name}",
            mode=KillMode.CANCEL_ENTRIES,
            by="session",
            reason=reason,
        )
        return FactEnvelope.of(fact, sender="session")

    # --- the market -------------------------------------------------------------------------------

    async def _look_at_market(self) -> None:
        """Asks for decisions until the feed has no more bars before now."""
        while not self._state.stopping:
            now = self._market_now()
            done, cursor = self._state.days, self._state.cursor
            found = await self._evaluate(
                SessionActivities.next_decisions,
                DecideInput(
                    spec=self._spec,
                    clock=self._clock,
                    cursor=cursor,
                    market_now=now,
                    paused=bool(self._state.paused),
                    day=self._day,
                    history_after=self._day.opens_at if done else None,
                    open_trades=self._state.open_trades,
                ),
                f"bars to {now:%H:%M} UTC",
            )
            await self._start_trades(found)
            self._forget(*found.ended_trades)
            self._change(cursor=found.cursor)
            if not found.more:
                self._change(looked_at=now)
                return
            if self._wants_new_run():
                return

    async def _take_outside_signals(self) -> None:
        """Judges what waits; a long queue goes on in the next run, none of it is lost."""
        while self._inbox and not (self._wants_new_run() and not self._state.stopping):
            body = self._inbox[0]
            found = await self._evaluate(
                SessionActivities.accept_signal,
                AcceptInput(
                    spec=self._spec,
                    clock=self._clock,
                    market_now=self._market_now(),
                    body=body,
                    paused=bool(self._state.paused or self._state.stopping),
                    day=self._state.day,
                ),
                "signal from outside",
            )
            await self._start_trades(found)
            self._inbox.pop(0)

    async def _evaluate(self, step: Any, argument: Any, summary: str) -> Evaluation:
        found = await steps.evaluate(step, argument, summary)
        self._count(**found.counts.model_dump())
        return found

    async def _start_trades(self, found: Evaluation) -> None:
        for position, candidate in enumerate(found.candidates):
            await self._send_exits(found, position)
            if self._state.stopping or self._state.paused:
                reason = "SESSION_STOPPING" if self._state.stopping else "SESSION_PAUSED"
                self._count(not_taken=1)
                await self._note_signal(candidate, "not_taken", reason, "")
                continue
            await self._start_trade(candidate)
        await self._send_exits(found, len(found.candidates))

    async def _send_exits(self, found: Evaluation, after: int) -> None:
        """Exit signals in their order among the entries; whoever heard one closes by itself."""
        for wish in found.exits:
            if wish.after != after:
                continue
            heard = await send_exit(wish)
            word, code = ("exit", "") if heard else ("not_taken", "NO_OPEN_TRADE")
            self._count(**({"exits": 1} if heard else {"not_taken": 1}))
            await steps.note_signal(wish.signal_id, word, code, heard[0] if heard else "")

    async def _start_trade(self, candidate: Candidate) -> None:
        """Starts the trade and waits for its start; only then the signal is taken."""
        plan = candidate.plan
        try:
            child = await start_trade(plan, self._spec, self._clock)
        except WorkflowAlreadyStartedError:
            # A repeat after a crash, or the id was used by hand: one id is one trade.
            await self._note_signal(candidate, "taken", "TRADE_EXISTS", plan.trade_id)
            return
        self._change(open_trades=(*self._state.open_trades, plan.trade_id))
        child.add_done_callback(lambda done: self._trade_ended(plan.trade_id, done))
        self._count(taken=1)
        await self._note_signal(candidate, "taken", "", plan.trade_id)

    def _trade_ended(self, trade_id: str, done: asyncio.Future[Any]) -> None:
        """A trade's end is its own affair; the session only stops counting it as open."""
        if not done.cancelled():
            done.exception()
        self._forget(trade_id)

    def _forget(self, *ended: str) -> None:
        rest = tuple(each for each in self._state.open_trades if each not in ended)
        self._change(open_trades=rest)

    # --- operators --------------------------------------------------------------------------------

    def _check(self, request: SessionRequest) -> None:
        """Refused before anything enters history."""
        fault = "SESSION_ENDED the session has ended" if self._has_ended else ""
        fault = fault or request_fault(self._state, request)
        if fault:
            raise ApplicationError(fault, type=fault.partition(" ")[0], non_retryable=True)

    async def _obey(self, verb: SessionVerb, request: SessionRequest) -> SessionReceipt:
        """Changes the state at once, then audits it; what changes nothing is not audited."""
        self._state, receipt = obey(self._state, verb, request)
        if receipt.changed:
            with_flatten = " (flatten)" if request.flatten else ""
            await self._note(verb, request.by, f"{request.reason}{with_flatten}")
        return receipt

    async def _kill(
        self, mode: KillMode, signal: OperatorSignal, command_id: str, unknown_mode: str = ""
    ) -> None:
        self._change(paused=f"kill {mode} by {signal.by}")
        reason = signal.reason or "session signal"
        await steps.engage_kill(
            EngageInput(
                account=self._spec.account,
                scope=KillScope(kind=KillScopeKind.ACCOUNT, value=self._spec.account),
                mode=mode,
                command_id=command_id,
                by=signal.by,
                reason=reason,
                unknown_mode=unknown_mode,
            )
        )
        fact = KillEngaged(
            at=workflow.now(), command_id=command_id, mode=mode, by=signal.by, reason=reason
        )
        await self._tell_trades(FactEnvelope.of(fact, sender="session"))

    def _command_id(self, signal: OperatorSignal, verb: str) -> str:
        self._change(commands=self._state.commands + 1)
        return signal.command_id or f"ui-{verb}-{self._spec.name}-{self._state.commands}"

    async def _tell_trades(self, envelope: FactEnvelope) -> None:
        await tell_trades(self._state.open_trades, envelope)

    # --- platform ---------------------------------------------------------------------------------

    async def _end(self) -> SessionResult:
        """Drains: entries die; exits stay with their trades, or with `flatten` go out now."""
        self._change(stopping=self._state.stopping or "session closed")
        self._tell()
        await self._tell_trades(self._entries_die("stop", self._state.stopping))
        await self._take_outside_signals()
        drained = await self._drain()
        was_flatten = self._state.flatten
        await self._note("end", "session", f"{self._state.stopping}; {_still_open(drained)}")
        await steps.close_session(self._spec.name)
        # Asked for in the last moment: what was answered "recorded" is also done.
        if self._state.flatten and not was_flatten:
            drained = await self._drain()
        self._has_ended = True
        self._tell()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._result(drained)

    async def _drain(self) -> Drained:
        """Waits a while until what was asked for is so; asked for flatten meanwhile, goes on."""
        while True:
            flatten = self._state.flatten
            if flatten:
                asked = FlattenRequested(
                    at=workflow.now(),
                    command_id=f"stop-flatten-{self._spec.name}",
                    by="session",
                    reason=self._state.stopping,
                )
                await self._tell_trades(FactEnvelope.of(asked, sender="session"))
            drained = await steps.drain(self._spec, self._state.open_trades, flatten=flatten)
            self._change(open_trades=tuple(trade.trade_id for trade in drained.trades))
            if flatten is self._state.flatten:
                return drained

    def _result(self, drained: Drained) -> SessionResult:
        spec, state = self._spec, self._state
        days = state.days
        if state.day is not None and state.day_began:
            counts = state.counts.minus(state.counts_before_day)
            today = DayResult(
                day=state.day,
                counts=counts,
                baseline=state.baseline,
                open_trades=state.open_trades,
            )
            days = (*days, today)
        return SessionResult(
            name=spec.name,
            reason=state.stopping,
            counts=state.counts,
            open_trades=state.open_trades,
            account=spec.account,
            strategies=spec.strategies,
            symbols=tuple(instrument.symbol for instrument in spec.universe),
            started_at=state.started_at,
            ended_at=self._market_now(),
            days=days,
            flatten=state.flatten,
            trades=drained.trades,
        )

    async def _wait(self) -> None:
        """Sleeps until the next bar, the open or the close of a day, or somebody speaks."""
        now = workflow.now()
        wait = max(self._clock.wall(self._next_due()) - now, timedelta(milliseconds=1))
        try:
            await workflow.wait_condition(
                lambda: bool(self._inbox or self._state.stopping or self._state.new_build),
                timeout=wait,
            )
        except TimeoutError:
            return

    def _next_due(self) -> datetime:
        """Market instant of the next look; before a day it is one timer to its beginning."""
        if not self._state.day_began:
            return self._prepare_at(self._day)
        closes_at = self._day.closes_at
        return self._next_look() if closes_at is None else min(self._next_look(), closes_at)

    def _next_look(self) -> datetime:
        """The next market instant that is a multiple of the polling interval."""
        looked = self._state.looked_at or self._market_now()
        passed_s = int((looked - _EPOCH) / timedelta(seconds=1))
        return _EPOCH + timedelta(
            seconds=passed_s - passed_s % self._spec.poll_s + self._spec.poll_s
        )

    def _wants_new_run(self) -> bool:
        info = workflow.info()
        length = info.get_current_history_length()
        is_long = length >= life.EVENTS_WISH_MAX or info.is_continue_as_new_suggested()
        return is_long or bool(self._state.new_build)

    async def _continue_as_new(self) -> None:
        """Hands over at a quiet point: no handler under way, nothing awaited.

        To the current build if a new one was told, which then starts the trades.
        """
        if self._state.new_build:
            # The strategies run on in processes of the old build's worker otherwise.
            await steps.close_session(self._spec.name)
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._state.stopping:
            return
        new_build = self._state.new_build
        state = self._state.model_copy(update={"inbox": tuple(self._inbox), "new_build": ""})
        spec = self._spec
        if new_build:
            spec = spec.model_copy(update={"build_id": new_build})
        workflow.continue_as_new(
            SessionInput(spec=spec, clock=self._clock, state=state),
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE
            if new_build
            else None,
        )

    def _market_now(self) -> datetime:
        return self._clock.market(workflow.now())

    def _change(self, **update: object) -> None:
        self._state = self._state.model_copy(update=update)

    def _count(self, **more: int) -> None:
        self._change(counts=self._state.counts.plus(**more))

    def _stage(self) -> str:
        if self._has_ended:
            return "ended"
        if self._state.stopping:
            return "draining"
        if self._state.paused:
            return "paused"
        return "running" if self._state.day_began else "waiting"

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
            f"{counts.refused} refused · {counts.late} late · {counts.not_taken} not taken · "
            f"{counts.exits} exits · {counts.watched} watched\n"
            f"{self._day_line()}"
            f"- {len(state.open_trades)} open trades"
        )

    def _day_line(self) -> str:
        day = self._state.day
        if day is None:
            return ""
        closes = "" if day.closes_at is None else f" to {day.closes_at:%H:%M} UTC"
        return f"- day {len(self._state.days) + 1}: {day.opens_at:%Y-%m-%d %H:%M}{closes}\n"

    async def _note_signal(self, candidate: Candidate, word: str, code: str, trade: str) -> None:
        await steps.note_signal(candidate.signal_id, word, code, trade)

    async def _note(self, action: str, by: str, reason: str) -> None:
        await steps.note(self._spec.name, action, by, reason)


def _request_of(signal: OperatorSignal) -> SessionRequest:
    """A signal typed by hand; mode `flatten` counts with `stop` only."""
    return SessionRequest(
        command_id=signal.command_id,
        by=signal.by,
        reason=signal.reason,
        flatten=signal.mode == KillMode.FLATTEN,
    )


def _still_open(drained: Drained) -> str:
    if not drained.trades:
        return "no trade is open"
    names = ", ".join(f"{trade.trade_id} {trade.stage}" for trade in drained.trades[:5])
    return f"{len(drained.trades)} trades are open: {names}"
