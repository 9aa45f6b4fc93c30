"""A broker that watches its own transport: every call feeds the API breaker (architecture §7).

Business rejects never count; five transport failures in 60 s open it; it blocks entries only, so
exits and reads go on and the first answer after 30 s closes it again. Reads that many trades make
at once share a call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from brokers.errors import DRY_RUN, RATE_LIMITED
from brokers.port import (
    Broker,
    CancelOutcome,
    EventPage,
    ExecutionPage,
    NotExecuted,
    PlaceOutcome,
    ReplaceOutcome,
    StreamEvent,
    UnknownOutcome,
)
from brokers.shared_reads import SharedReads
from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.capabilities import Capabilities
from domain.control import ApiBreakerState
from domain.errors import Refused, Transient, Uncertain
from domain.order import OrderIntent, OrderSnapshot, Position, Quote
from domain.risk.breakers import ApiBreaker, CallOutcome, record

Answer = TypeVar("Answer")


class GuardedBroker:
    """Wraps an adapter; tells `on_change` whenever the breaker's state changes.

    Args:
        inner: the adapter that does the work.
        on_change: gets the new state and the number of failures that count.
        now: wall clock, aware UTC.
        breaker: what an earlier process left; closed if nothing is known.
        halted: symbols whose halt was told elsewhere than on the venue's clock (ADR 0007).
    """

    def __init__(
        self,
        inner: Broker,
        on_change: Callable[[ApiBreakerState, int], Awaitable[None]],
        now: Callable[[], datetime],
        breaker: ApiBreaker | None = None,
        halted: Callable[[], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        self._inner = inner
        self._on_change = on_change
        self._now = now
        self._halted = halted
        self.breaker = breaker or ApiBreaker()
        self._shared = SharedReads()

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    @property
    def account_id(self) -> str:
        return self._inner.account_id

    async def place(self, intent: OrderIntent) -> PlaceOutcome:
        return await self._written(self._inner.place(intent))

    async def replace(self, broker_order_id: str, intent: OrderIntent) -> ReplaceOutcome:
        return await self._written(self._inner.replace(broker_order_id, intent))

    async def cancel(self, broker_order_id: str) -> CancelOutcome:
        return await self._written(self._inner.cancel(broker_order_id))

    async def order(self, broker_order_id: str) -> OrderSnapshot | None:
        return await self._read(self._inner.order(broker_order_id))

    async def order_by_client_id(self, client_id: str) -> OrderSnapshot | None:
        return await self._read(self._inner.order_by_client_id(client_id))

    async def open_orders(self) -> tuple[OrderSnapshot, ...]:
        return await self._read_together("open_orders", self._inner.open_orders)

    async def orders_since(self, after: datetime) -> tuple[OrderSnapshot, ...]:
        return await self._read(self._inner.orders_since(after))

    async def positions(self) -> tuple[Position, ...]:
        return await self._read_together("positions", self._inner.positions)

    async def account(self) -> AccountSnapshot:
        return await self._read_together("account", self._inner.account)

    async def executions_since(self, cursor: str | None) -> ExecutionPage:
        question = ("executions_since", cursor)
        return await self._read_together(question, partial(self._inner.executions_since, cursor))

    async def account_events(self, since: datetime) -> EventPage:
        return await self._read(self._inner.account_events(since))

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Quote]:
        return await self._read(self._inner.quotes(symbols))

    async def market_clock(self) -> MarketClock:
        """The venue's clock with the halts that were told elsewhere.

        Where these cannot be read the clock stands alone and says so: exits go on but in a halt
        that is known, and entries are refused by the gate, which needs the same ledger.
        """
        return await self._read_together("market_clock", self._clock_with_halts)

    async def _clock_with_halts(self) -> MarketClock:
        clock = await self._inner.market_clock()
        if self._halted is None:
            return clock
        try:
            halted = {*clock.halted_symbols, *await self._halted()}
        except Transient:
            return clock.model_copy(update={"halts_unread": True})
        return clock.model_copy(update={"halted_symbols": tuple(sorted(halted))})

    async def asset(self, symbol: str) -> AssetInfo:
        return await self._read(self._inner.asset(symbol))

    async def cancel_all(self) -> tuple[str, ...]:
        return await self._read(self._inner.cancel_all())

    def stream(self) -> AsyncIterator[StreamEvent]:
        return self._inner.stream()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _written(self, call: Awaitable[Answer]) -> Answer:
        outcome = await call
        await self._note(_outcome_of(outcome))
        return outcome

    async def _read_together(
        self, question: Hashable, call: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        async def read() -> Answer:
            return await self._read(call())

        return await self._shared.ask(question, read)

    async def _read(self, call: Awaitable[Answer]) -> Answer:
        try:
            answer = await call
        except Refused:
            await self._note(CallOutcome.BUSINESS_REJECT)
            raise
        except Transient as error:
            throttled = error.code == RATE_LIMITED
            await self._note(CallOutcome.THROTTLED if throttled else CallOutcome.TRANSPORT_FAILURE)
            raise
        except Uncertain:
            await self._note(CallOutcome.TRANSPORT_FAILURE)
            raise
        await self._note(CallOutcome.ANSWERED)
        return answer

    async def _note(self, outcome: CallOutcome) -> None:
        before = self.breaker
        self.breaker = record(before, outcome, self._now())
        # A probe that failed opens it anew: the ledger must not count from the first opening.
        is_anew = self.breaker.opened_at != before.opened_at
        if self.breaker.state is not before.state or is_anew:
            await self._on_change(self.breaker.state, len(self.breaker.failed_at))


def _outcome_of(outcome: object) -> CallOutcome:
    """How a write ended for the transport."""
    if isinstance(outcome, UnknownOutcome):
        return CallOutcome.TRANSPORT_FAILURE
    if isinstance(outcome, NotExecuted):
        if outcome.code == RATE_LIMITED:
            return CallOutcome.THROTTLED
        return (
            CallOutcome.BUSINESS_REJECT
            if outcome.code == DRY_RUN
            else (CallOutcome.TRANSPORT_FAILURE)
        )
    return CallOutcome.ANSWERED
