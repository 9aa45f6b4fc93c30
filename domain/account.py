"""The account, the venue's clock and the permissions on an instrument, as the broker tells them."""

from __future__ import annotations

from datetime import date

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.instrument import Instrument
from domain.money import ZERO, Amount, Quantity


class AccountSnapshot(Frozen):
    """The account as the broker shows it, in account currency.

    `equity`, `cash` and `buying_power` are None where the broker did not say: missing is not
    zero, and blocks entries (faults.md §3 row 63). `blocks` are the broker's own words for why
    `trading_blocked` is set; `day_trades` those of the last five sessions; `pending_fees` has left
    the cash already and has no row of its own yet.
    """

    account_id: str
    currency: str = "USD"
    equity: Amount | None = None
    last_equity: Amount | None = None
    cash: Amount | None = None
    pending_fees: Amount = ZERO
    buying_power: Amount | None = None
    options_buying_power: Amount | None = None
    options_level: int | None = None
    shorting_enabled: bool | None = None
    trading_blocked: bool = False
    multiplier: Quantity | None = None
    status: str = ""
    blocks: tuple[str, ...] = ()
    pattern_day_trader: bool | None = None
    day_trades: int | None = None
    read_at: AwareDatetime


class MarketClock(Frozen):
    """The venue's clock; instants are market time, UTC.

    `session_date` is the trading date at the exchange, `opened_at` the open of the session that
    is running; both are None where the venue did not say. `halts_unread`: more symbols than
    `halted_symbols` may be halted, as those told elsewhere could not be read.
    """

    market_now: AwareDatetime
    is_open: bool
    next_open: AwareDatetime | None = None
    next_close: AwareDatetime | None = None
    halted_symbols: tuple[str, ...] = ()
    session_date: date | None = None
    opened_at: AwareDatetime | None = None
    halts_unread: bool = False

    @property
    def stays_open(self) -> bool:
        """True where the next session begins no later than this one ends, as around the clock."""
        if self.next_open is None or self.next_close is None:
            return False
        return self.is_open and self.next_open <= self.next_close


class AssetInfo(Frozen):
    """An instrument with what the broker allows on it."""

    instrument: Instrument
    tradable: bool
    shortable: bool | None = None
    easy_to_borrow: bool | None = None
    marginable: bool | None = None
    fractionable: bool | None = None
