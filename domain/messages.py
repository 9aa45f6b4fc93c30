"""What people and other programs send to workflows, and what they get back.

Signals from the Web UI are typed by hand, so every field has a default: a payload that does not
decode would be dropped whole by the SDK (architecture §4).
"""

from __future__ import annotations

from pydantic import JsonValue

from domain.base import Frozen
from domain.clock import ClockMap
from domain.facts import FactBatch
from domain.money import Amount, NetPrice, Quantity
from domain.plan import TradePlan
from domain.trade_state import TradeState


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


class Receipt(Frozen):
    """Recorded, not done."""

    command_id: str
    recorded: bool
    text: str = ""


class TradeStatus(Frozen):
    """What the query `status` tells."""

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
    naked_s: float = 0.0
    details: JsonValue = None
