"""What an exchange is made of: instruments, sessions, fees, account and matching knobs.

Everything is loadable from one JSON file (`ExchangeConfig.from_json`); numbers may be JSON
numbers or text and are read exactly, never through a float.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from domain.instrument import Instrument, InstrumentKind
from domain.money import ONE, ZERO, exact


@dataclass(frozen=True, slots=True)
class FeeSchedule:
    """Cost of one execution: quantity x `per_unit` + value x `rate`, at least `minimum`.

    Rounded half even to the cent per execution and per leg; zero is not booked.
    """

    per_unit: Decimal = ZERO
    rate: Decimal = ZERO
    minimum: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class PerpetualTerms:
    """Leverage and its price: `funding_rate` of the value each `funding_interval_s` market
    seconds, paid by longs; the rates are shares of a position's value."""

    leverage: Decimal
    maintenance_rate: Decimal = Decimal("0.005")
    funding_rate: Decimal = Decimal("0.0001")
    funding_interval_s: Decimal = Decimal(28_800)
    liquidation_fee_rate: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Listing:
    """One instrument as this exchange trades it.

    `synthetic_quote_ticks` makes a quote of last trade ± n ticks at every trade or bar of the
    tape, each side `synthetic_size` large; None leaves the quote to the tape. A short sale waits
    `locate_s` market seconds for shares to borrow; where there are none it is rejected then.
    """

    instrument: Instrument
    shortable: bool = True
    fractional: bool = False
    fees: FeeSchedule = FeeSchedule()
    synthetic_quote_ticks: int | None = None
    synthetic_size: Decimal = Decimal(1000)
    name: str = ""
    perpetual: PerpetualTerms | None = None
    locate_s: Decimal = ZERO
    can_borrow: bool = True

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    @property
    def is_option(self) -> bool:
        return self.instrument.kind is InstrumentKind.OPTION


@dataclass(frozen=True, slots=True)
class SessionHours:
    """Opening hours of one day, as instants (UTC)."""

    day: date
    open: datetime
    close: datetime


@dataclass(frozen=True, slots=True)
class CalendarConfig:
    """When the exchange trades.

    Explicit `sessions` win. Otherwise every weekday outside `holidays` is open from `open_time`
    to `close_time` in `zone`, on `half_days` until `half_day_close`. `always_open` trades around
    the clock in UTC days.
    """

    zone: str = "America/New_York"
    open_time: time = time(9, 30)
    close_time: time = time(16, 0)
    half_day_close: time = time(13, 0)
    holidays: tuple[date, ...] = ()
    half_days: tuple[date, ...] = ()
    sessions: tuple[SessionHours, ...] = ()
    always_open: bool = False


class WireFace(StrEnum):
    """Whose protocol the exchange speaks, and the rules that come with it."""

    ALPACA = "alpaca"
    TRADIER = "tradier"

    @property
    def has_unique_ids(self) -> bool:
        """A client id is taken once for ever; elsewhere it is a label only."""
        return self is WireFace.ALPACA

    @property
    def rests_option_stops(self) -> bool:
        return self is WireFace.TRADIER


class ReplaceQuantity(StrEnum):
    """TOTAL: the number covers the fills of the old order too; the new order shows the total with
    those fills carried over. REST: the number is the total, the new order shows only the rest,
    unfilled. FRESH: the new order is good for the whole number again, whatever was filled before
    (seen at Alpaca: Alpaca-API issue 165)."""

    TOTAL = "total"
    REST = "rest"
    FRESH = "fresh"


@dataclass(frozen=True, slots=True)
class MatchingConfig:
    """How the market treats our orders.

    `participation` is the share of the displayed size that one event gives us; `min_partial` the
    smallest partial fill; the latencies are market seconds. `replace_quantity` is what a quantity
    means when a part-filled order is replaced (faults.md D2: all must be survived).
    """

    participation: Decimal = ONE
    min_partial: Decimal = ZERO
    accept_latency_s: Decimal = ZERO
    cancel_latency_s: Decimal = ZERO
    replace_latency_s: Decimal = ZERO
    replace_quantity: ReplaceQuantity = ReplaceQuantity.TOTAL


@dataclass(frozen=True, slots=True)
class BookConfig:
    """A generated market for symbols without a tape: a seeded random walk.

    Every `interval_s` market seconds the mid moves up to `step_ticks` ticks either way, with
    `half_spread_ticks` on each side and sizes up to `size_max`; each step prints one trade.
    """

    symbol: str
    start_price: Decimal
    interval_s: Decimal = ONE
    step_ticks: int = 2
    half_spread_ticks: int = 1
    size_max: int = 500


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key pair that the wire faces accept; `mode` is paper or live."""

    key: str = "SIM-PAPER-KEY"
    secret: str = "sim-paper-secret"  # noqa: S105 - the public key of a simulation
    mode: str = "paper"


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """One more account of the exchange: its own key pair and cash, only the market is shared."""

    name: str
    key: ApiKey
    cash: Decimal


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """One exchange: its first account (`keys`, `cash`), and the `accounts` beside it.

    With `daily_fees` a day's fees are one row after the close that names no order (Alpaca); else
    one row per execution. `requests_per_minute` is the budget of the wire face, multiplied by the
    clock's speed; None or a stepped clock means no limit. At Tradier it counts what writes orders;
    market data and the rest have twice as much each. At Alpaca market data counts apart. `mode`
    names the venue that this exchange plays: a key of the other mode is refused. `account` names
    the first account; ids are made of it where it is given.
    """

    listings: tuple[Listing, ...] = (Listing(Instrument(symbol="ESX")),)
    calendar: CalendarConfig = CalendarConfig()
    matching: MatchingConfig = MatchingConfig()
    generated: tuple[BookConfig, ...] = ()
    keys: tuple[ApiKey, ...] = (ApiKey(),)
    mode: str = "paper"
    cash: Decimal = Decimal(100_000)
    multiplier: Decimal = Decimal(2)
    shorting_enabled: bool = True
    options_level: int = 3
    seed: int = 1
    start: datetime = datetime(2013, 9, 3, 13, 30, tzinfo=UTC)
    requests_per_minute: int | None = 200
    wash_trade_check: bool = True
    daily_fees: bool = False
    account: str = ""
    accounts: tuple[AccountConfig, ...] = ()
    face: WireFace = WireFace.ALPACA

    def of_account(self, account: AccountConfig) -> ExchangeConfig:
        """The same market for one of the further accounts."""
        return replace(
            self, account=account.name, keys=(account.key,), cash=account.cash, accounts=()
        )

    @classmethod
    def from_json(cls, path: Path | str) -> ExchangeConfig:
        """Reads a configuration file.

        Raises:
            ValueError: a key is unknown or a value has the wrong form.
        """
        text = Path(path).read_text(encoding="utf-8")
        return cls.from_mapping(json.loads(text, parse_float=Decimal))

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> ExchangeConfig:
        """Builds a configuration from JSON values; unknown keys are refused."""
        readers = {
            "listings": lambda rows: tuple(_listing(row) for row in rows),
            "calendar": _calendar,
            "matching": _matching,
            "generated": lambda rows: tuple(_book(row) for row in rows),
            "keys": lambda rows: tuple(ApiKey(**row) for row in rows),
            "mode": str,
            "cash": exact,
            "multiplier": exact,
            "shorting_enabled": bool,
            "options_level": int,
            "seed": int,
            "start": _instant,
            "requests_per_minute": lambda value: None if value is None else int(value),
            "wash_trade_check": bool,
            "daily_fees": bool,
            "account": str,
            "accounts": lambda rows: tuple(_account(row) for row in rows),
            "face": WireFace,
        }
        return cls(**_read(raw, readers))


def _read(raw: Mapping[str, Any], readers: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(raw) - set(readers)
    if unknown:
        raise ValueError(f"unknown keys were {sorted(unknown)}")
    return {key: readers[key](value) for key, value in raw.items()}


def _account(raw: Mapping[str, Any]) -> AccountConfig:
    readers = {"name": str, "key": lambda pair: ApiKey(**pair), "cash": exact}
    return AccountConfig(**_read(raw, readers))


def _listing(raw: Mapping[str, Any]) -> Listing:
    own = {
        "shortable": bool,
        "fractional": bool,
        "fees": _fees,
        "synthetic_quote_ticks": lambda value: None if value is None else int(value),
        "synthetic_size": exact,
        "name": str,
        "perpetual": _perpetual,
        "locate_s": exact,
        "can_borrow": bool,
    }
    contract = {key: value for key, value in raw.items() if key in Instrument.model_fields}
    rest = {key: value for key, value in raw.items() if key not in contract}
    return Listing(instrument=Instrument.model_validate(contract), **_read(rest, own))


def _perpetual(raw: Mapping[str, Any]) -> PerpetualTerms:
    return PerpetualTerms(**_read(raw, dict.fromkeys(PerpetualTerms.__slots__, exact)))


def _fees(raw: Mapping[str, Any]) -> FeeSchedule:
    return FeeSchedule(**_read(raw, {"per_unit": exact, "rate": exact, "minimum": exact}))


def _matching(raw: Mapping[str, Any]) -> MatchingConfig:
    names = (
        "participation",
        "min_partial",
        "accept_latency_s",
        "cancel_latency_s",
        "replace_latency_s",
    )
    readers: dict[str, Any] = dict.fromkeys(names, exact)
    readers["replace_quantity"] = ReplaceQuantity
    return MatchingConfig(**_read(raw, readers))


def _book(raw: Mapping[str, Any]) -> BookConfig:
    readers = {
        "symbol": str,
        "start_price": exact,
        "interval_s": exact,
        "step_ticks": int,
        "half_spread_ticks": int,
        "size_max": int,
    }
    return BookConfig(**_read(raw, readers))


def _calendar(raw: Mapping[str, Any]) -> CalendarConfig:
    def days(values: list[str]) -> tuple[date, ...]:
        return tuple(date.fromisoformat(value) for value in values)

    readers = {
        "zone": str,
        "open_time": time.fromisoformat,
        "close_time": time.fromisoformat,
        "half_day_close": time.fromisoformat,
        "holidays": days,
        "half_days": days,
        "sessions": lambda rows: tuple(_session(row) for row in rows),
        "always_open": bool,
    }
    return CalendarConfig(**_read(raw, readers))


def _session(raw: Mapping[str, Any]) -> SessionHours:
    readers = {"day": date.fromisoformat, "open": _instant, "close": _instant}
    return SessionHours(**_read(raw, readers))


def _instant(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"time was {text}, allowed: with an offset")
    return value.astimezone(UTC)
