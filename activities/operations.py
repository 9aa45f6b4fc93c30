"""The operator's switches as activities: workflow signals take the same path as every client."""

from __future__ import annotations

from temporalio import activity

from activities.reporting import report
from activities.services import Services
from domain.base import Frozen
from domain.control import KILL_MODES, KillMode, KillScope, KillScopeKind, KillSwitch
from domain.errors import Refused

TYPED_MAX = 40


class EngageInput(Frozen):
    """A kill to engage; idempotent by `command_id`."""

    account: str
    scope: KillScope
    mode: KillMode
    command_id: str
    by: str
    reason: str
    unknown_mode: str = ""
    """What was typed instead of a mode; told to a person, `mode` is engaged all the same."""


class OperationActivities:
    """Writes control rows for workflows."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @activity.defn(name="engage_kill")
    async def engage_kill(self, input: EngageInput) -> None:
        """Flips the control row; the gateway wakes by NOTIFY and cancels entries (I9, I17).

        An id that a person typed for another kill before does not hold this one up: it is engaged
        under a name of its own.
        """
        kill = KillSwitch(
            scope=input.scope,
            mode=input.mode,
            reason=input.reason,
            by=input.by,
            command_id=input.command_id,
            engaged_at=self._services.now(),
        )
        account = None if input.scope.kind is KillScopeKind.ALL else input.account
        try:
            await self._services.ledger.engage_kill(account, kill)
        except Refused as error:
            if error.code != "COMMAND_ID_USED":
                raise
            own = f"{kill.command_id}/{kill.scope.text}/{kill.mode}"
            own_kill = kill.model_copy(update={"command_id": own})
            await self._services.ledger.engage_kill(account, own_kill)
        if input.unknown_mode:
            trade_id = input.scope.value if input.scope.kind is KillScopeKind.TRADE else ""
            text = (
                f"{input.scope.text} by {input.by}: mode was {input.unknown_mode[:TYPED_MAX]!r}, "
                f"allowed {KILL_MODES}; {input.mode} was engaged instead"
            )
            await report(self._services, "KILL_MODE_UNKNOWN", text, trade_id)
