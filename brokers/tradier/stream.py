"""The order stream: a session, one connection, events told with what REST knows of the order.

An event names the order, but neither symbol nor side, and no execution (tradier.md §8). It is
therefore only a reason to read the order; what the read shows is told. No reconnect in here and no
silence watchdog: the caller owns both, and every gap is followed by a backfill.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

from brokers.errors import AUTH_NEEDED, BROKER_BAD_BODY, BadBody, safe_text
from brokers.port import FrameProblem, OrderUpdate, StreamEvent, StreamReady
from brokers.sockets import Connector, connection_errors
from brokers.tradier.mapping import fills_of, snapshot_of
from brokers.tradier.wire import WireEvent, WireOrder, cleaned
from brokers.transport import parse_json
from brokers.wire import read_wire
from domain.errors import HoldfastError, Refused, Uncertain
from domain.order import Fill

ReadOrder = Callable[[str], Awaitable[WireOrder | None]]
_REFUSED = ("invalid access token", "invalid session", "unauthorized", "session not found")


async def order_stream(
    connector: Connector, session_id: str, read: ReadOrder, now: Callable[[], datetime]
) -> AsyncIterator[StreamEvent]:
    """Subscribes with the session, then tells every event; `StreamReady` comes first.

    The venue does not answer a subscription: ready means that it was sent.

    Raises:
        Transient: `NOT_CONNECTED` or `STREAM_LOST`; make a new session and connect again.
        Refused: `AUTH_NEEDED`; the session was not accepted.
    """
    is_ready = False
    with connection_errors(lambda: is_ready):
        async with connector() as socket:
            wish = {"events": ["order"], "sessionid": session_id, "excludeAccounts": []}
            await socket.send(json.dumps(wish))
            is_ready = True
            yield StreamReady(at=now())
            while True:
                event = stream_event(await socket.recv())
                if isinstance(event, WireEvent):
                    for told in await _told(event, read):
                        yield told
                elif event is not None:
                    yield event


def stream_event(frame: str | bytes) -> WireEvent | FrameProblem | None:
    """What one frame tells; None for a heartbeat, a problem for what cannot be read.

    Raises:
        Refused: the venue refused the session, which it says in plain text.
    """
    try:
        body = parse_json(frame)
    except BadBody as error:
        text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
        if any(word in text.lower() for word in _REFUSED):
            raise Refused(safe_text(text), code=AUTH_NEEDED) from None
        return FrameProblem(code=BROKER_BAD_BODY, text=safe_text(error))
    if not isinstance(body, dict):
        return FrameProblem(code=BROKER_BAD_BODY, text="a frame was not an object")
    kind = body.get("event")
    if kind == "heartbeat":
        return None
    if kind != "order":
        return FrameProblem(code="STREAM_UNKNOWN", text=f"event was {safe_text(kind)!r}")
    try:
        return read_wire(WireEvent, cleaned(body))
    except Uncertain as error:
        return FrameProblem(code=error.code, text=safe_text(error))


async def _told(event: WireEvent, read: ReadOrder) -> tuple[StreamEvent, ...]:
    """The order behind an event as REST shows it, with one update for each of its sums."""
    order_id = event.parent_id or event.id
    try:
        wire = await read(order_id)
    except HoldfastError as error:
        return (FrameProblem(code=error.code, text=safe_text(f"order {order_id}: {error}")),)
    if wire is None:
        return (FrameProblem(code="ORDER_UNSEEN", text=f"order {order_id} could not be read"),)
    return order_updates(event.status, wire)


def order_updates(event: str, wire: WireOrder) -> tuple[StreamEvent, ...]:
    """The order, once for each sum that it or a member of it has filled."""
    order = snapshot_of(wire)
    found = fills_of(wire)
    problems = tuple(item for item in found if isinstance(item, FrameProblem))
    fills: list[Fill | None] = [item for item in found if isinstance(item, Fill)]
    updates = (OrderUpdate(event=event, order=order, fill=fill) for fill in fills or [None])
    return (*problems, *updates)
