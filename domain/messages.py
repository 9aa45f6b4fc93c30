"""What people and other programs send to workflows, and what they get back.

Signals from the Web UI are typed by hand, so every field has a default: a payload that does not
decode would be dropped whole by the SDK (architecture §4).
"""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, JsonValue

from domain.base import Frozen
from domain.clock import ClockMap
from domain.facts import CloseRequested, FactBatch, OperatorCommand, OperatorVerb
from domain.money import Amount, NetPrice, Number, Quantity
from domain.plan import TradePlan
from domain.trade_state import TradeState

CLOSE = "close"
_CLOSE_FIELDS = frozenset(CloseRequested.model_fields)


class TradeInput(Frozen):
    """A trade from its plan, or from the state that an earlier run handed over."""

    plan: TradePlan
    installation: str
    clock: ClockMap
    mode: str = "paper"
    build_id: str = ""
    state: TradeState | None = None
    carried: FactBatch = FactBatch()


class TradeResult(Frozen):
    """How a trade ended; a rejected signal is a finished trade too."""

    trade_id: str
    outcome: str
    exit_reason: str = ""
    code: str = ""
    quantity: Quantity
    average_entry: NetPrice | None = None
    average_exit: NetPrice | None = None
    realised: Amount | None = None
    fees: Amount | None = None
    naked_s: float = 0.0


class OperatorSignal(Frozen):
    """A hand-typed order of a person: kill or flatten from the Web UI."""

    command_id: str = ""
    by: str = "web-ui"
    reason: str = ""
    mode: str = "block"


class VersionSignal(Frozen):
    """A new build is current."""

    build_id: str = ""


class OperatorRequest(Frozen):
    """An update: answered once recorded; nobody waits for a broker inside a handler."""

    command_id: str
    by: str
    reason: str = ""
    price: NetPrice | None = None
    client_id: str | None = None
    resolution: str = ""
    evidence: str = ""
    version: int | None = None
    quantity: Quantity | None = None
    fraction: Number | None = None
    target: int | None = None
    reference: NetPrice | None = None
    widen: bool = False
    marketable: bool = False
    release_orders: bool = False

    def fact(self, verb: str, at: datetime) -> OperatorCommand | CloseRequested:
        """The command as the trade folds it; `verb` is the name of the update.

        Raises:
            ValueError: there is no such verb.
        """
        values = self.model_dump(exclude_defaults=True) | {"at": at}
        if verb == CLOSE:
            return CloseRequested.model_validate(
                {name: value for name, value in values.items() if name in _CLOSE_FIELDS}
            )
        values |= {"verb": OperatorVerb(verb), "resolution": self.resolution or None}
        values.pop("fraction", None)
        return OperatorCommand.model_validate(values)


class Receipt(Frozen):
    """Recorded, not done. `body_hash` tells a repeat from another command under the same id."""

    command_id: str
    recorded: bool
    text: str = ""
    body_hash: str = ""


class CommandAnswer(Frozen):
    """What the query `outcome` tells of one command: `progress` is a word of domain.outcomes."""

    command_id: str
    progress: str
    text: str = ""
    version: int = 0


class TradeStatus(Frozen):
    """What the query `status` tells.

    `naked_s` are the seconds of all naked spans that are over, `naked_since` when one began that
    is not: a query knows no time that it could be counted to.
    """

    trade_id: str
    stage: str
    protection: str
    held: Quantity | Amount
    average_entry: NetPrice | None = None
    stop_price: NetPrice | None = None
    exit_reason: str = ""
    exit_pending: str = ""
    needs_operator: str = ""
    working: tuple[str, ...] = ()
    version: int = 0
    hand: str = ""
    naked_s: float = 0.0
    naked_since: AwareDatetime | None = None
    details: JsonValue = None

    def naked_so_far_s(self, now: datetime) -> float:
        """Naked seconds so far, with the span that goes on."""
        gap_s = 0.0 if self.naked_since is None else (now - self.naked_since).total_seconds()
        return round(self.naked_s + max(gap_s, 0.0), 3)
