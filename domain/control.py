"""The operator's switches as values: arm, kill, conditions, breakers (architecture §7)."""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime

from domain.base import Frozen


class KillMode(StrEnum):
    """`block`: no new risk. `cancel_entries`: also cancel what adds risk. `flatten`: all out."""

    BLOCK = "block"
    CANCEL_ENTRIES = "cancel_entries"
    FLATTEN = "flatten"


KILL_MODES = "block|cancel-entries|flatten"


def kill_mode_of(text: str) -> KillMode | None:
    """The mode that a person typed, in any case, with `-` or `_`; None for no mode of ours."""
    wanted = text.strip().lower().replace("-", "_")
    return KillMode(wanted) if wanted in list(KillMode) else None


class KillScopeKind(StrEnum):
    ORDER = "order"
    TRADE = "trade"
    SYMBOL = "symbol"
    STRATEGY = "strategy"
    ACCOUNT = "account"
    ALL = "all"


class KillScope(Frozen):
    """What a kill covers; `value` names it, empty for `all`. Text form `kind:value`."""

    kind: KillScopeKind
    value: str = ""

    @property
    def text(self) -> str:
        return self.kind if self.kind is KillScopeKind.ALL else f"{self.kind}:{self.value}"

    def covers(
        self,
        *,
        account: str,
        strategy: str,
        symbols: tuple[str, ...],
        trade_id: str,
        client_id: str = "",
    ) -> bool:
        """True if an order with these owners lies inside the scope."""
        match self.kind:
            case KillScopeKind.ALL:
                return True
            case KillScopeKind.ACCOUNT:
                return self.value == account
            case KillScopeKind.STRATEGY:
                return self.value == strategy
            case KillScopeKind.SYMBOL:
                return self.value in symbols
            case KillScopeKind.TRADE:
                return self.value == trade_id
            case KillScopeKind.ORDER:
                return self.value == client_id


class KillSwitch(Frozen):
    """One engaged kill. Latched until two people (or one with the long way) reset it."""

    scope: KillScope
    mode: KillMode
    reason: str
    by: str
    command_id: str
    engaged_at: AwareDatetime


class Control(Frozen):
    """The control row set of one account as of `version`; unreadable means not armed, killed."""

    account: str
    armed: bool
    kills: tuple[KillSwitch, ...] = ()
    version: int
    updated_at: AwareDatetime
    updated_by: str = ""

    def kill_for(
        self, *, strategy: str, symbols: tuple[str, ...], trade_id: str, client_id: str = ""
    ) -> KillSwitch | None:
        """The first engaged kill that covers an order with these owners, or None."""
        for kill in self.kills:
            if kill.scope.covers(
                account=self.account,
                strategy=strategy,
                symbols=symbols,
                trade_id=trade_id,
                client_id=client_id,
            ):
                return kill
        return None


class BreakerState(StrEnum):
    """Risk breaker. Missing or unreadable counts as TRIPPED."""

    NORMAL = "normal"
    TRIPPED = "tripped"


class TripReason(StrEnum):
    DATA_STALE = "DATA_STALE"
    DAILY_LOSS = "DAILY_LOSS"
    BROKER_ERROR = "BROKER_ERROR"
    CASH_DIFFERENCE = "CASH_DIFFERENCE"
    ACCOUNT_INVALID = "ACCOUNT_INVALID"
    MANUAL = "MANUAL"
    MISSING = "MISSING"


class ApiBreakerState(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class ConditionKind(StrEnum):
    """Conditions block entries while true (architecture §7).

    Whoever sets one clears it. Gate and last hop ask for them; no feed of ours sets one yet.
    """

    MACRO_WINDOW = "macro_window"
    VIX_BACKWARDATION = "vix_backwardation"
    REGIME_FAILURE = "regime_failure"
    STALE_DATA = "stale_data"
