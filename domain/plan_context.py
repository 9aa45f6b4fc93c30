"""What is known around a plan when it is checked."""

from __future__ import annotations

from datetime import date

from pydantic import AwareDatetime

from domain.account import MarketClock
from domain.base import Frozen
from domain.clock import ClockMap
from domain.money import NetPrice
from domain.risk.limits import Limits


class PlanContext(Frozen):
    """What is known around a plan. None means that the rule cannot be checked at this edge.

    `reference_price` is the net mid of one unit; `known_symbols` and `restricted_symbols` are
    lists to compare with; `market_clock` decides SESSION_CLOSED; `clock_map` the shortest
    strategy duration.
    """

    market_now: AwareDatetime
    session_date: date
    reference_price: NetPrice | None = None
    limits: Limits | None = None
    known_symbols: tuple[str, ...] | None = None
    restricted_symbols: tuple[str, ...] = ()
    market_clock: MarketClock | None = None
    clock_map: ClockMap | None = None
    expires_today_allowed: bool = True
