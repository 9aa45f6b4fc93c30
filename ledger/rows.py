"""Rows of the database as records, and records as columns. Nothing here talks to the database."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping

from domain.control import Control, KillMode, KillScope, KillScopeKind, KillSwitch
from domain.money import ZERO
from domain.order import Fill, OrderIntent, OrderSnapshot, Side
from domain.plan import TradePlan
from ledger.records import (
    ChildOrder,
    FillRecord,
    IntentRecord,
    OrderOwner,
    Reservation,
    ReserveDecision,
    SignalRecord,
    TradeRecord,
    WatchRecord,
    WorkingOrder,
)

Columns = RowMapping
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def kill_of(row: Columns | dict[str, Any]) -> KillSwitch:
    return KillSwitch(
        scope=KillScope(kind=KillScopeKind(row["scope_kind"]), value=row["scope_value"]),
        mode=KillMode(row["mode"]),
        reason=row["reason"],
        by=row["by"],
        command_id=row["command_id"],
        engaged_at=row["engaged_at"],
    )


def unarmed(account: str) -> Control:
    """What an unknown account reads as: disarmed."""
    return Control(account=account, armed=False, version=0, updated_at=NEVER)


def intent_of(row: Columns) -> IntentRecord:
    intent = OrderIntent.model_validate(row["intent"])
    snapshot = row["snapshot"]
    return IntentRecord(
        intent=intent,
        owner=OrderOwner(
            account=row["account"],
            strategy=row["strategy"],
            symbols=tuple(row["symbols"]),
            trade_id=row["trade_id"],
        ),
        state=row["state"],
        attempt_token=row["attempt_token"],
        attempts=row["attempts"],
        gate_at=row["gate_at"],
        sent_at=row["sent_at"],
        answered_at=row["answered_at"],
        broker_order_id=row["broker_order_id"],
        status=row["status"],
        filled_quantity=row["filled_quantity"],
        snapshot=None if snapshot is None else OrderSnapshot.model_validate(snapshot),
        code=row["code"],
        text=row["text"],
        build_id=row["build_id"],
        config_hash=row["config_hash"],
    )


def working_of(row: Columns) -> WorkingOrder:
    """The little that the risk gate needs of an order; a whole record costs ten times as much."""
    body = row["body"]
    limit = body.get("limit_price")
    remaining = Decimal(body["quantity"]) - row["filled_quantity"]
    return WorkingOrder(
        client_id=row["client_id"],
        trade_id=row["trade_id"],
        symbol=body["symbol"],
        side=Side(body["side"]),
        remaining=max(remaining, ZERO),
        limit_price=None if limit is None else Decimal(limit),
        increasing=row["increasing"],
    )


def child_of(row: Columns) -> ChildOrder:
    return ChildOrder(
        broker_order_id=row["broker_order_id"],
        parent_client_id=row["parent_client_id"],
        parent_broker_id=row["parent_broker_id"],
        client_id=row["client_id"],
        snapshot=OrderSnapshot.model_validate(row["snapshot"]),
    )


def fill_columns(broker: str, account: str, fill: Fill) -> dict[str, Any]:
    return {
        "broker": broker,
        "account": account,
        "fill_key": fill.fill_key,
        "client_id": fill.client_id,
        "broker_order_id": fill.broker_order_id,
        "symbol": fill.symbol,
        "side": fill.side.value,
        "quantity": fill.quantity,
        "price": fill.price,
        "fee": fill.fee,
        "execution_id": fill.execution_id,
        "cumulative_quantity": fill.cumulative_quantity,
        "venue_time": fill.venue_time,
    }


def fill_of(row: Columns) -> FillRecord:
    fill = Fill(
        fill_key=row["fill_key"],
        broker_order_id=row["broker_order_id"],
        client_id=row["client_id"],
        symbol=row["symbol"],
        side=Side(row["side"]),
        quantity=row["quantity"],
        price=row["price"],
        fee=row["fee"],
        execution_id=row["execution_id"],
        cumulative_quantity=row["cumulative_quantity"],
        venue_time=row["venue_time"],
    )
    return FillRecord(
        fill=fill,
        account=row["account"],
        broker=row["broker"],
        trade_id=row["trade_id"],
        reverses=row["reverses"],
        booked_at=row["booked_at"],
    )


def reservation_of(row: Columns) -> Reservation:
    return Reservation.model_validate(
        {name: row[name] for name in Reservation.model_fields if name in row}
    )


def decision_of(row: Columns) -> ReserveDecision:
    return ReserveDecision.model_validate(row["decision"])


def trade_of(row: Columns) -> TradeRecord:
    columns = {name: row[name] for name in TradeRecord.model_fields}
    return TradeRecord.model_validate(columns | {"plan": TradePlan.model_validate(row["plan"])})


def signal_of(row: Columns) -> SignalRecord:
    return SignalRecord.model_validate({name: row[name] for name in SignalRecord.model_fields})


def watch_of(row: Columns) -> WatchRecord:
    return WatchRecord.model_validate({name: row[name] for name in WatchRecord.model_fields})
