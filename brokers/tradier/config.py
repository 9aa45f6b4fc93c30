"""Where the account is and who we are there; a mismatch refuses to start.

Tradier has one secret, the access token; what other venues call the key's id is the account
number here.
"""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr, model_validator

from brokers.modes import BrokerMode
from brokers.transport import REQUEST_TIMEOUT_S
from domain.base import Frozen
from domain.errors import BadInput

LIVE_HOST = "api.tradier.com"
PAPER_HOST = "sandbox.tradier.com"
SANDBOX_ACCOUNT_PREFIX = "VA"
_VENUE_DOMAIN = "tradier.com"
_HOST = {BrokerMode.PAPER: PAPER_HOST, BrokerMode.LIVE: LIVE_HOST}


class TradierConfig(Frozen):
    """Settings of one Tradier account.

    `account` is our own name of the account, `key_id` Tradier's account number and `secret` the
    access token. The URL may stay empty for paper (the sandbox) and live; the simulator needs it.
    The address of the order stream is not set here: the venue tells it with each session.

    Raises:
        BadInput: `CONFIG_ENV_MISMATCH` when mode, host, scheme, account number and `allow_live`
            do not belong together (faults.md §3 row 50).
    """

    account: str = "tradier"
    key_id: str
    secret: SecretStr
    mode: BrokerMode = BrokerMode.SIMULATOR
    allow_live: bool = False
    trading_url: str = ""
    request_timeout_s: float = REQUEST_TIMEOUT_S

    @model_validator(mode="before")
    @classmethod
    def _fill_url(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        host = _HOST.get(BrokerMode(values.get("mode", BrokerMode.SIMULATOR)))
        url = str(values.get("trading_url") or (f"https://{host}" if host else ""))
        return {**values, "trading_url": url.rstrip("/")}

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if not self.key_id or not self.secret.get_secret_value():
            raise _mismatch("key_id", "", "an account number and an access token")
        url = urlsplit(self.trading_url)
        if self.mode is BrokerMode.SIMULATOR:
            if not url.hostname or _is_of_venue(url.hostname):
                raise _mismatch("trading_url", self.trading_url, "an URL of the simulator")
            return self
        if self.mode is BrokerMode.LIVE and not self.allow_live:
            raise _mismatch("allow_live", False, "true for mode live")
        if url.scheme != "https" or url.hostname != _HOST[self.mode]:
            allowed = f"https://{_HOST[self.mode]} in {self.mode}"
            raise _mismatch("trading_url", self.trading_url, allowed)
        is_sandbox = self.key_id.startswith(SANDBOX_ACCOUNT_PREFIX)
        if is_sandbox != (self.mode is BrokerMode.PAPER):
            word = "an account of the sandbox (VA…)" if not is_sandbox else "no sandbox account"
            raise _mismatch("key_id", self.key_id[:2], f"{word} in {self.mode}")
        return self

    def headers(self) -> dict[str, str]:
        """Without `Accept` the venue answers in XML."""
        return {
            "Authorization": f"Bearer {self.secret.get_secret_value()}",
            "Accept": "application/json",
        }

    def allows_stream(self, url: str) -> bool:
        """True if a session id may be sent there: the venue's own host, or the simulator's."""
        told = urlsplit(url)
        if self.mode is BrokerMode.SIMULATOR:
            return told.hostname == urlsplit(self.trading_url).hostname
        return told.scheme == "wss" and _is_of_venue(told.hostname or "")


def _is_of_venue(host: str) -> bool:
    return host == _VENUE_DOMAIN or host.endswith("." + _VENUE_DOMAIN)


def _mismatch(field: str, value: object, allowed: str) -> BadInput:
    return BadInput("CONFIG_ENV_MISMATCH", f"tradier.{field}", value, allowed)
