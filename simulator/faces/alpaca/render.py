"""Writes Alpaca's JSON: decimals as text, RFC 3339 with nanoseconds, statuses in its words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from domain.instrument import InstrumentKind, OptionRight
from domain.money import CTX, ZERO
from simulator.account import Activity, Holding
from simulator.book import Book
from simulator.config import Listing, SessionHours
from simulator.exchange import Exchange
from simulator.orders import OrderClass, SimOrder
from simulator.state import Notice

AVERAGE_STEP = Decimal("1e-9")
CLASS_WORDS = {
    OrderClass.SIMPLE: "",
    OrderClass.BRACKET: "bracket",
    OrderClass.OCO: "oco",
    OrderClass.OTO: "oto",
    OrderClass.COMBO: "mleg",
}
Json = dict[str, Any]


def number(value: Decimal | None) -> str | None:
    """Plain decimal text without trailing zeros."""
    return None if value is None else format(value.normalize(CTX) if value else ZERO, "f")


def money(value: Decimal) -> str:
    """Account amounts, at least exact to the cent."""
    text = number(value)
    assert text is not None, "an amount is a number"
    return text


@lru_cache(maxsize=4096)
def moment(value: datetime | None) -> str | None:
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "000Z"


def local_moment(value: datetime | None, exchange: Exchange) -> str | None:
    """Clock times carry the exchange's own offset."""
    return value.astimezone(exchange.state.calendar.zone).isoformat() if value else None


class Render:
    """Needs the exchange for asset ids, marks and totals."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def order(self, order: SimOrder, *, nested: bool = True) -> Json:
        """One order. A combo always shows its legs, a group's parent only when nested."""
        legs: list[Json] | None = None
        if order.legs:
            legs = [self.order(leg) for leg in order.legs]
        elif nested and order.group is not None and order.group.parent is order:
            others = [member for member in order.group.members if member is not order]
            legs = [self.order(member, nested=False) for member in others]
        row = self._identity(order)
        row.update(
            id=order.id,
            client_order_id=order.client_id,
            created_at=moment(order.created_at),
            updated_at=moment(order.updated_at),
            submitted_at=moment(order.created_at),
            filled_at=moment(order.filled_at),
            expired_at=moment(order.expired_at),
            expires_at=moment(order.expires_at),
            canceled_at=moment(order.canceled_at),
            failed_at=moment(order.failed_at),
            replaced_at=moment(order.replaced_at),
            replaced_by=order.replaced_by,
            replaces=order.replaces,
            notional=number(order.notional),
            qty=None if order.notional is not None else number(order.quantity),
            filled_qty=number(order.filled),
            filled_avg_price=_average(order.average_price),
            order_class=CLASS_WORDS[order.order_class],
            time_in_force=order.time_in_force.value,
            limit_price=number(order.limit_price),
            stop_price=number(order.stop_price),
            status=order.status.value,
            extended_hours=order.extended_hours,
            legs=legs,
            trail_percent=None,
            trail_price=None,
            hwm=None,
            subtag=None,
            source=None,
        )
        return row

    def _identity(self, order: SimOrder) -> Json:
        """Symbol, side and type; empty texts where Alpaca leaves them empty (mleg)."""
        is_parent = bool(order.legs)
        row: Json = {
            "asset_id": "" if is_parent else self.asset_id(order.symbol),
            "symbol": order.symbol,
            "asset_class": "" if is_parent else self.asset_class(order.symbol),
            "side": "" if is_parent else order.side.value,
            "type": "" if is_parent or order.combo is not None else order.kind.value,
            "order_type": "" if is_parent or order.combo is not None else order.kind.value,
            "position_intent": order.intent or self._intent(order),
            "ratio_qty": None if order.combo is None else str(order.ratio),
        }
        if is_parent:
            row["position_intent"] = ""
        return row

    def _intent(self, order: SimOrder) -> str:
        return f"{order.side.value}_to_{'close' if order.role is not None else 'open'}"

    def asset_id(self, symbol: str) -> str:
        return self._exchange.state.fixed_id("asset", symbol)

    def asset_class(self, symbol: str) -> str:
        kind = self._exchange.state.listings[symbol].instrument.kind
        words = {InstrumentKind.OPTION: "us_option", InstrumentKind.CRYPTO: "crypto"}
        return words.get(kind, "us_equity")

    def asset(self, listing: Listing) -> Json:
        """An asset row; `price_increment` is the tick, `min_trade_increment` the lot."""
        instrument = listing.instrument
        return {
            "id": self.asset_id(listing.symbol),
            "class": self.asset_class(listing.symbol),
            "exchange": "NYSE" if not listing.is_option else "",
            "symbol": listing.symbol,
            "name": listing.name or listing.symbol,
            "status": "active",
            "tradable": True,
            "marginable": not listing.is_option,
            "shortable": listing.shortable and not listing.is_option,
            "easy_to_borrow": listing.shortable and not listing.is_option,
            "fractionable": listing.fractional,
            "maintenance_margin_requirement": 30,
            "min_order_size": number(instrument.min_quantity),
            "min_trade_increment": number(instrument.lot_size),
            "price_increment": number(instrument.tick_size),
            "attributes": [],
        }

    def contract(self, listing: Listing) -> Json:
        """An option contract row."""
        instrument = listing.instrument
        underlying = instrument.underlying or ""
        return {
            "id": self.asset_id(listing.symbol),
            "symbol": listing.symbol,
            "name": listing.name or listing.symbol,
            "status": "active",
            "tradable": True,
            "expiration_date": instrument.expiry.isoformat() if instrument.expiry else None,
            "root_symbol": underlying,
            "underlying_symbol": underlying,
            "underlying_asset_id": self.asset_id(underlying),
            "type": "call" if instrument.right is OptionRight.CALL else "put",
            "style": "american",
            "strike_price": number(instrument.strike),
            "multiplier": number(instrument.multiplier),
            "size": number(instrument.multiplier),
            "open_interest": None,
            "close_price": None,
        }

    def position(self, holding: Holding) -> Json:
        """A position; quantities are negative when short."""
        exchange = self._exchange
        multiplier = exchange.state.account.multiplier(holding.symbol)
        value = exchange.margin.market_value(holding.symbol)
        cost = holding.quantity * holding.average_price * multiplier
        mark = exchange.book(holding.symbol).mark or holding.average_price
        profit = value - cost
        sign = 1 if holding.quantity > 0 else -1
        return {
            "asset_id": self.asset_id(holding.symbol),
            "symbol": holding.symbol,
            "exchange": "NYSE",
            "asset_class": self.asset_class(holding.symbol),
            "asset_marginable": True,
            "qty": number(holding.quantity),
            "qty_available": number(exchange.available(holding.symbol) * sign),
            "avg_entry_price": _average(holding.average_price),
            "side": "long" if sign > 0 else "short",
            "market_value": number(value),
            "cost_basis": number(cost),
            "unrealized_pl": number(profit),
            "unrealized_plpc": _average(CTX.divide(profit, abs(cost)) if cost else ZERO),
            "unrealized_intraday_pl": number(profit),
            "unrealized_intraday_plpc": _average(CTX.divide(profit, abs(cost)) if cost else ZERO),
            "current_price": number(mark),
            "lastday_price": number(mark),
            "change_today": "0",
        }

    def account(self) -> Json:
        """The account, every amount as text."""
        exchange = self._exchange
        account, margin = exchange.state.account, exchange.margin
        power, seed = margin.buying_power(), str(exchange.config.seed)
        return {
            "id": exchange.state.fixed_id("account", exchange.config.account or seed),
            "account_number": f"SIM{exchange.config.seed:09d}{exchange.config.account}",
            "status": "ACTIVE",
            "crypto_status": "INACTIVE",
            "currency": "USD",
            "cash": money(account.cash),
            "equity": money(margin.equity()),
            "portfolio_value": money(margin.equity()),
            "last_equity": money(account.last_equity),
            "buying_power": money(power),
            "regt_buying_power": money(power),
            "non_marginable_buying_power": money(max(ZERO, account.cash)),
            "options_buying_power": money(margin.options_buying_power()),
            "options_approved_level": exchange.config.options_level,
            "options_trading_level": exchange.config.options_level,
            "long_market_value": money(margin.long_value()),
            "short_market_value": money(margin.short_value()),
            "initial_margin": money(margin.initial_margin()),
            "maintenance_margin": money(margin.initial_margin()),
            "last_maintenance_margin": "0",
            "accrued_fees": "0",
            "pending_reg_taf_fees": money(account.accrued.amount),
            "multiplier": number(exchange.config.multiplier),
            "shorting_enabled": exchange.config.shorting_enabled,
            "trading_blocked": False,
            "transfers_blocked": False,
            "account_blocked": False,
            "trade_suspended_by_user": False,
            "sma": "0",
            "created_at": moment(exchange.config.start),
        }

    def activity(self, row: Activity) -> Json:
        """A FILL row or a non-trade row; their id is the page token."""
        if row.kind == "FILL":
            done = row.order_status == "filled"
            return {
                "id": row.id,
                "activity_type": "FILL",
                "transaction_time": moment(row.time),
                "type": "fill" if done else "partial_fill",
                "price": number(row.price),
                "qty": number(row.quantity),
                "side": row.side,
                "symbol": row.symbol,
                "leaves_qty": number(row.leaves),
                "order_id": row.order_id,
                "cum_qty": number(row.cumulative),
                "order_status": row.order_status,
            }
        return {
            "id": row.id,
            "activity_type": row.kind,
            "date": f"{row.time:%Y-%m-%d}",
            "net_amount": number(row.net_amount) or "0",
            "symbol": row.symbol,
            "qty": number(row.quantity),
            "price": number(row.price),
            "description": row.text,
            "status": "executed",
        }

    def session(self, session: SessionHours) -> Json:
        zone = self._exchange.state.calendar.zone
        opening, closing = session.open.astimezone(zone), session.close.astimezone(zone)
        return {
            "date": session.day.isoformat(),
            "open": f"{opening:%H:%M}",
            "close": f"{closing:%H:%M}",
            "session_open": f"{opening:%H%M}",
            "session_close": f"{closing:%H%M}",
            "settlement_date": (session.day + timedelta(days=1)).isoformat(),
        }

    def clock(self) -> Json:
        exchange = self._exchange
        calendar = exchange.state.calendar
        return {
            "timestamp": local_moment(exchange.now, exchange),
            "is_open": exchange.state.is_open(),
            "next_open": local_moment(calendar.next_open(exchange.now), exchange),
            "next_close": local_moment(calendar.told_close(exchange.now), exchange),
            # Not Alpaca's: the venue tells halts on its market-data stream only.
            "halted_symbols": sorted(n for n, b in exchange.state.books.items() if b.is_halted),
        }

    def notice(self, notice: Notice) -> Json:
        """One `trade_updates` event."""
        data: Json = {
            "event": notice.event,
            "timestamp": moment(notice.time),
            "order": self.order(notice.order),
        }
        if notice.execution_id is not None:
            data["execution_id"] = notice.execution_id
        if notice.previous_execution_id is not None:
            data["previous_execution_id"] = notice.previous_execution_id
        if notice.price is not None:
            data["price"] = number(notice.price)
        if notice.quantity is not None:
            data["qty"] = number(notice.quantity)
        if notice.position_quantity is not None:
            data["position_qty"] = number(notice.position_quantity)
        return data


def quote(book: Book, now: datetime) -> Json:
    """Latest quote of the data API: JSON numbers, a missing side is 0 (as the real one sends)."""
    return {
        "t": moment(book.quote_time or now),
        "ax": "V",
        "ap": float(book.ask or ZERO),
        "as": float(book.ask_size if book.ask is not None else ZERO),
        "bx": "V",
        "bp": float(book.bid or ZERO),
        "bs": float(book.bid_size if book.bid is not None else ZERO),
        "c": ["R"],
        "z": "C",
    }


def trade(book: Book, now: datetime) -> Json:
    return {
        "t": moment(book.trade_time or now),
        "x": "V",
        "p": float(book.last or ZERO),
        "s": float(book.last_size),
        "c": ["@"],
        "i": 1,
        "z": "C",
    }


def _average(value: Decimal | None) -> str | None:
    return None if value is None else number(value.quantize(AVERAGE_STEP, context=CTX))
