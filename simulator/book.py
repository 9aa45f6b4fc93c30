"""The displayed market of one symbol: best quote, what is left of it, last trade."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from domain.money import ZERO
from simulator.orders import Side


@dataclass(slots=True)
class Book:
    """`bid_left` and `ask_left` are what this event's displayed size still gives us.

    `is_restricted`: short sales may not take the bid (Rule 201 of Reg SHO, after a 10 % fall).
    """

    symbol: str
    bid: Decimal | None = None
    ask: Decimal | None = None
    bid_size: Decimal = ZERO
    ask_size: Decimal = ZERO
    bid_left: Decimal = ZERO
    ask_left: Decimal = ZERO
    last: Decimal | None = None
    last_size: Decimal = ZERO
    has_traded: bool = False
    quote_time: datetime | None = None
    trade_time: datetime | None = None
    is_halted: bool = False
    is_synthetic: bool = False
    is_restricted: bool = False

    def touch(self, side: Side) -> Decimal | None:
        """Price at which an order of `side` takes: the ask for a buy, the bid for a sell."""
        return self.ask if side is Side.BUY else self.bid

    def left(self, side: Side) -> Decimal:
        return self.ask_left if side is Side.BUY else self.bid_left

    def take(self, side: Side, quantity: Decimal) -> None:
        """Uses up displayed size."""
        if side is Side.BUY:
            self.ask_left -= quantity
        else:
            self.bid_left -= quantity

    @property
    def mark(self) -> Decimal | None:
        """Price for valuing positions: last trade, else the middle of the quote."""
        if self.has_traded or self.bid is None or self.ask is None:
            return self.last if self.last is not None else self.bid or self.ask
        return (self.bid + self.ask) / 2
