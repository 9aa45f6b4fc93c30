"""Small makers of ledger inputs for the tests."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from domain.ids import IntentKey, Purpose
from domain.instrument import Instrument
from domain.order import (
    BrokerOrderStatus,
    Fill,
    OrderBody,
    OrderIntent,
    OrderSnapshot,
    OrderType,
    Side,
)
from domain.plan import FixedSize, PlanLeg, TradePlan, WalkPlan
from ledger.records import OrderOwner, ReserveDecision, ReserveRequest, RiskBook

ACCOUNT = "paper"
NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
INSTALLATION = "ab12"


def intent(
    trade_id: str = "trade-1",
    *,
    sequence: int = 0,
    purpose: Purpose = Purpose.ENTRY,
    increasing: bool = True,
    price: str = "100.25",
    not_after: datetime | None = None,
    installation: str = INSTALLATION,
) -> OrderIntent:
    body = OrderBody(
        symbol="AAPL",
        side=Side.BUY if increasing else Side.SELL,
        quantity=Decimal(100),
        order_type=OrderType.LIMIT,
        limit_price=Decimal(price),
        intent_date=date(2026, 3, 2),
    )
    key = IntentKey(trade_id=trade_id, purpose=purpose, sequence=sequence)
    return OrderIntent.derive(
        installation, key, body, increasing=increasing, not_after=not_after, reason="test"
    )


def owner(trade_id: str = "trade-1", *, account: str = ACCOUNT) -> OrderOwner:
    return OrderOwner(account=account, strategy="sma", symbols=("AAPL",), trade_id=trade_id)


def snapshot(
    broker_order_id: str = "b-1",
    *,
    client_id: str | None = None,
    status: BrokerOrderStatus = BrokerOrderStatus.WORKING,
    **changes: Any,
) -> OrderSnapshot:
    return OrderSnapshot(
        broker_order_id=broker_order_id,
        client_id=client_id,
        symbol="AAPL",
        side=Side.BUY,
        quantity=Decimal(100),
        status=status,
        **changes,
    )


def fill(
    key: str = "f-1",
    *,
    broker_order_id: str = "b-1",
    quantity: str = "10",
    price: str = "100.25",
    side: Side = Side.BUY,
    **changes: Any,
) -> Fill:
    return Fill(
        fill_key=key,
        broker_order_id=broker_order_id,
        symbol="AAPL",
        side=side,
        quantity=Decimal(quantity),
        price=Decimal(price),
        venue_time=NOW,
        **changes,
    )


def kill(
    command_id: str = "k-1",
    *,
    kind: KillScopeKind = KillScopeKind.ACCOUNT,
    value: str = ACCOUNT,
    mode: KillMode = KillMode.BLOCK,
) -> KillSwitch:
    return KillSwitch(
        scope=KillScope(kind=kind, value=value),
        mode=mode,
        reason="test",
        by="alice",
        command_id=command_id,
        engaged_at=NOW,
    )


def plan(trade_id: str = "trade-1", *, note: str = "") -> TradePlan:
    return TradePlan(
        trade_id=trade_id,
        session="s-1",
        account=ACCOUNT,
        strategy="sma",
        symbol="AAPL",
        legs=(PlanLeg(instrument=Instrument(symbol="AAPL"), side=Side.BUY),),
        side=Side.BUY,
        size=FixedSize(quantity=Decimal(100)),
        walk=WalkPlan(
            step=Decimal("0.01"), interval_s=Decimal(1), steps_max=3, max_time_s=Decimal(60)
        ),
        signal_id=f"signal-{trade_id}",
        signal_time=NOW - timedelta(seconds=1),
        note=note,
    )


def request(trade_id: str = "trade-1") -> ReserveRequest:
    return ReserveRequest(trade_id=trade_id, account=ACCOUNT, strategy="sma", symbol="AAPL")


def decide(book: RiskBook, *, capacity: int = 10) -> ReserveDecision:
    """Approves while fewer than `capacity` trades hold risk."""
    approved = book.open_trades < capacity
    return ReserveDecision(
        approved=approved,
        quantity=Decimal(100),
        notional=Decimal("10025.50"),
        loss=Decimal("250.25"),
        code="" if approved else "POSITIONS_MAX",
    )
