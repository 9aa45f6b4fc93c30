"""Ledger rows and journal rows as the report's records: two books that are told apart to compare.

The ledger's book is made of what Holdfast wrote down, the journal's of what the simulated
exchange wrote down; neither looks at the other (architecture §9).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from domain.fold_orders import AMENDED, PROVEN_ABSENT
from domain.ids import Purpose
from domain.money import ZERO, divide, multiply, total
from domain.order import BrokerOrderStatus, Fill
from ledger.records import ChildOrder, FeeRecord, FillRecord, IntentRecord, IntentState, TradeRecord
from ledger.repository import Ledger
from report.records import Book, FeeRow, FillRow, OrderRow, TradeRow

TAKEN = "taken"
_PROTECTIVE = (Purpose.STOP, Purpose.OCO)
_TARGETS = (Purpose.TARGET, Purpose.OCO)
_SENT_CODES = (PROVEN_ABSENT, AMENDED)


async def read_ledger_book(
    ledger: Ledger,
    account: str,
    start_cash: Decimal,
    *,
    currency: str = "USD",
    multipliers: Mapping[str, Decimal] | None = None,
) -> Book:
    """What the ledger says happened on the account since it held `start_cash` and no position."""
    orders: list[OrderRow] = []
    for trade in await ledger.list_trades(account=account):
        orders += order_rows(
            await ledger.orders_of_trade(trade.trade_id),
            await ledger.children_of_trade(trade.trade_id),
        )
    fills = counting_fills(await ledger.fills_of_account(account))
    fees = await ledger.fees(account)
    owned = await ledger.positions_by_trade(account)
    symbols = sorted({position.symbol for position in owned})
    positions = {s: total(p.quantity for p in owned if p.symbol == s) for s in symbols}
    cash = start_cash - total(fee.amount for fee in fees)
    cash -= total(record.fill.fee or ZERO for record in fills)
    for record in fills:
        fill = record.fill
        value = multiply(fill.signed_quantity, fill.price)
        cash -= multiply(value, (multipliers or {}).get(fill.symbol, Decimal(1)))
    return Book(
        orders=tuple(orders),
        fills=tuple(
            FillRow(
                fill_key=r.fill.fill_key,
                symbol=r.fill.symbol,
                side=r.fill.side.value,
                quantity=r.fill.quantity,
                price=r.fill.price,
            )
            for r in fills
        ),
        fees=told_fees(fees),
        cash={currency: cash},
        positions={symbol: quantity for symbol, quantity in positions.items() if quantity},
    )


def told_fees(fees: Iterable[FeeRecord]) -> tuple[FeeRow, ...]:
    """Fees as the broker told them: a correction is part of its row, income is no fee."""
    amounts: dict[str, Decimal] = {}
    for fee in fees:
        key = fee.activity_id.partition("/corrected/")[0]
        if "/" not in key:
            amounts[key] = amounts.get(key, Decimal(0)) + fee.amount
    return tuple(FeeRow(key=key, amount=amount) for key, amount in amounts.items())


def order_rows(
    intents: Iterable[IntentRecord], children: Iterable[ChildOrder]
) -> tuple[OrderRow, ...]:
    """Orders that the broker took: our frozen bodies, and the children that it made of them."""
    rows = []
    taken = [record for record in intents if record.state is IntentState.ACCEPTED]
    named = [record.broker_order_id for record in taken]
    for record in taken:
        body = record.intent.body
        rows.append(
            OrderRow(
                client_id=record.intent.client_id,
                symbol="" if body.legs else body.symbol,
                side=body.side.value,
                quantity=_asked(record),
                limit_price=body.limit_price,
                stop_price=body.stop_price,
            )
        )
    for child in children:
        snapshot = child.snapshot
        if child.broker_order_id in named or snapshot.side is None:
            continue
        rows.append(
            OrderRow(
                client_id=f"{child.parent_client_id}/{child.broker_order_id}",
                symbol=snapshot.symbol,
                side=snapshot.side.value,
                quantity=snapshot.quantity,
                limit_price=snapshot.limit_price,
                stop_price=snapshot.stop_price,
            )
        )
    return tuple(rows)


def _asked(record: IntentRecord) -> Decimal:
    """Quantity of the order; where a replace left it to the broker, what the broker then said."""
    if record.intent.keeps_quantity and record.snapshot is not None:
        return record.snapshot.quantity
    return record.intent.body.quantity


def counting_fills(records: Sequence[FillRecord]) -> tuple[FillRecord, ...]:
    """Fills that stand: reversed ones and their reversals left out."""
    undone = [record.reverses for record in records if record.reverses is not None]
    return tuple(r for r in records if not r.is_reversal and r.fill.fill_key not in undone)


# --- the journal ------------------------------------------------------------------------------


def read_journal(text: str) -> tuple[dict[str, Any], ...]:
    """Rows of `GET /sim/journal` (NDJSON), oldest first."""
    return tuple(json.loads(line) for line in text.splitlines() if line)


def journal_book(rows: Sequence[Mapping[str, Any]], *, currency: str = "USD") -> Book:
    """What the exchange says happened. A child is named by its parent's client id and its own id.

    The exchange resizes waiting exits itself; every size counts, for the ledger may have read any.
    """
    accepted = [row for row in rows if row["kind"] == "accepted"]
    client_of = {str(row["order_id"]): str(row["client_id"]) for row in accepted}
    sizes: dict[str, tuple[Decimal, ...]] = {}
    for row in rows:
        if row["kind"] == "resized":
            order_id = str(row["order_id"])
            sizes[order_id] = (*sizes.get(order_id, ()), Decimal(row["quantity"]))
    positions = {
        str(row["symbol"]): Decimal(row["quantity"]) for row in rows if row["kind"] == "position"
    }
    busted = [str(row["execution_id"]) for row in rows if row["kind"] == "bust"]
    return Book(
        orders=tuple(_accepted(row, client_of, sizes) for row in accepted),
        fills=tuple(
            FillRow(
                fill_key=f"{row['order_id']}:{Decimal(row['cumulative']):f}",
                symbol=row["symbol"],
                side=row["side"],
                quantity=row["quantity"],
                price=row["price"],
            )
            for row in rows
            if row["kind"] == "fill" and row["execution_id"] not in busted
        ),
        fees=tuple(
            FeeRow(key=row["activity_id"], amount=row["amount"])
            for row in rows
            if row["kind"] == "fee"
        ),
        cash={currency: _last_cash(rows)},
        positions={symbol: quantity for symbol, quantity in positions.items() if quantity},
    )


def _accepted(
    row: Mapping[str, Any],
    client_of: Mapping[str, str],
    sizes: Mapping[str, tuple[Decimal, ...]],
) -> OrderRow:
    order_id, parent_id = str(row["order_id"]), row.get("parent_id")
    made_by_us = parent_id is None or row.get("replaces") is not None
    name = str(row["client_id"]) if made_by_us else f"{client_of[str(parent_id)]}/{order_id}"
    return OrderRow(
        client_id=name,
        symbol=row.get("symbol") or "",
        side=row["side"],
        quantity=Decimal(row["quantity"]),
        other_sizes=sizes.get(order_id, ()),
        limit_price=row.get("limit_price"),
        stop_price=row.get("stop_price"),
    )


def _last_cash(rows: Sequence[Mapping[str, Any]]) -> Decimal:
    last = next((row["cash"] for row in reversed(rows) if "cash" in row), "0")
    return Decimal(last)


# --- trades -----------------------------------------------------------------------------------


async def read_trade_rows(ledger: Ledger, session: str) -> tuple[TradeRow, ...]:
    """One report row for each trade of the session, refused ones too."""
    rows = []
    for trade in await ledger.list_trades(session=session):
        fills = counting_fills(await ledger.fills_of_trade(trade.trade_id))
        fees = fees_of_trade(await ledger.fees(trade.account), trade.trade_id, fills)
        orders = await ledger.orders_of_trade(trade.trade_id)
        rows.append(trade_row(trade, orders, fills, fees))
    return tuple(rows)


def fees_of_trade(fees: Iterable[FeeRecord], trade_id: str, fills: Sequence[FillRecord]) -> Decimal:
    """Fees of the trade: booked under it, or on a row whose text names one of its orders.

    Brokers book fees on rows of their own, and not every broker links them to an order.
    """
    orders = [record.fill.broker_order_id for record in fills]
    mine = (
        fee.amount
        for fee in fees
        if fee.trade_id == trade_id or any(order in fee.text for order in orders)
    )
    return total(mine) + total(record.fill.fee or ZERO for record in fills)


def trade_row(
    trade: TradeRecord,
    orders: Sequence[IntentRecord],
    fills: Sequence[FillRecord],
    fees: Decimal,
) -> TradeRow:
    """The report's row of a trade; `realised` is before fees: the report subtracts them itself."""
    # The document is written at the trade's end.
    told = trade.document if trade.closed_at is not None else _so_far(trade, orders, fills)
    refused = trade.stage == "refused"
    taken = [order for order in orders if order.state is IntentState.ACCEPTED]
    return TradeRow.model_validate(
        {
            "trade_id": trade.trade_id,
            "strategy": trade.strategy,
            "symbol": trade.symbol,
            "side": trade.plan.side.value,
            "signal_time": trade.plan.signal_time,
            "stage": trade.stage,
            "quantity": told.get("entry_quantity") or ZERO,
            "entry_average": told.get("average_entry"),
            "exit_average": told.get("average_exit"),
            "realised": (trade.realised or ZERO) + (trade.fees or ZERO),
            "fees": fees,
            "exit_reason": "" if refused else told.get("exit_reason") or "",
            "arrival_mid": told.get("arrival_mid"),
            "naked_s": Decimal(str(round(float(str(told.get("naked_s") or 0)), 3))),
            "unconfirmed_s": unconfirmed_s(orders),
            "protection": _protection(taken),
            "targets_filled": _targets_filled(taken),
            "partial": _was_partial(taken, fills),
            "refusal_code": trade.result if refused else "",
            "note": trade.plan.note,
        }
    )


def _so_far(
    trade: TradeRecord, orders: Sequence[IntentRecord], fills: Sequence[FillRecord]
) -> dict[str, Any]:
    """Quantity and prices of a trade that goes on, by its executions; a combo's are of its legs."""
    entries = {o.broker_order_id for o in orders if o.intent.key.purpose is Purpose.ENTRY}
    booked = [record.fill for record in fills]
    if trade.plan.is_combo:
        return trade.document
    bought = [fill for fill in booked if fill.broker_order_id in entries]
    left = [fill for fill in booked if fill.broker_order_id not in entries]
    return {
        **trade.document,
        "entry_quantity": total(fill.quantity for fill in bought),
        "average_entry": _mean(bought),
        "average_exit": _mean(left),
    }


def _mean(fills: Sequence[Fill]) -> Decimal | None:
    quantity = total(fill.quantity for fill in fills)
    value = total(multiply(fill.quantity, fill.price) for fill in fills)
    return divide(value, quantity) if quantity else None


def unconfirmed_s(orders: Iterable[IntentRecord]) -> Decimal | None:
    """Wall seconds in which stops and targets were sent and not answered; None: one never was."""
    waited = ZERO
    for sent, answered in unconfirmed_spans(orders):
        if answered is None:
            return None
        waited += Decimal(str(round((answered - sent).total_seconds(), 3)))
    return waited


def unconfirmed_spans(
    orders: Iterable[IntentRecord],
    purposes: Collection[Purpose] = (*_PROTECTIVE, Purpose.TARGET),
) -> Iterator[tuple[datetime, datetime | None]]:
    """From when to when a stop or target was sent and not answered; None: it never was.

    A row that was called absent or amended later was sent for all that anybody knew.
    """
    for record in orders:
        never_left = record.state is IntentState.NOT_SENT and record.code not in _SENT_CODES
        if record.intent.key.purpose in purposes and not never_left:
            # The gate's row is written right before the send.
            yield record.gate_at, record.answered_at


def _protection(taken: Sequence[IntentRecord]) -> str:
    """The class that the trade had while it was open: a stop that rested at the broker, or none."""
    return "resting" if any(o.intent.key.purpose in _PROTECTIVE for o in taken) else ""


def _targets_filled(taken: Sequence[IntentRecord]) -> int:
    return sum(
        1
        for order in taken
        if order.intent.key.purpose in _TARGETS and order.status is BrokerOrderStatus.FILLED
    )


def _was_partial(taken: Sequence[IntentRecord], fills: Sequence[FillRecord]) -> bool:
    """True if an entry order had a fill that was not its whole quantity."""
    asked = {
        order.broker_order_id: order.intent.body.quantity
        for order in taken
        if order.intent.key.purpose is Purpose.ENTRY
    }
    return any(
        record.fill.broker_order_id in asked
        and record.fill.quantity < asked[record.fill.broker_order_id]
        for record in fills
    )
