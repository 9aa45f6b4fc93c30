"""Tradier's option chains, symbol search and statements (tradier.md §2, §7, §9).

The exchange keeps neither bars nor closed lots: history of prices and gains are the venue's
"null", never invented rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.account import Activity
from simulator.config import Listing
from simulator.exchange import Exchange
from simulator.faces.tradier.parse import own_symbol
from simulator.faces.tradier.render import NEW_YORK, Json, Render, listed, number

STATEMENT_ROWS = 25


class TradierReference:
    """What does not change with every order; unknown symbols have no rows."""

    def __init__(self, exchange: Exchange, render: Render) -> None:
        self._exchange = exchange
        self._render = render

    def routes(self) -> list[Route]:
        options, account = "/v1/markets/options", "/v1/accounts/{account}"
        return [
            Route(f"{options}/chains", self._chain),
            Route(f"{options}/strikes", self._strikes),
            Route(f"{options}/expirations", self._expirations),
            Route(f"{options}/lookup", self._option_symbols),
            Route("/v1/markets/lookup", self._search),
            Route("/v1/markets/search", self._search),
            Route("/v1/markets/history", _nothing("history")),
            Route("/v1/markets/timesales", _nothing("series")),
            Route(f"{account}/history", self._statement),
            Route(f"{account}/gainloss", _nothing("gainloss")),
        ]

    async def _chain(self, request: Request) -> Response:
        books = self._exchange.state.books
        rows = [self._render.quote(each, books[each.symbol]) for each in self._of(request)]
        return JSONResponse(listed("options", "option", rows))

    async def _strikes(self, request: Request) -> Response:
        return JSONResponse(listed("strikes", "strike", _strikes(self._of(request))))

    async def _expirations(self, request: Request) -> Response:
        """Dates alone, or a row of each with what was asked for."""
        asked = {name: _is_true(request, name) for name in ("strikes", "contractSize")}
        asked["expirationType"] = _is_true(request, "expirationType")
        found = self._of(request)
        days = sorted({_expiry(each) for each in found})
        if not any(asked.values()):
            return JSONResponse(listed("expirations", "date", [day.isoformat() for day in days]))
        rows: list[Json] = []
        for day in days:
            of_day = [each for each in found if _expiry(each) == day]
            row: Json = {"date": day.isoformat()}
            if asked["contractSize"]:
                row["contract_size"] = number(of_day[0].instrument.multiplier)
            if asked["expirationType"]:
                row["expiration_type"] = "standard"
            if asked["strikes"]:
                row |= listed("strikes", "strike", _strikes(of_day))
            rows.append(row)
        return JSONResponse(listed("expirations", "expiration", rows))

    async def _option_symbols(self, request: Request) -> Response:
        underlying = own_symbol(request.query_params.get("underlying", ""))
        found = [each.symbol for each in self._options(underlying)]
        row = {"rootSymbol": underlying, "options": found}
        return JSONResponse({"symbols": [row] if found else "null"})

    async def _search(self, request: Request) -> Response:
        query = own_symbol(request.query_params.get("q", "")).upper()
        kinds = request.query_params.get("types", "stock,option,etf,index").split(",")
        rows = [
            {
                "symbol": each.symbol.replace(".", "/"),
                "exchange": "Q",
                "type": "option" if each.is_option else "stock",
                "description": each.name or each.symbol,
            }
            for each in self._exchange.state.listings.values()
            if query in each.symbol and ("option" if each.is_option else "stock") in kinds
        ]
        return JSONResponse(listed("securities", "security", rows))

    async def _statement(self, request: Request) -> Response:
        """Trades of earlier New York days, newest first: the statement is made at night."""
        asked = request.query_params
        today = self._exchange.now.astimezone(NEW_YORK).date()
        first, last = (_date(asked.get(name, "")) for name in ("start", "end"))
        limit = int(text) if (text := asked.get("limit", "")).isdigit() else STATEMENT_ROWS
        wanted = own_symbol(asked.get("symbol", ""))
        rows = []
        for each in reversed(self._exchange.state.account.activities):
            day = each.time.astimezone(NEW_YORK).date()
            is_in = (first or day) <= day <= (last or day) and day < today
            if each.kind == "FILL" and is_in and wanted in ("", each.symbol):
                rows.append(self._event(each, day))
        if asked.get("type", "trade") != "trade":
            rows = []
        return JSONResponse(listed("history", "event", rows[:limit]))

    def _event(self, fill: Activity, day: date) -> Json:
        sign = -1 if fill.side.startswith("buy") else 1
        quantity, price = fill.quantity, fill.price
        assert quantity is not None, "a fill has a quantity"
        assert price is not None, "a fill has a price"
        listing = self._exchange.state.listings[fill.symbol]
        return {
            "amount": number(sign * quantity * price * listing.instrument.multiplier),
            "date": f"{day.isoformat()}T00:00:00Z",
            "type": "trade",
            "trade": {
                "commission": 0,
                "description": fill.symbol,
                "price": number(price),
                "quantity": number(-sign * quantity),
                "symbol": fill.symbol.replace(".", "/"),
                "trade_type": "Option" if listing.is_option else "Equity",
            },
        }

    def _of(self, request: Request) -> list[Listing]:
        """Options of the underlying that is asked for, on one expiration day or on all."""
        found = self._options(own_symbol(request.query_params.get("symbol", "")))
        day = _date(request.query_params.get("expiration", ""))
        return [each for each in found if day is None or _expiry(each) == day]

    def _options(self, underlying: str) -> list[Listing]:
        found = [
            each
            for each in self._exchange.state.listings.values()
            if each.is_option and each.instrument.underlying == underlying
        ]
        return sorted(found, key=lambda each: each.symbol)


def _nothing(name: str) -> Any:
    async def answer(_request: Request) -> Response:
        return JSONResponse({name: None})

    return answer


def _strikes(found: Iterable[Listing]) -> list[float | int | None]:
    strikes = {each.instrument.strike for each in found if each.instrument.strike is not None}
    return [number(strike) for strike in sorted(strikes)]


def _expiry(listing: Listing) -> date:
    assert listing.instrument.expiry is not None, "an option has an expiry"
    return listing.instrument.expiry


def _is_true(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
