"""The faces on which the contract cases run, and the intents that they send.

`ScriptedFace` is a small hand-written Alpaca behind `httpx.MockTransport`. `SimulatedFace` is the
simulated exchange over real sockets. Both understand the same faults and keep a count of what
they really accepted: that count is the oracle, never our own answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

import httpx

from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaConfig
from brokers.port import Broker
from brokers.tradier.client import TradierBroker
from brokers.tradier.config import TradierConfig
from domain.ids import IntentKey, Purpose
from domain.instrument import Instrument
from domain.occ import option_instrument
from domain.order import (
    OrderBody,
    OrderClass,
    OrderIntent,
    OrderLeg,
    OrderType,
    Side,
    TimeInForce,
)
from simulator.config import ExchangeConfig, Listing, WireFace
from simulator.exchange import Exchange
from simulator.server import SimulatorServer

TIMEOUT_S = 0.5
MARKET_NOW = datetime(2026, 3, 4, 15, 0, tzinfo=UTC)
DAY = date(2026, 3, 4)


def intent(
    sequence: int,
    *,
    side: Side = Side.BUY,
    quantity: str = "10",
    limit: str | None = "100.00",
    purpose: Purpose = Purpose.ENTRY,
    symbol: str = "ESX",
    **body: Any,
) -> OrderIntent:
    """An intent of the trade `contract`; a limit order unless told otherwise."""
    kind = body.pop("order_type", OrderType.LIMIT if limit is not None else OrderType.MARKET)
    return OrderIntent.derive(
        "beef",
        IntentKey(trade_id="contract", purpose=purpose, sequence=sequence),
        OrderBody(
            symbol=symbol,
            side=side,
            quantity=Decimal(quantity),
            order_type=kind,
            limit_price=None if limit is None else Decimal(limit),
            intent_date=DAY,
            **body,
        ),
        increasing=purpose is Purpose.ENTRY,
    )


def bracket(sequence: int, limit: str = "100.00") -> OrderIntent:
    return intent(
        sequence,
        limit=limit,
        order_class=OrderClass.BRACKET,
        time_in_force=TimeInForce.GTC,
        take_profit_price=Decimal("110.00"),
        stop_loss_price=Decimal("95.00"),
    )


def combo(sequence: int, net: str, legs: tuple[OrderLeg, ...]) -> OrderIntent:
    return intent(sequence, symbol="SPY", limit=net, order_class=OrderClass.COMBO, legs=legs)


@dataclass
class Fault:
    kind: str
    method: str = "*"
    path: str = "*"
    params: dict[str, Any] = field(default_factory=dict)


class Face(Protocol):
    """What the shared cases need of a face."""

    name: str

    @property
    def broker(self) -> Broker: ...

    async def fault(self, kind: str, *, method: str, path: str = "*", **params: Any) -> None: ...

    async def accepted(self, client_id: str) -> int: ...

    async def fill(self, broker_order_id: str, quantity: str, price: str) -> None: ...

    def write_count(self) -> int: ...


class ScriptedFace:
    """A hand-written venue: enough of the wire to accept, refuse, look up and lose answers."""

    name = "scripted"

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self.orders: dict[str, dict[str, Any]] = {}
        self.activities: list[dict[str, Any]] = []
        self.requests: list[httpx.Request] = []
        self.faults: list[Fault] = []
        self.answers: dict[tuple[str, str], httpx.Response] = {}
        config = AlpacaConfig(
            key_id="SIM",
            secret="sim-secret",
            trading_url="http://venue.test",
            request_timeout_s=timeout_s,
        )
        self.broker = AlpacaBroker(
            config, http_transport=httpx.MockTransport(self._handle), now=lambda: MARKET_NOW
        )

    async def fault(self, kind: str, *, method: str, path: str = "*", **params: Any) -> None:
        """The next request of this method meets the fault, once."""
        self.faults.append(Fault(kind, method, path, params))

    def answer(self, method: str, path: str, status: int, body: Any = None, **options: Any) -> None:
        """From now on this request is answered so."""
        content = options.pop("content", None)
        if content is None:
            content = b"" if body is None else json.dumps(body).encode()
        self.answers[method, path] = httpx.Response(status, content=content, **options)

    async def accepted(self, client_id: str) -> int:
        """How many orders the venue accepted under this client id."""
        return sum(order["client_order_id"] == client_id for order in self.orders.values())

    def write_count(self) -> int:
        """Requests that may have changed something."""
        return sum(request.method != "GET" for request in self.requests)

    async def fill(self, broker_order_id: str, quantity: str, price: str) -> None:
        order = self.orders[broker_order_id]
        before = Decimal(order["filled_qty"])
        after = before + Decimal(quantity)
        done = after == Decimal(order["qty"])
        order |= {
            "filled_qty": str(after),
            "filled_avg_price": price,
            "status": "filled" if done else "partially_filled",
        }
        at = MARKET_NOW + timedelta(milliseconds=len(self.activities) // 3)
        self.activities.append(
            {
                "activity_type": "FILL",
                "id": f"{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}::{len(self.activities):06d}",
                "order_id": broker_order_id,
                "symbol": order["symbol"],
                "side": order["side"],
                "price": price,
                "qty": quantity,
                "cum_qty": str(after),
                "leaves_qty": str(Decimal(order["qty"]) - after),
                "type": "fill" if done else "partial_fill",
                "transaction_time": at.isoformat().replace("+00:00", "Z"),
            }
        )

    async def aclose(self) -> None:
        await self.broker.aclose()

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path
        canned = self.answers.get((request.method, path))
        if canned is not None:
            return httpx.Response(
                canned.status_code, headers=canned.headers, content=canned.content
            )
        fault = self._take(request.method)
        kind = fault.kind if fault is not None else ""
        params = fault.params if fault is not None else {}
        if kind == "rate_limited":
            wait = params.get("retry_after")
            headers = {} if wait is None else {"Retry-After": str(wait)}
            return httpx.Response(429, headers=headers, json={"message": "too many requests"})
        if kind == "error_before":
            return httpx.Response(params.get("status", 503), text="<html>bad gateway</html>")
        if kind == "refuse":
            return httpx.Response(params["status"], json=params["body"])
        reply = self._serve(request)
        return await self._spoil(kind, params, reply)

    async def _spoil(
        self, kind: str, params: dict[str, Any], reply: httpx.Response
    ) -> httpx.Response:
        if kind == "drop_reply":
            raise httpx.RemoteProtocolError("server disconnected without sending a response")
        if kind == "late_reply":
            await asyncio.sleep(params["delay_s"])
        if kind == "error_after":
            return httpx.Response(params.get("status", 503), text="oops")
        if kind == "truncated":
            return httpx.Response(200, content=reply.content[: len(reply.content) // 2])
        if kind == "html":
            return httpx.Response(200, text="<html><body>maintenance</body></html>")
        return reply

    def _take(self, method: str) -> Fault | None:
        for fault in self.faults:
            if fault.method in ("*", method):
                self.faults.remove(fault)
                return fault
        return None

    def _serve(self, request: httpx.Request) -> httpx.Response:
        method, path, query = request.method, request.url.path, request.url.params
        if path == "/v2/orders" and method == "POST":
            return self._post(json.loads(request.content))
        if path == "/v2/orders" and method == "GET":
            return self._list(query)
        if path == "/v2/orders" and method == "DELETE":
            rows = [{"id": name, "status": 200} for name in self.orders]
            return httpx.Response(207, json=rows)
        if path == "/v2/orders:by_client_order_id":
            wanted = query["client_order_id"]
            found = [o for o in self.orders.values() if o["client_order_id"] == wanted]
            return httpx.Response(200, json=found[0]) if found else _not_found()
        if path.startswith("/v2/orders/"):
            return self._one(method, path.removeprefix("/v2/orders/"), request)
        if path == "/v2/account/activities":
            return self._activities(query)
        if path == "/v2/account/activities/FEE":
            rows = [row for row in self.activities if row["activity_type"] == "FEE"]
            return httpx.Response(200, json=rows[::-1])
        if path == "/v2/clock":
            now = MARKET_NOW.isoformat()
            return httpx.Response(200, json={"timestamp": now, "is_open": True})
        return _not_found()

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        if any(o["client_order_id"] == body["client_order_id"] for o in self.orders.values()):
            return httpx.Response(
                422, json={"code": 40010001, "message": "client_order_id must be unique"}
            )
        order = self._new(body)
        legs = []
        for name, child in (("take_profit", "limit"), ("stop_loss", "stop")):
            if body.get("order_class") in ("bracket", "oco") and name in body:
                if body["order_class"] == "oco" and name == "take_profit":
                    order["limit_price"] = body[name]["limit_price"]
                    continue
                side = "sell" if body["side"] == "buy" else "buy"
                side = body["side"] if body["order_class"] == "oco" else side
                leg = {
                    **body,
                    "limit_price": None,
                    **body[name],
                    "type": child,
                    "side": side,
                    "client_order_id": None,
                }
                legs.append(self._new(leg, status="held"))
        for leg in body.get("legs", []):
            quantity = str(Decimal(body["qty"]) * Decimal(leg["ratio_qty"]))
            legs.append(self._new({**leg, "qty": quantity, "type": "", "order_class": "mleg"}))
        order["legs"] = legs or None
        for leg in legs:
            # Children are reachable by id, but listed only under their parent.
            leg["_child"] = True
        return httpx.Response(200, json=order)

    def _new(self, body: dict[str, Any], status: str = "new") -> dict[str, Any]:
        name = f"00000000-0000-4000-8000-{len(self.orders):012d}"
        at = (MARKET_NOW + timedelta(microseconds=len(self.orders) // 3)).isoformat()
        combo_top = "legs" in body
        order = {
            "id": name,
            "client_order_id": body.get("client_order_id") or f"venue-{name}",
            "submitted_at": at,
            "created_at": at,
            "updated_at": at,
            "symbol": "" if combo_top else body["symbol"],
            "side": "" if combo_top else body["side"],
            "type": "" if combo_top else body["type"],
            "qty": body["qty"],
            "filled_qty": "0",
            "filled_avg_price": None,
            "order_class": "" if body.get("order_class") == "simple" else body.get("order_class"),
            "time_in_force": body.get("time_in_force", "day"),
            "limit_price": body.get("limit_price"),
            "stop_price": body.get("stop_price"),
            "status": status,
            "replaces": None,
            "replaced_by": None,
            "legs": None,
            "commission": "NaN",
        }
        self.orders[name] = order
        return order

    def _one(self, method: str, name: str, request: httpx.Request) -> httpx.Response:
        order = self.orders.get(name)
        if order is None:
            return _not_found()
        if method == "GET":
            return httpx.Response(200, json=order)
        if order["status"] in ("filled", "canceled", "replaced"):
            text = f'order is already in "{order["status"]}" state'
            return httpx.Response(422, json={"code": 42210000, "message": text})
        if method == "DELETE":
            order["status"] = "canceled"
            return httpx.Response(204)
        new = self._new({**order, **json.loads(request.content)})
        new["replaces"], order["replaced_by"] = order["id"], new["id"]
        order["status"] = "replaced"
        return httpx.Response(200, json=new)

    def _list(self, query: httpx.QueryParams) -> httpx.Response:
        after = datetime.fromisoformat(query["after"]) if "after" in query else None
        rows = [
            order
            for order in self.orders.values()
            if "_child" not in order
            and (query["status"] == "all" or order["status"] not in ("filled", "canceled"))
            and (after is None or datetime.fromisoformat(order["submitted_at"]) > after)
        ]
        return httpx.Response(200, json=rows[: int(query["limit"])])

    def _activities(self, query: httpx.QueryParams) -> httpx.Response:
        after = datetime.fromisoformat(query["after"])
        rows = [
            row
            for row in self.activities
            if datetime.fromisoformat(row["transaction_time"]) > after
        ]
        if "page_token" in query:
            rows = [row for row in rows if row["id"] > query["page_token"]]
        return httpx.Response(200, json=rows[: int(query["page_size"])])


class SimulatedFace:
    """The simulated exchange over real sockets; its journal is the oracle."""

    name = "simulated"

    def __init__(self, exchange: Exchange, server: SimulatorServer, *, timeout_s: float) -> None:
        self.exchange = exchange
        self.server = server
        self.config = AlpacaConfig(
            key_id="SIM-PAPER-KEY",
            secret="sim-paper-secret",
            trading_url=server.url,
            stream_url=server.stream_url,
            request_timeout_s=timeout_s,
        )
        self.broker: Broker = self.adapter()

    def adapter(self) -> Broker:
        """The adapter under test, pointed at the exchange."""
        return AlpacaBroker(self.config, now=lambda: MARKET_NOW)

    async def fault(self, kind: str, *, method: str, path: str = "*", **params: Any) -> None:
        """The next request of this method meets the fault, once."""
        rule = {"kind": kind, "match": {"method": method, "path": path}, "params": params}
        await self.control("faults", rule)

    async def control(self, what: str, body: dict[str, Any]) -> None:
        """Moves a lever of the control plane."""
        async with httpx.AsyncClient(trust_env=False) as client:
            reply = await client.post(f"{self.server.control_url}/sim/{what}", json=body)
            reply.raise_for_status()

    async def accepted(self, client_id: str) -> int:
        """How many orders the journal shows as accepted under this client id."""
        rows = self.exchange.journal.of("accepted")
        return sum(row.get("client_id") == client_id for row in rows)

    def write_count(self) -> int:
        """Writing requests in the journal."""
        return len(self.exchange.journal.of("request"))

    async def fill(self, broker_order_id: str, quantity: str, price: str) -> None:
        """Offers this much at this price for a moment; the resting buy takes it."""
        tick = Decimal("0.01")
        ask = Decimal(price)
        self.exchange.set_quote("ESX", ask - tick, ask, Decimal(1), Decimal(quantity))
        self.show_market()

    def show_market(self) -> None:
        """The usual quote, above every buy limit of the cases and below every target."""
        self.exchange.set_quote("ESX", Decimal("104.00"), Decimal("104.10"))


class TradierSimulatedFace(SimulatedFace):
    """The same exchange behind Tradier's protocol."""

    name = "tradier"

    def adapter(self) -> Broker:
        config = TradierConfig(
            key_id=self.config.key_id,
            secret=self.config.secret,
            trading_url=self.server.url,
            request_timeout_s=self.config.request_timeout_s,
        )
        return TradierBroker(config, now=lambda: MARKET_NOW)

    async def accepted(self, client_id: str) -> int:
        """As above; a change is an order of the exchange, but not of the venue."""
        rows = self.exchange.journal.of("accepted")
        return sum(row.get("client_id") == client_id and not row.get("replaces") for row in rows)


OPTIONS = ("SPY261218C00600000", "SPY261218C00610000")


@asynccontextmanager
async def simulated_face(
    timeout_s: float = TIMEOUT_S, venue: WireFace = WireFace.ALPACA
) -> AsyncIterator[SimulatedFace]:
    """A fresh exchange in step mode with one equity, one underlying and two calls."""
    made = TradierSimulatedFace if venue is WireFace.TRADIER else SimulatedFace
    listings = (
        Listing(Instrument(symbol="ESX")),
        Listing(Instrument(symbol="SPY")),
        *(Listing(option_instrument(symbol)) for symbol in OPTIONS),
    )
    config = ExchangeConfig(
        listings=listings, cash=Decimal(10_000_000), start=MARKET_NOW, face=venue
    )
    exchange = Exchange(config)
    async with SimulatorServer(exchange) as server:
        face = made(exchange, server, timeout_s=timeout_s)
        face.show_market()
        for symbol, bid in zip(OPTIONS, ("5.00", "2.00"), strict=True):
            exchange.set_quote(symbol, Decimal(bid), Decimal(bid) + Decimal("0.10"))
        try:
            yield face
        finally:
            await face.broker.aclose()


def _not_found() -> httpx.Response:
    return httpx.Response(404, json={"code": 40410000, "message": "order not found"})
