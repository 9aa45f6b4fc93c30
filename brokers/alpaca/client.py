"""The Alpaca adapter: the broker port over plain HTTP, one attempt per request.

The same code serves the simulated exchange, paper and live; only `AlpacaConfig` differs. Nothing
is retried, slept on or guessed here (brokers/port.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import httpx

from brokers.alpaca import mapping, outcomes
from brokers.alpaca.config import AlpacaConfig
from brokers.alpaca.events import PAGES_MAX, event_page, event_params, next_token
from brokers.alpaca.executions import (
    FEE_SWEEP_INTERVAL_S,
    ExecutionCursor,
    execution_page,
    first_cursor,
)
from brokers.alpaca.requests import order_request, replace_request
from brokers.alpaca.stream import order_stream
from brokers.errors import BROKER_BAD_BODY, BadBody, Lost, NotSent, read_failure, write_failure
from brokers.outcomes import failed_write
from brokers.port import (
    CancelOutcome,
    EventPage,
    ExecutionPage,
    PlaceOutcome,
    Rejected,
    ReplaceOutcome,
    StreamEvent,
)
from brokers.seen import Seen
from brokers.sockets import Connector, websocket_connector
from brokers.transport import HttpTransport, Reply, Watch, path_segment, unwatched
from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.capabilities import Capabilities
from domain.errors import BadInput, HoldfastError, Refused, Uncertain
from domain.order import OrderIntent, OrderSnapshot, Position, Quote

ORDERS_PAGE = 500
ORDER_PAGES_MAX = 100
QUOTES_PER_REQUEST = 100
_MICROSECOND = timedelta(microseconds=1)
_QUOTE_PATH = {
    mapping.SYMBOL_KIND_STOCK: "/v2/stocks/quotes/latest",
    mapping.SYMBOL_KIND_OPTION: "/v1beta1/options/quotes/latest",
    mapping.SYMBOL_KIND_CRYPTO: "/v1beta3/crypto/us/latest/quotes",
}


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AlpacaBroker:
    """One Alpaca account behind the broker port.

    Args:
        config: Checked settings and keys.
        reserved: A small connection pool of its own, for the kill path (faults.md F5).
        http_transport: Replaces the network in tests and in-process simulation.
        connector: Replaces the WebSocket connection likewise.
        now: Wall clock, aware UTC.
    """

    def __init__(
        self,
        config: AlpacaConfig,
        *,
        reserved: bool = False,
        http_transport: httpx.AsyncBaseTransport | None = None,
        connector: Connector | None = None,
        now: Callable[[], datetime] = _utc_now,
        watch: Watch = unwatched,
    ) -> None:
        self._config = config
        self._now = now
        self._connector = connector or websocket_connector(config.stream_url)
        self._order_in = Seen(mapping.order_snapshot)
        self._activity_in = Seen(mapping.activity)
        self._fees_swept_at: datetime | None = None
        self._opened: tuple[date, datetime | None] | None = None
        self._trading, self._data = (
            HttpTransport(
                url,
                headers=config.headers(),
                timeout_s=config.request_timeout_s,
                reserved=reserved,
                inner=http_transport,
                watch=watch,
            )
            for url in (config.trading_url, config.data_url)
        )

    @property
    def capabilities(self) -> Capabilities:
        """The row of Alpaca in the capability table."""
        return mapping.ALPACA_CAPABILITIES

    @property
    def told_requests_per_minute(self) -> int | None:
        """The venue's own word of its request limit, with the last answer; None: no word yet."""
        return self._trading.told_requests_per_minute

    @property
    def account_id(self) -> str:
        """Our own name of the account."""
        return self._config.account

    async def place(self, intent: OrderIntent) -> PlaceOutcome:
        """Sends the order once. A body that the wire cannot express is rejected unsent."""
        try:
            request = order_request(intent)
        except BadInput as error:
            return Rejected(code=error.code, text=str(error))
        return await self._write_order("POST", "/v2/orders", request, intent.client_id)

    async def replace(self, broker_order_id: str, intent: OrderIntent) -> ReplaceOutcome:
        """Asks for a new order (new id) in the place of the old one.

        An accepted answer does not prove that the old order is gone, an error does not prove that
        it is not: re-read both after anything but a definite success (brokers/alpaca.md §3).
        """
        path = f"/v2/orders/{path_segment(broker_order_id)}"
        return await self._write_order("PATCH", path, replace_request(intent), intent.client_id)

    async def _write_order(
        self, method: str, path: str, request: Mapping[str, object], client_id: str
    ) -> PlaceOutcome:
        try:
            reply = await self._trading.send(method, path, body=request)
        except (NotSent, Lost) as error:
            return failed_write(error)
        return outcomes.place_outcome(reply, client_id, self._now())

    async def cancel(self, broker_order_id: str) -> CancelOutcome:
        """Asks for the cancel of one order; the proof of its end comes by read or stream."""
        try:
            reply = await self._trading.send(
                "DELETE", f"/v2/orders/{path_segment(broker_order_id)}"
            )
        except (NotSent, Lost) as error:
            return failed_write(error)
        return outcomes.cancel_outcome(reply, self._now())

    async def cancel_all(self) -> tuple[str, ...]:
        """Asks for the cancel of every open order, stops included: flatten only.

        Returns:
            The broker order ids whose cancel was taken.

        Raises:
            Transient: nothing was done. Refused: no right. Uncertain: it may have been done.
        """
        try:
            reply = await self._trading.send("DELETE", "/v2/orders")
        except (NotSent, Lost) as error:
            raise write_failure(error) from error
        if not reply.is_success:
            raise outcomes.failed_bulk_write(reply, self._now())
        try:
            return mapping.cancelled_ids(reply.json() if reply.content else [])
        except BadBody as error:
            raise Uncertain(str(error), code=BROKER_BAD_BODY) from error

    async def order(self, broker_order_id: str) -> OrderSnapshot | None:
        """The order with its children, or None where the venue does not know the id (C5)."""
        path = f"/v2/orders/{path_segment(broker_order_id)}"
        return await self._order(path, {"nested": "true"})

    async def order_by_client_id(self, client_id: str) -> OrderSnapshot | None:
        """The order under our id, or None. None right after a send proves nothing (C5)."""
        path = "/v2/orders:by_client_order_id"
        found = await self._order(path, {"client_order_id": client_id, "nested": "true"})
        if found is not None and found.client_id != client_id:
            raise Uncertain("the answer was about another client id", code=BROKER_BAD_BODY)
        return found

    async def _order(self, path: str, params: Mapping[str, str]) -> OrderSnapshot | None:
        body = await self._read_or_absent(self._trading, path, params)
        return None if body is None else self._order_in(body)

    async def open_orders(self) -> tuple[OrderSnapshot, ...]:
        """All open orders, children nested in their parents; complete or an error."""
        return await self._orders({"status": "open"}, None)

    async def orders_since(self, after: datetime) -> tuple[OrderSnapshot, ...]:
        """All orders, whatever their status, submitted after this market instant."""
        return await self._orders({"status": "all"}, after)

    async def _orders(
        self, params: Mapping[str, str], after: datetime | None
    ) -> tuple[OrderSnapshot, ...]:
        """Pages upwards by submission time; the pages overlap by a microsecond and are joined
        by id, so that equal timestamps at a page's edge lose nothing."""
        found: dict[str, OrderSnapshot] = {}
        query = {**params, "limit": str(ORDERS_PAGE), "direction": "asc", "nested": "true"}
        for _ in range(ORDER_PAGES_MAX):
            if after is not None:
                query["after"] = _instant(after)
            rows = await self._read(self._trading, "/v2/orders", query)
            if not isinstance(rows, list):
                raise Uncertain("the order list was not a list", code=BROKER_BAD_BODY)
            page = [self._order_in(row) for row in rows]
            before = len(found)
            found.update((order.broker_order_id, order) for order in page)
            # The limit may have counted parents only or children too.
            if mapping.flat_count(page) < ORDERS_PAGE:
                return tuple(found.values())
            times = [order.submitted_at for order in page if order.submitted_at is not None]
            if len(found) == before or not times:
                break
            after = max(times) - _MICROSECOND
        raise Uncertain("the order list could not be read to its end", code="PAGE_STUCK")

    async def positions(self) -> tuple[Position, ...]:
        """All holdings as the venue shows them."""
        rows = await self._read(self._trading, "/v2/positions")
        if not isinstance(rows, list):
            raise Uncertain("the positions were not a list", code=BROKER_BAD_BODY)
        return tuple(mapping.position(row) for row in rows)

    async def account(self) -> AccountSnapshot:
        """Equity, cash, buying power and permissions."""
        body = await self._read(self._trading, "/v2/account")
        return mapping.account_snapshot(body, self.account_id, self._now())

    async def executions_since(self, cursor: str | None) -> ExecutionPage:
        """Executions and fees after `cursor`, oldest first; see `executions.py` for the cursor.

        Rows may come twice (pages overlap on purpose); the ledger's fill key makes them one. With
        no cursor it starts shortly before the venue's current UTC day.
        """
        if cursor is None:
            place = first_cursor((await self.market_clock()).market_now)
        else:
            place = ExecutionCursor.parse(cursor)
        path = "/v2/account/activities"
        raw = await self._read(self._trading, path, place.params())
        page = execution_page(place, raw, self._activity_in)
        if page.has_more or not self._is_fee_sweep_due():
            return page
        rows = await self._read(self._trading, f"{path}/FEE", place.fee_params())
        self._fees_swept_at = self._now()
        return place.with_late_fees(page, rows, self._activity_in)

    async def account_events(self, since: datetime) -> EventPage:
        """Statement rows after `since` that are no executions: all pages, or the read fails."""
        pages: list[object] = []
        token: str | None = None
        for _ in range(PAGES_MAX):
            raw = await self._read(
                self._trading, "/v2/account/activities", event_params(since, token)
            )
            pages.append(raw)
            token = next_token(raw, token)
            if token is None:
                return event_page(pages)
        raise Uncertain("the activities did not end", code="PAGE_STUCK")

    def _is_fee_sweep_due(self) -> bool:
        last = self._fees_swept_at
        return last is None or (self._now() - last).total_seconds() >= FEE_SWEEP_INTERVAL_S

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Quote]:
        """Latest quotes; a symbol without a readable quote is absent."""
        by_kind: dict[str, list[str]] = {}
        for symbol in dict.fromkeys(symbols):
            by_kind.setdefault(mapping.symbol_kind(symbol), []).append(symbol)
        found: dict[str, Quote] = {}
        for kind, wanted in by_kind.items():
            for start in range(0, len(wanted), QUOTES_PER_REQUEST):
                chunk = wanted[start : start + QUOTES_PER_REQUEST]
                params = {"symbols": ",".join(chunk)}
                body = await self._read(self._data, _QUOTE_PATH[kind], params)
                found.update(mapping.quotes(body, frozenset(chunk)))
        return found

    async def market_clock(self) -> MarketClock:
        """The venue's time and session; the calendar is read once a day."""
        clock = mapping.market_clock(await self._read(self._trading, "/v2/clock"))
        day = clock.market_now.astimezone(mapping.EXCHANGE_ZONE).date()
        if self._opened is None or self._opened[0] != day:
            self._opened = await self._read_open(day)
        opened_at = self._opened[1] if self._opened is not None and clock.is_open else None
        return clock.model_copy(update={"session_date": day, "opened_at": opened_at})

    async def _read_open(self, day: date) -> tuple[date, datetime | None] | None:
        """The day's open; None if the calendar cannot be read now (the gate fails closed)."""
        params = {"start": day.isoformat(), "end": day.isoformat()}
        try:
            rows = await self._read(self._trading, "/v2/calendar", params)
            return day, mapping.session_open(rows, day)
        except HoldfastError:
            return None

    async def asset(self, symbol: str) -> AssetInfo:
        """The instrument and what is allowed on it.

        Raises:
            Refused: `SYMBOL_UNKNOWN` (faults.md §3 row 14).
        """
        is_option = mapping.symbol_kind(symbol) == mapping.SYMBOL_KIND_OPTION
        folder = "/v2/options/contracts" if is_option else "/v2/assets"
        body = await self._read_or_absent(self._trading, f"{folder}/{path_segment(symbol)}", None)
        if body is None:
            raise Refused(f"the venue does not know {symbol!r}", code="SYMBOL_UNKNOWN")
        return mapping.asset_info(body)

    def stream(self) -> AsyncIterator[StreamEvent]:
        """The order stream; ends with Transient or Refused when it is lost."""
        return order_stream(self._config, self._connector, self._now)

    async def aclose(self) -> None:
        """Closes the connection pools."""
        await self._trading.aclose()
        await self._data.aclose()

    async def _read(
        self, transport: HttpTransport, path: str, params: Mapping[str, str] | None = None
    ) -> object:
        reply = await self._get(transport, path, params)
        if not reply.is_success:
            raise outcomes.refused_read(reply, self._now())
        return _body(reply)

    async def _read_or_absent(
        self, transport: HttpTransport, path: str, params: Mapping[str, str] | None
    ) -> object | None:
        """As `_read`, but None for a 404 that the venue itself wrote."""
        reply = await self._get(transport, path, params)
        if reply.status == 404 and isinstance(_body(reply), dict):
            return None
        if not reply.is_success:
            raise outcomes.refused_read(reply, self._now())
        return _body(reply)

    async def _get(
        self, transport: HttpTransport, path: str, params: Mapping[str, str] | None
    ) -> Reply:
        try:
            return await transport.send("GET", path, params=params)
        except (NotSent, Lost) as error:
            raise read_failure(error) from error


def _body(reply: Reply) -> object:
    try:
        return reply.json()
    except BadBody as error:
        raise read_failure(error) from error


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
