"""A foreign position becomes a trade: its plan, its first state and what would be ordered.

The trade begins as if restored: nothing is entered, the adopted quantity at the broker's average
price is its entry, and the exits of the plan follow from it like those of any other trade.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from domain.base import Frozen
from domain.clock import ClockMap
from domain.entry import EntryTicket
from domain.errors import BadInput
from domain.facts import AdjustmentKind, PositionAdjusted
from domain.instrument import Instrument
from domain.money import ONE, ZERO, NetPrice, Price, Quantity, SignedQuantity, divide
from domain.order import Quote, Side
from domain.plan import FixedSize, PlanLeg, PlanPrice, StopPlan, TargetPlan, TradePlan, WalkPlan
from domain.protection import DesiredExit, Layout, desired_exits, layout
from domain.restore import rebuild
from domain.trade_state import TradeState

STRATEGY = "adopted"
SESSION = "manual"
TARGETS_MAX = 8
_FRACTION_PLACES = Decimal("0.0001")


class AdoptionRequest(Frozen):
    """What a person wants to adopt and how it shall be protected.

    `quantity` None takes all that EXTERNAL has of the symbol. The targets share the quantity in
    equal parts, the last one takes the remainder.
    """

    symbol: str
    account: str
    trade_id: str
    command_id: str
    stop: Price
    targets: tuple[Price, ...] = ()
    quantity: Quantity | None = None


class Foreign(Frozen):
    """What is known of the position: `external` signed, `available` what no foreign order holds."""

    instrument: Instrument
    external: SignedQuantity
    average_price: NetPrice | None
    available: Quantity | None
    quote: Quote


def adopted_quantity(request: AdoptionRequest, foreign: Foreign) -> Decimal:
    """The signed quantity to adopt.

    Raises:
        BadInput: `NOTHING_EXTERNAL`, `QTY_ABOVE_MAX`, `QTY_NOT_WHOLE`, `QTY_HELD`.
    """
    held = abs(foreign.external)
    if held == 0:
        raise BadInput("NOTHING_EXTERNAL", "symbol", request.symbol, "a position without owner")
    wanted = held if request.quantity is None else request.quantity
    if not 0 < wanted <= held:
        raise BadInput("QTY_ABOVE_MAX", "quantity", wanted, f"0 < q <= {held}")
    if foreign.instrument.lot_down(wanted) != wanted:
        lot = foreign.instrument.lot_size
        raise BadInput("QTY_NOT_WHOLE", "quantity", wanted, f"multiples of {lot}")
    if foreign.available is not None and wanted > foreign.available:
        allowed = f"<= {foreign.available}: other orders hold the rest, cancel them first"
        raise BadInput("QTY_HELD", "quantity", wanted, allowed)
    return wanted if foreign.external > 0 else -wanted


def adopted_plan(request: AdoptionRequest, foreign: Foreign, now: datetime) -> TradePlan:
    """The plan of the adopted trade; `now` is market time.

    Raises:
        BadInput: as `adopted_quantity`; `STOP_WRONG_SIDE` and `TARGETS_INVALID` against the
            market; `TRANCHES_COUNT`; `PRICE_UNAVAILABLE` without the broker's average price.
    """
    quantity = adopted_quantity(request, foreign)
    if foreign.average_price is None or foreign.average_price <= 0:
        raise BadInput("PRICE_UNAVAILABLE", "average_price", foreign.average_price, "> 0")
    side = Side.BUY if quantity > 0 else Side.SELL
    _check_prices(request, foreign, side)
    instrument = foreign.instrument
    return TradePlan(
        trade_id=request.trade_id,
        session=SESSION,
        account=request.account,
        strategy=STRATEGY,
        symbol=request.symbol,
        legs=(PlanLeg(instrument=instrument, side=side),),
        side=side,
        size=FixedSize(quantity=abs(quantity)),
        walk=WalkPlan(
            step=instrument.tick_size,
            interval_s=Decimal(10),
            steps_max=0,
            worst_offset=ZERO,
            max_time_s=Decimal(60),
        ),
        stop=StopPlan(price=PlanPrice(absolute=request.stop)),
        targets=_targets(request),
        signal_id=f"adopt-{request.command_id}"[:48],
        signal_time=now,
        note=f"adopted {quantity} {request.symbol}",
    )


def _check_prices(request: AdoptionRequest, foreign: Foreign, side: Side) -> None:
    """Stop and targets must be where they rest, not where they fill at once."""
    market = foreign.quote.bid if side is Side.BUY else foreign.quote.ask
    if market is None:
        raise BadInput("QUOTE_ONE_SIDED", "symbol", request.symbol, "a quote with both sides")
    below, above = ("<", ">") if side is Side.BUY else (">", "<")
    if (market - request.stop) * side.sign <= 0:
        raise BadInput("STOP_WRONG_SIDE", "stop", request.stop, f"{below} {market} (market)")
    last = market
    for index, price in enumerate(request.targets):
        if (price - last) * side.sign <= 0:
            raise BadInput("TARGETS_INVALID", f"targets.{index}", price, f"{above} {last}")
        last = price
    if len(request.targets) > TARGETS_MAX:
        raise BadInput("TRANCHES_COUNT", "targets", len(request.targets), f"<= {TARGETS_MAX}")


def _targets(request: AdoptionRequest) -> tuple[TargetPlan, ...]:
    count = len(request.targets)
    if count == 0:
        return ()
    each = divide(ONE, Decimal(count)).quantize(_FRACTION_PLACES)
    fractions = [*([each] * (count - 1)), ONE - each * (count - 1)]
    return tuple(
        TargetPlan(price=PlanPrice(absolute=price), fraction=fraction)
        for price, fraction in zip(request.targets, fractions, strict=True)
    )


def adoption_fact(plan: TradePlan, foreign: Foreign, at: datetime) -> PositionAdjusted:
    """The trade's side of the move from EXTERNAL; its id makes it happen once."""
    assert isinstance(plan.size, FixedSize)
    return PositionAdjusted(
        at=at,
        adjustment_id=f"adopt/{plan.trade_id}/{plan.symbol}",
        symbol=plan.symbol,
        quantity=plan.size.quantity * plan.side.sign,
        price=foreign.average_price,
        adjustment=AdjustmentKind.ADOPTED,
    )


def adopted_state(
    plan: TradePlan, ticket: EntryTicket, fact: PositionAdjusted, installation: str, clock: ClockMap
) -> TradeState:
    """The state with which the trade begins; the same rebuild as after a lost store."""
    return rebuild(
        plan,
        installation,
        clock,
        ticket=ticket,
        orders=(),
        fills=(),
        adjustments=(fact,),
        now=fact.at,
    )


def orders_to_come(state: TradeState) -> tuple[DesiredExit, ...]:
    """The exits that the trade would place first; none where the exit watch holds them."""
    return () if layout(state) is Layout.WATCHED else desired_exits(state)
