"""How Tradier refuses at the door, and what fault rules see of its requests."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Scope

from simulator.faces.gate import Keys
from simulator.faces.tradier.parse import form_of
from simulator.faces.tradier.render import Ids

ACCOUNTS = "/v1/accounts/"
MARKETS = "/v1/markets/"


class TradierVoice:
    """The gate's answers in Tradier's words (tradier.md §5, §10)."""

    def __init__(self, keys: Keys, accounts: dict[str, str], ids: Ids) -> None:
        self._keys = keys
        self._accounts = accounts
        self._ids = ids

    def refused(self, scope: Scope) -> Response | None:
        """A strange token, or an account that is not the token's own."""
        token = bearer(scope)
        account = next((name for name, secret in self._accounts.items() if secret == token), None)
        if account is None or not self._keys.allows(account, token):
            fault = {
                "faultstring": "Invalid Access Token",
                "detail": {"errorcode": "keymanagement.service.invalid_access_token"},
            }
            return JSONResponse({"fault": fault}, 401)
        path = scope["path"]
        named = path.removeprefix(ACCOUNTS).partition("/")[0] if path.startswith(ACCOUNTS) else ""
        if named and named not in (account, "events"):
            return PlainTextResponse(f"Unauthorized Account: {named}", 401)
        return None

    def too_many(self, headers: dict[str, str]) -> Response:
        return PlainTextResponse("Rate limit exceeded", 429, headers=headers)

    def server_error(self, status: int) -> Response:
        fault = {"faultstring": "Datastore Error", "detail": {"errorcode": "datastore.Error"}}
        return JSONResponse({"fault": fault}, status)

    def budget(self, scope: Scope) -> tuple[str, int]:
        """Trading is what writes orders; market data and everything else have twice its number."""
        if scope["path"].startswith(MARKETS):
            return "market data", 2
        is_order = "/orders" in scope["path"] and scope["method"] != "GET"
        return ("trading", 1) if is_order else ("standard", 2)

    def budget_headers(self, limit: int, used: int, rest_s: float) -> dict[str, str]:
        return {
            "X-Ratelimit-Allowed": str(limit),
            "X-Ratelimit-Used": str(used),
            "X-Ratelimit-Available": str(max(0, limit - used)),
            "X-Ratelimit-Expiry": str(int((datetime.now(UTC).timestamp() + rest_s) * 1000)),
        }

    def facts(self, scope: Scope, body: bytes) -> dict[str, str]:
        form = form_of(body) if body else {}
        asked = scope.get("query_string", b"")
        query = parse_qs(asked.decode()) if b"symbols" in asked else {}
        tag = form.get("tag", "")
        symbol = form.get("option_symbol") or form.get("symbol") or form.get("symbol[0]") or ""
        path = scope["path"]
        known = self._ids.find(path.rpartition("/")[2])
        if known is not None:
            tag, symbol = tag or known[0].client_id, symbol or known[0].symbol
        symbol = symbol or (query.get("symbols") or [""])[0]
        return {"method": scope["method"], "path": path, "client_id": tag, "symbol": symbol}


def bearer(scope: Scope) -> str:
    """The access token of a request."""
    found = [value for name, value in scope.get("headers", ()) if name.lower() == b"authorization"]
    text = found[0].decode("latin-1") if found else ""
    return text.removeprefix("Bearer ").strip()
