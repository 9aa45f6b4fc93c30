"""What the exchange says no to, in neutral words; each wire face has its own codes and texts."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    MALFORMED = "malformed"
    INVALID = "invalid"
    UNKNOWN_SYMBOL = "unknown_symbol"
    NOT_TRADABLE = "not_tradable"
    DUPLICATE_CLIENT_ID = "duplicate_client_id"
    TICK = "tick"
    LOT = "lot"
    BUYING_POWER = "buying_power"
    QUANTITY_HELD = "quantity_held"
    WASH_TRADE = "wash_trade"
    NOT_SHORTABLE = "not_shortable"
    OPTION_LEVEL = "option_level"
    STOP_TOO_CLOSE = "stop_too_close"
    NOT_FOUND = "not_found"
    NOT_CANCELABLE = "not_cancelable"
    NOT_REPLACEABLE = "not_replaceable"
    INJECTED = "injected"


class Refusal(Exception):
    """A definite no: nothing has changed. `extra` holds numbers for the face's error body."""

    def __init__(self, reason: Reason, text: str, **extra: Any) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.extra = extra
