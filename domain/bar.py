"""One bar of the market: what a strategy sees."""

from __future__ import annotations

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.money import ZERO, NetPrice, Quantity


class Bar(Frozen):
    """Prices between `start` (inclusive) and `end` (exclusive), market time UTC.

    A bar exists from `end` on: nobody may see it earlier. `bid` and `ask` are the last quote
    inside the bar; None where there was none, never a made-up price.
    """

    symbol: str
    start: AwareDatetime
    end: AwareDatetime
    open: NetPrice
    high: NetPrice
    low: NetPrice
    close: NetPrice
    volume: Quantity = ZERO
    bid: NetPrice | None = None
    ask: NetPrice | None = None
