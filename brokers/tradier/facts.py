"""Account, market and instruments in Tradier's words. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from brokers.errors import BROKER_BAD_BODY
from brokers.tradier.requests import own_symbol
from brokers.tradier.wire import (
    WireBalances,
    WireBuyingPower,
    WireClock,
    WirePosition,
    WireProfileAccount,
    WireQuote,
    cleaned,
    rows,
)
from brokers.wire import not_negative, positive, read_wire
from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.errors import Uncertain
from domain.instrument import Instrument, InstrumentKind
from domain.money import CTX, ONE
from domain.occ import looks_like_option, option_instrument
from domain.order import Position, Quote

EXCHANGE_ZONE = ZoneInfo("America/New_York")
_OPTION_SIZE = Decimal(100)
_MULTIPLIERS = {"cash": Decimal(1), "margin": Decimal(2), "pdt": Decimal(4)}


class Session(NamedTuple):
    """One trading session, UTC."""

    day: date
    opens: datetime
    closes: datetime


def positions(body: object) -> tuple[Position, ...]:
    """All holdings; short is negative.

    Raises:
        Uncertain: a row could not be read: missing is not flat (R6).
    """
    return tuple(_position(row) for row in rows(body, "positions", "position"))


def _position(row: object) -> Position:
    wire = read_wire(WirePosition, cleaned(row))
    size = wire.quantity * (_OPTION_SIZE if looks_like_option(wire.symbol) else ONE)
    average = None
    if wire.cost_basis is not None and size != 0:
        average = abs(CTX.divide(wire.cost_basis, size)).quantize(Decimal("1e-8"))
    return Position(symbol=own_symbol(wire.symbol), quantity=wire.quantity, average_price=average)


def profile_account(body: object, number: str) -> WireProfileAccount | None:
    """Our account in the profile of the token's owner; None if the token does not reach it."""
    profile = body.get("profile") if isinstance(body, dict) else None
    held = profile if isinstance(profile, dict) else {}
    for row in rows({"profile": held}, "profile", "account"):
        wire = read_wire(WireProfileAccount, cleaned(row))
        if wire.account_number == number:
            return wire
    return None


def account_snapshot(
    body: object, profile: WireProfileAccount | None, account_id: str, read_at: datetime
) -> AccountSnapshot:
    """The account. Sums that cannot be read are None and block entries, never zero (row 63)."""
    held = body.get("balances") if isinstance(body, dict) else None
    wire = read_wire(WireBalances, cleaned(held))
    power = getattr(wire, wire.account_type, None)
    power = power if isinstance(power, WireBuyingPower) else WireBuyingPower()
    is_cash = wire.account_type == "cash"
    status = "" if profile is None else profile.status
    level = None if profile is None else profile.option_level
    options = power.cash_available if is_cash else power.option_buying_power
    blocked = status not in ("", "active")
    return AccountSnapshot(
        account_id=account_id,
        equity=wire.total_equity,
        cash=wire.total_cash,
        buying_power=power.cash_available if is_cash else power.stock_buying_power,
        options_buying_power=options,
        options_level=None if level is None else int(level),
        shorting_enabled=wire.account_type in ("margin", "pdt") if wire.account_type else None,
        trading_blocked=blocked,
        multiplier=_MULTIPLIERS.get(wire.account_type),
        status=status,
        blocks=(f"account is {status}",) if blocked else (),
        pattern_day_trader=wire.account_type == "pdt" if wire.account_type else None,
        read_at=read_at,
    )


def clock_of(body: object) -> tuple[datetime, bool]:
    """The venue's time and whether the regular session runs.

    Raises:
        Uncertain: one of the two was missing.
    """
    held = body.get("clock") if isinstance(body, dict) else None
    wire = read_wire(WireClock, cleaned(held))
    if wire.timestamp is None or not wire.state:
        raise Uncertain("the clock had no time or no state", code=BROKER_BAD_BODY)
    return wire.timestamp, wire.state == "open"


def sessions(body: object) -> tuple[Session, ...]:
    """The regular sessions of a month, in order.

    Raises:
        Uncertain: the calendar could not be read.
    """
    held = body.get("calendar") if isinstance(body, dict) else None
    if not isinstance(held, dict):
        raise Uncertain("the body had no calendar", code=BROKER_BAD_BODY)
    found = []
    for row in rows(held, "days", "day"):
        hours = row.get("open") if isinstance(row, dict) else None
        if not isinstance(row, dict) or row.get("status") != "open" or not isinstance(hours, dict):
            continue
        try:
            day = date.fromisoformat(str(row.get("date")))
            opens, closes = (_instant(day, str(hours.get(name))) for name in ("start", "end"))
        except ValueError:
            raise Uncertain("a day of the calendar was odd", code=BROKER_BAD_BODY) from None
        found.append(Session(day, opens, closes))
    return tuple(sorted(found))


@lru_cache(maxsize=1024)
def _instant(day: date, text: str) -> datetime:
    clock = time.fromisoformat(text)
    return datetime.combine(day, clock, tzinfo=EXCHANGE_ZONE).astimezone(UTC)


def market_clock(now: datetime, is_open: bool, known: tuple[Session, ...]) -> MarketClock:
    """The clock with what the calendar says of the next opening and closing.

    Halts are not told by this venue.
    """
    day = now.astimezone(EXCHANGE_ZONE).date()
    running = next((s for s in known if is_open and s.opens <= now < s.closes), None)
    return MarketClock(
        market_now=now,
        is_open=is_open,
        next_open=next((s.opens for s in known if s.opens > now), None),
        next_close=next((s.closes for s in known if s.closes > now), None),
        session_date=day,
        opened_at=None if running is None else running.opens,
    )


def quote_rows(body: object) -> dict[str, WireQuote]:
    """The readable rows of a quotes answer by our own symbols; the others are left out."""
    held = body.get("quotes") if isinstance(body, dict) else None
    if isinstance(held, dict) and "unmatched_symbols" in held and "quote" not in held:
        return {}
    found: dict[str, WireQuote] = {}
    for row in rows(body, "quotes", "quote"):
        try:
            wire = WireQuote.model_validate(cleaned(row))
        except ValidationError:
            continue
        found[own_symbol(wire.symbol)] = wire
    return found


def quote_of(symbol: str, wire: WireQuote) -> Quote | None:
    """The quote; a side of zero is no side (faults.md §3 row 32), without a time it is none."""
    times = [moment for moment in (wire.bid_date, wire.ask_date) if moment is not None]
    if not times:
        return None
    return Quote(
        symbol=symbol,
        bid=positive(wire.bid),
        ask=positive(wire.ask),
        bid_size=not_negative(wire.bidsize),
        ask_size=not_negative(wire.asksize),
        last=positive(wire.last),
        venue_time=max(times),
    )


def easy_to_borrow(body: object) -> frozenset[str]:
    """Symbols that may be sold short."""
    found = rows(body, "securities", "security")
    return frozenset(
        own_symbol(row["symbol"])
        for row in found
        if isinstance(row, dict) and isinstance(row.get("symbol"), str)
    )


def asset_info(symbol: str, wire: WireQuote, borrowable: frozenset[str]) -> AssetInfo:
    """The instrument as far as a quote tells it: there is no list of instruments."""
    if wire.type == "option" or looks_like_option(symbol):
        size = positive(wire.contract_size) or _OPTION_SIZE
        return AssetInfo(
            instrument=option_instrument(symbol, multiplier=size), tradable=True, shortable=None
        )
    instrument = Instrument(
        symbol=symbol,
        kind=InstrumentKind.EQUITY,
        tick_size=Decimal("0.01"),
        sub_dollar_tick_size=Decimal("0.0001"),
        calendar="XNYS",
    )
    can_borrow = symbol in borrowable
    return AssetInfo(
        instrument=instrument,
        tradable=wire.type in ("stock", "etf"),
        shortable=can_borrow,
        easy_to_borrow=can_borrow,
        fractionable=False,
    )
