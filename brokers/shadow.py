"""A broker that reads and never writes: DRY_RUN is an adapter, not a flag inside activities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Literal

from brokers.errors import DRY_RUN
from brokers.port import (
    Broker,
    CancelOutcome,
    EventPage,
    ExecutionPage,
    NotExecuted,
    PlaceOutcome,
    Rejected,
    ReplaceOutcome,
    StreamEvent,
)
from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.base import Frozen
from domain.capabilities import Capabilities
from domain.order import OrderIntent, OrderSnapshot, Position, Quote

RECORDED_MAX = 10_000
_TEXT = "dry run: nothing was sent"


class RecordedWrite(Frozen):
    """A write that would have gone out."""

    verb: Literal["place", "replace", "cancel", "cancel_all"]
    broker_order_id: str | None = None
    intent: OrderIntent | None = None


class DryRunBroker:
    """Wraps a real adapter: reads pass, writes are recorded and refused as `DRY_RUN`.

    `recorded` keeps the first 10,000 writes; `recorded_count` counts all of them.
    """

    def __init__(self, inner: Broker) -> None:
        self._inner = inner
        self.recorded: list[RecordedWrite] = []
        self.recorded_count = 0

    def _record(self, write: RecordedWrite) -> None:
        self.recorded_count += 1
        if len(self.recorded) < RECORDED_MAX:
            self.recorded.append(write)

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the wrapped broker."""
        return self._inner.capabilities

    @property
    def account_id(self) -> str:
        """The account of the wrapped broker."""
        return self._inner.account_id

    async def place(self, intent: OrderIntent) -> PlaceOutcome:
        """Records the order; definite no."""
        self._record(RecordedWrite(verb="place", intent=intent))
        return Rejected(code=DRY_RUN, text=_TEXT)

    async def replace(self, broker_order_id: str, intent: OrderIntent) -> ReplaceOutcome:
        """Records the replace; definite no."""
        self._record(RecordedWrite(verb="replace", broker_order_id=broker_order_id, intent=intent))
        return Rejected(code=DRY_RUN, text=_TEXT)

    async def cancel(self, broker_order_id: str) -> CancelOutcome:
        """Records the cancel; not executed."""
        self._record(RecordedWrite(verb="cancel", broker_order_id=broker_order_id))
        return NotExecuted(code=DRY_RUN, text=_TEXT)

    async def cancel_all(self) -> tuple[str, ...]:
        """Records the wish; no order was cancelled."""
        self._record(RecordedWrite(verb="cancel_all"))
        return ()

    async def order(self, broker_order_id: str) -> OrderSnapshot | None:
        """Reads through."""
        return await self._inner.order(broker_order_id)

    async def order_by_client_id(self, client_id: str) -> OrderSnapshot | None:
        """Reads through."""
        return await self._inner.order_by_client_id(client_id)

    async def open_orders(self) -> tuple[OrderSnapshot, ...]:
        """Reads through."""
        return await self._inner.open_orders()

    async def orders_since(self, after: datetime) -> tuple[OrderSnapshot, ...]:
        """Reads through."""
        return await self._inner.orders_since(after)

    async def positions(self) -> tuple[Position, ...]:
        """Reads through."""
        return await self._inner.positions()

    async def account(self) -> AccountSnapshot:
        """Reads through."""
        return await self._inner.account()

    async def executions_since(self, cursor: str | None) -> ExecutionPage:
        """Reads through."""
        return await self._inner.executions_since(cursor)

    async def account_events(self, since: datetime) -> EventPage:
        """Reads through."""
        return await self._inner.account_events(since)

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Quote]:
        """Reads through."""
        return await self._inner.quotes(symbols)

    async def market_clock(self) -> MarketClock:
        """Reads through."""
        return await self._inner.market_clock()

    async def asset(self, symbol: str) -> AssetInfo:
        """Reads through."""
        return await self._inner.asset(symbol)

    def stream(self) -> AsyncIterator[StreamEvent]:
        """Reads through."""
        return self._inner.stream()

    async def aclose(self) -> None:
        """Closes the wrapped broker."""
        await self._inner.aclose()
