"""Alpaca's words in the domain's words. Pure: values in, values out, nothing fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from types import MappingProxyType
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from brokers.alpaca.requests import COMBO_LEGS_MAX
from brokers.alpaca.wire import (
    WireAccount,
    WireAsset,
    WireCancelled,
    WireClock,
    WireFee,
    WireFill,
    WireOrder,
    WirePosition,
    WireQuote,
    WireTradeUpdate,
)
from brokers.errors import BROKER_BAD_BODY, FEE_INVALID, safe_text
from brokers.port import FeeActivity, FrameProblem, OrderUpdate
from brokers.wire import not_negative, positive, read_wire
from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.capabilities import BracketChildren, Capabilities
from domain.errors import Uncertain
from domain.evidence import FILL_INCONSISTENT, check_order_progress
from domain.instrument import Instrument, InstrumentKind
from domain.money import ONE, ZERO
from domain.occ import looks_like_option, option_instrument
from domain.order import (
    BrokerOrderStatus,
    Fill,
    OrderClass,
    OrderSnapshot,
    OrderType,
    Position,
    Quote,
    Side,
    TimeInForce,
)
from domain.sums import fill_key

EXCHANGE_ZONE = ZoneInfo("America/New_York")

ALPACA_CAPABILITIES = Capabilities(
    broker="alpaca",
    bracket_children=BracketChildren.ON_FULL_FILL,
    oco=True,
    oto=True,
    combo_legs_max=COMBO_LEGS_MAX,
    combo_stop=False,
    opposite_side_while_entry_works=False,
    exits_reserve_position=True,
    reduce_only=False,
    replace=True,
    replace_makes_new_id=True,
    replace_changes_quantity=True,
    client_id_unique_for_ever=True,
    executions_have_ids=True,
    option_stop_orders=False,
    fractional=True,
    tells_account_events=True,
    requests_per_minute=200,
)

_STATUS = MappingProxyType(
    {
        # The venue has it but refuses a replace in these three (brokers/alpaca.md §3).
        "accepted": BrokerOrderStatus.PENDING,
        "pending_new": BrokerOrderStatus.PENDING,
        "accepted_for_bidding": BrokerOrderStatus.PENDING,
        "pending_review": BrokerOrderStatus.PENDING,
        "new": BrokerOrderStatus.WORKING,
        "partially_filled": BrokerOrderStatus.WORKING,
        # A trade is guaranteed but not yet there; the end of a day is not the end of a gtc
        # order; sums of the day are pending: none of the three is final.
        "stopped": BrokerOrderStatus.WORKING,
        "done_for_day": BrokerOrderStatus.WORKING,
        "calculated": BrokerOrderStatus.WORKING,
        "held": BrokerOrderStatus.HELD,
        "suspended": BrokerOrderStatus.HELD,
        "pending_cancel": BrokerOrderStatus.PENDING_CANCEL,
        "pending_replace": BrokerOrderStatus.PENDING_REPLACE,
        "filled": BrokerOrderStatus.FILLED,
        "canceled": BrokerOrderStatus.CANCELED,
        "expired": BrokerOrderStatus.EXPIRED,
        "replaced": BrokerOrderStatus.REPLACED,
        "rejected": BrokerOrderStatus.REJECTED,
    }
)
_CLASS = MappingProxyType(
    {
        "bracket": OrderClass.BRACKET,
        "oco": OrderClass.OCO,
        "oto": OrderClass.OTO,
        "mleg": OrderClass.COMBO,
    }
)
_SIDE = MappingProxyType(
    {"buy": Side.BUY, "sell": Side.SELL, "sell_short": Side.SELL, "buy_to_cover": Side.BUY}
)
_TYPE = MappingProxyType({kind.value: kind for kind in OrderType})
_TIME_IN_FORCE = MappingProxyType({tif.value: tif for tif in TimeInForce})
FILL_EVENTS = frozenset({"fill", "partial_fill"})
EVENTS = FILL_EVENTS | {
    "new",
    "accepted",
    "pending_new",
    "canceled",
    "expired",
    "done_for_day",
    "replaced",
    "rejected",
    "held",
    "stopped",
    "pending_cancel",
    "pending_replace",
    "calculated",
    "suspended",
    "restated",
    "order_replace_rejected",
    "order_cancel_rejected",
    "trade_bust",
    "trade_correct",
}
_CRYPTO = re.compile(r"[A-Z0-9]+/[A-Z0-9]+")
SYMBOL_KIND_STOCK = "stock"
SYMBOL_KIND_OPTION = "option"
SYMBOL_KIND_CRYPTO = "crypto"


def order_snapshot(raw: object) -> OrderSnapshot:
    """One order with its children or combo legs.

    An unknown status becomes `UNKNOWN` beside `raw_status` (faults.md §3 row 57). Quantities that
    contradict each other become `UNKNOWN` with `reject_code=FILL_INCONSISTENT` (row 58): the
    order stays visible, nobody concludes anything from it.

    Raises:
        Uncertain: `BROKER_ID_TYPE` or `BROKER_BAD_BODY`; the row cannot be used at all.
    """
    return _snapshot(read_wire(WireOrder, raw), None)


def _snapshot(wire: WireOrder, parent_broker_id: str | None) -> OrderSnapshot:
    quantity, filled = wire.qty or ZERO, wire.filled_qty or ZERO
    order = OrderSnapshot(
        broker_order_id=wire.id,
        client_id=wire.client_order_id,
        symbol=wire.symbol,
        side=_SIDE.get(wire.side),
        order_class=_CLASS.get(wire.order_class, OrderClass.SIMPLE),
        order_type=_TYPE.get(wire.type or wire.order_type),
        time_in_force=_TIME_IN_FORCE.get(wire.time_in_force),
        quantity=max(quantity, ZERO),
        filled_quantity=max(filled, ZERO),
        # The venue shows an average of zero before the first fill.
        average_fill_price=wire.filled_avg_price if filled > 0 else None,
        limit_price=wire.limit_price,
        stop_price=positive(wire.stop_price),
        status=_STATUS.get(wire.status, BrokerOrderStatus.UNKNOWN),
        raw_status=wire.status,
        reject_text=wire.reject_reason,
        replaces_broker_id=wire.replaces,
        replaced_by_broker_id=wire.replaced_by,
        parent_broker_id=parent_broker_id,
        submitted_at=wire.submitted_at or wire.created_at,
        updated_at=wire.updated_at,
        legs=tuple(_snapshot(leg, wire.id) for leg in wire.legs or ()),
    )
    finding = check_order_progress(order)
    if finding is None and quantity >= 0 and filled >= 0:
        return order
    return order.model_copy(
        update={
            "status": BrokerOrderStatus.UNKNOWN,
            "reject_code": FILL_INCONSISTENT,
            "reject_text": finding.text if finding is not None else "a quantity was below zero",
        }
    )


def flat_count(orders: Iterable[OrderSnapshot]) -> int:
    """Orders with all their children: what a page limit may have counted."""
    return sum(1 + flat_count(order.legs) for order in orders)


def activity_rows(raw: object) -> list[object]:
    """The rows of a page of activities.

    Raises:
        Uncertain: the body was not a list.
    """
    if not isinstance(raw, list):
        raise Uncertain("the activities were not a list", code=BROKER_BAD_BODY)
    return raw


def activity(raw: object) -> Fill | FeeActivity | FrameProblem | None:
    """One row of the account activities; None for a kind that is neither fill nor fee.

    A row that cannot be read becomes a problem beside the others: one bad row must not hide all
    executions after it (faults.md §3 rows 58, 59, 62).
    """
    kind = raw.get("activity_type") if isinstance(raw, dict) else None
    if kind == "FILL":
        try:
            return _fill(read_wire(WireFill, raw))
        except Uncertain as error:
            return FrameProblem(code=error.code, text=safe_text(f"activity {_id_of(raw)}: {error}"))
    if kind == "FEE":
        try:
            return _fee(read_wire(WireFee, raw))
        except Uncertain as error:
            return FrameProblem(code=FEE_INVALID, text=safe_text(f"fee {_id_of(raw)}: {error}"))
    if kind is None:
        return FrameProblem(code=BROKER_BAD_BODY, text="an activity row had no activity_type")
    return None


def _fill(wire: WireFill) -> Fill:
    side = _SIDE.get(wire.side)
    if side is None or wire.transaction_time is None:
        raise Uncertain("side or transaction_time could not be read", code=BROKER_BAD_BODY)
    if wire.price <= 0 or wire.qty <= 0 or wire.cum_qty < wire.qty:
        raise Uncertain(
            f"price {wire.price}, quantity {wire.qty}, cumulative {wire.cum_qty}",
            code=FILL_INCONSISTENT,
        )
    return Fill(
        fill_key=fill_key(wire.order_id, wire.cum_qty),
        broker_order_id=wire.order_id,
        symbol=wire.symbol,
        side=side,
        quantity=wire.qty,
        price=wire.price,
        execution_id=wire.execution_id or wire.id,
        cumulative_quantity=wire.cum_qty,
        venue_time=wire.transaction_time,
    )


def _fee(wire: WireFee) -> FeeActivity:
    if wire.moment is None:
        raise Uncertain("no time was given", code=FEE_INVALID)
    if wire.currency not in ("", "USD"):
        raise Uncertain(f"currency was {wire.currency}", code=FEE_INVALID)
    return FeeActivity(
        activity_id=wire.id,
        # The venue books a cost as a negative amount; here cost > 0.
        amount=-wire.net_amount if wire.net_amount else ZERO,
        symbol=wire.symbol or None,
        broker_order_id=wire.order_id,
        text=wire.description,
        venue_time=wire.moment,
    )


def _id_of(raw: object) -> str:
    return safe_text(raw.get("id"))[:80] if isinstance(raw, dict) else ""


def trade_update(raw: object) -> tuple[OrderUpdate | FrameProblem, ...]:
    """The data of one `trade_updates` frame.

    An unknown event still carries a readable order: both the order and the problem are told. A
    combo parent gives no fill: the executions of its legs have ids and prices of their own. A
    correction names the execution that it replaces; without that name a person must look.

    Raises:
        Uncertain: the order inside could not be read.
    """
    wire = read_wire(WireTradeUpdate, raw)
    order = _snapshot(wire.order, None)
    problems: list[FrameProblem] = []
    fill: Fill | None = None
    if wire.event not in EVENTS:
        problems.append(FrameProblem(code="EVENT_UNKNOWN", text=f"event was {wire.event!r}"))
    if order.reject_code == FILL_INCONSISTENT:
        problems.append(FrameProblem(code=FILL_INCONSISTENT, text=order.reject_text))
    elif wire.event in FILL_EVENTS and order.symbol:
        found = _stream_fill(wire, order)
        if isinstance(found, Fill):
            fill = found
        else:
            problems.append(found)
    busted = ""
    if wire.event == "trade_bust":
        busted = wire.previous_execution_id or wire.execution_id or ""
    elif wire.event == "trade_correct" and order.symbol:
        found = _correction(wire, order)
        if isinstance(found, Fill):
            fill, busted = found, wire.previous_execution_id or ""
        else:
            problems.append(found)
    update = OrderUpdate(
        event=wire.event,
        order=order,
        fill=fill,
        position_quantity=wire.position_qty,
        busted_execution=busted,
    )
    return (*problems, update)


def _correction(wire: WireTradeUpdate, order: OrderSnapshot) -> Fill | FrameProblem:
    """The execution as it is now, under a key of its own: the old row stays and is reversed."""
    if not wire.execution_id or not wire.previous_execution_id:
        return FrameProblem(
            code=FILL_INCONSISTENT, text=f"a correction of {wire.order.id} named no execution"
        )
    found = _stream_fill(wire, order)
    if isinstance(found, FrameProblem):
        return found
    key = f"{order.broker_order_id}/corrected/{wire.execution_id}"
    return found.model_copy(update={"fill_key": key, "cumulative_quantity": None})


def _stream_fill(wire: WireTradeUpdate, order: OrderSnapshot) -> Fill | FrameProblem:
    moment = wire.timestamp or order.updated_at
    price, quantity = positive(wire.price), positive(wire.qty)
    if order.side is None or price is None or quantity is None or moment is None:
        return FrameProblem(
            code=FILL_INCONSISTENT, text=f"the fill of {wire.order.id} had no price, size or time"
        )
    if order.filled_quantity < quantity:
        return FrameProblem(
            code=FILL_INCONSISTENT,
            text=f"fill was {quantity} with {order.filled_quantity} filled in all",
        )
    return Fill(
        fill_key=fill_key(order.broker_order_id, order.filled_quantity),
        broker_order_id=order.broker_order_id,
        client_id=order.client_id,
        symbol=order.symbol,
        side=order.side,
        quantity=quantity,
        price=price,
        execution_id=wire.execution_id or "",
        cumulative_quantity=order.filled_quantity,
        venue_time=moment,
    )


def position(raw: object) -> Position:
    """A holding; the sign comes from the quantity, or from `side` where that is unsigned."""
    wire = read_wire(WirePosition, raw)
    quantity = -abs(wire.qty) if wire.side == "short" else wire.qty
    available = wire.qty_available
    return Position(
        symbol=wire.symbol,
        quantity=quantity,
        average_price=wire.avg_entry_price,
        available_quantity=abs(available) if available is not None else None,
    )


_BLOCKS = ("trading_blocked", "account_blocked", "trade_suspended_by_user")


def account_snapshot(raw: object, account_id: str, read_at: datetime) -> AccountSnapshot:
    """The account. Sums that cannot be read are None and block entries, never zero (row 63)."""
    wire = read_wire(WireAccount, raw)
    level, day_trades = wire.options_trading_level, wire.daytrade_count
    blocks = tuple(name for name in _BLOCKS if getattr(wire, name))
    return AccountSnapshot(
        account_id=account_id,
        currency=wire.currency or "USD",
        equity=wire.equity,
        last_equity=wire.last_equity,
        cash=wire.cash,
        pending_fees=abs(wire.pending_reg_taf_fees or ZERO),
        buying_power=wire.buying_power,
        options_buying_power=wire.options_buying_power,
        options_level=int(level) if level is not None else None,
        shorting_enabled=wire.shorting_enabled,
        trading_blocked=bool(blocks),
        multiplier=positive(wire.multiplier),
        status=wire.status,
        blocks=blocks,
        pattern_day_trader=wire.pattern_day_trader,
        day_trades=int(day_trades) if day_trades is not None else None,
        read_at=read_at,
    )


def market_clock(raw: object) -> MarketClock:
    """The venue's clock.

    Raises:
        Uncertain: the time or the open flag was missing.
    """
    wire = read_wire(WireClock, raw)
    if wire.timestamp is None or wire.is_open is None:
        raise Uncertain("the clock had no time or no open flag", code=BROKER_BAD_BODY)
    return MarketClock(
        market_now=wire.timestamp,
        is_open=wire.is_open,
        next_open=wire.next_open,
        next_close=wire.next_close,
        halted_symbols=wire.halted_symbols,
    )


def session_open(raw: object, day: date) -> datetime | None:
    """Open of the session of `day` from calendar rows, as a UTC instant; None without a session.

    Raises:
        Uncertain: the rows could not be read.
    """
    if not isinstance(raw, list):
        raise Uncertain("the calendar was not a list", code=BROKER_BAD_BODY)
    for row in raw:
        if not isinstance(row, dict) or row.get("date") != day.isoformat():
            continue
        try:
            opens = time.fromisoformat(str(row.get("open")))
        except ValueError:
            raise Uncertain("the calendar had no open time", code=BROKER_BAD_BODY) from None
        return datetime.combine(day, opens, tzinfo=EXCHANGE_ZONE).astimezone(UTC)
    return None


def asset_info(raw: object) -> AssetInfo:
    """An instrument with what the venue allows on it; `tradable` is False unless stated.

    Raises:
        Uncertain: the row could not be read.
        BadInput: `OCC_FORMAT` or `OPTION_NONSTANDARD` for an option symbol (rows 30, 31).
    """
    fields = {**raw, "asset_class": raw.get("class")} if isinstance(raw, dict) else raw
    wire = read_wire(WireAsset, fields)
    return AssetInfo(
        instrument=_instrument(wire),
        tradable=wire.tradable is True and wire.status in ("active", ""),
        shortable=wire.shortable,
        easy_to_borrow=wire.easy_to_borrow,
        marginable=wire.marginable,
        fractionable=wire.fractionable,
    )


def _instrument(wire: WireAsset) -> Instrument:
    tick = positive(wire.price_increment)
    lot = positive(wire.min_trade_increment)
    multiplier = positive(wire.multiplier) or positive(wire.size)
    if symbol_kind(wire.symbol) == SYMBOL_KIND_OPTION:
        return option_instrument(
            wire.symbol,
            tick_size=tick or Decimal("0.01"),
            multiplier=multiplier or Decimal(100),
            calendar=wire.calendar or "XNYS",
        )
    is_crypto = wire.asset_class == "crypto" or _CRYPTO.fullmatch(wire.symbol) is not None
    return Instrument(
        symbol=wire.symbol,
        kind=InstrumentKind.CRYPTO if is_crypto else InstrumentKind.EQUITY,
        multiplier=multiplier or ONE,
        tick_size=tick or Decimal("0.01"),
        # The penny rule of equities, unless the venue states one step for all prices.
        sub_dollar_tick_size=None if tick or is_crypto else Decimal("0.0001"),
        lot_size=lot or ONE,
        min_quantity=positive(wire.min_order_size) or lot or ONE,
        calendar=wire.calendar or ("24/7" if is_crypto else "XNYS"),
    )


def symbol_kind(symbol: str) -> str:
    """Which market-data endpoint serves the symbol."""
    if looks_like_option(symbol):
        return SYMBOL_KIND_OPTION
    return SYMBOL_KIND_CRYPTO if _CRYPTO.fullmatch(symbol) else SYMBOL_KIND_STOCK


def quotes(raw: object, wanted: frozenset[str]) -> dict[str, Quote]:
    """The readable quotes among those wanted; a missing or unreadable one is simply absent.

    A zero or unreadable side is None: no price is not a price of zero (faults.md §3 row 32).
    """
    rows = raw.get("quotes") if isinstance(raw, dict) else None
    if not isinstance(rows, dict):
        raise Uncertain("the body had no quotes", code=BROKER_BAD_BODY)
    found: dict[str, Quote] = {}
    for symbol, row in rows.items():
        quote = _quote(symbol, row) if symbol in wanted else None
        if quote is not None:
            found[symbol] = quote
    return found


def _quote(symbol: str, row: object) -> Quote | None:
    if not isinstance(row, dict):
        return None
    try:
        wire = WireQuote.model_validate({**row, "ask_size": row.get("as")})
        if wire.t is None:
            return None
        return Quote(
            symbol=symbol,
            bid=positive(wire.bp),
            ask=positive(wire.ap),
            bid_size=not_negative(wire.bs),
            ask_size=not_negative(wire.ask_size),
            venue_time=wire.t,
        )
    except ValidationError:
        return None


def cancelled_ids(raw: object) -> tuple[str, ...]:
    """Ids whose cancel was taken in a bulk answer (207)."""
    if not isinstance(raw, list):
        raise Uncertain("the bulk answer was not a list", code=BROKER_BAD_BODY)
    rows = [read_wire(WireCancelled, row) for row in raw]
    return tuple(row.id for row in rows if 200 <= row.status < 300)
