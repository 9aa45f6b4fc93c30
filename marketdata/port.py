"""Where sessions get their market from: bars since a cursor, quotes as of an instant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from pydantic import AwareDatetime

from domain.bar import Bar
from domain.base import Frozen
from domain.order import Quote
from domain.tick import TradePrint


class BarPage(Frozen):
    """Completed bars in the order in which they completed; pass `cursor` to continue.

    The cursor is the end of the newest bar already handed out. It is a plain instant, so that a
    session can carry it over a crash or a continue-as-new.
    """

    bars: tuple[Bar, ...] = ()
    cursor: AwareDatetime | None = None


class MarketDataFeed(Protocol):
    """A source of bars and quotes in market time.

    Raises `domain.errors.PriceUnavailable` where there is no valid price. There is no fallback
    price, ever (requirements #167).
    """

    async def bars(self, symbols: Sequence[str], cursor: datetime | None, now: datetime) -> BarPage:
        """Bars completed after `cursor` and not later than `now`."""
        ...

    async def quotes(self, symbols: Sequence[str], now: datetime) -> dict[str, Quote]:
        """Newest valid quote of every symbol as of `now`; all of them or an error."""
        ...


class GrowingBars(Protocol):
    """Bars of one length out of a live stream (`marketdata.live_bars`); market time."""

    late: int

    def began(self, symbol: str, at: datetime) -> None: ...

    def ended(self, symbol: str) -> None: ...

    def take(self, tick: TradePrint | Quote) -> None: ...

    def seal(self, now: datetime) -> tuple[tuple[Bar, ...], datetime] | None: ...


class TickRecorder(Protocol):
    """Ticks into files (`marketdata.recording`)."""

    @property
    def waiting(self) -> int: ...

    def take(self, tick: TradePrint | Quote) -> None: ...

    def flush(self) -> tuple[int, int]: ...


class WantedSymbols(Protocol):
    """Who wants which symbol (`marketdata.subscriptions`)."""

    def symbols(self) -> tuple[str, ...]: ...

    def by_symbol(self) -> dict[str, tuple[str, ...]]: ...
