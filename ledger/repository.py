"""The ledger's public API (interface first; bodies follow in the next commits)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Self

from domain.control import (
    ApiBreakerState,
    ConditionKind,
    Control,
    KillSwitch,
    TripReason,
)
from domain.order import Fill, OrderIntent, OrderSnapshot
from domain.plan import TradePlan
from ledger.records import (
    AccountRecord,
    AdjustmentRecord,
    ApiBreakerRecord,
    AuditProblem,
    BreakerRecord,
    ChildOrder,
    ConditionRecord,
    EquityBaseline,
    FeeRecord,
    FillBooking,
    FillRecord,
    GateAnswer,
    GateVerdict,
    IntentRecord,
    IntentState,
    KillAnswer,
    OrderOwner,
    Reservation,
    ReserveDecision,
    ReserveRequest,
    ReserveResult,
    ResetRequest,
    RiskBook,
    SignalRecord,
    SnapshotBooking,
    TradePosition,
    TradeRecord,
    WatchRecord,
)

JsonMap = Mapping[str, object]


class Ledger:
    """Every method is one transaction. Raises LedgerDown (LEDGER_DOWN) when PostgreSQL is away.

    Module functions in `ledger.migrate`: `upgrade(dsn)`, `downgrade(dsn, "base")` (async).
    `dsn` is `postgresql://user:secret@host:port/database`.
    """

    @classmethod
    async def connect(cls, dsn: str, *, pool_size: int = 10, connect_timeout_s: float = 2) -> Self:
        """Opens pools (one for work, a small one of its own for kills) and proves the schema."""
        raise NotImplementedError

    async def aclose(self) -> None: ...

    # accounts and control
    async def installation_id(self) -> str:
        """4 lower-case hex, drawn once at the first migration."""
        raise NotImplementedError

    async def ensure_account(self, account: str, broker: str, currency: str = "USD") -> bool:
        """Creates the account disarmed with normal breakers; True if it is new."""
        raise NotImplementedError

    async def accounts(self) -> tuple[AccountRecord, ...]:
        raise NotImplementedError

    async def arm(self, account: str, by: str, reason: str) -> Control:
        raise NotImplementedError

    async def disarm(self, account: str, by: str, reason: str) -> Control:
        raise NotImplementedError

    async def read_control(self, account: str) -> Control:
        """Control of the account with the kills of `all` merged in; unknown account = disarmed."""
        raise NotImplementedError

    async def engage_kill(
        self, account: str | None, kill: KillSwitch, expected_version: int | None = None
    ) -> KillAnswer:
        """`account` None only with scope `all`. Idempotent by command_id. VersionConflict."""
        raise NotImplementedError

    async def request_reset(
        self, account: str | None, by: str, reason: str, phrase: str, at: datetime
    ) -> ResetRequest:
        """Phrase: `RESET <account>` / `RESET ALL`; covers the kills engaged now, no later ones."""
        raise NotImplementedError

    async def confirm_reset(self, request_id: str, by: str, at: datetime) -> Control:
        """Two operators registered: another person. One: the same, >= 5 min later. Else Refused."""
        raise NotImplementedError

    async def set_condition(
        self, account: str, kind: ConditionKind, symbol: str = "", text: str = ""
    ) -> bool:
        """True if it was not active before."""
        raise NotImplementedError

    async def clear_condition(self, account: str, kind: ConditionKind, symbol: str = "") -> bool:
        raise NotImplementedError

    async def conditions(self, account: str) -> tuple[ConditionRecord, ...]:
        raise NotImplementedError

    async def trip_breaker(self, account: str, reason: TripReason, text: str, by: str) -> bool:
        raise NotImplementedError

    async def reset_breaker(self, account: str, by: str, reason: str) -> bool:
        raise NotImplementedError

    async def risk_breaker(self, account: str) -> BreakerRecord:
        raise NotImplementedError

    async def set_api_breaker(self, broker: str, state: ApiBreakerState, failures: int = 0) -> None:
        raise NotImplementedError

    async def api_breaker(self, broker: str) -> ApiBreakerRecord:
        raise NotImplementedError

    async def set_equity_baseline(
        self, account: str, roll: datetime, equity: Decimal, read_at: datetime
    ) -> EquityBaseline:
        """Stores the first one per roll and answers the one that stands."""
        raise NotImplementedError

    async def equity_baseline(
        self, account: str, roll: datetime | None = None
    ) -> EquityBaseline | None:
        """The baseline of the roll, or the newest one."""
        raise NotImplementedError

    def listen(self, *channels: str) -> AsyncIterator[tuple[str, str]]:
        """(channel, payload) of NOTIFY; ("ready","") first; LedgerDown when the line is lost.

        Channels: holdfast_control (payload account or `*`), holdfast_watches (payload account).
        """
        raise NotImplementedError

    # orders
    async def open_gate(
        self,
        intent: OrderIntent,
        owner: OrderOwner,
        attempt_token: str,
        now: datetime,
        *,
        build_id: str = "",
        config_hash: str = "",
        resend: bool = False,
    ) -> GateAnswer:
        """The last-hop gate, one transaction (architecture §5 step 2).

        `resend` True (venue ids unique for ever, after `claim_intent`): a row in
        sending/unknown may be passed again with the same body and id. A NOT_SENT row may always.
        """
        raise NotImplementedError

    async def still_mine(self, client_id: str, attempt_token: str) -> bool:
        """Right before the write: False = another attempt took over, do not send (C8)."""
        raise NotImplementedError

    async def claim_intent(self, client_id: str, attempt_token: str) -> IntentRecord | None:
        """A resolver fences every older attempt before it concludes anything."""
        raise NotImplementedError

    async def record_answer(
        self,
        client_id: str,
        attempt_token: str | None,
        state: IntentState,
        *,
        snapshot: OrderSnapshot | None = None,
        code: str = "",
        text: str = "",
        at: datetime | None = None,
    ) -> IntentRecord:
        """Accepted always wins; anything else is ignored from a fenced attempt (token not current).

        `attempt_token` None = broker evidence of a resolver, not of an attempt.
        """
        raise NotImplementedError

    async def record_snapshot(self, account: str, snapshot: OrderSnapshot) -> SnapshotBooking:
        """Books the broker's view by client id, broker id or parent; legs become child rows."""
        raise NotImplementedError

    async def intent(self, client_id: str) -> IntentRecord | None:
        raise NotImplementedError

    async def orders_of_trade(self, trade_id: str) -> tuple[IntentRecord, ...]:
        raise NotImplementedError

    async def children_of_trade(self, trade_id: str) -> tuple[ChildOrder, ...]:
        raise NotImplementedError

    async def open_orders(
        self,
        account: str,
        *,
        trade_id: str | None = None,
        strategy: str | None = None,
        symbol: str | None = None,
    ) -> tuple[IntentRecord, ...]:
        """Live intents (sending, unknown, accepted and not known dead) inside the scope."""
        raise NotImplementedError

    async def unresolved_intents(self, account: str) -> tuple[IntentRecord, ...]:
        """In `sending` or `unknown`."""
        raise NotImplementedError

    # fills and money
    async def record_fill(self, account: str, fill: Fill) -> FillBooking:
        """Idempotent by (broker, account, fill_key); a fee that comes later completes the row."""
        raise NotImplementedError

    async def record_fills(self, account: str, fills: Sequence[Fill]) -> tuple[FillBooking, ...]:
        raise NotImplementedError

    async def bust_fill(self, account: str, fill_key: str, reason: str) -> FillBooking:
        """Books the reversal row `<key>/bust` once; the fill itself is never edited."""
        raise NotImplementedError

    async def correct_fill(self, account: str, fill_key: str, fill: Fill) -> FillBooking:
        """Reversal of `fill_key` plus the corrected fill under its own key, in one transaction."""
        raise NotImplementedError

    async def fills_of_trade(self, trade_id: str) -> tuple[FillRecord, ...]:
        raise NotImplementedError

    async def fills_of_account(
        self, account: str, since: datetime | None = None
    ) -> tuple[FillRecord, ...]:
        raise NotImplementedError

    async def unattributed_fills(self, account: str) -> tuple[FillRecord, ...]:
        raise NotImplementedError

    async def record_fee(self, fee: FeeRecord) -> bool:
        raise NotImplementedError

    async def fees(self, account: str, trade_id: str | None = None) -> tuple[FeeRecord, ...]:
        raise NotImplementedError

    async def record_adjustment(self, adjustment: AdjustmentRecord) -> bool:
        raise NotImplementedError

    async def positions_by_trade(self, account: str) -> tuple[TradePosition, ...]:
        """Non-zero sums of fills and adjustments; owner EXTERNAL for those without a trade."""
        raise NotImplementedError

    # risk
    async def reserve(
        self,
        request: ReserveRequest,
        evaluate: Callable[[RiskBook], ReserveDecision],
        now: datetime,
    ) -> ReserveResult:
        """Atomic under the account's lock; idempotent by trade id, refusals too (B1-B3)."""
        raise NotImplementedError

    async def shrink_reservation(
        self, trade_id: str, quantity: Decimal, notional: Decimal, loss: Decimal
    ) -> Reservation | None:
        """Sets the smaller numbers (each is min(old, new)); None if released or absent."""
        raise NotImplementedError

    async def release_reservation(self, trade_id: str, reason: str) -> bool:
        """True exactly once (I6)."""
        raise NotImplementedError

    async def reservation(self, trade_id: str) -> Reservation | None:
        raise NotImplementedError

    async def open_reservations(self, account: str) -> tuple[Reservation, ...]:
        raise NotImplementedError

    async def verdicts(self, trade_id: str) -> tuple[GateVerdict, ...]:
        raise NotImplementedError

    # trades, signals, watches
    async def create_trade(
        self, plan: TradePlan, *, stage: str = "planned", build_id: str = "", config_hash: str = ""
    ) -> TradeRecord:
        """Refused TRADE_EXISTS for a second one; the same plan again answers the row as it is."""
        raise NotImplementedError

    async def update_trade(
        self,
        trade_id: str,
        *,
        stage: str | None = None,
        protection: str | None = None,
        result: str | None = None,
        story: str | None = None,
        build_id: str | None = None,
        document: JsonMap | None = None,
        closed: bool | None = None,
    ) -> TradeRecord:
        """None leaves a field alone; `closed` True stamps closed_at once, False reopens (D9)."""
        raise NotImplementedError

    async def settle_trade(
        self,
        trade_id: str,
        realised: Decimal,
        fees: Decimal,
        *,
        fees_estimated: bool,
        result: str | None = None,
    ) -> TradeRecord:
        raise NotImplementedError

    async def trade(self, trade_id: str) -> TradeRecord | None:
        raise NotImplementedError

    async def list_trades(
        self,
        *,
        account: str | None = None,
        session: str | None = None,
        strategy: str | None = None,
        symbol: str | None = None,
        open_only: bool = False,
        limit: int = 1000,
    ) -> tuple[TradeRecord, ...]:
        raise NotImplementedError

    async def record_signal(self, signal: SignalRecord) -> bool:
        """True the first time; a repeat of the id changes nothing (A1)."""
        raise NotImplementedError

    async def list_signals(
        self, *, session: str | None = None, limit: int = 1000
    ) -> tuple[SignalRecord, ...]:
        raise NotImplementedError

    async def upsert_watch(self, watch: WatchRecord) -> bool:
        """New epoch restarts progress, same epoch keeps it, an older epoch is ignored (False)."""
        raise NotImplementedError

    async def save_watch_progress(self, watch: WatchRecord) -> bool:
        """Mark, high-water mark, confirmations; False if the row has another epoch or is gone."""
        raise NotImplementedError

    async def delete_watch(self, trade_id: str, rule_id: str | None = None) -> int:
        raise NotImplementedError

    async def list_watches(self, account: str) -> tuple[WatchRecord, ...]:
        raise NotImplementedError

    # operations
    async def take_lease(self, name: str, holder: str, ttl_s: float) -> int | None:
        """Epoch, or None while another holder's lease runs. Taking over raises the epoch."""
        raise NotImplementedError

    async def renew_lease(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool:
        raise NotImplementedError

    async def release_lease(self, name: str, holder: str, epoch: int) -> bool:
        raise NotImplementedError

    async def get_cursor(self, name: str) -> str | None:
        raise NotImplementedError

    async def set_cursor(self, name: str, value: str) -> None:
        raise NotImplementedError

    async def add_operator(self, name: str, secret: str) -> bool:
        raise NotImplementedError

    async def check_operator(self, name: str, secret: str) -> bool:
        raise NotImplementedError

    async def operators(self) -> tuple[str, ...]:
        raise NotImplementedError

    async def append_audit(self, actor: str, action: str, subject: str, details: JsonMap) -> int:
        """Sequence number of the new link."""
        raise NotImplementedError

    async def verify_audit(self) -> tuple[AuditProblem, ...]:
        """Empty = the chain is whole."""
        raise NotImplementedError
