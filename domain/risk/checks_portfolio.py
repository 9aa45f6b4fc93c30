"""Gate checks on the account and everything open on it: money, exposure, the day's loss.

Numbers of other trades include positions, reservations and working orders (control 4), so that
a limit holds at every committed state and not only after the fills (I6).
"""

from __future__ import annotations

from decimal import Decimal

from domain.instrument import InstrumentKind
from domain.money import ZERO, multiply
from domain.order import Side
from domain.risk.checks_order import order_loss, order_notional
from domain.risk.checks_state import symbols_of
from domain.risk.daily_loss import LossState, used_fraction
from domain.risk.gate_types import GateInput, Verdict
from domain.risk.verdicts import not_applicable, passed, refused

# A short sale binds its proceeds and half as much again; brokers add a margin for the price at
# which it may really sell. Without a broker preview this is the amount that must be free.
SHORT_MARGIN = Decimal("1.55")
_NO_PRICE = "start or worst price"
_LEVERAGED = (InstrumentKind.FUTURE, InstrumentKind.PERPETUAL)


def account(given: GateInput) -> Verdict:
    """A believable, fresh account in the plan's currency (faults.md §3 row 63, B6)."""
    found, limits = given.account, given.limits
    if found is None or limits is None:
        why = given.why_unread("account")
        return refused("account", "ACCOUNT_INVALID", missing="account", **why)
    if found.account_id == "":
        return refused("account", "ACCOUNT_INVALID", missing="account_id")
    if found.trading_blocked:
        return refused("account", "ACCOUNT_BLOCKED")
    if found.equity is None or found.equity <= 0:
        return refused("account", "ACCOUNT_INVALID", equity=found.equity)
    for leg in given.plan.legs:
        if leg.instrument.currency != found.currency:
            return refused(
                "account",
                "CURRENCY_MISMATCH",
                instrument=leg.instrument.currency,
                account=found.currency,
            )
    age_s = Decimal(str((given.wall_now - found.read_at).total_seconds()))
    if not -limits.account_max_age_s <= age_s <= limits.account_max_age_s:
        return refused("account", "STALE_ACCOUNT", age_s=age_s, max=limits.account_max_age_s)
    return passed("account", equity=found.equity, age_s=age_s)


def cash_needed(given: GateInput) -> Decimal | None:
    """Buying power that the order binds at its worst price, fees included; None if unknown.

    Bought shares and options cost their price, credit structures their maximum loss, short
    sales `SHORT_MARGIN` of the proceeds; futures are taken at full value until a broker preview
    says less.
    """
    plan = given.plan
    notional = order_notional(given)
    if notional is None or given.worst_price is None:
        return None
    if plan.is_combo:
        loss = order_loss_of_structure(given)
        if loss is None:
            return None
        debit = multiply(max(ZERO, given.worst_price), plan.multiplier, given.quantity)
        return max(loss, debit) + given.fee_estimate
    if plan.side is Side.SELL and plan.instrument.kind is not InstrumentKind.OPTION:
        if plan.instrument.kind in _LEVERAGED:
            return notional + given.fee_estimate
        return multiply(notional, SHORT_MARGIN) + given.fee_estimate
    if plan.side is Side.SELL:
        loss = order_loss_of_structure(given)
        return None if loss is None else loss + given.fee_estimate
    return notional + given.fee_estimate


def order_loss_of_structure(given: GateInput) -> Decimal | None:
    """The bound that the legs themselves give, whatever stop is planned."""
    plan = given.plan.model_copy(update={"stop": None})
    return order_loss(given.model_copy(update={"plan": plan}))


def buying_power(given: GateInput) -> Verdict:
    """Free buying power, less what reservations will still take, covers the worst cost."""
    if given.account is None or given.portfolio is None:
        return refused("buying_power", "BUYING_POWER_UNKNOWN")
    plan = given.plan
    free = given.account.buying_power
    only_options = all(leg.instrument.kind is InstrumentKind.OPTION for leg in plan.legs)
    if only_options and given.account.options_buying_power is not None:
        free = given.account.options_buying_power
    if free is None:
        return refused("buying_power", "BUYING_POWER_UNKNOWN")
    needed = cash_needed(given)
    if needed is None:
        return refused("buying_power", "LOSS_UNBOUNDED_OR_NO_PRICE")
    left = free - given.portfolio.reserved_cash
    facts = {"free": free, "reserved": given.portfolio.reserved_cash, "needed": needed}
    if needed > left:
        return refused("buying_power", "BUYING_POWER", **facts)
    return passed("buying_power", **facts)


def margin_preview(given: GateInput) -> Verdict:
    return not_applicable("margin_preview", "NO_BROKER_PREVIEW")


def liquidation_distance(given: GateInput) -> Verdict:
    """Distance to liquidation needs margin data of a derivatives venue."""
    leveraged = [leg for leg in given.plan.legs if leg.instrument.kind in _LEVERAGED]
    if leveraged:
        return not_applicable(
            "liquidation_distance", "NO_MARGIN_DATA", symbol=leveraged[0].instrument.symbol
        )
    return not_applicable("liquidation_distance", "NOT_LEVERAGED")


def strategy(given: GateInput) -> Verdict:
    """The strategy is enabled and its open trades stay within its capital."""
    book, notional = given.strategy, order_notional(given)
    if book is None:
        return not_applicable("strategy", "NO_CONFIGURATION")
    if not book.enabled:
        return refused("strategy", "STRATEGY_DISABLED", reason=book.reason)
    if book.capital is None:
        return passed("strategy", used=book.open_notional)
    if notional is None:
        return refused("strategy", "PRICE_UNAVAILABLE")
    facts = {"used": book.open_notional, "order": notional, "capital": book.capital}
    if book.open_notional + notional > book.capital:
        return refused("strategy", "STRATEGY_CAPITAL", **facts)
    return passed("strategy", **facts)


def positions(given: GateInput) -> Verdict:
    if given.limits is None:
        return refused("positions", "LIMITS_MISSING")
    if given.portfolio is None:
        return refused("positions", "PORTFOLIO_UNREADABLE")
    facts = {"open": given.portfolio.open_positions, "max": given.limits.max_open_positions}
    if given.portfolio.open_positions + 1 > given.limits.max_open_positions:
        return refused("positions", "TOO_MANY_POSITIONS", **facts)
    return passed("positions", **facts)


def symbol_budget(given: GateInput) -> Verdict:
    """Share of equity in any one symbol of the trade, its underlying included."""
    notional, limits = order_notional(given), given.limits
    if limits is None:
        return refused("symbol_budget", "LIMITS_MISSING")
    if given.portfolio is None:
        return refused("symbol_budget", "PORTFOLIO_UNREADABLE")
    if notional is None:
        return refused("symbol_budget", "PRICE_UNAVAILABLE", missing=_NO_PRICE)
    if given.account is None or given.account.equity is None:
        return refused("symbol_budget", "ACCOUNT_INVALID", missing="equity")
    allowed = multiply(given.account.equity, limits.max_symbol_fraction)
    worst = ZERO
    for symbol in symbols_of(given):
        used = given.portfolio.exposure(symbol).notional
        worst = max(worst, used)
        if used + notional > allowed:
            return refused(
                "symbol_budget",
                "SYMBOL_BUDGET",
                symbol=symbol,
                used=used,
                order=notional,
                allowed=allowed,
            )
    return passed("symbol_budget", used=worst, order=notional, allowed=allowed)


def total_exposure(given: GateInput) -> Verdict:
    """Many small orders stop at the aggregate (control 2, 4)."""
    notional = order_notional(given)
    if given.limits is None:
        return refused("total_exposure", "LIMITS_MISSING")
    if given.portfolio is None:
        return refused("total_exposure", "PORTFOLIO_UNREADABLE")
    if notional is None:
        return refused("total_exposure", "PRICE_UNAVAILABLE", missing=_NO_PRICE)
    facts = {
        "used": given.portfolio.total_notional,
        "order": notional,
        "max": given.limits.max_total_notional,
    }
    if given.portfolio.total_notional + notional > given.limits.max_total_notional:
        return refused("total_exposure", "TOTAL_ABOVE_MAX", **facts)
    return passed("total_exposure", **facts)


def daily_loss(given: GateInput) -> Verdict:
    daily = given.daily_loss
    if daily is None or daily.state is LossState.UNKNOWN:
        return refused("daily_loss", daily.code if daily is not None else "DAILY_LOSS_UNREADABLE")
    facts = {"loss": daily.loss, "limit": daily.limit, "used": used_fraction(daily)}
    if daily.state is LossState.EXCEEDED:
        return refused("daily_loss", "DAILY_LOSS", **facts)
    return passed("daily_loss", **facts)


def greeks(given: GateInput) -> Verdict:
    return not_applicable("greeks", "NO_RISK_BOOK")


def value_at_risk(given: GateInput) -> Verdict:
    return not_applicable("value_at_risk", "NO_RISK_BOOK")
