"""Prices and size of an entry: everything is sized at the worst price, and rounded down.

`entry_prices` turns the walk plan and the arrival quote into a start and a worst price that are
on the tick and inside the collar. `size` then gives whole lots such that the loss at the worst
price stays within the plan's risk (architecture §2, requirement 60).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal

from domain.base import Frozen
from domain.entry import wished_start
from domain.errors import PriceUnavailable, Refused
from domain.instrument import Instrument, InstrumentKind
from domain.money import (
    CTX,
    MAGNITUDE_MAX,
    ONE,
    ZERO,
    Amount,
    NetPrice,
    Number,
    Quantity,
    amount_up,
    divide,
    multiply,
)
from domain.order import Quote, Side
from domain.plan import CapitalSize, ConfidenceSize, FixedSize, TradePlan
from domain.risk.structure import Holding, max_loss

_HALF = Decimal("0.5")
_SIX_PLACES = Decimal("0.000001")


class CollarBounds(Frozen):
    """Net prices between which an order may leave; both ends are allowed."""

    reference: NetPrice
    low: NetPrice
    high: NetPrice

    def contains(self, price: Decimal) -> bool:
        return self.low <= price <= self.high


class EntryPrices(Frozen):
    """Start and worst net price of the walk, tick-valid, inside the collar."""

    start: NetPrice
    worst: NetPrice
    collar: CollarBounds


class SizedEntry(Frozen):
    """A sized entry: what the gate judges and what a dry run shows.

    `loss_at_worst` is money lost when filled at `worst` and stopped at the stop, None without a
    bound; `notional` is the order's value at the worst price of the walk.
    """

    quantity: Quantity
    prices: EntryPrices
    stop_price: NetPrice | None = None
    loss_at_worst: Amount | None = None
    notional: Amount


def collar(
    reference: Decimal, fraction: Decimal, gross: Decimal, instrument: Instrument
) -> CollarBounds:
    """Bounds around the reference price.

    The width is `fraction` of `gross`: for one leg that is the reference itself; for a combo the
    sum of its legs' values, because a net price near zero would leave no room at all. The bounds
    are tick-valid inwards.

    Raises:
        Refused: `CONFIG_CONTRADICTION` when no tick lies inside (faults.md §3 row 49).
    """
    width = multiply(abs(gross), fraction)
    low = instrument.tick_up(reference - width)
    high = instrument.tick_down(reference + width)
    if low > high:
        raise Refused(
            f"collar of {width} around {reference} held no tick", code="CONFIG_CONTRADICTION"
        )
    return CollarBounds(reference=reference, low=low, high=high)


def entry_prices(
    plan: TradePlan, arrival: Quote, collar_fraction: Decimal, gross: Decimal | None = None
) -> EntryPrices:
    """Start and worst price of the walk against the arrival quote.

    A buy's prices round down and a sell's up: never past what the plan allows. The walk stops at
    the collar, so a wider worst price is drawn in; one that lies beyond the far bound can never
    be reached and is refused.

    Raises:
        PriceUnavailable: a side of the quote is missing or crossed; there is no fallback price.
        Refused: `PRICE_OUTSIDE_COLLAR`, `CONFIG_CONTRADICTION`.
    """
    mid = arrival.mid
    if mid is None or arrival.bid is None or arrival.ask is None or arrival.bid > arrival.ask:
        raise PriceUnavailable(f"quote of {arrival.symbol} was {arrival.bid}/{arrival.ask}")
    instrument = price_instrument(plan)
    bounds = collar(mid, collar_fraction, mid if gross is None else gross, instrument)
    sign = plan.side.sign
    far = bounds.high if plan.side is Side.BUY else bounds.low
    worst = _worst_wish(plan, mid, far)
    worst = min(worst, far) if plan.side is Side.BUY else max(worst, far)
    start = wished_start(plan.walk.start, arrival, mid, plan.side)
    start = min(max(start, bounds.low), bounds.high)
    start = min(start, worst) if sign > 0 else max(start, worst)
    start, worst = _on_tick(plan.side, start, instrument), _on_tick(plan.side, worst, instrument)
    if not bounds.contains(worst):
        raise Refused(
            f"worst price {worst} was outside {bounds.low}..{bounds.high}",
            code="PRICE_OUTSIDE_COLLAR",
        )
    if not bounds.contains(start):
        # Rounding moved the start a tick outwards: the bound itself is on the tick.
        start = bounds.low if sign > 0 else bounds.high
    return EntryPrices(start=start, worst=worst, collar=bounds)


def price_instrument(plan: TradePlan) -> Instrument:
    """The instrument whose tick rules the net price: the finest tick of the legs."""
    if not plan.is_combo:
        return plan.instrument
    # Net prices may be negative or below 1.00, so only the plain tick size applies.
    leg = min((leg.instrument for leg in plan.legs), key=lambda instrument: instrument.tick_size)
    return leg.model_copy(update={"sub_dollar_tick_size": None})


def _worst_wish(plan: TradePlan, mid: Decimal, far: Decimal) -> Decimal:
    if plan.walk.worst_price is not None:
        return plan.walk.worst_price
    if plan.walk.worst_offset is not None:
        return mid + plan.side.sign * plan.walk.worst_offset
    return far


def _on_tick(side: Side, price: Decimal, instrument: Instrument) -> Decimal:
    return instrument.tick_down(price) if side is Side.BUY else instrument.tick_up(price)


def stop_at_worst(plan: TradePlan, worst: Decimal) -> Decimal | None:
    """Stop price of an entry filled at the worst price; None without a stop.

    Raises:
        Refused: `STOP_WRONG_SIDE`, a stop that would trigger at once (faults.md §3 row 16).
    """
    if plan.stop is None:
        return None
    stop = plan.stop.price.at(worst)
    if (worst - stop) * plan.side.sign <= 0:
        raise Refused(f"stop was {stop} for a worst entry at {worst}", code="STOP_WRONG_SIDE")
    return stop


def _check_exit_prices(plan: TradePlan, prices: EntryPrices) -> None:
    """No stop and no target of one instrument may lie at zero or below: no venue takes it.

    Raises:
        Refused: `PRICE_NOT_POSITIVE`; the position would be bare from its first fill on.
    """
    if plan.is_combo:
        return
    wanted = [("stop", plan.stop.price)] if plan.stop is not None else []
    wanted += [(f"targets.{n}", t.price) for n, t in enumerate(plan.targets) if t.price is not None]
    for name, price in wanted:
        for entry in (prices.start, prices.worst):
            if price.at(entry) <= 0:
                text = f"{name} was {price.at(entry)} for an entry at {entry}"
                raise Refused(text, code="PRICE_NOT_POSITIVE")


def loss_between(
    instrument: Instrument, quantity: Decimal, entry: Decimal, stop: Decimal
) -> Decimal:
    """Money lost from entry to stop without fees, >= 0; in coin for inverse contracts."""
    if instrument.inverse:
        distance = abs(divide(ONE, entry) - divide(ONE, stop))
    else:
        distance = abs(entry - stop)
    return multiply(distance, quantity, instrument.multiplier)


def unit_notional(plan: TradePlan, start: Decimal, worst: Decimal) -> Decimal:
    """Value of one trade unit at the dearest price of the walk, in account currency.

    For a combo the larger of the net price and the structure's maximum loss: a credit spread
    costs little and binds much.
    """
    if plan.instrument.inverse and not plan.is_combo:
        return plan.multiplier
    dearest = max(abs(start), abs(worst))
    plain = multiply(dearest, plan.multiplier)
    if not plan.is_combo:
        return plain
    bound = structure_loss(plan, worst, {})
    return plain if bound is None else max(plain, bound)


def structure_loss(
    plan: TradePlan, net_price: Decimal, marks: Mapping[str, Decimal]
) -> Decimal | None:
    """Maximum loss of one unit bought at `net_price`: worst payoff plus debit, minus credit.

    None where the structure has no bound (a naked short).
    """
    holdings = tuple(
        Holding(instrument=leg.instrument, quantity=Decimal(leg.side.sign * leg.ratio))
        for leg in plan.legs
    )
    worst = max_loss(holdings, marks)
    if worst is None:
        return None
    if not all(leg.instrument.kind is InstrumentKind.OPTION for leg in plan.legs):
        return worst
    paid = net_price if plan.is_combo else net_price * plan.side.sign
    return max(ZERO, worst + multiply(paid, plan.multiplier))


def size_entry(plan: TradePlan, prices: EntryPrices, capital: Decimal | None = None) -> SizedEntry:
    """Quantity in whole lots for the plan's size rule, at the worst price.

    Args:
        capital: what a `CapitalSize` is a share of, in account currency; None: unknown.

    Raises:
        Refused: `SIZE_BELOW_LOT` when less than the smallest order remains, `SIZE_NEEDS_STOP`
            when risk sizing has no bounded loss, `CAPITAL_UNKNOWN`, `STOP_WRONG_SIDE`,
            `PRICE_NOT_POSITIVE`, `NOTIONAL_ABOVE_MAX`.
    """
    _check_exit_prices(plan, prices)
    stop = stop_at_worst(plan, prices.worst)
    per_unit = _loss_per_unit(plan, prices.worst, stop)
    notional = unit_notional(plan, prices.start, prices.worst)
    wish = _wished_quantity(plan, per_unit, notional, capital)
    quantity = _lots(plan, wish)
    if quantity <= 0 or quantity < _smallest(plan):
        raise Refused(f"size was {wish}, smallest {_smallest(plan)}", code="SIZE_BELOW_LOT")
    value = multiply(notional, quantity)
    if value > MAGNITUDE_MAX:
        raise Refused(f"order value was {value}", code="NOTIONAL_ABOVE_MAX")
    return SizedEntry(
        quantity=quantity,
        prices=prices,
        stop_price=stop,
        loss_at_worst=None if per_unit is None else amount_up(multiply(per_unit, quantity)),
        notional=amount_up(value),
    )


def _loss_per_unit(plan: TradePlan, worst: Decimal, stop: Decimal | None) -> Decimal | None:
    if stop is not None:
        return loss_between(plan.instrument, ONE, worst, stop)
    return structure_loss(plan, worst, {plan.instrument.symbol: worst})


def _wished_quantity(
    plan: TradePlan, per_unit: Decimal | None, notional: Decimal, capital: Decimal | None
) -> Decimal:
    rule = plan.size
    if isinstance(rule, FixedSize):
        return rule.quantity
    if isinstance(rule, ConfidenceSize):
        return confidence_quantity(rule.confidence, rule.max_position, notional)
    if isinstance(rule, CapitalSize):
        if capital is None or capital <= 0:
            raise Refused(f"capital was {capital}", code="CAPITAL_UNKNOWN")
        quantity = _most(plan, multiply(capital, rule.position_fraction), notional)
        if rule.risk_fraction is None:
            return quantity
        risk_amount = multiply(capital, rule.risk_fraction)
        return min(quantity, _most(plan, risk_amount, _known_loss(per_unit)))
    return _most(plan, rule.risk_amount, _known_loss(per_unit))


def _known_loss(per_unit: Decimal | None) -> Decimal:
    if per_unit is None or per_unit <= 0:
        raise Refused("risk sizing needs a stop or a bounded structure", code="SIZE_NEEDS_STOP")
    return per_unit


def _most(plan: TradePlan, amount: Decimal, unit: Decimal) -> Decimal:
    """How many units the amount pays for, each at `unit`."""
    if unit <= 0:
        raise PriceUnavailable(f"value of one unit was {unit}")
    quantity = divide(amount, unit)
    # The quotient is rounded to 34 digits; never let that buy one lot too much.
    while quantity > 0 and multiply(unit, _lots(plan, quantity)) > amount:
        quantity = _lots(plan, quantity) - _lot(plan)
    return quantity


def confidence_quantity(confidence: Number, max_position: Decimal, unit_price: Decimal) -> Decimal:
    """max(0, (confidence - 0.5) x 2) x max position / price, six decimals, down (req. 60)."""
    if unit_price <= 0:
        raise PriceUnavailable(f"unit price was {unit_price}")
    share = max(ZERO, (min(confidence, ONE) - _HALF) * 2)
    raw = divide(multiply(share, max(ZERO, max_position)), unit_price)
    return raw.quantize(_SIX_PLACES, rounding=ROUND_DOWN, context=CTX)


def _lot(plan: TradePlan) -> Decimal:
    return ONE if plan.is_combo else plan.instrument.lot_size


def _lots(plan: TradePlan, quantity: Decimal) -> Decimal:
    """Whole lots; combos trade in whole units."""
    if plan.is_combo:
        return quantity.to_integral_value(rounding=ROUND_DOWN, context=CTX)
    return plan.instrument.lot_down(quantity)


def _smallest(plan: TradePlan) -> Decimal:
    return ONE if plan.is_combo else max(plan.instrument.min_quantity, plan.instrument.lot_size)
