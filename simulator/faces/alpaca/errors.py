"""Alpaca's refusals: HTTP status, code and text for each neutral reason (alpaca.md §9)."""

from __future__ import annotations

from typing import Any

from simulator.journal import plain
from simulator.refusals import Reason, Refusal

NO = {
    Reason.MALFORMED: (422, 40010001),
    Reason.INVALID: (422, 42210000),
    Reason.UNKNOWN_SYMBOL: (422, 42210000),
    Reason.NOT_TRADABLE: (422, 42210000),
    Reason.DUPLICATE_CLIENT_ID: (422, 40010001),
    Reason.TICK: (422, 42210000),
    Reason.LOT: (422, 42210000),
    Reason.STOP_TOO_CLOSE: (422, 42210000),
    Reason.NOT_CANCELABLE: (422, 42210000),
    Reason.NOT_REPLACEABLE: (422, 42210000),
    Reason.NOT_SHORTABLE: (422, 42210000),
    Reason.BUYING_POWER: (403, 40310000),
    Reason.QUANTITY_HELD: (403, 40310000),
    Reason.WASH_TRADE: (403, 40310000),
    Reason.OPTION_LEVEL: (403, 40310000),
    Reason.INJECTED: (403, 40310000),
    Reason.NOT_FOUND: (404, 40410000),
}


def error_of(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """HTTP status and error body."""
    status, code = NO[refusal.reason]
    return status, {"code": code, "message": refusal.text, **plain(refusal.extra)}
