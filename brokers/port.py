"""The broker port: few verbs, one HTTP attempt each, classified outcomes.

Adapters live in `brokers/<venue>/{client,mapping,stream}.py`. `mapping.py` is pure and holds all
of the venue's words. No adapter retries, sleeps on 429 or guesses: Temporal owns repetition, so
that every attempt is visible (architecture §5, brokers/index §4).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from pydantic import AwareDatetime

from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.account_events import AccountEvent
from domain.base import Frozen
from domain.capabilities import Capabilities
from domain.money import Amount, NetPrice
from domain.order import Fill, OrderIntent, OrderSnapshot, Position, Quote
from domain.tick import TradePrint, TradingStatus


class Accepted(Frozen):
    """The broker has the order."""

    kind: Literal["accepted"] = "accepted"
    order: OrderSnapshot


class Rejected(Frozen):
    """Definite no: there is no order and there will be none."""

    kind: Literal["rejected"] = "rejected"
    code: str
    text: str = ""


class NotExecuted(Frozen):
    """Definitely not processed (connect refused, 429, clock): may be asked again."""

    kind: Literal["not_executed"] = "not_executed"
    code: str
    text: str = ""
    retry_after_s: float | None = None


class UnknownOutcome(Frozen):
    """Sent, no usable answer (timeout, 5xx, cut connection, unparsable body)."""

    kind: Literal["unknown"] = "unknown"
    reason: str


class Duplicate(Frozen):
    """The client id exists already: our own earlier success. Look up and adopt."""

    kind: Literal["duplicate"] = "duplicate"
    text: str = ""


class AuthNeeded(Frozen):
    """Key missing, expired or without the right; nothing was done."""

    kind: Literal["auth"] = "auth"
    text: str = ""


PlaceOutcome = Accepted | Rejected | NotExecuted | UnknownOutcome | Duplicate | AuthNeeded
ReplaceOutcome = PlaceOutcome


class CancelRequested(Frozen):
    """The broker took the cancel request. It is not proof that the order is dead."""

    kind: Literal["cancel_requested"] = "cancel_requested"


class NotCancelable(Frozen):
    """The broker says the order cannot be cancelled (filled, done): read it."""

    kind: Literal["not_cancelable"] = "not_cancelable"
    text: str = ""


class OrderNotFound(Frozen):
    """The broker does not know the id right now. Not a proof of absence (C5)."""

    kind: Literal["not_found"] = "not_found"
    text: str = ""


CancelOutcome = (
    CancelRequested | NotCancelable | OrderNotFound | NotExecuted | UnknownOutcome | AuthNeeded
)


class FeeActivity(Frozen):
    """A fee booked by the broker on its own row; cost > 0."""

    activity_id: str
    amount: Amount
    symbol: str | None = None
    broker_order_id: str | None = None
    text: str = ""
    venue_time: AwareDatetime


class FrameProblem(Frozen):
    """A frame or row that could not be read: quarantined, reported, never a crash."""

    kind: Literal["problem"] = "problem"
    code: str
    text: str


class ExecutionPage(Frozen):
    """Executions after a cursor, oldest first; pass `cursor` to continue.

    `problems` are rows that could not be read: told, never silently dropped. A row may come twice.
    """

    fills: tuple[Fill, ...]
    fees: tuple[FeeActivity, ...] = ()
    problems: tuple[FrameProblem, ...] = ()
    cursor: str | None
    has_more: bool = False


class EventPage(Frozen):
    """Account events and fees since an instant; all of them, or the read fails."""

    events: tuple[AccountEvent, ...] = ()
    fees: tuple[FeeActivity, ...] = ()
    problems: tuple[FrameProblem, ...] = ()


class OrderUpdate(Frozen):
    """One frame of the order stream: the order, and the execution if there was one.

    `busted_execution` is the venue's id of an execution that it takes back (D9); with a `fill` it
    is corrected: that one counts instead, under its own key.
    """

    kind: Literal["order"] = "order"
    event: str
    order: OrderSnapshot
    fill: Fill | None = None
    position_quantity: NetPrice | None = None
    busted_execution: str = ""


class StreamReady(Frozen):
    """Connected and subscribed: now read a snapshot and backfill."""

    kind: Literal["ready"] = "ready"
    at: AwareDatetime


StreamEvent = OrderUpdate | StreamReady | FrameProblem


@runtime_checkable
class TellsBudget(Protocol):
    """A broker that says with its answers how many requests a minute it takes."""

    @property
    def told_requests_per_minute(self) -> int | None: ...


class Broker(Protocol):
    """One account at one broker. Every method makes exactly one HTTP attempt per request.

    Reads raise `domain.errors.Transient`, `Refused` or `Uncertain`; writes never raise for an
    answer of the venue, they return an outcome.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def account_id(self) -> str: ...

    async def place(self, intent: OrderIntent) -> PlaceOutcome: ...

    async def replace(self, broker_order_id: str, intent: OrderIntent) -> ReplaceOutcome: ...

    async def cancel(self, broker_order_id: str) -> CancelOutcome: ...

    async def order(self, broker_order_id: str) -> OrderSnapshot | None: ...

    async def order_by_client_id(self, client_id: str) -> OrderSnapshot | None: ...

    async def open_orders(self) -> tuple[OrderSnapshot, ...]: ...

    async def orders_since(self, after: datetime) -> tuple[OrderSnapshot, ...]: ...

    async def positions(self) -> tuple[Position, ...]: ...

    async def account(self) -> AccountSnapshot: ...

    async def executions_since(self, cursor: str | None) -> ExecutionPage: ...

    async def account_events(self, since: datetime) -> EventPage: ...

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Quote]: ...

    async def market_clock(self) -> MarketClock: ...

    async def asset(self, symbol: str) -> AssetInfo: ...

    async def cancel_all(self) -> tuple[str, ...]: ...

    def stream(self) -> AsyncIterator[StreamEvent]: ...

    async def aclose(self) -> None: ...


class MarketSubscribed(Frozen):
    """The market-data stream now sends trades and quotes of these symbols; the first one of a
    connection says that it is ready: what happened before it is not known."""

    kind: Literal["subscribed"] = "subscribed"
    symbols: tuple[str, ...]
    at: AwareDatetime


MarketEvent = TradePrint | Quote | TradingStatus | MarketSubscribed | FrameProblem


class MarketStream(Protocol):
    """The public market of a venue on one connection; the venue allows no second one.

    `events` ends by `Transient` or `Refused`, never by itself; call it again to connect again.
    Halts and resumptions of all symbols come without being asked for.
    """

    async def want(self, symbols: Sequence[str]) -> None:
        """Trades and quotes of exactly these from now on, the most important ones first."""
        ...

    def events(self) -> AsyncIterator[MarketEvent]: ...
