"""The morning after: closed trades get the broker's own fees instead of an estimate.

A day's fee rows are whole by noon in New York of the next day. Rows that name an order belong to
its trade; the others are shared out by `domain.fee_shares`. The ledger's rows stay as the broker
told them: a share is worked out again whenever it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from activities.by_hand import with_adjustments
from activities.executions import fills_of_trade
from activities.services import Services
from domain.fee_shares import DayFee, fee_day, shares_of_all
from domain.money import ZERO, as_amount, total
from domain.money_law import trade_result
from domain.order import Fill
from ledger.records import FeeRecord, TradeRecord

EXCHANGE_ZONE = ZoneInfo("America/New_York")
WHOLE_BY = time(12)
TRADES_MAX = 200


async def settle_fees(services: Services, market_now: datetime) -> int:
    """Settles closed trades of the account whose fee rows are whole by now; how many.

    Nothing where the broker tells no fees: the trade's stay estimated (tradier.md §7).
    """
    if not services.broker.capabilities.tells_account_events:
        return 0
    ledger, account = services.ledger, services.account
    waiting = await ledger.trades_with_estimated_fees(account, TRADES_MAX)
    due: list[tuple[TradeRecord, tuple[Fill, ...]]] = []
    for trade_id in waiting:
        trade, fills = await ledger.trade(trade_id), await fills_of_trade(services, trade_id)
        if trade is not None and fills and market_now >= _whole_at(fills):
            due.append((trade, fills))
    if not due:
        return 0
    first = min(fill.venue_time for _, fills in due for fill in fills)
    rows = await ledger.fills_of_account(account, since=first - timedelta(days=1))
    undone = {row.reverses for row in rows if row.reverses is not None}
    every = [r.fill for r in rows if not r.is_reversal and r.fill.fill_key not in undone]
    fees = await ledger.fees(account)
    by_day: dict[date, list[Fill]] = {}
    for fill in every:
        by_day.setdefault(_exchange_day(fill.venue_time), []).append(fill)
    shares = shares_of_all(_day_fees(fees, every), by_day)
    for trade, fills in due:
        await _settle(services, trade, fills, fees, shares)
    return len(due)


def _exchange_day(at: datetime) -> date:
    return at.astimezone(EXCHANGE_ZONE).date()


def _whole_at(fills: Sequence[Fill]) -> datetime:
    """From when on nothing is missing: noon of the day after the last execution."""
    day = _exchange_day(max(fill.venue_time for fill in fills)) + timedelta(days=1)
    return datetime.combine(day, WHOLE_BY, EXCHANGE_ZONE)


def _day_fees(fees: Sequence[FeeRecord], fills: Sequence[Fill]) -> list[DayFee]:
    """Rows without a trade and without an order in their words."""
    orders = {fill.broker_order_id for fill in fills}
    return [
        DayFee(
            day=fee_day(fee.text, fee.venue_time),
            amount=fee.amount,
            text=fee.text,
            symbol=fee.symbol or "",
        )
        for fee in fees
        if fee.trade_id is None and _named_order(fee, orders) is None
    ]


def _named_order(fee: FeeRecord, orders: set[str]) -> str | None:
    """The order that the row names, in its field or in its words."""
    if fee.broker_order_id in orders:
        return fee.broker_order_id
    return next((word for word in fee.text.split() if word in orders), None)


async def _settle(
    services: Services,
    trade: TradeRecord,
    fills: Sequence[Fill],
    fees: Sequence[FeeRecord],
    shares: dict[str, Decimal],
) -> None:
    orders = {fill.broker_order_id for fill in fills}
    own = total(
        fee.amount
        for fee in fees
        if fee.trade_id == trade.trade_id
        or (fee.trade_id is None and _named_order(fee, orders) is not None)
    )
    shared = total(shares.get(fill.fill_key, ZERO) for fill in fills)
    moved = await services.ledger.adjustments(services.account, trade.trade_id)
    result = trade_result(
        [leg.instrument for leg in trade.plan.legs],
        with_adjustments(fills, moved, trade.plan.side),
        other_fees=own + shared,
        account_currency=trade.plan.instrument.currency,
    )
    net, cost = as_amount(result.net), as_amount(result.fees)
    await services.ledger.settle_trade(trade.trade_id, net, cost, fees_estimated=False)
