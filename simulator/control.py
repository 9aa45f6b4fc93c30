"""The control plane: journal, state, faults, clock and the market by hand. Own port, no keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic_core import PydanticCustomError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from domain.money import exact
from simulator.clock import SimClock
from simulator.exchange import Exchange
from simulator.happening import happen
from simulator.journal import plain
from simulator.refusals import Refusal
from simulator.venue import Venue

Json = dict[str, Any]
DEFAULT_SIZE = Decimal(1000)


class ControlPlane:
    """Endpoints; `?account=NAME` means one of several accounts, without it the first.

    Market and clock are the same for all accounts: a quote, trade or halt reaches every one.

    - `GET /sim/health`, `GET /sim/state`
    - `GET /sim/journal?after=SEQ` NDJSON
    - `GET|POST|DELETE /sim/faults`: one rule or a list (`faults.FaultBoard.add`)
    - `GET /sim/clock` `{market_time, market0, wall0, speed}`; `POST /sim/clock`
      `{"advance_to": RFC3339}` or `{"advance_s": n}` in step mode, `{"speed": n}` to run from here
      on, `{"speed": null}` to stop
    - `POST /sim/quote` `{"symbol","bid","ask","bid_size","ask_size","last"}`
    - `POST /sim/trade` `{"symbol","price","size"}`
    - `POST /sim/halt` `{"symbol","halted": true|false}`
    - `POST /sim/event` `{"kind": ..., ...}`: what the venue or others do (`happen`)
    """

    def __init__(
        self,
        venue: Exchange | Venue,
        clock: SimClock,
        after_change: Callable[[], None] | None = None,
    ) -> None:
        self._venue = Venue.of(venue)
        self._exchange = self._venue.first
        self._clock = clock
        self._after_change = after_change

    def app(self) -> Starlette:
        rows = [
            ("/sim/health", self._health, "GET"),
            ("/sim/state", self._state, "GET"),
            ("/sim/journal", self._journal, "GET"),
            ("/sim/faults", self._faults, "GET"),
            ("/sim/faults", self._add_faults, "POST"),
            ("/sim/faults", self._heal, "DELETE"),
            ("/sim/clock", self._clock_now, "GET"),
            ("/sim/clock", self._clock_step, "POST"),
            ("/sim/quote", self._quote, "POST"),
            ("/sim/trade", self._trade, "POST"),
            ("/sim/halt", self._halt, "POST"),
            ("/sim/event", self._event, "POST"),
        ]
        return Starlette(
            routes=[Route(path, _careful(do), methods=[verb]) for path, do, verb in rows]
        )

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "market_time": plain(self._exchange.now)})

    async def _state(self, request: Request) -> Response:
        self._catch_up()
        exchange = self._of(request)
        state, margin = exchange.state, exchange.margin
        quotes = {
            book.symbol: {
                "bid": book.bid,
                "ask": book.ask,
                "bid_size": book.bid_size,
                "ask_size": book.ask_size,
                "last": book.last,
                "halted": book.is_halted,
            }
            for book in state.books.values()
        }
        shown = {
            "account": exchange.config.account,
            "market_time": exchange.now,
            "is_open": state.is_open(),
            "stepped": self._clock.is_stepped,
            "speed": self._clock.speed,
            "tape_ended": exchange.tape_ended,
            "next_event_time": exchange.next_event_time,
            "tape_events_played": exchange.tape_events_played,
            "cash": state.account.cash,
            "start_cash": state.account.start_cash,
            "fees_paid": state.account.fees_paid,
            "equity": margin.equity(),
            "buying_power": margin.buying_power(),
            "positions": {h.symbol: h.quantity for h in exchange.holdings()},
            "open_orders": [
                {
                    "id": order.id,
                    "client_id": order.client_id,
                    "symbol": order.symbol,
                    "side": order.side,
                    "quantity": order.quantity,
                    "filled": order.filled,
                    "status": order.status,
                }
                for order in exchange.open_orders
            ],
            "quotes": quotes,
            "faults_fired": dict(state.faults.fired),
            "journal_seq": len(exchange.journal.rows),
        }
        return JSONResponse(plain(shown))

    async def _journal(self, request: Request) -> Response:
        self._catch_up()
        after = int(request.query_params.get("after", "0"))
        text = self._of(request).journal.text_after(after)
        return PlainTextResponse(text, media_type="application/x-ndjson")

    async def _faults(self, request: Request) -> Response:
        board = self._of(request).state.faults
        rules = [
            {"id": rule.id, "kind": rule.kind, "seen": rule.seen, "fired": rule.fired}
            for rule in board.rules
        ]
        return JSONResponse(plain({"rules": rules, "fired": dict(board.fired)}))

    async def _add_faults(self, request: Request) -> Response:
        raw = json.loads(await request.body(), parse_float=str)
        rules = [self._of(request).state.faults.add(row) for row in _listed(raw)]
        return JSONResponse({"ids": [rule.id for rule in rules]})

    async def _heal(self, request: Request) -> Response:
        self._of(request).state.faults.clear()
        return JSONResponse({"ids": []})

    async def _clock_now(self, _request: Request) -> Response:
        self._catch_up()
        clock = self._clock
        shown = {
            "market_time": clock.now(),
            "market0": clock.market0,
            "wall0": clock.wall0,
            "speed": clock.speed,
        }
        return JSONResponse(plain(shown))

    async def _clock_step(self, request: Request) -> Response:
        body = await _object(request)
        if "speed" in body:
            self._catch_up()
            if self._exchange.now > self._clock.now():
                self._clock.step_to(self._exchange.now)
            if body["speed"] is None:
                self._clock.pause()
            else:
                self._clock.run(exact(body["speed"]))
            return await self._clock_now(request)
        if not self._clock.is_stepped:
            return JSONResponse({"message": "the clock runs; it cannot be stepped"}, 409)
        target = self._exchange.now
        if "advance_to" in body:
            target = datetime.fromisoformat(str(body["advance_to"]))
            if target.tzinfo is None:
                raise ValueError("advance_to was without an offset")
        else:
            target += timedelta(seconds=float(body["advance_s"]))
        self._clock.step_to(target.astimezone(UTC))
        self._venue.advance_to(target.astimezone(UTC))
        self._changed()
        return await self._clock_now(request)

    async def _quote(self, request: Request) -> Response:
        self._catch_up()
        body = await _object(request)
        for exchange in self._venue.exchanges:
            exchange.set_quote(
                str(body["symbol"]),
                _number(body, "bid"),
                _number(body, "ask"),
                _number(body, "bid_size") or DEFAULT_SIZE,
                _number(body, "ask_size") or DEFAULT_SIZE,
                _number(body, "last"),
            )
        self._changed()
        return await self._health(request)

    async def _trade(self, request: Request) -> Response:
        self._catch_up()
        body = await _object(request)
        for exchange in self._venue.exchanges:
            exchange.trade(str(body["symbol"]), exact(body["price"]), exact(body["size"]))
        self._changed()
        return await self._health(request)

    async def _halt(self, request: Request) -> Response:
        self._catch_up()
        body = await _object(request)
        for exchange in self._venue.exchanges:
            act = exchange.halt if body.get("halted", True) else exchange.resume
            act(str(body["symbol"]))
        self._changed()
        return await self._health(request)

    async def _event(self, request: Request) -> Response:
        self._catch_up()
        body = await _object(request)
        happen(self._of(request), body)
        self._changed()
        return await self._health(request)

    def _catch_up(self) -> None:
        self._venue.advance_to(self._clock.now())

    def _of(self, request: Request) -> Exchange:
        return self._venue.account(request.query_params.get("account", ""))

    def _changed(self) -> None:
        if self._after_change is not None:
            self._after_change()


def _careful(do: Any) -> Any:
    """Bad input is a 422 with its reason, never a stack trace."""

    async def answer(request: Request) -> Response:
        try:
            response: Response = await do(request)
        except Refusal as refusal:
            return JSONResponse({"message": refusal.text}, 422)
        except (ValueError, KeyError, PydanticCustomError) as problem:
            return JSONResponse({"message": f"{type(problem).__name__}: {problem}"}, 422)
        return response

    return answer


async def _object(request: Request) -> Json:
    body = json.loads(await request.body() or b"{}", parse_float=Decimal)
    if not isinstance(body, dict):
        raise ValueError("the body was not an object")
    return body


def _listed(raw: Any) -> list[Json]:
    return raw if isinstance(raw, list) else [raw]


def _number(body: Json, name: str) -> Decimal | None:
    value = body.get(name)
    return None if value is None else exact(value)
