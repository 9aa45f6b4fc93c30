"""Where the account is and who we are there; a mismatch refuses to start."""

from __future__ import annotations

from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr, model_validator

from brokers.modes import BrokerMode
from brokers.transport import REQUEST_TIMEOUT_S
from domain.base import Frozen
from domain.errors import BadInput

LIVE_HOST = "api.alpaca.markets"
PAPER_HOST = "paper-api.alpaca.markets"
DATA_HOST = "data.alpaca.markets"
MARKET_STREAM_HOST = "stream.data.alpaca.markets"
_VENUE_DOMAIN = "alpaca.markets"
_KEY_PREFIX = {"paper": "PK", "live": "AK"}
AlpacaMode = BrokerMode


class MarketFeed(StrEnum):
    """Where market data comes from: one exchange, or all of them (a paid subscription)."""

    IEX = "iex"
    SIP = "sip"


_HOST = {AlpacaMode.PAPER: PAPER_HOST, AlpacaMode.LIVE: LIVE_HOST}


class AlpacaConfig(Frozen):
    """Settings of one Alpaca account.

    `account` is our own name of the account (queues, ledger). URLs may stay empty for paper and
    live. The simulator needs `trading_url`; data and stream default to the same server.

    Raises:
        BadInput: `CONFIG_ENV_MISMATCH` when mode, host, scheme, key and `allow_live` do not
            belong together (faults.md §3 row 50).
    """

    account: str = "alpaca"
    key_id: str
    secret: SecretStr
    mode: AlpacaMode = AlpacaMode.SIMULATOR
    allow_live: bool = False
    trading_url: str = ""
    data_url: str = ""
    stream_url: str = ""
    market_stream_url: str = ""
    market_feed: MarketFeed = MarketFeed.IEX
    request_timeout_s: float = REQUEST_TIMEOUT_S

    @model_validator(mode="before")
    @classmethod
    def _fill_urls(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        mode = str(values.get("mode", AlpacaMode.SIMULATOR))
        host = {"paper": PAPER_HOST, "live": LIVE_HOST}.get(mode)
        trading = str(values.get("trading_url") or (f"https://{host}" if host else ""))
        trading = trading.rstrip("/")
        data = values.get("data_url") or (f"https://{DATA_HOST}" if host else trading)
        stream = values.get("stream_url") or f"ws{trading.removeprefix('http')}/stream"
        feed = MarketFeed(values.get("market_feed") or MarketFeed.IEX)
        market_host = f"wss://{MARKET_STREAM_HOST}" if host else f"ws{trading.removeprefix('http')}"
        return {
            **values,
            "market_stream_url": str(values.get("market_stream_url") or f"{market_host}/v2/{feed}"),
            "trading_url": trading,
            "data_url": str(data).rstrip("/"),
            "stream_url": str(stream),
        }

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if not self.key_id or not self.secret.get_secret_value():
            raise _mismatch("key_id", "", "a key and a secret")
        if self.mode is AlpacaMode.SIMULATOR:
            self._check_simulator()
        else:
            self._check_real()
        return self

    def _check_simulator(self) -> None:
        for field in ("trading_url", "data_url", "stream_url", "market_stream_url"):
            host = urlsplit(getattr(self, field)).hostname
            if not host:
                raise _mismatch(field, getattr(self, field), "an URL in mode simulator")
            if host == _VENUE_DOMAIN or host.endswith("." + _VENUE_DOMAIN):
                raise _mismatch(field, host, "not a host of the venue in mode simulator")

    def _check_real(self) -> None:
        if self.mode is AlpacaMode.LIVE and not self.allow_live:
            raise _mismatch("allow_live", False, "true for mode live")
        prefix = _KEY_PREFIX[self.mode]
        if not self.key_id.startswith(prefix):
            raise _mismatch("key_id", self.key_id[:2], f"a key starting with {prefix}")
        for field, scheme in (("trading_url", "https"), ("stream_url", "wss")):
            url = urlsplit(getattr(self, field))
            if url.hostname != _HOST[self.mode] or url.scheme != scheme:
                raise _mismatch(
                    field, getattr(self, field), f"{scheme}://{_HOST[self.mode]} in {self.mode}"
                )
        for field, scheme, host in (
            ("data_url", "https", DATA_HOST),
            ("market_stream_url", "wss", MARKET_STREAM_HOST),
        ):
            url = urlsplit(getattr(self, field))
            if url.scheme != scheme or not (url.hostname or "").endswith("." + _VENUE_DOMAIN):
                # The keys travel to the data hosts too: never to a stranger.
                raise _mismatch(field, getattr(self, field), f"{scheme}://{host}")

    def headers(self) -> dict[str, str]:
        """The two authentication headers of every request."""
        return {
            "APCA-API-KEY-ID": self.key_id,
            "APCA-API-SECRET-KEY": self.secret.get_secret_value(),
        }


def _mismatch(field: str, value: object, allowed: str) -> BadInput:
    return BadInput("CONFIG_ENV_MISMATCH", f"alpaca.{field}", value, allowed)
