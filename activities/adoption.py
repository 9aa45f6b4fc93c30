"""Adopting a foreign position: preview from ledger and broker, then trade, ticket, books, workflow.

Each step is idempotent by the trade's id, which follows from the command id: a repeat goes on
where the first one broke off, and two people cannot adopt the same quantity (K6).
"""

from __future__ import annotations

from decimal import Decimal

from activities.by_hand import adjustment_rows
from activities.restore import Restorer, is_half_adopted
from activities.services import Services
from domain.account import MarketClock
from domain.adoption import (
    AdoptionRequest,
    Foreign,
    adopted_plan,
    adopted_state,
    adoption_fact,
)
from domain.base import Frozen
from domain.clock import ClockMap
from domain.entry import EntryTicket
from domain.errors import BadInput, Refused
from domain.facts import AdjustmentKind, PositionAdjusted
from domain.money import divide, multiply, total
from domain.plan import FixedSize, TradePlan
from domain.risk import gate
from domain.trade_state import TradeState
from ledger.records import EXTERNAL, ReserveDecision, ReserveRequest, RiskBook, TradeRecord

EXTERNAL_MOVED = "EXTERNAL_MOVED"
_DELIVERED = (AdjustmentKind.ASSIGNMENT, AdjustmentKind.EXERCISE, AdjustmentKind.SYMBOL_CHANGE)


class Adoption(Frozen):
    """Everything about an adoption before it is done."""

    plan: TradePlan
    ticket: EntryTicket
    fact: PositionAdjusted
    state: TradeState
    foreign: Foreign


async def prepare(services: Services, request: AdoptionRequest, clock: ClockMap) -> Adoption:
    """Reads the position and plans its adoption; writes nothing.

    Raises:
        BadInput: see `adopted_plan`. Refused, Transient, Uncertain: broker or ledger.
    """
    foreign = await _foreign(services, request.symbol)
    hours = await services.broker.market_clock()
    plan = adopted_plan(request, foreign, hours.market_now)
    ticket = _ticket(services, plan, foreign, hours)
    fact = adoption_fact(plan, foreign, services.now())
    state = adopted_state(plan, ticket, fact, services.installation, clock)
    return Adoption(plan=plan, ticket=ticket, fact=fact, state=state, foreign=foreign)


async def adopt(
    services: Services, restorer: Restorer, adoption: Adoption, clock: ClockMap
) -> bool:
    """Books the move from EXTERNAL and starts the trade; False if its workflow was there.

    Raises:
        Refused: `EXTERNAL_MOVED`, `TRADE_EXISTS`. Transient: ledger or Temporal.
    """
    plan = adoption.plan
    await services.ledger.create_trade(plan, stage="adopted", config_hash=services.config_hash)
    await services.ledger.reserve(
        ReserveRequest(
            trade_id=plan.trade_id,
            account=plan.account,
            strategy=plan.strategy,
            symbol=plan.symbol,
        ),
        lambda book: _decision(adoption, book),
        services.now(),
    )
    rows = adjustment_rows(services.account, plan.trade_id, adoption.fact)
    takes = {plan.symbol: adoption.fact.quantity}
    try:
        await services.ledger.move_positions(services.account, rows, takes=takes)
    except Refused:
        await services.ledger.release_reservation(plan.trade_id, "not adopted")
        await services.ledger.update_trade(
            plan.trade_id, stage="refused", result=EXTERNAL_MOVED, closed=True
        )
        raise
    return await restorer.reopen(plan.trade_id, "adopted by a person", clock)


async def carry_on(
    services: Services, restorer: Restorer, known: TradeRecord, clock: ClockMap
) -> bool:
    """Goes on with an adoption that broke off; False if its workflow runs already.

    Raises:
        BadInput, Refused, Transient: as `prepare` and `adopt`.
    """
    if not await is_half_adopted(services.ledger, known):
        return await restorer.reopen(known.trade_id, "adopted by a person")
    plan = known.plan
    foreign = await _foreign(services, plan.symbol)
    ticket = _ticket(services, plan, foreign, await services.broker.market_clock())
    fact = adoption_fact(plan, foreign, services.now())
    state = adopted_state(plan, ticket, fact, services.installation, clock)
    found = Adoption(plan=plan, ticket=ticket, fact=fact, state=state, foreign=foreign)
    return await adopt(services, restorer, found, clock)


async def _foreign(services: Services, symbol: str) -> Foreign:
    asset = await services.broker.asset(symbol)
    owned = await services.ledger.positions_by_trade(services.account)
    held = next((p for p in await services.broker.positions() if p.symbol == symbol), None)
    quote = (await services.broker.quotes([symbol])).get(symbol)
    if quote is None:
        raise Refused(f"no quote for {symbol}", code="PRICE_UNAVAILABLE")
    external = total(r.quantity for r in owned if (r.trade_id, r.symbol) == (EXTERNAL, symbol))
    quantity = Decimal(0) if held is None else held.quantity
    if external and (quantity * external < 0 or abs(quantity) < abs(external)):
        # The books are older than the broker: reconcile first, then adopt what is there.
        text = f"{external} by the books, {quantity} at the broker; run verify first"
        raise BadInput("POSITION_DIFFERS", "symbol", symbol, text)
    return Foreign(
        instrument=asset.instrument,
        external=external,
        average_price=await _basis(services, symbol, external)
        or (None if held is None else held.average_price),
        available=None if held is None else held.available_quantity,
        quote=quote,
    )


async def _basis(services: Services, symbol: str, external: Decimal) -> Decimal | None:
    """What an option's shares cost with its premium, where EXTERNAL has exactly those."""
    rows = [
        row
        for row in await services.ledger.adjustments(services.account)
        if row.trade_id is None and row.symbol == symbol and row.kind in _DELIVERED
    ]
    priced = [(row.quantity, row.price) for row in rows if row.price is not None]
    if not priced or total(quantity for quantity, _ in priced) != external:
        return None
    return divide(total(multiply(quantity, price) for quantity, price in priced), external)


def _ticket(
    services: Services, plan: TradePlan, foreign: Foreign, hours: MarketClock
) -> EntryTicket:
    """What the exits need to know. Its approval can enter nothing: the walk has ended."""
    assert isinstance(plan.size, FixedSize)
    assert foreign.average_price is not None
    assert plan.stop is not None
    return EntryTicket(
        approved=gate.approve_held(
            plan,
            plan.size.quantity,
            foreign.average_price,
            plan.stop.price.at(foreign.average_price),
            services.now(),
            services.config_hash,
        ),
        start_price=foreign.average_price,
        arrival=foreign.quote,
        capabilities=services.broker.capabilities,
        is_open=hours.is_open,
        next_close=hours.next_close,
        halted=plan.symbol in hours.halted_symbols,
        allow_market_exits=services.allow_market_exits,
        exit_collar_fraction=services.limits.collar_fraction,
    )


def _decision(adoption: Adoption, book: RiskBook) -> ReserveDecision:
    """The risk is there already; it is counted from now on, not judged."""
    approved = adoption.ticket.approved
    return ReserveDecision(
        approved=True,
        quantity=approved.quantity,
        notional=approved.reserved_notional,
        loss=approved.reserved_loss,
        text="adopted",
        document=adoption.ticket.model_dump(mode="json"),
    )
