"""Plans in options, made of a seed's plans in shares, and the market of their contracts.

Singles are bought or, puts only, sold against cash; verticals are bought for a debit or a credit.
A contract's price follows the middle of its underlying: intrinsic value and a time value that is
largest at the money.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from typing import Any

from domain.instrument import Instrument, OptionRight
from domain.money import ZERO
from domain.occ import option_instrument
from domain.order import Side
from domain.plan import (
    ExitRule,
    FixedSize,
    PlanLeg,
    PlanPrice,
    RuleKind,
    StopPlan,
    TargetPlan,
    TradePlan,
)
from tests.simulation.clock import START

D = Decimal
TICK = D("0.01")
TODAY: date = START.date()
FRIDAY = TODAY + timedelta(days=3)
STRIKES = (95, 100, 105)
TIME_VALUE = D(4)
TIME_VALUE_MIN = D("0.20")
STRUCTURES = ("long_option", "short_put", "debit", "credit")
RULE_ID = "mark"
RULES = (
    (RuleKind.LOSS_PERCENT, D(10)),
    (RuleKind.PROFIT_PERCENT, D(10)),
    (RuleKind.PROFIT_TRAIL, D(20)),
    (RuleKind.VOLATILITY_SPIKE, D(15)),
)


def contract(root: str, expiry: date, right: OptionRight, strike: int) -> Instrument:
    """A listed contract on this underlying."""
    letter = "C" if right is OptionRight.CALL else "P"
    return option_instrument(f"{root}{expiry:%y%m%d}{letter}{strike * 1000:08d}")


def as_options(dice: random.Random, plan: TradePlan, expiries: tuple[date, ...]) -> TradePlan:
    """The same trade in options on its symbol: walk, times and ends stay."""
    structure = dice.choice(STRUCTURES)
    quantity = D(dice.choice((1, 2, 5)))
    expiry = dice.choice(expiries)
    values: dict[str, Any] = {"size": FixedSize(quantity=quantity), "ratchet": ()}
    values["time_stop_s"] = dice.choice((None, None, D(30)))
    if structure in ("debit", "credit"):
        values |= _vertical(dice, plan.symbol, expiry, quantity, is_debit=structure == "debit")
    else:
        values |= _single(dice, plan.symbol, expiry, quantity, is_long=structure == "long_option")
    if dice.random() < 0.3:
        kind, threshold = dice.choice(RULES)
        values["rules"] = (ExitRule(rule_id=RULE_ID, kind=kind, threshold=threshold),)
    return plan.model_copy(update=values)


def _single(
    dice: random.Random, root: str, expiry: date, quantity: Decimal, *, is_long: bool
) -> dict[str, Any]:
    right = dice.choice(tuple(OptionRight)) if is_long else OptionRight.PUT
    strike = dice.choice(STRIKES)
    instrument = contract(root, expiry, right, strike)
    side = Side.BUY if is_long else Side.SELL
    values: dict[str, Any] = {
        "symbol": instrument.symbol,
        "side": side,
        "legs": (PlanLeg(instrument=instrument, side=side),),
        "max_loss": None if is_long else quantity * strike * instrument.multiplier,
    }
    return values | _ends(dice, side, 2 if quantity > 1 and dice.random() < 0.3 else 1)


def _vertical(
    dice: random.Random, root: str, expiry: date, quantity: Decimal, *, is_debit: bool
) -> dict[str, Any]:
    right = dice.choice(tuple(OptionRight))
    low, high = sorted(dice.sample(STRIKES, 2))
    dear, cheap = (low, high) if right is OptionRight.CALL else (high, low)
    bought, sold = (dear, cheap) if is_debit else (cheap, dear)
    legs = (
        PlanLeg(instrument=contract(root, expiry, right, bought), side=Side.BUY),
        PlanLeg(instrument=contract(root, expiry, right, sold), side=Side.SELL),
    )
    values: dict[str, Any] = {
        "side": Side.BUY,
        "legs": legs,
        "max_loss": quantity * (high - low) * legs[0].instrument.multiplier,
    }
    return values | _ends(dice, Side.BUY, 1)


def _ends(dice: random.Random, side: Side, tranches: int) -> dict[str, Any]:
    """Stop and targets in points of the premium; some plans have none of them."""
    risk, reach = dice.choice((D("0.30"), D("0.80"))), dice.choice((D("0.20"), D("0.60")))
    stop = StopPlan(price=PlanPrice(offset=-side.sign * risk))
    fraction = D(1) / tranches
    targets = tuple(
        TargetPlan(price=PlanPrice(offset=side.sign * reach * (n + 1)), fraction=fraction)
        for n in range(tranches)
    )
    return {
        "stop": stop if dice.random() < 0.8 else None,
        "targets": targets if dice.random() < 0.8 else (),
    }


def contracts_of(plans: Iterable[TradePlan]) -> tuple[Instrument, ...]:
    """Every option that these plans trade, once."""
    legs = (leg.instrument for plan in plans for leg in plan.legs)
    found = {each.symbol: each for each in legs if each.expiry is not None}
    return tuple(found[symbol] for symbol in sorted(found))


def structure_of(plan: TradePlan) -> str:
    """What the counters call it: `shares`, `long_option`, `short_put`, `debit` or `credit`."""
    first = plan.legs[0]
    if first.instrument.expiry is None:
        return "shares"
    if not plan.is_combo:
        return "long_option" if plan.side is Side.BUY else "short_put"
    bought, sold = (_value(leg.instrument, D(100)) for leg in plan.legs)
    return "debit" if bought > sold else "credit"


def is_watched(plan: TradePlan, broker: str) -> bool:
    """True where no exit of it may rest: the exit watch holds its stop and target."""
    return plan.is_combo or (broker == "alpaca" and plan.instrument.expiry is not None)


def quote_of(instrument: Instrument, bid: Decimal, ask: Decimal) -> tuple[Decimal, Decimal]:
    """Bid and ask of the contract beside those of its underlying."""
    value, half = _value(instrument, (bid + ask) / 2), (ask - bid) / 2
    low = (value - half).quantize(TICK, ROUND_DOWN)
    return max(low, TICK), max((value + half).quantize(TICK, ROUND_UP), 2 * TICK)


def _value(instrument: Instrument, mid: Decimal) -> Decimal:
    assert instrument.strike is not None, "an option has a strike"
    sign = 1 if instrument.right is OptionRight.CALL else -1
    inside = max(ZERO, (mid - instrument.strike) * sign)
    return inside + max(TIME_VALUE_MIN, TIME_VALUE - abs(mid - instrument.strike) / 2)
