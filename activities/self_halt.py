"""Stopping ourselves: a component that finds too many orders engages a kill and cannot lift it.

The kill is the one flag that every entry passes right before its send; it is latched over restarts
and only registered people lift it (faults.md controls 6 and 8). Stops and exits go on.
"""

from __future__ import annotations

import hashlib

from activities.services import Services
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch

REASON_MAX = 300
OLDER_LEDGER = "older-ledger"


async def stop_strategy(services: Services, strategy: str, cause: str, text: str) -> None:
    """Blocks entries of a strategy that repeats itself; `cause` is the trade that tripped it."""
    scope = KillScope(kind=KillScopeKind.STRATEGY, value=strategy)
    await _engage(services, scope, "repeat-throttle", cause, text)


async def stop_account(services: Services, cause: str, text: str) -> None:
    """Blocks entries of the account: more orders leave than signals came in (I15)."""
    scope = KillScope(kind=KillScopeKind.ACCOUNT, value=services.account)
    await _engage(services, scope, "orders-out", cause, text)


async def stop_for_older_ledger(services: Services, cause: str, text: str) -> None:
    """Blocks entries of the account: the ledger has lost its last rows, and maybe kills (I9).

    `cause` is what shows it. One kill stands for all that is found until people have lifted it.
    """
    control = await services.ledger.read_control(services.account)
    if all(kill.by != OLDER_LEDGER for kill in control.kills):
        scope = KillScope(kind=KillScopeKind.ACCOUNT, value=services.account)
        await _engage(services, scope, OLDER_LEDGER, cause, text)


async def _engage(services: Services, scope: KillScope, by: str, cause: str, text: str) -> None:
    """Idempotent by its cause: a repeated step engages nothing twice, nor after a reset.

    Raises:
        Transient: the ledger was away; the step is asked for again.
    """
    digest = hashlib.sha256(f"{scope.text}|{cause}".encode()).hexdigest()[:16]
    kill = KillSwitch(
        scope=scope,
        mode=KillMode.BLOCK,
        reason=text[:REASON_MAX],
        by=by,
        command_id=f"{by}-{digest}",
        engaged_at=services.now(),
    )
    await services.ledger.engage_kill(services.account, kill)
