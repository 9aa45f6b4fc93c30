"""The entry ticket: what the risk gate approved, and the pure ladder that follows from it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.capabilities import Capabilities
from domain.instrument import Instrument
from domain.money import Amount, NetPrice, Quantity
from domain.order import Quote, Side
from domain.plan import EntryStyle, TradePlan, WalkStart


class RiskApproved(Frozen):
    """Proof that the gate said yes. Minted only by `domain.risk.gate.approve`.

    Only a value of this type can become an entry order (style.md rule 17).
    """

    reservation_id: str
    trade_id: str
    quantity: Quantity
    worst_price: NetPrice
    reserved_notional: Amount
    reserved_loss: Amount
    approved_at: AwareDatetime
    config_version: str = ""


class EntryTicket(Frozen):
    """Everything the trade needs to enter, decided in one transaction of the gate.

    `start_price`, `step` and `worst_price` are signed net prices of one trade unit. `arrival` is
    the quote that sized it. Hours are UTC market instants.
    """

    approved: RiskApproved
    start_price: NetPrice
    arrival: Quote
    capabilities: Capabilities
    is_open: bool = True
    next_close: AwareDatetime | None = None
    halted: bool = False
    allow_market_exits: bool = True
    exit_collar_fraction: Decimal = Decimal("0.02")


def wished_start(start: WalkStart, quote: Quote, mid: Decimal, side: Side) -> Decimal:
    """The price in this quote that `start` names; both sides of the quote are there."""
    assert quote.bid is not None
    assert quote.ask is not None
    if start is WalkStart.MID:
        return mid
    own_side_is_bid = (start is WalkStart.NEAR) == (side is Side.BUY)
    return quote.bid if own_side_is_bid else quote.ask


def ladder_price(
    side: Side, start: Decimal, step: Decimal, worst: Decimal, index: int, instrument: Instrument
) -> Decimal:
    """Limit price of ladder step `index` (0-based), tick-valid in the protective direction.

    A buy climbs from `start` by `step` and never passes `worst`; a sell falls likewise. Signed
    net prices work unchanged (a combo is bought at a net price, credit < 0).
    """
    if index < 0 or step <= 0:
        raise ValueError(f"ladder index was {index} and step {step}, allowed: >= 0 and > 0")
    raw = start + side.sign * step * index
    if side is Side.BUY:
        return instrument.tick_down(min(raw, worst))
    return instrument.tick_up(max(raw, worst))


def ladder(
    side: Side,
    start: Decimal,
    step: Decimal,
    worst: Decimal,
    steps_max: int,
    instrument: Instrument,
) -> tuple[Decimal, ...]:
    """All distinct prices of the walk in order; ends early where it reaches `worst`."""
    prices: list[Decimal] = []
    for index in range(steps_max + 1):
        price = ladder_price(side, start, step, worst, index, instrument)
        if prices and price == prices[-1]:
            break
        prices.append(price)
    return tuple(prices)


def entry_orders_max(plan: TradePlan) -> int:
    """How many entry orders one signal may send at most, replacements counted (I15)."""
    if plan.entry_style is EntryStyle.ONCE:
        return 1
    return plan.slices.count if plan.slices is not None else plan.walk.steps_max + 1


def is_late(signal_time: datetime, market_now: datetime, max_age_s: Decimal) -> bool:
    """True if the signal is older than its maximum age (A8)."""
    return (market_now - signal_time).total_seconds() > float(max_age_s)
