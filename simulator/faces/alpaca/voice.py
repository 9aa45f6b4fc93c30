"""How Alpaca refuses at the door, and what fault rules see of its requests."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from simulator.exchange import Exchange
from simulator.faces.gate import Keys

DATA_PATHS = ("/v2/stocks/", "/v1beta1/", "/v1beta3/")


class AlpacaVoice:
    """The gate's answers in Alpaca's words (alpaca.md §9)."""

    def __init__(self, exchange: Exchange, keys: Keys) -> None:
        self._exchange = exchange
        self._keys = keys

    def refused(self, scope: Scope) -> Response | None:
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        key = headers.get("apca-api-key-id", "")
        status = self._keys.status(key, headers.get("apca-api-secret-key", ""))
        if status == 200:
            return None
        code = 40110000 if status == 401 else 40310000
        text = "request is not authorized" if status == 401 else "forbidden."
        return JSONResponse({"code": code, "message": text}, status)

    def too_many(self, headers: dict[str, str]) -> Response:
        body = {"code": 42910000, "message": "rate limit exceeded"}
        return JSONResponse(body, 429, headers=headers)

    def server_error(self, status: int) -> Response:
        body = {"code": status * 100_000, "message": "internal server error"}
        return JSONResponse(body, status)

    def budget(self, scope: Scope) -> tuple[str, int]:
        """Market data has a limit of its own, of the same number."""
        is_data = scope["path"].startswith(DATA_PATHS)
        return ("market data" if is_data else "trading"), 1

    def budget_headers(self, limit: int, used: int, rest_s: float) -> dict[str, str]:
        return {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - used)),
            "X-RateLimit-Reset": str(int(datetime.now(UTC).timestamp() + rest_s)),
        }

    def facts(self, scope: Scope, body: bytes) -> dict[str, str]:
        asked = scope.get("query_string", b"")
        query = parse_qs(asked.decode()) if b"client_order_id" in asked else {}
        client_id = (query.get("client_order_id") or [""])[0]
        symbol = ""
        if body:
            try:
                parsed = json.loads(body)
            except ValueError:
                parsed = None
            if isinstance(parsed, dict):
                client_id = str(parsed.get("client_order_id") or client_id)
                symbol = str(parsed.get("symbol") or "")
        path = scope["path"]
        order = self._exchange.order(path.rpartition("/")[2])
        if order is not None:
            client_id = client_id or order.client_id
            symbol = symbol or order.symbol
        return {
            "method": scope["method"],
            "path": path,
            "client_id": client_id,
            "symbol": symbol,
        }
