"""What a market-data stream tells: trades, quotes (`domain.order.Quote`) and trading statuses."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.money import Price, Quantity


class TradePrint(Frozen):
    """One trade of the market, not ours. `venue_time` is market time, UTC."""

    symbol: str
    price: Price
    size: Quantity
    venue_time: AwareDatetime


class TradingStatus(Frozen):
    """A symbol halts or trades again, in the venue's words (`code`, `reason`)."""

    kind: Literal["status"] = "status"
    symbol: str
    is_halted: bool
    code: str = ""
    reason: str = ""
    venue_time: AwareDatetime
