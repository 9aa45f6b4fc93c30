"""Alpaca's trading endpoints under `/v2` (alpaca.md §1-§6, §8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.exchange import Exchange
from simulator.faces.alpaca import parse
from simulator.faces.alpaca.errors import error_of
from simulator.faces.alpaca.render import Render
from simulator.orders import Kind, OrderRequest, Side, SimOrder, TimeInForce
from simulator.refusals import Reason, Refusal

ORDERS_DEFAULT, ORDERS_MAX = 50, 500
PAGE_MAX = 100
CALENDAR_DAYS_MAX = 366
Handler = Callable[[Request], Any]


class AlpacaRest:
    """Request handlers; every one answers in Alpaca's words and never raises `Refusal`."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._render = Render(exchange)

    def routes(self) -> list[Route]:
        orders, one = "/v2/orders", "/v2/orders/{id}"
        position = "/v2/positions/{symbol:path}"
        rows: list[tuple[str, str, Handler]] = [
            ("GET", "/v2/orders:by_client_order_id", self._order_by_client_id),
            ("GET", orders, self._list_orders),
            ("POST", orders, self._place),
            ("DELETE", orders, self._cancel_all),
            ("GET", one, self._get_order),
            ("PATCH", one, self._replace),
            ("DELETE", one, self._cancel),
            ("GET", "/v2/account", self._account),
            ("GET", "/v2/account/configurations", self._configurations),
            ("GET", "/v2/account/activities", self._activities),
            ("GET", "/v2/account/activities/{types}", self._activities),
            ("GET", "/v2/positions", self._positions),
            ("DELETE", "/v2/positions", self._close_all),
            ("GET", position, self._position),
            ("DELETE", position, self._close_position),
            ("GET", "/v2/clock", self._clock),
            ("GET", "/v2/calendar", self._calendar),
            ("GET", "/v2/assets", self._assets),
            ("GET", "/v2/assets/{symbol:path}", self._asset),
            ("GET", "/v2/options/contracts", self._contracts),
            ("GET", "/v2/options/contracts/{symbol}", self._contract),
        ]
        return [Route(path, _answering(handler), methods=[verb]) for verb, path, handler in rows]

    # --- orders -------------------------------------------------------------------------------

    async def _place(self, request: Request) -> Response:
        body = self._body("submit", await request.body())
        try:
            wish = parse.order_request(body)
        except Refusal as refusal:
            self._exchange.state.record("request", action="submit", body=body)
            self._exchange.record_refusal("submit", refusal)
            raise
        return self._submitted(wish)

    def _submitted(self, wish: OrderRequest) -> Response:
        seen: list[dict[str, Any]] = []
        self._exchange.submit(wish, lambda order: seen.append(self._render.order(order)))
        return JSONResponse(seen[0])

    async def _replace(self, request: Request) -> Response:
        body = self._body("replace", await request.body())
        wish = parse.replace_request(body)
        seen: list[dict[str, Any]] = []
        order_id = request.path_params["id"]
        new = self._exchange.replace(
            order_id, wish, lambda order: seen.append(self._render.order(order))
        )
        return JSONResponse(seen[0] if seen else self._render.order(new))

    async def _cancel(self, request: Request) -> Response:
        self._exchange.cancel(request.path_params["id"])
        return Response(status_code=204)

    async def _cancel_all(self, _request: Request) -> Response:
        asked = self._exchange.cancel_all()
        return JSONResponse([{"id": order.id, "status": 200} for order in asked], 207)

    async def _get_order(self, request: Request) -> Response:
        order = self._visible(self._exchange.order(request.path_params["id"]), request)
        return JSONResponse(self._render.order(order, nested=_flag(request, "nested")))

    async def _order_by_client_id(self, request: Request) -> Response:
        client_id = request.query_params.get("client_order_id", "")
        order = self._visible(self._exchange.order_by_client_id(client_id), request)
        return JSONResponse(self._render.order(order, nested=_flag(request, "nested")))

    def _visible(self, order: SimOrder | None, request: Request) -> SimOrder:
        """The order, unless it is unknown or a lookup-lag fault still hides it (C5)."""
        if order is None or self._exchange.state.is_hidden(order, "GET", request.url.path):
            raise Refusal(Reason.NOT_FOUND, "order not found")
        return order

    async def _list_orders(self, request: Request) -> Response:
        query = request.query_params
        nested = _flag(request, "nested")
        limit = parse.whole(query.get("limit"), ORDERS_DEFAULT, ORDERS_MAX)
        wanted = _filter_of(request)
        found: list[SimOrder] = []
        for order in self._exchange.state.orders.values():
            if order.combo is not None:
                continue
            if nested and order.group is not None:
                parent = order.group.parent
                if order.replaced_by is None:
                    if order is not parent:
                        continue
                    if any(wanted(member) for member in order.group.members):
                        found.append(order)
                    continue
            if wanted(order):
                found.append(order)
        state, path = self._exchange.state, request.url.path
        found = [o for o in found if not state.is_hidden(o, "GET", path, beside_lookups=True)]
        if query.get("direction", "desc") == "desc":
            found.reverse()
        return JSONResponse([self._render.order(o, nested=nested) for o in found[:limit]])

    # --- account ------------------------------------------------------------------------------

    async def _account(self, _request: Request) -> Response:
        return JSONResponse(self._render.account())

    async def _configurations(self, _request: Request) -> Response:
        config = self._exchange.config
        return JSONResponse(
            {
                "dtbp_check": "entry",
                "trade_confirm_email": "none",
                "suspend_trade": False,
                "no_shorting": not config.shorting_enabled,
                "fractional_trading": True,
                "max_margin_multiplier": str(config.multiplier),
                "max_options_trading_level": config.options_level,
                "pdt_check": "entry",
                "ptp_no_exception_entry": False,
            }
        )

    async def _activities(self, request: Request) -> Response:
        query = request.query_params
        types = request.path_params.get("types") or query.get("activity_types") or ""
        kinds = {name for name in types.split(",") if name}
        after, until = parse.instant(query.get("after")), parse.instant(query.get("until"))
        on_date = query.get("date")
        if query.get("category") == "non_trade_activity":
            kinds = {row.kind for row in self._exchange.state.account.activities} - {"FILL"}
            kinds = kinds or {"none"}
        rows = [
            row
            for row in self._exchange.state.account.activities
            if (not kinds or row.kind in kinds)
            and (after is None or row.time > after)
            and (until is None or row.time < until)
            and (not on_date or f"{row.time:%Y-%m-%d}" == on_date)
        ]
        if query.get("direction", "desc") == "desc":
            rows.reverse()
        token = query.get("page_token")
        if token:
            places = [place for place, row in enumerate(rows) if row.id == token]
            if not places:
                raise Refusal(Reason.MALFORMED, f"invalid page_token: {token}")
            rows = rows[places[0] + 1 :]
        size = parse.whole(query.get("page_size"), PAGE_MAX, PAGE_MAX)
        return JSONResponse([self._render.activity(row) for row in rows[:size]])

    async def _positions(self, _request: Request) -> Response:
        return JSONResponse([self._render.position(h) for h in self._exchange.holdings()])

    async def _position(self, request: Request) -> Response:
        return JSONResponse(self._render.position(self._holding(request.path_params["symbol"])))

    async def _close_position(self, request: Request) -> Response:
        holding = self._holding(request.path_params["symbol"])
        quantity = abs(holding.quantity)
        part = parse.optional_number(dict(request.query_params), "qty")
        percent = parse.optional_number(dict(request.query_params), "percentage")
        if part is not None:
            quantity = part
        elif percent is not None:
            instrument = self._exchange.state.listings[holding.symbol].instrument
            quantity = instrument.lot_down(quantity * percent / 100)
        return self._submitted(_closing(holding.symbol, holding.quantity, quantity))

    async def _close_all(self, request: Request) -> Response:
        if _flag(request, "cancel_orders"):
            self._exchange.cancel_all()
        answers = []
        for holding in self._exchange.holdings():
            wish = _closing(holding.symbol, holding.quantity, abs(holding.quantity))
            try:
                order = self._exchange.submit(wish)
                status, body = 200, self._render.order(order)
                answers.append({"symbol": holding.symbol, "status": status, "body": body})
            except Refusal as refusal:
                status, body = error_of(refusal)
                answers.append({"symbol": holding.symbol, "status": status, "body": body})
        return JSONResponse(answers, 207)

    def _holding(self, name: str) -> Any:
        for holding in self._exchange.holdings():
            if name in (holding.symbol, self._render.asset_id(holding.symbol)):
                return holding
        raise Refusal(Reason.NOT_FOUND, "position does not exist")

    # --- market -------------------------------------------------------------------------------

    async def _clock(self, _request: Request) -> Response:
        return JSONResponse(self._render.clock())

    async def _calendar(self, request: Request) -> Response:
        query = request.query_params
        today = self._exchange.now.date()
        first = _day(query.get("start"), today - timedelta(days=30))
        last = _day(query.get("end"), today + timedelta(days=30))
        last = min(last, first + timedelta(days=CALENDAR_DAYS_MAX))
        sessions = self._exchange.state.calendar.sessions_between(first, last)
        return JSONResponse([self._render.session(session) for session in sessions])

    async def _assets(self, request: Request) -> Response:
        wanted = request.query_params.get("asset_class")
        rows = [self._render.asset(item) for item in self._exchange.state.listings.values()]
        return JSONResponse([row for row in rows if not wanted or row["class"] == wanted])

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["symbol"]
        for listing in self._exchange.state.listings.values():
            if name in (listing.symbol, self._render.asset_id(listing.symbol)):
                return JSONResponse(self._render.asset(listing))
        raise Refusal(Reason.NOT_FOUND, f"asset not found for {name}")

    async def _contracts(self, request: Request) -> Response:
        rows = [
            self._render.contract(item)
            for item in self._exchange.state.listings.values()
            if item.is_option
        ]
        rows = [row for row in rows if _contract_fits(row, request)]
        size = parse.whole(request.query_params.get("limit"), 100, 10_000)
        start = parse.whole(request.query_params.get("page_token"), 1, 10**9) - 1
        page = rows[start : start + size]
        more = start + size < len(rows)
        return JSONResponse(
            {"option_contracts": page, "next_page_token": str(start + size + 1) if more else None}
        )

    async def _contract(self, request: Request) -> Response:
        name = request.path_params["symbol"]
        for listing in self._exchange.state.listings.values():
            known = (listing.symbol, self._render.asset_id(listing.symbol))
            if listing.is_option and name in known:
                return JSONResponse(self._render.contract(listing))
        raise Refusal(Reason.NOT_FOUND, f"option contract not found for {name}")

    def _body(self, action: str, raw: bytes) -> dict[str, Any]:
        try:
            return parse.body_of(raw)
        except Refusal as refusal:
            shown = raw[:2000].decode("utf-8", "replace")
            self._exchange.state.record("request", action=action, raw=shown)
            self._exchange.record_refusal(action, refusal)
            raise


def _answering(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            response: Response = await handler(request)
        except Refusal as refusal:
            status, body = error_of(refusal)
            return JSONResponse(body, status)
        return response

    return answer


def _filter_of(request: Request) -> Callable[[SimOrder], bool]:
    query = request.query_params
    status = query.get("status", "open")
    if status not in ("open", "closed", "all"):
        raise Refusal(Reason.MALFORMED, f"invalid status: {status}")
    after, until = parse.instant(query.get("after")), parse.instant(query.get("until"))
    symbols = {name for name in query.get("symbols", "").split(",") if name}
    side = query.get("side")

    def wanted(order: SimOrder) -> bool:
        return (
            (status == "all" or order.is_done == (status == "closed"))
            and (after is None or order.created_at > after)
            and (until is None or order.created_at <= until)
            and (not symbols or bool(symbols & set(_symbols(order))))
            and (not side or order.side.value == side)
        )

    return wanted


def _symbols(order: SimOrder) -> Iterable[str]:
    return [leg.symbol for leg in order.legs] or [order.symbol]


def _closing(symbol: str, held: Decimal, quantity: Decimal) -> OrderRequest:
    return OrderRequest(
        symbol=symbol,
        side=Side.SELL if held > 0 else Side.BUY,
        quantity=quantity,
        kind=Kind.MARKET,
        time_in_force=TimeInForce.DAY,
    )


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


def _day(text: str | None, default: date) -> date:
    moment: datetime | None = parse.instant(text)
    return default if moment is None else moment.date()


def _contract_fits(row: dict[str, Any], request: Request) -> bool:
    query = request.query_params
    underlyings = {name for name in query.get("underlying_symbols", "").split(",") if name}
    expiry, strike = row["expiration_date"] or "", Decimal(row["strike_price"] or "0")
    lowest = parse.optional_number(dict(query), "strike_price_gte")
    highest = parse.optional_number(dict(query), "strike_price_lte")
    return (
        (not underlyings or row["underlying_symbol"] in underlyings)
        and expiry == query.get("expiration_date", expiry)
        and expiry >= query.get("expiration_date_gte", "")
        and expiry <= query.get("expiration_date_lte", "9")
        and row["type"] == query.get("type", row["type"])
        and row["root_symbol"] == query.get("root_symbol", row["root_symbol"])
        and (lowest is None or strike >= lowest)
        and (highest is None or strike <= highest)
    )
