"""The steps of a session outside of it: every activity with its timeout, retries and summary."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.operations import EngageInput, OperationActivities
    from activities.session import NoteSessionInput, NoteSignalInput, SessionActivities
    from activities.session_days import (
        BeginDayInput,
        DayBegun,
        Drained,
        DrainInput,
        NextDayInput,
        SessionDayActivities,
    )
    from domain.commands import Urgency
    from domain.session import Evaluation, SessionSpec
    from domain.session_day import SessionDay
    from workflows import _lifecycle as life

DRAIN_S = 20.0
FLATTEN_DRAIN_S = 60.0
REASON_MAX = 500


async def evaluate(step: Any, argument: Any, summary: str) -> Evaluation:
    """Bars or a signal judged; repeated until it succeeds."""
    found: Evaluation = await workflow.execute_activity_method(
        step,
        argument,
        start_to_close_timeout=life.DECIDE_TIMEOUT,
        retry_policy=life.REPEAT,
        priority=life.PRIORITY[Urgency.ENTRY],
        summary=summary,
    )
    return found


async def next_day(
    spec: SessionSpec, market_now: datetime, after: datetime | None
) -> SessionDay | None:
    """The day that runs or comes next, None if there is none."""
    found = await workflow.execute_activity_method(
        SessionDayActivities.next_session_day,
        NextDayInput(spec=spec, market_now=market_now, after=after),
        start_to_close_timeout=life.DECIDE_TIMEOUT,
        retry_policy=life.REPEAT,
        priority=life.PRIORITY[Urgency.ENTRY],
        summary="the next day",
    )
    return found.day


async def begin_day(spec: SessionSpec, day: SessionDay) -> DayBegun:
    """Baseline taken, feed and strategies anew."""
    return await workflow.execute_activity_method(
        SessionDayActivities.begin_session_day,
        BeginDayInput(spec=spec, day=day),
        start_to_close_timeout=life.DECIDE_TIMEOUT,
        retry_policy=life.REPEAT,
        priority=life.PRIORITY[Urgency.ENTRY],
        summary=f"day of {day.opens_at:%d %b}",
    )


async def drain(spec: SessionSpec, trades: tuple[str, ...], *, flatten: bool) -> Drained:
    """Waits until entries are dead, with `flatten` until all is flat, and tells what is left."""
    wait_s = FLATTEN_DRAIN_S if flatten else DRAIN_S
    return await workflow.execute_activity_method(
        SessionDayActivities.drain_session,
        DrainInput(
            session=spec.name, account=spec.account, trades=trades, flatten=flatten, wait_s=wait_s
        ),
        start_to_close_timeout=timedelta(seconds=wait_s) + life.BOOKKEEPING_TIMEOUT,
        retry_policy=life.REPEAT,
        priority=life.PRIORITY[Urgency.EXIT],
        summary="flatten and wait" if flatten else "until entries are dead",
    )


async def close_session(name: str) -> None:
    """Ends the strategy processes."""
    await workflow.execute_activity_method(
        SessionActivities.close_session,
        name,
        start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
        retry_policy=life.READ_RETRY,
        priority=life.REPORT_PRIORITY,
    )


async def engage_kill(argument: EngageInput) -> None:
    """Writes the control row of a kill; goes on when it cannot be written."""
    try:
        await workflow.execute_activity_method(
            OperationActivities.engage_kill,
            argument,
            start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
            retry_policy=life.READ_RETRY,
            priority=life.PRIORITY[Urgency.EXIT],
            summary=f"kill {argument.mode}",
        )
    except ActivityError as error:
        # Raised on, it would fail the session. The session takes nothing any more all the same.
        workflow.logger.error("control row of the kill was not written: %s", error.cause)


async def note_signal(signal_id: str, word: str, code: str, trade_id: str) -> None:
    """Records what became of a candidate."""
    await workflow.execute_activity_method(
        SessionActivities.note_signal,
        NoteSignalInput(signal_id=signal_id, decision=word, code=code, trade_id=trade_id),
        start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
        retry_policy=life.REPEAT,
        priority=life.REPORT_PRIORITY,
        summary=f"signal {word}",
    )


async def note(session: str, action: str, by: str, reason: str) -> None:
    """Audits what happened to the session; goes on when the ledger is away."""
    try:
        await workflow.execute_activity_method(
            SessionActivities.note_session,
            NoteSessionInput(
                session=session, action=action, by=by or "unknown", reason=reason[:REASON_MAX]
            ),
            start_to_close_timeout=life.BOOKKEEPING_TIMEOUT,
            retry_policy=life.READ_RETRY,
            priority=life.REPORT_PRIORITY,
            summary=f"session {action}",
        )
    except ActivityError as error:
        workflow.logger.error("session %s was not audited: %s", action, error.cause)
