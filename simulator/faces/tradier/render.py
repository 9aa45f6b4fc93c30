"""Writes Tradier's JSON: numbers, whole order ids that survive a change, XML's empty lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from domain.money import ZERO
from simulator.account import Holding
from simulator.book import Book
from simulator.config import Listing, SessionHours
from simulator.exchange import Exchange
from simulator.faces.tradier.words import GROUPS, is_main, kind_of, side_of, status_of
from simulator.orders import SimOrder
from simulator.state import Notice

Json = dict[str, Any]
NEW_YORK = ZoneInfo("America/New_York")
FIRST_ID = 1_000_001


def listed(outer: str, inner: str, found: list[Any]) -> Json:
    """No row is the text "null", one row stands alone, more are a list (tradier.md §1)."""
    if not found:
        return {outer: "null"}
    return {outer: {inner: found[0] if len(found) == 1 else found}}


def number(value: Decimal | None) -> float | int | None:
    """A JSON number, whole where it is."""
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


@lru_cache(maxsize=4096)
def moment(value: datetime | None) -> str | None:
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


class Ids:
    """Whole numbers for orders and groups.

    The exchange makes a new order of every change; here the order keeps its number, so the number
    belongs to the first of the chain, and the last of it is what is shown.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._numbers: dict[str, int] = {}
        self._roots: dict[int, tuple[SimOrder, bool]] = {}

    def first(self, order: SimOrder) -> SimOrder:
        """The order that this one goes back to; of a leg, the same leg of its first combo."""
        if order.combo is not None:
            return self.first(order.combo).legs[_place_of(order)]
        while order.replaces is not None:
            order = self._exchange.state.orders[order.replaces]
        return order

    def last(self, order: SimOrder) -> SimOrder:
        """The order as it stands now; of a leg, the same leg of its last combo."""
        if order.combo is not None:
            return self.last(order.combo).legs[_place_of(order)]
        while order.replaced_by is not None:
            order = self._exchange.state.orders[order.replaced_by]
        return order

    def of(self, order: SimOrder) -> int:
        """The order's own number."""
        return self._number(self.first(order), is_group=False)

    def of_group(self, order: SimOrder) -> int:
        """The number of the group that the order is a member of."""
        assert order.group is not None, "only a member has a group"
        return self._number(self.first(order.group.parent), is_group=True)

    def shown(self, order: SimOrder) -> int:
        """The number under which the order is listed: its group's, or its own."""
        return self.of(order) if order.group is None else self.of_group(order)

    def _number(self, root: SimOrder, *, is_group: bool) -> int:
        key = f"{root.id}/{'group' if is_group else 'order'}"
        if key not in self._numbers:
            found = FIRST_ID + len(self._numbers)
            self._numbers[key], self._roots[found] = found, (root, is_group)
        return self._numbers[key]

    def find(self, text: str) -> tuple[SimOrder, bool] | None:
        """The order behind a number as it stands now, and whether its group was meant."""
        if not text.isascii() or not text.isdigit():
            return None
        known = self._roots.get(int(text))
        if known is None:
            return None
        return self.last(known[0]), known[1]


def _place_of(leg: SimOrder) -> int:
    assert leg.combo is not None, "only a leg has a combo"
    return [each.id for each in leg.combo.legs].index(leg.id)


class Render:
    """Needs the exchange for kinds, marks and totals."""

    def __init__(self, exchange: Exchange, ids: Ids) -> None:
        self._exchange = exchange
        self._ids = ids

    def row(self, order: SimOrder, *, tags: bool) -> Json:
        """One row of the list: a group as a container with its members as legs."""
        if order.group is None:
            return self.order(order, tags=tags)
        group = order.group
        members = sorted(group.members, key=lambda member: not is_main(member))
        legs = [self.order(self._ids.last(member), tags=False) for member in members]
        main = members[0]
        row: Json = {
            "id": self._ids.of_group(order),
            "symbol": legs[0]["symbol"],
            "status": legs[0]["status"],
            "duration": main.time_in_force.value,
            "create_date": moment(self._ids.first(main).created_at),
            "transaction_date": max(leg["transaction_date"] for leg in legs),
            "class": GROUPS[group.order_class],
            "strategy": GROUPS[group.order_class],
            "num_legs": len(legs),
            "leg": legs,
        }
        return row | ({"tag": self._ids.first(main).client_id} if tags else {})

    def order(self, order: SimOrder, *, tags: bool) -> Json:
        """A single order, a member of a group, or a multileg order with its legs."""
        is_option = bool(order.legs) or self._exchange.state.listings[order.symbol].is_option
        row: Json = {
            "id": self._ids.of(order),
            "type": kind_of(order),
            "symbol": self._symbol(order),
            "side": "buy" if order.legs else side_of(order, is_option=is_option),
            "quantity": number(order.quantity),
            "status": status_of(order),
            "duration": order.time_in_force.value,
            "avg_fill_price": number(abs(order.average_price or ZERO)),
            "exec_quantity": number(order.filled),
            "last_fill_price": number(abs(order.average_price or ZERO)),
            "last_fill_quantity": number(order.filled),
            "remaining_quantity": number(ZERO if order.is_done else order.remaining),
            "create_date": moment(self._ids.first(order).created_at),
            "transaction_date": moment(order.updated_at or order.created_at),
            "class": "multileg" if order.legs else "option" if is_option else "equity",
        }
        if is_option and not order.legs:
            row["option_symbol"] = order.symbol
        if order.limit_price:
            row["price"] = number(abs(order.limit_price))
        if order.stop_price is not None:
            row["stop_price"] = number(order.stop_price)
        if order.reject_text:
            row["reason_description"] = order.reject_text
        if order.legs:
            legs = [self.order(leg, tags=False) for leg in order.legs]
            row |= {"num_legs": len(legs), "strategy": "spread", "leg": legs}
        if tags:
            row["tag"] = self._ids.first(order).client_id
        return row

    def _symbol(self, order: SimOrder) -> str:
        """The underlying of an option; the slash of a class share."""
        symbol = order.legs[0].symbol if order.legs else order.symbol
        instrument = self._exchange.state.listings[symbol].instrument
        return (instrument.underlying or symbol).replace(".", "/")

    def event(self, notice: Notice, account: str) -> Json | None:
        """A frame of the order stream: neither symbol nor side; None for the old of a change."""
        order = notice.order
        if order.replaced_by is not None or order.combo is not None:
            return None
        row = self.order(order, tags=True)
        names = (
            "id",
            "status",
            "type",
            "tag",
            "price",
            "stop_price",
            "avg_fill_price",
            "exec_quantity",
            "last_fill_quantity",
            "remaining_quantity",
            "create_date",
            "transaction_date",
        )
        shown = {name: row[name] for name in names if name in row}
        parent = {} if order.group is None else {"parent_id": self._ids.of_group(order)}
        return {"event": "order", **shown, **parent, "account": account}

    def position(self, holding: Holding) -> Json:
        size = self._exchange.state.account.multiplier(holding.symbol)
        return {
            "cost_basis": number(holding.quantity * holding.average_price * size),
            "date_acquired": moment(self._exchange.now),
            "id": 1 + sorted(self._exchange.state.listings).index(holding.symbol),
            "quantity": number(holding.quantity),
            "symbol": holding.symbol.replace(".", "/"),
        }

    def balances(self, account: str) -> Json:
        margin, held = self._exchange.margin, self._exchange.state.account
        kind = "margin" if self._exchange.config.multiplier > 1 else "cash"
        options = number(margin.options_buying_power())
        power = {
            "fed_call": 0,
            "maintenance_call": 0,
            "option_buying_power": options,
            "stock_buying_power": number(margin.buying_power()),
            "stock_short_value": 0,
            "sweep": 0,
        }
        cash = {"cash_available": number(margin.buying_power()), "sweep": 0, "unsettled_funds": 0}
        row = {
            "account_number": account,
            "account_type": kind,
            "total_equity": number(margin.equity()),
            "total_cash": number(held.cash),
            "market_value": number(margin.long_value() + margin.short_value()),
            "long_market_value": number(margin.long_value()),
            "short_market_value": number(margin.short_value()),
            "open_pl": 0,
            "close_pl": 0,
            "pending_orders_count": len(self._exchange.open_orders),
            "uncleared_funds": 0,
            kind: power if kind == "margin" else cash,
        }
        return {"balances": row}

    def profile(self, account: str) -> Json:
        config = self._exchange.config
        row = {
            "account_number": account,
            "classification": "individual",
            "date_created": moment(config.start),
            "day_trader": False,
            "option_level": config.options_level,
            "status": "active",
            "type": "margin" if config.multiplier > 1 else "cash",
            "last_update_date": moment(config.start),
        }
        return {"profile": {"account": row, "id": "id-sim", "name": "Simulated Trader"}}

    def quote(self, listing: Listing, book: Book) -> Json:
        now = self._exchange.now
        at = _milliseconds(book.quote_time or now)
        instrument = listing.instrument
        row: Json = {
            "symbol": listing.symbol.replace(".", "/"),
            "description": listing.name or listing.symbol,
            "exch": "Q",
            "type": "option" if listing.is_option else "stock",
            "last": number(book.last),
            "volume": 0,
            "open": None,
            "close": None,
            "bid": number(book.bid or ZERO),
            "ask": number(book.ask or ZERO),
            "bidsize": number(book.bid_size if book.bid is not None else ZERO),
            "asksize": number(book.ask_size if book.ask is not None else ZERO),
            "prevclose": number(book.last),
            "trade_date": _milliseconds(book.trade_time or now),
            "bid_date": at if book.quote_time is not None else 0,
            "ask_date": at if book.quote_time is not None else 0,
        }
        if listing.is_option:
            row |= {
                "underlying": instrument.underlying,
                "strike": number(instrument.strike),
                "contract_size": number(instrument.multiplier),
                "expiration_date": instrument.expiry.isoformat() if instrument.expiry else None,
                "expiration_type": "standard",
                "option_type": instrument.right.value if instrument.right else None,
                "root_symbol": instrument.underlying,
                "greeks": None,
            }
        return row

    def clock(self) -> Json:
        calendar, now = self._exchange.state.calendar, self._exchange.now
        is_open = self._exchange.state.is_open()
        change = calendar.told_close(now) if is_open else calendar.next_open(now)
        local = now.astimezone(NEW_YORK)
        row = {
            "date": f"{local:%Y-%m-%d}",
            "description": "Market is open" if is_open else "Market is closed",
            "state": "open" if is_open else "closed",
            "timestamp": int(now.timestamp()),
            "next_change": f"{change.astimezone(NEW_YORK):%H:%M}" if change else "00:00",
            "next_state": "postmarket" if is_open else "open",
        }
        return {"clock": row}

    def month(self, year: int, month: int) -> Json:
        first = datetime(year, month, 1, tzinfo=UTC).date()
        last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        known = self._exchange.state.calendar.sessions_between(first, last)
        opened = {session.day: session for session in known}
        count = (last - first).days + 1
        days = [first + timedelta(days=n) for n in range(count)]
        rows = [_day(f"{day:%Y-%m-%d}", opened.get(day)) for day in days]
        return {"calendar": {"month": month, "year": year, "days": {"day": rows}}}


def _day(text: str, session: SessionHours | None) -> Json:
    if session is None:
        return {"date": text, "status": "closed", "description": "Market is closed"}
    hours = [f"{at.astimezone(NEW_YORK):%H:%M}" for at in (session.open, session.close)]
    opened = {"start": hours[0], "end": hours[1]}
    return {"date": text, "status": "open", "description": "Market is open", "open": opened}


def _milliseconds(value: datetime) -> int:
    return int(value.timestamp()) * 1000 + value.microsecond // 1000
