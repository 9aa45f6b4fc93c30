"""A healthy account, plan and market to start from; tests change one thing each."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from domain.account import AccountSnapshot, AssetInfo, MarketClock
from domain.control import BreakerState, Control
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.order import Quote, Side
from domain.plan import (
    FixedSize,
    PlanLeg,
    PlanPrice,
    StopPlan,
    TargetPlan,
    TradePlan,
    WalkPlan,
)
from domain.risk.breakers import ApiBreaker, RiskBreaker
from domain.risk.daily_loss import DailyBaseline, judge
from domain.risk.gate_types import AgedQuote, GateInput, Portfolio, SymbolAge
from domain.risk.limits import Limits, RestrictedList

NOW = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)
CLOSE = datetime(2026, 11, 20, 21, 0, tzinfo=UTC)
OPEN = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
SHARE = Instrument(symbol="AAPL")

LIMIT_VALUES: dict[str, Any] = {
    "max_order_notional": "1000",
    "max_order_quantity": "20000",
    "max_total_notional": "50000",
    "collar_fraction": "0.02",
    "max_open_positions": 5,
    "max_symbol_fraction": "0.10",
    "max_daily_loss_fraction": "0.05",
    "max_messages_per_minute": 60,
    "repeat_entries_max": 3,
    "repeat_window_s": "600",
    "duplicate_window_s": "5",
    "quote_max_age_s": "5",
    "option_quote_max_age_s": "300",
    "account_max_age_s": "30",
    "batch_max_age_s": "1800",
    "batch_fresh_fraction_min": "0.9",
    "entry_blocked_first_s": "1800",
    "entry_blocked_last_s": "1800",
    "exit_time_min_s": "300",
    "expiry_days_min": 1,
    "expiry_cutoff_s": "3600",
    "options_level_min": 2,
    "allow_short": True,
}


def limits(**changes: Any) -> Limits:
    return Limits.model_validate(LIMIT_VALUES | changes)


def option(
    right: OptionRight, strike: int, expiry: date = date(2026, 12, 18), multiplier: int = 100
) -> Instrument:
    letter = "C" if right is OptionRight.CALL else "P"
    return Instrument(
        symbol=f"AAPL{expiry:%y%m%d}{letter}{strike * 1000:08d}",
        kind=InstrumentKind.OPTION,
        multiplier=Decimal(multiplier),
        underlying="AAPL",
        expiry=expiry,
        strike=Decimal(strike),
        right=right,
    )


def plan(side: Side = Side.BUY, **changes: Any) -> TradePlan:
    away = Decimal(-side.sign)
    values: dict[str, Any] = {
        "trade_id": "demo-20261120-1",
        "session": "demo",
        "account": "paper-1",
        "strategy": "breakout",
        "symbol": "AAPL",
        "legs": (PlanLeg(instrument=SHARE, side=side),),
        "side": side,
        "size": FixedSize(quantity=Decimal(5)),
        "walk": WalkPlan(
            step=Decimal("0.01"), interval_s=Decimal(5), steps_max=5, max_time_s=Decimal(60)
        ),
        "stop": StopPlan(price=PlanPrice(offset=away)),
        "targets": (TargetPlan(price=PlanPrice(offset=-away), fraction=Decimal(1)),),
        "signal_id": "signal-1",
        "signal_time": NOW,
    }
    days = [leg.instrument.expiry for leg in (values | changes)["legs"] if leg.instrument.expiry]
    if days:
        # Flat an hour before the close of the day on which the first of them expires.
        values["flat_by"] = datetime.combine(min(days), CLOSE.timetz()) - timedelta(hours=1)
    return TradePlan(**(values | changes))


def combo(*legs: tuple[Instrument, Side], **changes: Any) -> TradePlan:
    built = tuple(PlanLeg(instrument=instrument, side=side) for instrument, side in legs)
    values: dict[str, Any] = {"legs": built, "stop": None, "targets": ()}
    return plan(Side.BUY, **(values | {"size": FixedSize(quantity=Decimal(1))} | changes))


def quote(symbol: str = "AAPL", bid: str | None = "100.00", ask: str | None = "100.02") -> Quote:
    return Quote(
        symbol=symbol,
        bid=None if bid is None else Decimal(bid),
        ask=None if ask is None else Decimal(ask),
        venue_time=NOW,
    )


def aged(given: Quote, age_s: str = "1") -> AgedQuote:
    return AgedQuote(quote=given, age_s=Decimal(age_s))


def account(**changes: Any) -> AccountSnapshot:
    values: dict[str, Any] = {
        "account_id": "paper-1",
        "equity": "100000",
        "cash": "100000",
        "buying_power": "100000",
        "options_level": 3,
        "shorting_enabled": True,
        "read_at": NOW,
    }
    return AccountSnapshot(**(values | changes))


def asset(instrument: Instrument = SHARE, **changes: Any) -> AssetInfo:
    values: dict[str, Any] = {"tradable": True, "shortable": True, "easy_to_borrow": True}
    return AssetInfo(instrument=instrument, **(values | changes))


def gate_input(**changes: Any) -> GateInput:
    """Everything healthy; the order is five shares walked from 100.01 to 100.05."""
    baseline = DailyBaseline(
        account_id="paper-1",
        roll_at=NOW - timedelta(hours=18),
        equity=Decimal(100_000),
        read_at=NOW - timedelta(hours=18),
    )
    values: dict[str, Any] = {
        "plan": plan(),
        "quantity": Decimal(5),
        "start_price": Decimal("100.01"),
        "worst_price": Decimal("100.05"),
        "limits": limits(),
        "wall_now": NOW,
        "market_now": NOW,
        "control": Control(account="paper-1", armed=True, version=3, updated_at=NOW),
        "conditions": (),
        "risk_breaker": RiskBreaker(state=BreakerState.NORMAL),
        "api_breaker": ApiBreaker(),
        "market_clock": MarketClock(market_now=NOW, is_open=True, next_close=CLOSE),
        "session_opened_at": OPEN,
        "session_date": date(2026, 11, 20),
        "arrival": aged(quote()),
        "leg_quotes": (aged(quote()),),
        "batch": (SymbolAge(symbol="AAPL", age_s=Decimal(1)),),
        "restricted": RestrictedList(symbols=("XXXX",), as_of=NOW - timedelta(hours=1)),
        "assets": (asset(),),
        "working_orders": (),
        "account": account(),
        "portfolio": Portfolio(open_positions=0, total_notional=Decimal(0)),
        "daily_loss": judge(baseline, Decimal(100_000), Decimal(0), Decimal("0.05")),
        "messages_last_minute": 0,
    }
    return GateInput(**(values | changes))
