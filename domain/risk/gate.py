"""The risk gate: every check in the order of architecture §7, and the only minting of approval.

    kill -> conditions -> risk breaker -> API breaker -> session and halt -> data freshness
    -> restricted list, permissions, borrow -> own opposite orders -> price collar
    -> order limits, message rate, repeats, duplicate
    -> account, buying power at the worst price, broker preview
    -> liquidation distance -> can we exit today -> expiry
    -> strategy: enabled, capital
    -> portfolio: positions, symbol budget, total, daily loss, Greeks, VaR

All verdicts are computed even after a refusal, so that a dry run shows the whole picture. Exits
never come here: `domain.risk.reducing` is their only question.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from domain.entry import RiskApproved
from domain.errors import HoldfastError
from domain.money import MAGNITUDE_MAX, ZERO, NetPrice, Quantity, amount_up, multiply
from domain.plan import TradePlan
from domain.risk import checks_order, checks_portfolio, checks_state, repeats
from domain.risk.gate_types import GateDecision, GateInput, RiskRefusal, Verdict
from domain.risk.verdicts import refused

Check = Callable[[GateInput], Verdict]

_CANNOT_DECIDE = (HoldfastError, ArithmeticError, ValueError, TypeError, LookupError)

CHECKS: tuple[tuple[str, Check], ...] = (
    ("kill", checks_state.kill),
    ("conditions", checks_state.conditions),
    ("risk_breaker", checks_state.risk_breaker),
    ("api_breaker", checks_state.api_breaker),
    ("session", checks_state.session),
    ("freshness", checks_state.freshness),
    ("batch_freshness", checks_state.batch_freshness),
    ("restricted_list", checks_order.restricted_list),
    ("permissions", checks_order.permissions),
    ("borrow", checks_order.borrow),
    ("own_opposite", checks_order.own_opposite),
    ("price_collar", checks_order.price_collar),
    ("order_limits", checks_order.order_limits),
    ("message_rate", checks_order.message_rate),
    ("repeats", repeats.repeats),
    ("duplicate", repeats.duplicate),
    ("account", checks_portfolio.account),
    ("buying_power", checks_portfolio.buying_power),
    ("margin_preview", checks_portfolio.margin_preview),
    ("liquidation_distance", checks_portfolio.liquidation_distance),
    ("can_exit_today", checks_state.can_exit_today),
    ("expiry", checks_state.expiry),
    ("strategy", checks_portfolio.strategy),
    ("positions", checks_portfolio.positions),
    ("symbol_budget", checks_portfolio.symbol_budget),
    ("total_exposure", checks_portfolio.total_exposure),
    ("daily_loss", checks_portfolio.daily_loss),
    ("greeks", checks_portfolio.greeks),
    ("value_at_risk", checks_portfolio.value_at_risk),
)


def evaluate(given: GateInput) -> GateDecision:
    """Runs every check in order and says what would be reserved. Never raises for its input."""
    verdicts = tuple(_run(name, check, given) for name, check in CHECKS)
    notional = _amount(checks_order.order_notional, given)
    return GateDecision(
        trade_id=given.plan.trade_id,
        verdicts=verdicts,
        order_notional=notional or ZERO,
        order_loss=_amount(checks_order.order_loss, given) or notional or ZERO,
        cash_needed=_amount(checks_portfolio.cash_needed, given) or ZERO,
    )


def _run(name: str, check: Check, given: GateInput) -> Verdict:
    """A check that cannot decide refuses: an error inside the gate is never a pass (S12)."""
    try:
        verdict = check(given)
    except _CANNOT_DECIDE as error:
        code = error.code if isinstance(error, HoldfastError) else "CHECK_FAILED"
        return refused(name, code, error=str(error)[:200])
    assert verdict.name == name, f"check {name} answered as {verdict.name}"
    return verdict


def approve(
    given: GateInput, decision: GateDecision, approved_at: datetime, config_version: str
) -> RiskApproved | RiskRefusal:
    """Turns a decision into the approval that alone may become an entry order.

    The reservation id follows from the trade id, so that a repeated gate returns the same one
    (B2). Call it in the transaction that writes the reservation.

    Raises:
        ValueError: the decision belongs to another trade.
    """
    if decision.trade_id != given.plan.trade_id:
        raise ValueError(f"decision was for {decision.trade_id}, plan is {given.plan.trade_id}")
    refusal = decision.first_refusal
    if refusal is None and {verdict.name for verdict in decision.verdicts} != _NAMES:
        refusal = refused("gate", "VERDICTS_MISSING")
    if refusal is None and given.worst_price is None:
        refusal = refused("gate", "PRICE_UNAVAILABLE")
    if refusal is not None:
        facts = ", ".join(f"{key}={value}" for key, value in refusal.facts.items())
        return RiskRefusal(
            trade_id=given.plan.trade_id,
            check=refusal.name,
            code=refusal.code,
            text=f"{refusal.code} {facts}".strip(),
            facts=refusal.facts,
        )
    assert given.worst_price is not None
    return RiskApproved(
        reservation_id=reservation_id(given.plan.trade_id),
        trade_id=given.plan.trade_id,
        quantity=given.quantity,
        worst_price=given.worst_price,
        reserved_notional=decision.order_notional,
        reserved_loss=decision.order_loss,
        approved_at=approved_at,
        config_version=config_version,
    )


def approve_held(
    plan: TradePlan,
    quantity: Quantity,
    price: NetPrice,
    stop_price: NetPrice,
    approved_at: datetime,
    config_version: str,
) -> RiskApproved:
    """The approval of a position that is there already: its risk is counted, not judged.

    It can enter nothing, because the whole quantity counts as filled.
    """
    loss = max((price - stop_price) * plan.side.sign, ZERO)
    return RiskApproved(
        reservation_id=reservation_id(plan.trade_id),
        trade_id=plan.trade_id,
        quantity=quantity,
        worst_price=price,
        reserved_notional=multiply(quantity, plan.multiplier, price),
        reserved_loss=multiply(quantity, plan.multiplier, loss),
        approved_at=approved_at,
        config_version=config_version,
    )


def reservation_id(trade_id: str) -> str:
    """One reservation per trade, whoever asks and however often."""
    return f"reservation/{trade_id}"


_NAMES = {name for name, _ in CHECKS}


def _amount(measure: Callable[[GateInput], Decimal | None], given: GateInput) -> Decimal | None:
    """What is measured, or None where it cannot be: the refusing verdict says why."""
    try:
        amount = measure(given)
    except _CANNOT_DECIDE:
        return None
    # Beyond any believable amount: the order limits refuse it, nothing will be reserved.
    return None if amount is None or amount > MAGNITUDE_MAX else amount_up(amount)
