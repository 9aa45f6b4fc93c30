"""`session stop`: asks the session, or its trades themselves once it has ended, and tells of now.

What the session saw as it ended is as old as its end. Which trades are open is therefore read
when it is asked for, so that asking again until exit code 0 works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from cli.context import Target, line_of
from cli.flatten import audit_flatten, flatten_scope
from cli.open_trades import open_trades_of
from cli.session_calls import ask, is_running, session_handle
from domain.control import KillScope, KillScopeKind
from domain.errors import HoldfastError, Refused
from domain.facts import FactEnvelope, FlattenRequested
from domain.ids import trade_workflow_id
from domain.session import SessionRequest, SessionResult
from workflows.session import SessionWorkflow

LOOK_S = 0.5
NOT_FLAT = "not flat yet: ask again; `trade flatten ID` takes over a trade that does not answer"


async def stop_session(
    target: Target, name: str, request: SessionRequest, wait_s: float
) -> dict[str, Any]:
    """What became of the session, and its trades that are open now.

    Asked for flatten, the trades of a session that has ended are told themselves.

    Raises:
        Refused: SESSION_UNKNOWN, or as `ask`. Transient: as `ask`.
    """
    until = asyncio.get_running_loop().time() + wait_s
    client = await target.temporal()
    handle = session_handle(client, name)
    if await is_running(handle, name):
        try:
            await ask(handle, name, SessionWorkflow.request_stop, request)
        except Refused as error:
            if error.code != "SESSION_ENDED":  # it may have ended meanwhile, of itself
                raise
    told = await _end_of(handle, until)
    told["flatten"] |= request.flatten
    account = told.pop("account") or target.settings().account.name
    started = told.pop("started")
    trades = await _trades_now(target, name, account, started)
    if request.flatten and told["stage"] == "ended" and trades["trades"]:
        await _flatten_trades(target, client, [t["trade_id"] for t in trades["trades"]], request)
        trades = await _until_flat(target, name, account, started, until)
        if trades["trades"]:
            trades["next"] = NOT_FLAT
    return {"session": name, **told, **trades}


async def _end_of(
    handle: WorkflowHandle[SessionWorkflow, SessionResult], until: float
) -> dict[str, Any]:
    """How the session ended, or that it has not."""
    wait_s = max(until - asyncio.get_running_loop().time(), 0.01)
    unknown: dict[str, Any] = {"account": "", "started": (), "flatten": False}
    try:
        async with asyncio.timeout(wait_s):
            result = await handle.result()
    except TimeoutError:
        return unknown | {"stage": "draining"}
    except WorkflowFailureError as error:
        return unknown | {"stage": "ended", "reason": f"its workflow failed: {error.cause}"}
    return {
        "stage": "ended",
        "account": result.account,
        "started": result.open_trades,
        "reason": result.reason,
        "flatten": result.flatten,
        "signals": result.counts.signals,
        "taken": result.counts.taken,
    }


async def _trades_now(
    target: Target, name: str, account: str, started: Iterable[str]
) -> dict[str, Any]:
    """Open trades as of now. A ledger that is away proves nothing: `not read` says so."""
    try:
        trades = await open_trades_of(target, name, account, started)
    except HoldfastError as error:
        return {"open trades": "unknown", "not read": line_of(error), "trades": []}
    return {"open trades": len(trades), "as of": datetime.now(UTC), "trades": trades}


async def _flatten_trades(
    target: Target, client: Client, trade_ids: list[str], request: SessionRequest
) -> None:
    """Tells each trade, as the session would have; what cannot be told is taken over."""
    reason = request.reason or "session stop with flatten"
    fact = FlattenRequested(
        at=datetime.now(UTC), command_id=request.command_id, by=request.by, reason=reason
    )
    envelope = FactEnvelope.of(fact, sender="session stop")
    for trade_id in trade_ids:
        scope = KillScope(kind=KillScopeKind.TRADE, value=trade_id)
        try:
            handle = client.get_workflow_handle(trade_workflow_id(trade_id))
            await handle.signal("facts", envelope)
        except RPCError:
            command_id = f"{request.command_id}-{trade_id}"
            with suppress(HoldfastError):  # the next trade is told all the same
                await flatten_scope(
                    target, scope, command_id, by=request.by, reason=reason, wait_s=0
                )
        else:
            await audit_flatten(target, scope, request.command_id, by=request.by, reason=reason)


async def _until_flat(
    target: Target, name: str, account: str, started: Iterable[str], until: float
) -> dict[str, Any]:
    """Looks until no trade is open, or the time is up."""
    while True:
        found = await _trades_now(target, name, account, started)
        is_late = asyncio.get_running_loop().time() >= until
        if is_late or found["open trades"] == 0:
            return found
        await asyncio.sleep(LOOK_S)
