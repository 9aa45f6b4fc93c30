"""Checks on what feeds and brokers tell us (faults.md §3 rows 32-34, 57-63).

Nothing here crashes a trade: each fault comes back as a code, and the caller quarantines the
value, raises an alert and goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TypeVar

from pydantic_core import PydanticCustomError

from domain.account import AccountSnapshot
from domain.base import Frozen
from domain.errors import BadInput
from domain.money import MAGNITUDE_MAX, ZERO, exact
from domain.order import BrokerOrderStatus, Fill, OrderSnapshot, Quote

QUOTE_JUMP_FACTOR = Decimal(10)
QUOTE_AHEAD_S_MAX = Decimal(5)
FEE_SHARE_MAX = Decimal("0.5")
FILL_INCONSISTENT = "FILL_INCONSISTENT"
_BROKER_ID_MAX = 128

Word = TypeVar("Word", bound=StrEnum)


class Finding(Frozen):
    """One fault found in outside data; `hold` asks for a second opinion before use."""

    code: str
    text: str = ""
    hold: bool = False


def check_quote(
    quote: Quote,
    *,
    age_s: Decimal,
    max_age_s: Decimal,
    previous: Quote | None = None,
    require_size: bool = False,
) -> Finding | None:
    """First fault of a quote, or None if it may be used.

    `age_s` is wall seconds. A jump by more than ten times is held for confirmation: the next
    quote near it clears it, because the caller then passes it as `previous`.
    """
    fault = _shape_fault(quote, require_size)
    if fault is not None:
        return fault
    if previous is not None and quote.venue_time < previous.venue_time:
        return Finding(code="QUOTE_TIME_REVERSED", text=f"after {previous.venue_time.isoformat()}")
    if not -QUOTE_AHEAD_S_MAX <= age_s <= max_age_s:
        return Finding(code="QUOTE_STALE", text=f"age_s={age_s} allowed=-5..{max_age_s}")
    if previous is not None and _jumped(previous.mid, quote.mid):
        return Finding(code="QUOTE_JUMP", text=f"{previous.mid} -> {quote.mid}", hold=True)
    return None


def _shape_fault(quote: Quote, require_size: bool) -> Finding | None:
    bid, ask = quote.bid, quote.ask
    if bid is None and ask is None:
        return Finding(code="QUOTE_EMPTY", text="no side")
    if bid is None or ask is None:
        return Finding(code="QUOTE_ONE_SIDED", text=f"bid={bid} ask={ask}")
    if bid <= 0 and ask <= 0:
        return Finding(code="QUOTE_EMPTY", text=f"bid={bid} ask={ask}")
    if bid < 0 or ask <= 0:
        return Finding(code="QUOTE_ONE_SIDED", text=f"bid={bid} ask={ask}")
    if bid > ask:
        return Finding(code="QUOTE_CROSSED", text=f"bid={bid} ask={ask}")
    if bid == ask:
        return Finding(code="QUOTE_CROSSED", text=f"width was 0 at {bid}")
    sizes = (quote.bid_size, quote.ask_size)
    if any(size == 0 for size in sizes) or (require_size and None in sizes):
        return Finding(code="QUOTE_EMPTY", text=f"sizes={quote.bid_size}/{quote.ask_size}")
    return None


def _jumped(before: Decimal | None, now: Decimal | None) -> bool:
    if before is None or now is None or before <= 0 or now <= 0:
        return False
    return now > before * QUOTE_JUMP_FACTOR or before > now * QUOTE_JUMP_FACTOR


def read_status(
    raw: object, words: Mapping[str, BrokerOrderStatus]
) -> tuple[BrokerOrderStatus, Finding | None]:
    """A broker's status word; what is not in the table is UNKNOWN plus an alert (row 57)."""
    if isinstance(raw, str) and raw in words:
        return words[raw], None
    shown = ascii(raw)[:60]
    return BrokerOrderStatus.UNKNOWN, Finding(code="STATUS_UNKNOWN", text=shown)


def check_order_progress(before: OrderSnapshot | None, now: OrderSnapshot) -> Finding | None:
    """Filled quantity may not fall or pass the order, nor a fill cost nothing (row 58)."""
    if now.quantity > 0 and now.filled_quantity > now.quantity:
        return Finding(
            code=FILL_INCONSISTENT, text=f"filled {now.filled_quantity} of {now.quantity}"
        )
    if before is not None and now.filled_quantity < before.filled_quantity:
        return Finding(
            code=FILL_INCONSISTENT,
            text=f"filled fell from {before.filled_quantity} to {now.filled_quantity}",
        )
    # A combo may fill at a net price of zero; a single instrument never does.
    if now.filled_quantity > 0 and not now.legs and now.average_fill_price == ZERO:
        return Finding(code=FILL_INCONSISTENT, text="average price was 0 with a fill")
    return None


def read_broker_id(raw: object, field: str = "id") -> str:
    """A broker's id as text: never through float, never null (row 59).

    Raises:
        BadInput: `BROKER_ID_TYPE`.
    """
    if isinstance(raw, str) and 0 < len(raw) <= _BROKER_ID_MAX and raw.isprintable():
        return raw
    if isinstance(raw, int) and not isinstance(raw, bool) and raw >= 0:
        return str(raw)
    raise BadInput("BROKER_ID_TYPE", field, raw, "text or a whole number")


def attribute_fill(
    fill: Fill,
    *,
    client_ids: Collection[str],
    broker_order_ids: Collection[str],
    symbols: Collection[str],
) -> Finding | None:
    """None if the fill is ours; FILL_UNATTRIBUTED sends it to reconcile (row 61)."""
    ours = fill.broker_order_id in broker_order_ids or (
        fill.client_id is not None and fill.client_id in client_ids
    )
    if ours and fill.symbol in symbols:
        return None
    return Finding(
        code="FILL_UNATTRIBUTED", text=f"{fill.fill_key} {fill.symbol} {fill.broker_order_id}"
    )


def read_fee(
    raw: object, *, notional: Decimal, currency: str | None, account_currency: str
) -> tuple[Decimal | None, Finding | None]:
    """A fee that can be believed, or None plus FEE_INVALID: the fill still counts (row 62).

    Rebates (negative fees) are normal; one larger than half the fill's value is not.
    """
    if raw is None:
        return None, None
    try:
        fee = exact(raw)
    except (PydanticCustomError, InvalidOperation):
        return None, Finding(code="FEE_INVALID", text=ascii(raw)[:60])
    if currency is not None and currency != account_currency:
        return None, Finding(code="FEE_INVALID", text=f"currency was {currency}")
    if abs(fee) > max(abs(notional) * FEE_SHARE_MAX, Decimal(1)):
        return None, Finding(code="FEE_INVALID", text=f"fee was {fee} for {notional}")
    return fee, None


def check_account(account: AccountSnapshot, base_currency: str) -> Finding | None:
    """An account on which entries may stand (row 63); exits never ask."""
    if account.equity is None or account.buying_power is None:
        return Finding(code="ACCOUNT_INVALID", text="equity or buying power was missing")
    if not 0 < account.equity <= MAGNITUDE_MAX:
        return Finding(code="ACCOUNT_INVALID", text=f"equity was {account.equity}")
    if account.currency != base_currency:
        return Finding(code="ACCOUNT_INVALID", text=f"currency was {account.currency}")
    return None
