"""Talking to sessions: start, ask, and the receipt of their end."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowSerializationContext,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from cli.context import Target
from domain.clock import ClockMap
from domain.errors import HoldfastError, Refused, Transient
from domain.ids import TRADE_QUEUE, check_id, session_workflow_id
from domain.session import (
    SessionInput,
    SessionReceipt,
    SessionRequest,
    SessionResult,
    SessionSpec,
)
from domain.trade_state import Stage
from ledger.repository import Ledger
from settings import Settings
from workflows import _lifecycle as life
from workflows.session import SessionWorkflow

ANSWER_S = 15.0
BAR_INTERVAL_S = 60
TRADES_MAX = 100_000


async def start_session(
    client: Client, spec: SessionSpec, clock: ClockMap, settings: Settings
) -> dict[str, Any]:
    """Starts the workflow `session/<name>`; one that runs with the same wishes is left alone.

    Raises:
        Refused: SESSION_RUNS when one of this name runs with other wishes.
    """
    already = False
    try:
        await client.start_workflow(
            SessionWorkflow.run,
            SessionInput(spec=spec, clock=clock),
            id=session_workflow_id(spec.name),
            task_queue=TRADE_QUEUE,
            task_timeout=life.TASK_TIMEOUT,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"{', '.join(spec.strategies)} on {symbols_of(spec)}",
        )
    except WorkflowAlreadyStartedError:
        given = await started_with(client, spec.name)
        running = None if given is None else given.spec
        if running is None or wishes_of(running) != wishes_of(spec):
            text = f"session {spec.name} runs already, with other strategies, symbols or days"
            raise Refused(text, code="SESSION_RUNS") from None
        already, spec = True, running
    return {
        "session": spec.name,
        "workflow": session_workflow_id(spec.name),
        "already": already,
        "account": settings.account.name,
        "strategies": spec.strategies,
        "universe": symbols_of(spec),
        "market_time": clock.market(datetime.now(UTC)),
        "closes_at": spec.closes_at,
        "calendar": spec.calendar or "this day",
        "last_day": spec.last_day,
    }


def wishes_of(spec: SessionSpec) -> SessionSpec:
    """What a person asked for: without the instants and names of the moment it was started."""
    left_out = ("opens_at", "closes_at", "build_id", "started_by")
    defaults = dict.fromkeys(left_out)
    return spec.model_copy(update=defaults)


async def started_with(client: Client, name: str) -> SessionInput | None:
    """What the newest run of the session began with; None if its history cannot be read."""
    handle = client.get_workflow_handle(session_workflow_id(name))
    try:
        async for event in handle.fetch_history_events(page_size=1):
            payloads = event.workflow_execution_started_event_attributes.input.payloads
            about = WorkflowSerializationContext(client.namespace, handle.id)
            reader = client.data_converter.with_context(about)
            (first,) = await reader.decode(payloads, [SessionInput])
            return first if isinstance(first, SessionInput) else None
    except RPCError:
        return None
    return None


def session_handle(client: Client, name: str) -> WorkflowHandle[SessionWorkflow, SessionResult]:
    """The newest run of the session."""
    return client.get_workflow_handle_for(
        SessionWorkflow.run, session_workflow_id(check_id(name, "name"))
    )


async def is_running(handle: WorkflowHandle[Any, Any], name: str) -> bool:
    """False if the session has ended.

    Raises:
        Refused: SESSION_UNKNOWN.
    """
    try:
        found = await handle.describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise Refused(f"no session was called {name}", code="SESSION_UNKNOWN") from None
        raise
    return found.status is WorkflowExecutionStatus.RUNNING


async def ask(
    handle: WorkflowHandle[Any, Any], name: str, word: Any, request: SessionRequest
) -> SessionReceipt:
    """Sends the request; the session answers once it is recorded. A repeat gets its answer again.

    Raises:
        Refused: SESSION_ENDED, VERSION_CONFLICT (exit 4), or another code of the session.
        Transient: SESSION_SILENT when no worker answers.
    """
    try:
        async with asyncio.timeout(ANSWER_S):
            answer: SessionReceipt = await handle.execute_update(
                word, request, id=request.command_id
            )
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        code = cause.type or "REFUSED" if isinstance(cause, ApplicationError) else "REFUSED"
        raise Refused(getattr(cause, "message", str(cause)), code=code) from None
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise Refused(f"session {name} has ended", code="SESSION_ENDED") from None
        raise
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        text = (
            f"session {name} did not answer within {ANSWER_S:.0f} s; send it again. "
            "`trade flatten` and `kill` need no worker"
        )
        raise Transient(text, code="SESSION_SILENT") from None
    return answer


async def entries_refused(target: Target, names: Iterable[str]) -> dict[str, int]:
    """By session, the trades of what was `taken` whose entry the gate then refused.

    Empty where the ledger does not answer: the session itself never hears of it.
    """
    try:
        async with target.ledger() as ledger:
            return {name: await refused_trades(ledger, name) for name in names}
    except HoldfastError:
        return {}


async def refused_trades(ledger: Ledger, session: str) -> int:
    """Trades of every session of this name that ended refused."""
    trades = await ledger.list_trades(session=session, limit=TRADES_MAX)
    return sum(trade.stage == Stage.REFUSED for trade in trades)


def report_command(target: Target, name: str) -> str:
    """The command that makes the session's report, for this stack and these settings."""
    words = ["python", "starter.py", *target.options()]
    return shlex.join([*words, "report", "session", name, "--html", f"{name}.html"])


def symbols_of(spec: SessionSpec) -> str:
    """The universe in words."""
    return ", ".join(instrument.symbol for instrument in spec.universe)
