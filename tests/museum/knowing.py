"""Bugs of knowledge: fills counted twice or never, ends believed or missed (architecture §8)."""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import Any

from activities import absence, executions, reads, stream_events
from activities.services import Services
from activities.stream_events import StreamBooker
from domain import fold_fills, fold_orders
from domain import order as orders
from domain import trade_state as ts
from domain.order import (
    LIVE_STATES,
    TERMINAL_STATES,
    Fill,
    OrderEvent,
    OrderSnapshot,
    OrderState,
)
from domain.trade_state import TradeState
from tests.museum.exhibit import Plant, planted

_book = fold_fills.book
_see_order = fold_orders.see_order
_broker_snapshot = fold_fills.broker_snapshot


def _with_rows(rows: dict[tuple[OrderState, OrderEvent], OrderState]) -> Any:
    return MappingProxyType({**orders.TRANSITIONS, **rows})


def asked_cancel_is_done() -> Plant:
    """An order is dead as soon as its cancel was asked for."""
    rows = {(live, OrderEvent.CANCEL_REQUESTED): OrderState.CANCELED for live in LIVE_STATES}
    return planted((orders, "TRANSITIONS", _with_rows(rows)))


def rejection_after_acceptance_is_not_heard() -> Plant:
    """What was accepted once is believed to work, whatever the venue says later."""
    live = (OrderState.WORKING, OrderState.HELD)
    rows = {(state, OrderEvent.REJECTED): state for state in live}
    return planted((orders, "TRANSITIONS", _with_rows(rows)))


def _book_unless(deaf: frozenset[OrderState]) -> Any:
    def book(state: TradeState, fill: Fill, now: datetime, **options: Any) -> TradeState:
        record = state.find(fill.client_id, fill.broker_order_id)
        if record is not None and record.state in deaf:
            return state
        return _book(state, fill, now, **options)

    return book


def late_fill_is_dropped() -> Plant:
    """A fill of an order that has ended is not looked at."""
    deaf = TERMINAL_STATES - {OrderState.FILLED}
    return planted((fold_fills, "book", _book_unless(deaf)))


def fill_while_the_cancel_travels_is_dropped() -> Plant:
    """Once the cancel is asked for, nothing that the order still fills is counted."""
    deaf = frozenset({OrderState.PENDING_CANCEL, OrderState.CANCELED})
    return planted((fold_fills, "book", _book_unless(deaf)))


def _book_by_event(state: TradeState, fill: Fill, now: datetime, **options: Any) -> TradeState:
    seen = sum(known.fill_key.split("#")[0] == fill.fill_key for known in state.fills)
    again = fill.model_copy(update={"fill_key": f"{fill.fill_key}#{seen}"})
    return _book(state, again if seen else fill, now, **options)


def fill_counts_once_per_message() -> Plant:
    """Each message of a fill is a fill: stream, read and repeat add up."""
    return planted((fold_fills, "book", _book_by_event))


def _see_and_infer(
    state: TradeState, seen: OrderSnapshot, now: datetime, client_id: str | None = None
) -> TradeState:
    state = _see_order(state, seen, now, client_id)
    record = state.find(client_id or seen.client_id, seen.broker_order_id)
    if record is None or seen.average_fill_price is None or seen.side is None:
        return state
    booked = ts.filled_quantity(state, record)
    if seen.filled_quantity <= booked:
        return state
    inferred = Fill(
        fill_key=f"inferred/{seen.broker_order_id}/{seen.filled_quantity}",
        broker_order_id=seen.broker_order_id,
        client_id=record.client_id,
        symbol=record.symbol,
        side=record.side,
        quantity=seen.filled_quantity - booked,
        price=abs(seen.average_fill_price),
        venue_time=seen.updated_at or now,
    )
    return _book(state, inferred, now)


def inferred_fill_is_counted_beside_the_real_one() -> Plant:
    """A missing execution is made up from the order's total, and the real one added later."""
    return planted(
        (fold_orders, "see_order", _see_and_infer), (fold_fills, "see_order", _see_and_infer)
    )


async def _hears_nothing(self: StreamBooker) -> int:
    return 0


async def _books_nothing(services: Services, told_to: str | None = None) -> tuple[Fill, ...]:
    return ()


def only_the_stream_tells_fills() -> Plant:
    """Fills are known by the stream alone; nobody reads after a gap."""
    return planted(
        (StreamBooker, "compare", _hears_nothing),
        (executions, "book_executions", _books_nothing),
        (reads, "book_executions", _books_nothing),
        (absence, "book_executions", _books_nothing),
        (stream_events, "book_executions", _books_nothing),
        (ts, "missing_fills", lambda state: ()),
    )
