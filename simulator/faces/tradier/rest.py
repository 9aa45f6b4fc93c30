"""Tradier's endpoints under `/v1` (tradier.md §2-§9).

What the venue's risk desk refuses is not refused here: the answer is "ok", and the order is
`rejected` when it is read (C10, the usual way at this venue).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from simulator.exchange import Exchange
from simulator.faces.tradier import parse
from simulator.faces.tradier.render import NEW_YORK, Ids, Render, listed
from simulator.faces.tradier.stream import AccountEventHub
from simulator.faces.tradier.words import refusal_text
from simulator.orders import OrderRequest, Role, SimOrder
from simulator.refusals import Reason, Refusal

Handler = Callable[[Request], Any]
ACCOUNT = "/v1/accounts/{account}"
_AT_ONCE = frozenset({Reason.MALFORMED, Reason.INVALID, Reason.TICK, Reason.LOT})


class TradierRest:
    """Request handlers; every one answers in Tradier's words and never raises `Refusal`."""

    def __init__(
        self, exchange: Exchange, ids: Ids, render: Render, hub: AccountEventHub, account: str
    ) -> None:
        self._exchange = exchange
        self._ids = ids
        self._render = render
        self._hub = hub
        self._account = account

    def routes(self) -> list[Route]:
        orders, one = f"{ACCOUNT}/orders", f"{ACCOUNT}/orders/{{id}}"
        rows: list[tuple[str, str, Handler]] = [
            ("GET", "/v1/user/profile", self._profile),
            ("POST", "/v1/accounts/events/session", self._session),
            ("GET", f"{ACCOUNT}/balances", self._balances),
            ("GET", f"{ACCOUNT}/positions", self._positions),
            ("GET", orders, self._list),
            ("POST", orders, self._place),
            ("GET", one, self._get),
            ("PUT", one, self._change),
            ("DELETE", one, self._cancel),
            ("GET", "/v1/markets/quotes", self._quotes),
            ("POST", "/v1/markets/quotes", self._quotes),
            ("GET", "/v1/markets/clock", self._clock),
            ("GET", "/v1/markets/calendar", self._calendar),
            ("GET", "/v1/markets/etb", self._easy_to_borrow),
        ]
        return [Route(path, self._answering(do), methods=[verb]) for verb, path, do in rows]

    def _answering(self, handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            try:
                response: Response = await handler(request)
            except Refusal as refusal:
                return self._refused(refusal)
            return response

        return answer

    def _refused(self, refusal: Refusal) -> Response:
        if refusal.reason is Reason.NOT_FOUND:
            return PlainTextResponse(f"Unauthorized Account: {self._account}", 401)
        if refusal.reason is Reason.MALFORMED or refusal.reason is Reason.NOT_CANCELABLE:
            return PlainTextResponse(refusal.text, 400)
        return JSONResponse({"errors": {"error": refusal_text(refusal)}})

    # --- orders -------------------------------------------------------------------------------

    async def _place(self, request: Request) -> Response:
        form = parse.form_of(await request.body())
        try:
            wish = parse.order_request(form)
        except Refusal as refusal:
            self._exchange.state.record("request", action="submit", body=dict(form))
            self._exchange.record_refusal("submit", refusal)
            raise
        if form.get("preview") == "true":
            return JSONResponse({"order": {"status": "ok", "result": True, **form}})
        order = self._exchange.submit(wish, late=_late_text, check=self._check_side)
        return _ok(self._ids.shown(order))

    def _check_side(self, wish: OrderRequest) -> None:
        """A sell while flat must say `sell_short`, a buy while short `buy_to_cover`."""
        held = self._exchange.state.account.quantity(wish.symbol)
        if wish.intent == "sell" and held <= 0:
            raise Refusal(Reason.QUANTITY_HELD, "sell without a long position")
        if wish.intent == "buy" and held < 0:
            raise Refusal(Reason.INJECTED, "UnexpectedBuyOrder: the position is short")
        if wish.intent == "sell_short" and held > 0:
            raise Refusal(Reason.INJECTED, "UnexpectedSellOrder: the position is long")

    async def _change(self, request: Request) -> Response:
        order = self._found(request)
        form = parse.form_of(await request.body())
        if order.is_done:
            text = f"order already in finalized state: {order.status.value}"
            raise Refusal(Reason.NOT_CANCELABLE, text)
        tag = self._ids.first(order).client_id
        wish = parse.replace_request(form, is_combo=bool(order.legs), current_tag=tag)
        self._exchange.replace(order.id, wish)
        return _ok(int(request.path_params["id"]))

    async def _cancel(self, request: Request) -> Response:
        order = self._found(request)
        members = order.group.members if order.group is not None else (order,)
        working = next((m for m in map(self._ids.last, members) if not m.is_done), order)
        if working.is_done:
            text = f"order already in finalized state: {working.status.value}"
            raise Refusal(Reason.NOT_CANCELABLE, text)
        self._exchange.cancel(working.id)
        return _ok(int(request.path_params["id"]))

    async def _get(self, request: Request) -> Response:
        order = self._found(request)
        tags = _flag(request, "includeTags")
        is_member = self._ids.of(order) == int(request.path_params["id"])
        row = self._render.order(order, tags=tags) if is_member else None
        return JSONResponse({"order": row or self._render.row(order, tags=tags)})

    def _found(self, request: Request) -> SimOrder:
        known = self._ids.find(request.path_params["id"])
        if known is None:
            raise Refusal(Reason.NOT_FOUND, "order not found")
        return known[0]

    async def _list(self, request: Request) -> Response:
        """Orders of the current New York day; what began earlier is not in it (tradier.md §6)."""
        tags = _flag(request, "includeTags")
        today = self._exchange.now.astimezone(NEW_YORK).date()
        found = []
        for order in self._exchange.state.orders.values():
            is_first = order.replaces is None and order.combo is None
            if not is_first or (order.group is not None and order.role is not _main_role(order)):
                continue
            began = order.created_at.astimezone(NEW_YORK).date()
            if began == today and not self._is_hidden(order):
                found.append(self._render.row(self._ids.last(order), tags=tags))
        return JSONResponse(listed("orders", "order", found))

    def _is_hidden(self, order: SimOrder) -> bool:
        """True while a lookup-lag fault keeps the order out of the list (C5)."""
        state = self._exchange.state
        return state.is_hidden(order, "GET", f"/v1/accounts/{self._account}/orders")

    # --- account and market -------------------------------------------------------------------

    async def _profile(self, _request: Request) -> Response:
        return JSONResponse(self._render.profile(self._account))

    async def _balances(self, _request: Request) -> Response:
        return JSONResponse(self._render.balances(self._account))

    async def _positions(self, _request: Request) -> Response:
        found = [self._render.position(h) for h in self._exchange.holdings() if h.quantity]
        return JSONResponse(listed("positions", "position", found))

    async def _session(self, request: Request) -> Response:
        url = f"ws://{request.url.netloc}/v1/accounts/events"
        stream = {"url": url, "sessionid": self._hub.new_session_id()}
        return JSONResponse({"stream": stream})

    async def _quotes(self, request: Request) -> Response:
        form = parse.form_of(await request.body())
        wanted = (form.get("symbols") or request.query_params.get("symbols", "")).split(",")
        names = [parse.own_symbol(name) for name in wanted if name]
        state = self._exchange.state
        known = [name for name in names if name in state.listings]
        rows = [self._render.quote(state.listings[n], state.books[n]) for n in known]
        body = listed("quotes", "quote", rows)
        strange = [{"symbol": name} for name in names if name not in state.listings]
        if strange and known:
            body["quotes"] |= listed("unmatched_symbols", "symbol", strange)
        elif strange:
            body = {"quotes": listed("unmatched_symbols", "symbol", strange)}
        return JSONResponse(body)

    async def _clock(self, _request: Request) -> Response:
        return JSONResponse(self._render.clock())

    async def _calendar(self, request: Request) -> Response:
        now = self._exchange.now.astimezone(NEW_YORK)
        year, month = (request.query_params.get(name, "") for name in ("year", "month"))
        numbers = [int(text) if text.isdigit() else 0 for text in (year, month)]
        wanted = (numbers[0] or now.year, numbers[1] if 1 <= numbers[1] <= 12 else now.month)
        return JSONResponse(self._render.month(*wanted))

    async def _easy_to_borrow(self, _request: Request) -> Response:
        held = self._exchange.state.listings.values()
        rows = [{"symbol": x.symbol, "type": "stock"} for x in held if x.shortable]
        return JSONResponse(listed("securities", "security", rows))


def _main_role(order: SimOrder) -> Role:
    assert order.group is not None
    return Role.TAKE_PROFIT if order.group.entry is None else Role.ENTRY


def _late_text(refusal: Refusal) -> str | None:
    """The text of a refusal that comes after the "ok"; None for one that comes at once."""
    return None if refusal.reason in _AT_ONCE else refusal_text(refusal)


def _ok(order_id: int) -> Response:
    return JSONResponse({"order": {"id": order_id, "status": "ok", "partner_id": "sim"}})


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"
