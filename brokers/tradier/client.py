"""The Tradier adapter: the broker port over plain HTTP, one attempt per request.

The same code serves the simulated exchange, the sandbox and live; only `TradierConfig` differs.
Nothing is retried, slept on or guessed here (brokers/port.py). The venue has no key against
repetition: a send without an answer stays unknown until its tag is found among today's orders.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, date, datetime

import httpx

from brokers.errors import AUTH_NEEDED, BROKER_BAD_BODY, BadBody, Lost, NotSent, read_failure
from brokers.outcomes import failed_write
from brokers.port import (
    CancelOutcome,
    CancelRequested,
    EventPage,
    ExecutionPage,
    FrameProblem,
    OrderNotFound,
    PlaceOutcome,
    Rejected,
    ReplaceOutcome,
    StreamEvent,
)
from brokers.seen import Seen
from brokers.sockets import Connector, websocket_connector
from brokers.tradier import facts, mapping, outcomes
from brokers.tradier.config import TradierConfig
from brokers.tradier.executions import (
    OLDER_READS_MAX,
    execution_page,
    is_open,
    remembered_ids,
)
from brokers.tradier.requests import Form, order_request, replace_request, wire_symbol
from brokers.tradier.stream import order_stream
from brokers.tradier.wire import WireOrder, WireProfileAccount, rows
from brokers.transport import HttpTransport, Reply, Watch, path_segment, unwatched
from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.capabilities import Capabilities
from domain.errors import BadInput, HoldfastError, Refused, Uncertain
from domain.order import OrderIntent, OrderSnapshot, Position, Quote

QUOTES_PER_REQUEST = 100
_WITH_TAGS = {"includeTags": "true"}


def _utc_now() -> datetime:
    return datetime.now(UTC)


class TradierBroker:
    """One Tradier account behind the broker port.

    Args:
        config: Checked settings, account number and token.
        reserved: A small connection pool of its own, for the kill path (faults.md F5).
        http_transport: Replaces the network in tests and in-process simulation.
        connect: Makes the connector of a stream address; replaces the WebSocket likewise.
        now: Wall clock, aware UTC.
    """

    def __init__(
        self,
        config: TradierConfig,
        *,
        reserved: bool = False,
        http_transport: httpx.AsyncBaseTransport | None = None,
        connect: Callable[[str], Connector] = websocket_connector,
        now: Callable[[], datetime] = _utc_now,
        watch: Watch = unwatched,
    ) -> None:
        self._config = config
        self._now = now
        self._connect = connect
        self._order_in = Seen(mapping.read_order)
        self._home = f"/v1/accounts/{path_segment(config.key_id)}"
        self._sessions: tuple[date, tuple[facts.Session, ...]] | None = None
        self._borrowable: tuple[date, frozenset[str]] | None = None
        self._http = HttpTransport(
            config.trading_url,
            headers=config.headers(),
            timeout_s=config.request_timeout_s,
            reserved=reserved,
            inner=http_transport,
            watch=watch,
        )

    @property
    def capabilities(self) -> Capabilities:
        """The row of Tradier in the capability table."""
        return mapping.TRADIER_CAPABILITIES

    @property
    def told_requests_per_minute(self) -> int | None:
        """The venue's own word of its request limit, with the last answer; None: no word yet."""
        return self._http.told_requests_per_minute

    @property
    def account_id(self) -> str:
        """Our own name of the account."""
        return self._config.account

    # --- writing ------------------------------------------------------------------------------

    async def place(self, intent: OrderIntent) -> PlaceOutcome:
        """Sends the order once. A body that the wire cannot express is rejected unsent."""
        try:
            form = order_request(intent)
        except BadInput as error:
            return Rejected(code=error.code, text=str(error))
        return await self._write("POST", f"{self._home}/orders", form, intent)

    async def replace(self, broker_order_id: str, intent: OrderIntent) -> ReplaceOutcome:
        """Changes the prices of an order in its place: it keeps id, tag and quantity.

        The order in an accepted answer has the id that was replaced. "ok" is no proof that the
        change was made: read it (tradier.md §5).
        """
        try:
            form = replace_request(intent)
        except BadInput as error:
            return Rejected(code=error.code, text=str(error))
        return await self._write("PUT", self._order_path(broker_order_id), form, intent)

    async def _write(self, method: str, path: str, form: Form, intent: OrderIntent) -> PlaceOutcome:
        try:
            reply = await self._http.send(method, path, form=form)
        except (NotSent, Lost) as error:
            return failed_write(error)
        if method == "PUT" and outcomes.is_foreign(reply):
            # The order is not known, or not to this token: either way nothing was changed.
            return Rejected(code="ORDER_NOT_FOUND", text=outcomes.text_of(reply))
        return outcomes.write_outcome(reply, intent, self._now())

    async def cancel(self, broker_order_id: str) -> CancelOutcome:
        """Asks for the cancel of one order; the proof of its end comes by read or stream."""
        try:
            reply = await self._http.send("DELETE", self._order_path(broker_order_id))
        except (NotSent, Lost) as error:
            return failed_write(error)
        return outcomes.cancel_outcome(reply, self._now())

    async def cancel_all(self) -> tuple[str, ...]:
        """Asks for the cancel of every open order, one by one: the venue has no bulk cancel.

        Returns:
            The broker order ids whose cancel was taken.

        Raises:
            Transient, Refused, Uncertain: the orders could not be listed; nothing was done.
            Uncertain: no cancel was taken although there were orders to cancel.
        """
        listed = await self.open_orders()
        taken: list[str] = []
        doubtful: list[str] = []
        for order in listed:
            outcome = await self.cancel(order.broker_order_id)
            if isinstance(outcome, CancelRequested):
                taken.append(order.broker_order_id)
            elif not isinstance(outcome, OrderNotFound):
                doubtful.append(f"{order.broker_order_id}: {outcome.kind}")
        if doubtful and not taken:
            raise Uncertain("; ".join(doubtful), code="CANCEL_ALL_FAILED")
        return tuple(taken)

    # --- orders -------------------------------------------------------------------------------

    async def order(self, broker_order_id: str) -> OrderSnapshot | None:
        """The order with its children, or None where the venue does not know the id (C5).

        Raises:
            Refused: `AUTH_NEEDED` if the token does not reach the account at all: the venue
                answers that like an unknown id, so the profile is asked.
        """
        wire = await self._wire_order(broker_order_id)
        return None if wire is None else mapping.snapshot_of(wire)

    async def _wire_order(self, broker_order_id: str) -> WireOrder | None:
        reply = await self._get(self._order_path(broker_order_id), _WITH_TAGS)
        if outcomes.is_foreign(reply):
            await self._check_reach(reply)
            return None
        body = self._checked(reply)
        found = rows({"all": body}, "all", "order")
        return self._order_in(found[0]) if found else None

    async def _check_reach(self, reply: Reply) -> None:
        """Tells an unknown id from an account that the token does not reach (tradier.md §5)."""
        if await self._profile() is None:
            raise Refused(outcomes.text_of(reply), code=AUTH_NEEDED)

    async def order_by_client_id(self, client_id: str) -> OrderSnapshot | None:
        """The oldest of today's orders with our tag, or None.

        None proves nothing right after a send (C5), nor for an order of an earlier day. The venue
        takes two orders with one tag: the second shows up as a foreign order when books are
        compared.
        """
        found = [order for order in await self._listed() if _tag_of(order) == client_id]
        return mapping.snapshot_of(min(found, key=lambda o: int(o.id))) if found else None

    async def open_orders(self) -> tuple[OrderSnapshot, ...]:
        """Today's open orders, members inside their groups; complete or an error.

        An order of an earlier day is not promised to be in it: ask for such a one by its id.
        """
        return tuple(mapping.snapshot_of(o) for o in await self._listed() if is_open(o))

    async def orders_since(self, after: datetime) -> tuple[OrderSnapshot, ...]:
        """Today's orders, whatever their status, submitted after this market instant."""
        listed = (mapping.snapshot_of(order) for order in await self._listed())
        return tuple(o for o in listed if o.submitted_at is None or o.submitted_at > after)

    async def _listed(self) -> tuple[WireOrder, ...]:
        body = await self._read(f"{self._home}/orders", _WITH_TAGS)
        return tuple(self._order_in(row) for row in rows(body, "orders", "order"))

    async def executions_since(self, cursor: str | None) -> ExecutionPage:
        """What today's orders, and those that worked at the last look, have filled so far.

        The venue names no executions: each fill is a sum (`Fill.is_sum`), and every call tells
        all of them again. Fees are not told during the day. Of orders of earlier days at most
        `OLDER_READS_MAX` are read in one call, in turn.
        """
        remembered = remembered_ids(cursor)
        listed = await self._listed()
        known = {order.id for order in listed}
        absent = [order_id for order_id in remembered if order_id not in known]
        older: list[WireOrder] = []
        problems: list[FrameProblem] = []
        for order_id in absent[:OLDER_READS_MAX]:
            order = await self._wire_order(order_id)
            if order is None:
                text = f"order {order_id} worked before and is not known any more"
                problems.append(FrameProblem(code="ORDER_UNSEEN", text=text))
            else:
                older.append(order)
        unread = tuple(absent[OLDER_READS_MAX:])
        return execution_page((*older, *listed), tuple(problems), unread)

    async def account_events(self, since: datetime) -> EventPage:
        """None: the venue's history is a statement of the night before (tradier.md §7)."""
        return EventPage()

    # --- account and market -------------------------------------------------------------------

    async def positions(self) -> tuple[Position, ...]:
        """All holdings as the venue shows them."""
        return facts.positions(await self._read(f"{self._home}/positions"))

    async def account(self) -> AccountSnapshot:
        """Equity, cash, buying power and permissions; the latter are in the profile."""
        profile = await self._profile()
        body = await self._read(f"{self._home}/balances")
        return facts.account_snapshot(body, profile, self.account_id, self._now())

    async def _profile(self) -> WireProfileAccount | None:
        body = await self._read("/v1/user/profile")
        return facts.profile_account(body, self._config.key_id)

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Quote]:
        """Latest quotes; a symbol without a readable quote is absent. Delayed in the sandbox."""
        wanted = list(dict.fromkeys(symbols))
        found: dict[str, Quote] = {}
        for start in range(0, len(wanted), QUOTES_PER_REQUEST):
            chunk = wanted[start : start + QUOTES_PER_REQUEST]
            body = await self._quotes(chunk)
            shown = facts.quote_rows(body)
            pairs = ((name, facts.quote_of(name, shown[name])) for name in chunk if name in shown)
            found.update((name, quote) for name, quote in pairs if quote is not None)
        return found

    async def _quotes(self, symbols: Sequence[str]) -> object:
        names = ",".join(wire_symbol(symbol) for symbol in symbols)
        return await self._read("/v1/markets/quotes", {"symbols": names, "greeks": "false"})

    async def market_clock(self) -> MarketClock:
        """The venue's time and session; the calendar is read once a day."""
        now, is_running = facts.clock_of(await self._read("/v1/markets/clock"))
        day = now.astimezone(facts.EXCHANGE_ZONE).date()
        if self._sessions is None or self._sessions[0] != day:
            self._sessions = await self._read_sessions(day)
        known = () if self._sessions is None else self._sessions[1]
        return facts.market_clock(now, is_running, known)

    async def _read_sessions(self, day: date) -> tuple[date, tuple[facts.Session, ...]] | None:
        """Sessions of this month and the next; None if the calendar cannot be read now."""
        following = (day.year + day.month // 12, day.month % 12 + 1)
        found: list[facts.Session] = []
        try:
            for year, month in ((day.year, day.month), following):
                params = {"month": f"{month:02d}", "year": str(year)}
                body = await self._read("/v1/markets/calendar", params)
                found += facts.sessions(body)
        except HoldfastError:
            return None
        return day, tuple(found)

    async def asset(self, symbol: str) -> AssetInfo:
        """The instrument, as far as its quote and the list of easy loans tell it.

        Raises:
            Refused: `SYMBOL_UNKNOWN` (faults.md §3 row 14).
        """
        wire = facts.quote_rows(await self._quotes([symbol])).get(symbol)
        if wire is None:
            raise Refused(f"the venue does not know {symbol!r}", code="SYMBOL_UNKNOWN")
        return facts.asset_info(symbol, wire, await self._easy_to_borrow())

    async def _easy_to_borrow(self) -> frozenset[str]:
        """The list of a day; long, and asked for only with an instrument."""
        today = self._now().date()
        if self._borrowable is None or self._borrowable[0] != today:
            found = facts.easy_to_borrow(await self._read("/v1/markets/etb"))
            self._borrowable = (today, found)
        return self._borrowable[1]

    # --- stream -------------------------------------------------------------------------------

    async def stream(self) -> AsyncIterator[StreamEvent]:
        """The order stream on a session of its own; ends with Transient or Refused.

        One session at a time: a second one of the same user ends the first.
        """
        url, session_id = await self._session()
        stream = order_stream(self._connect(url), session_id, self._wire_order, self._now)
        async for event in stream:
            yield event

    async def _session(self) -> tuple[str, str]:
        try:
            reply = await self._http.send("POST", "/v1/accounts/events/session", form={})
        except (NotSent, Lost) as error:
            # A session that nobody connects to ends by itself: asking again is safe.
            raise read_failure(error) from error
        body = self._checked(reply)
        told = body.get("stream") if isinstance(body, dict) else None
        url, name = (told.get("url"), told.get("sessionid")) if isinstance(told, dict) else ("", "")
        if not isinstance(url, str) or not isinstance(name, str) or not name:
            raise Uncertain("the session had no address or id", code=BROKER_BAD_BODY)
        if not self._config.allows_stream(url):
            raise Refused(f"the session pointed to {url!r}", code="STREAM_HOST")
        return url, name

    async def aclose(self) -> None:
        """Closes the connection pool."""
        await self._http.aclose()

    # --- reading ------------------------------------------------------------------------------

    def _order_path(self, broker_order_id: str) -> str:
        return f"{self._home}/orders/{path_segment(broker_order_id)}"

    async def _read(self, path: str, params: Mapping[str, str] | None = None) -> object:
        return self._checked(await self._get(path, params))

    def _checked(self, reply: Reply) -> object:
        """The body of a read that worked out; errors come with HTTP 200 too."""
        if not reply.is_success:
            raise outcomes.refused_read(reply, self._now())
        try:
            body = reply.json()
        except BadBody as error:
            raise read_failure(error) from error
        if refusals := outcomes.refusals_in(body):
            raise Refused(refusals, code="REJECTED")
        return body

    async def _get(self, path: str, params: Mapping[str, str] | None) -> Reply:
        try:
            return await self._http.send("GET", path, params=params)
        except (NotSent, Lost) as error:
            raise read_failure(error) from error


def _tag_of(order: WireOrder) -> str | None:
    """The tag of an order; a group carries it on the container or on its members."""
    return order.tag or next((leg.tag for leg in order.leg if leg.tag), None)
