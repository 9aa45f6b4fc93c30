"""Alpaca's market-data reads, served on the same port (alpaca.md §8)."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.book import Book
from simulator.exchange import Exchange
from simulator.faces.alpaca import render

Json = dict[str, Any]


class AlpacaData:
    """Latest quotes, trades and snapshots. Unknown or silent symbols are left out."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[Route]:
        options = "/v1beta1/options"
        return [
            Route("/v2/stocks/quotes/latest", self._quotes),
            Route("/v2/stocks/trades/latest", self._trades),
            Route("/v2/stocks/snapshots", self._stock_snapshots),
            Route(f"{options}/quotes/latest", self._quotes),
            Route(f"{options}/trades/latest", self._trades),
            Route(f"{options}/snapshots", self._option_snapshots),
            Route(f"{options}/snapshots/{{underlying}}", self._option_snapshots),
        ]

    async def _quotes(self, request: Request) -> Response:
        now = self._exchange.now
        books = self._books(request)
        shown = {b.symbol: render.quote(b, now) for b in books if b.quote_time is not None}
        return JSONResponse({"quotes": shown})

    async def _trades(self, request: Request) -> Response:
        now = self._exchange.now
        books = self._books(request)
        shown = {b.symbol: render.trade(b, now) for b in books if b.trade_time is not None}
        return JSONResponse({"trades": shown})

    async def _stock_snapshots(self, request: Request) -> Response:
        return JSONResponse({b.symbol: self._snapshot(b) for b in self._books(request)})

    async def _option_snapshots(self, request: Request) -> Response:
        underlying = request.path_params.get("underlying")
        if underlying is None:
            books = self._books(request)
        else:
            books = [
                self._exchange.book(listing.symbol)
                for listing in self._exchange.state.listings.values()
                if listing.is_option and listing.instrument.underlying == underlying
            ]
        shown = {book.symbol: self._snapshot(book) for book in books}
        return JSONResponse({"snapshots": shown, "next_page_token": None})

    def _snapshot(self, book: Book) -> Json:
        now = self._exchange.now
        shown: Json = {}
        if book.trade_time is not None:
            shown["latestTrade"] = render.trade(book, now)
        if book.quote_time is not None:
            shown["latestQuote"] = render.quote(book, now)
        return shown

    def _books(self, request: Request) -> list[Book]:
        names = request.query_params.get("symbols", "").split(",")
        return [self._exchange.book(n) for n in names if n in self._exchange.state.books]
