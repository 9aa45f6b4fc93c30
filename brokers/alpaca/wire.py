"""Alpaca's JSON objects as they arrive; the field types are those of `brokers.wire`."""

from __future__ import annotations

from datetime import UTC, datetime, time

from brokers.wire import (
    LooseBool,
    LooseDate,
    LooseId,
    LooseNumber,
    LooseText,
    LooseTime,
    OptionalNumber,
    StrictNumber,
    TextList,
    VenueId,
    Wire,
)


class WireOrder(Wire):
    id: VenueId
    client_order_id: LooseId = None
    symbol: LooseText = ""
    side: LooseText = ""
    type: LooseText = ""
    order_type: LooseText = ""
    order_class: LooseText = ""
    time_in_force: LooseText = ""
    status: LooseText = ""
    qty: OptionalNumber = None
    filled_qty: OptionalNumber = None
    filled_avg_price: LooseNumber = None
    limit_price: LooseNumber = None
    stop_price: LooseNumber = None
    replaces: LooseId = None
    replaced_by: LooseId = None
    created_at: LooseTime = None
    submitted_at: LooseTime = None
    updated_at: LooseTime = None
    reject_reason: LooseText = ""
    legs: tuple[WireOrder, ...] | None = None


class WireFill(Wire):
    id: VenueId
    order_id: VenueId
    symbol: VenueId
    side: LooseText
    price: StrictNumber
    qty: StrictNumber
    cum_qty: StrictNumber
    transaction_time: LooseTime = None
    execution_id: LooseId = None


class WireFee(Wire):
    id: VenueId
    net_amount: StrictNumber
    symbol: LooseText = ""
    order_id: LooseId = None
    description: LooseText = ""
    date: LooseDate = None
    transaction_time: LooseTime = None
    created_at: LooseTime = None
    currency: LooseText = ""

    @property
    def moment(self) -> datetime | None:
        """When it was booked; a plain date counts as its first UTC instant."""
        if self.transaction_time is not None:
            return self.transaction_time
        if self.date is not None:
            return datetime.combine(self.date, time(), UTC)
        return self.created_at


class WireEvent(Wire):
    """A non-trade activity; quantities are signed changes of the position."""

    id: VenueId
    symbol: LooseText = ""
    qty: LooseNumber = None
    price: LooseNumber = None
    net_amount: LooseNumber = None
    description: LooseText = ""
    status: LooseText = ""
    date: LooseDate = None
    transaction_time: LooseTime = None
    created_at: LooseTime = None

    @property
    def moment(self) -> datetime | None:
        """When it was booked; a plain date counts as its first UTC instant."""
        if self.transaction_time is not None:
            return self.transaction_time
        if self.date is not None:
            return datetime.combine(self.date, time(), UTC)
        return self.created_at


class WireTradeUpdate(Wire):
    event: LooseText
    order: WireOrder
    execution_id: LooseId = None
    previous_execution_id: LooseId = None
    price: LooseNumber = None
    qty: LooseNumber = None
    position_qty: LooseNumber = None
    timestamp: LooseTime = None


class WirePosition(Wire):
    symbol: VenueId
    qty: StrictNumber
    side: LooseText = ""
    avg_entry_price: LooseNumber = None
    qty_available: LooseNumber = None


class WireAccount(Wire):
    currency: LooseText = ""
    equity: LooseNumber = None
    last_equity: LooseNumber = None
    cash: LooseNumber = None
    pending_reg_taf_fees: LooseNumber = None
    buying_power: LooseNumber = None
    options_buying_power: LooseNumber = None
    options_trading_level: LooseNumber = None
    shorting_enabled: LooseBool = None
    trading_blocked: LooseBool = None
    account_blocked: LooseBool = None
    trade_suspended_by_user: LooseBool = None
    multiplier: LooseNumber = None
    status: LooseText = ""
    pattern_day_trader: LooseBool = None
    daytrade_count: LooseNumber = None


class WireClock(Wire):
    timestamp: LooseTime
    is_open: LooseBool
    next_open: LooseTime = None
    next_close: LooseTime = None
    halted_symbols: TextList = ()


class WireAsset(Wire):
    symbol: VenueId
    asset_class: LooseText = ""
    tradable: LooseBool = None
    status: LooseText = ""
    shortable: LooseBool = None
    easy_to_borrow: LooseBool = None
    marginable: LooseBool = None
    fractionable: LooseBool = None
    price_increment: LooseNumber = None
    min_trade_increment: LooseNumber = None
    min_order_size: LooseNumber = None
    multiplier: LooseNumber = None
    size: LooseNumber = None
    calendar: LooseText = ""


class WireQuote(Wire):
    t: LooseTime
    ap: LooseNumber = None
    bp: LooseNumber = None
    bs: LooseNumber = None
    # `as` is a Python word; the mapping renames it before validation.
    ask_size: LooseNumber = None


class WireTrade(Wire):
    S: VenueId
    t: LooseTime
    p: LooseNumber = None
    s: LooseNumber = None


class WireStatus(Wire):
    S: VenueId
    t: LooseTime
    sc: LooseText = ""
    sm: LooseText = ""
    rc: LooseText = ""
    rm: LooseText = ""


class WireCancelled(Wire):
    id: VenueId
    status: int
