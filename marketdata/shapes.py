"""One checked row of a foreign table as tape events, by the shape of the table."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from domain.errors import BadInput
from domain.money import ZERO
from marketdata.cells import number_cell
from marketdata.events import EventKind, TapeEvent

Sides = dict[str, TapeEvent]
"""The last quote of every symbol, for tables that write one side per row."""


def _number(
    row: dict[str, str], name: str, where: str, *, needed: bool = False, positive: bool = False
) -> Decimal | None:
    value = number_cell(row.get(name, ""), f"{where} {name}")
    if value is None and needed:
        raise BadInput("CSV_ROW", f"{where} {name}", "", "a number")
    if value is not None and (value < 0 or (positive and value == 0)):
        raise BadInput("CSV_ROW", f"{where} {name}", value, "> 0" if positive else ">= 0")
    return value


def _quote_event(
    sides: Sides, row: dict[str, str], time: datetime, symbol: str, where: str
) -> list[TapeEvent]:
    """One quote; a row that shows one side only keeps the other side of the row before."""
    bid, bid_size = _side(row, "bid", where)
    ask, ask_size = _side(row, "ask", where)
    before = sides.get(symbol)
    one_sided = (row["bid"] == "") != (row["ask"] == "")
    if one_sided and before is not None:
        # Tick files write one side per row; the untouched side is still in the market.
        if bid is None:
            bid, bid_size = before.bid, before.bid_size
        else:
            ask, ask_size = before.ask, before.ask_size
    quote = TapeEvent(
        time=time,
        symbol=symbol,
        kind=EventKind.QUOTE,
        bid=bid,
        ask=ask,
        bid_size=bid_size,
        ask_size=ask_size,
    )
    sides[symbol] = quote
    return [quote]


def _side(row: dict[str, str], side: str, where: str) -> tuple[Decimal | None, Decimal | None]:
    """Price and size; a price of zero with size zero is how some files say "no bid"."""
    price, size = _number(row, side, where), _number(row, f"{side}_size", where)
    if price == 0:
        price = None
    return (price, size) if price is not None else (None, None)


def _quote_bar_events(
    sides: Sides, row: dict[str, str], time: datetime, symbol: str, where: str
) -> list[TapeEvent]:
    """The quote at the start of the bar (where given) and the one at its end."""
    del sides
    sizes = [_number(row, f"{side}_size", where) for side in ("bid", "ask")]
    events: list[TapeEvent] = []
    for edge in ("open", "close"):
        bid = _number(row, f"bid_{edge}", where, positive=True)
        ask = _number(row, f"ask_{edge}", where, positive=True)
        if edge == "open" and bid is None and ask is None:
            continue
        events.append(
            TapeEvent(
                time=time,
                symbol=symbol,
                kind=EventKind.QUOTE,
                bid=bid,
                ask=ask,
                bid_size=sizes[0] if bid is not None else None,
                ask_size=sizes[1] if ask is not None else None,
                # Marks the quote of the bar's end until the step is known; see _close_bars.
                volume=ZERO if edge == "close" else None,
            )
        )
    return events


def _trade_event(
    sides: Sides, row: dict[str, str], time: datetime, symbol: str, where: str
) -> list[TapeEvent]:
    del sides
    size = _number(row, "size" if "size" in row else "amount", where, needed=True)
    price = _number(row, "price", where, needed=True, positive=True)
    return [TapeEvent(time=time, symbol=symbol, kind=EventKind.TRADE, price=price, size=size)]


def _bar_event(
    sides: Sides, row: dict[str, str], time: datetime, symbol: str, where: str
) -> list[TapeEvent]:
    del sides
    prices = [
        _number(row, name, where, needed=True, positive=True)
        for name in ("open", "high", "low", "close")
    ]
    opened, high, low, close = (price for price in prices if price is not None)
    if not low <= min(opened, close) <= max(opened, close) <= high:
        raise BadInput("CSV_ROW", where, f"{opened} {high} {low} {close}", "low <= o, c <= high")
    return [
        TapeEvent(
            time=time,
            symbol=symbol,
            kind=EventKind.BAR,
            open=opened,
            high=high,
            low=low,
            close=close,
            volume=_number(row, "volume", where),
        )
    ]


def _tape_event(
    sides: Sides, row: dict[str, str], time: datetime, symbol: str, where: str
) -> list[TapeEvent]:
    """A row of our own format; bars already stand at their end."""
    match row["kind"]:
        case "quote":
            sides.pop(symbol, None)
            return _quote_event(sides, row, time, symbol, where)
        case "trade":
            return _trade_event(sides, row, time, symbol, where)
        case "bar":
            return _bar_event(sides, row, time, symbol, where)
    raise BadInput("CSV_ROW", f"{where} kind", row["kind"], "quote, trade or bar")


EVENTS_OF_SHAPE = {
    "tape": _tape_event,
    "quote_bar": _quote_bar_events,
    "quote": _quote_event,
    "bar": _bar_event,
    "trade": _trade_event,
}
