"""Does an order that says it reduces really reduce? Asked at the last hop, before its gate.

Reducing orders skip arm, kill, breakers and limits, so the word of a workflow is not enough
(architecture §7, ADR 0011). The ledger is asked first; only if it contradicts is the broker asked,
and only both together refuse. Whatever cannot be read or is not complete lets the order pass: an
exit is never held back by missing knowledge. Only behind a kill that could not reach the ledger the
broker's word is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal

from activities.services import Services
from domain.errors import HoldfastError
from domain.ids import Purpose
from domain.money import ZERO, multiply
from domain.order import OrderBody, OrderClass, OrderIntent, Side
from domain.plan import TradePlan
from domain.risk.reducing import ReducingLeg, ReducingVerdict, is_reducing
from domain.risk.structure import Holding
from ledger.records import IntentRecord, IntentState, TradeBook

NOT_REDUCING = "NOT_REDUCING"
ASK_AGAIN_S = 30.0
"""Pause before a trade whose exit was refused here may try again, wall seconds."""
LEDGER_WAIT_S = 0.5
BROKER_WAIT_S = 1.0
"""Together with gate and send they stay inside the step: a slow part must not eat an exit (H5)."""
_LEAVES = (Purpose.EXIT, Purpose.FLATTEN)
_IN_DOUBT = (IntentState.SENDING, IntentState.UNKNOWN)


async def why_not_reducing(services: Services, intent: OrderIntent) -> str:
    """Why ledger and broker agree that this order would add risk; empty if it may go.

    Resting stops and targets are no pending exits here: the venue or the trade's own fold keeps
    them within the position (I4). Never raises.
    """
    try:
        async with asyncio.timeout(LEDGER_WAIT_S):
            book = await services.ledger.trade_book(intent.key.trade_id)
    except (HoldfastError, TimeoutError):
        return await _after_a_hand(services, intent)
    if book is None or _is_known(book, intent):
        return ""
    held = {symbol: book.position(symbol) for symbol in _symbols(book.trade.plan)}
    leaving = _leaving(book, intent)
    pending = [(o.intent.body, o.intent.body.quantity - o.filled_quantity) for o in leaving]
    told = _judge(book.trade.plan, intent, held, pending)
    if told.reducing or not _is_complete(book, intent):
        return ""
    try:
        async with asyncio.timeout(BROKER_WAIT_S):
            seen = await _at_broker(services, book)
            still = [(o.intent.body, await _rest_at_broker(services, o)) for o in leaving]
    except (HoldfastError, TimeoutError):
        return ""
    if seen is None:
        return ""
    verdict = _judge(book.trade.plan, intent, seen, still)
    facts = ", ".join(f"{name} {value}" for name, value in verdict.facts.items())
    return "" if verdict.reducing else f"{verdict.code} {facts}".strip()


async def _after_a_hand(services: Services, intent: OrderIntent) -> str:
    """Judges without the ledger, when a kill in the local journal waits for it (K8).

    A flatten that had to do without the ledger leaves a trade that believes it still holds; its
    next stop or exit would open the opposite position. An empty answer counts here: a person has
    just said that the account shall be flat, and a refused order is asked for again.
    """
    if not services.entry_blocked():
        return ""
    try:
        async with asyncio.timeout(BROKER_WAIT_S):
            held = {p.symbol: p.quantity for p in await services.broker.positions()}
    except (HoldfastError, TimeoutError):
        return ""
    for symbol, move in _moves(intent.body, intent.body.quantity).items():
        there = held.get(symbol, ZERO)
        crosses = abs(move) > abs(there) and not intent.keeps_quantity
        if there * move >= 0 or crosses:
            return f"a kill waits for the ledger and the broker holds {there} {symbol}"
    return ""


def _is_known(book: TradeBook, intent: OrderIntent) -> bool:
    """An earlier attempt was here: its own answer counts, the gate tells it."""
    return any(
        order.intent.client_id == intent.client_id and order.state is not IntentState.NOT_SENT
        for order in book.orders
    )


def _leaving(book: TradeBook, intent: OrderIntent) -> list[IntentRecord]:
    """Exits of the trade that the ledger believes to be at work, the replaced one left out."""
    return [
        order
        for order in book.orders
        if order.intent.key.purpose in _LEAVES
        and order.state is IntentState.ACCEPTED
        and (order.snapshot is None or not order.snapshot.is_terminal)
        and order.intent.client_id not in (intent.client_id, intent.replaces)
    ]


def _is_complete(book: TradeBook, intent: OrderIntent) -> bool:
    """False while an order of the trade is in doubt or an execution is missing."""
    others = (o for o in book.orders if o.intent.client_id != intent.client_id)
    return not book.misses_executions and all(o.state not in _IN_DOUBT for o in others)


async def _at_broker(services: Services, book: TradeBook) -> dict[str, Decimal] | None:
    """What the broker holds less what other owners have there; None if that is no evidence."""
    positions = {p.symbol: p.quantity for p in await services.broker.positions()}
    booked = await services.ledger.positions_by_trade(services.account)
    if not positions and booked:
        return None  # an empty answer is no proof of being flat (R6)
    own = book.trade.trade_id
    return {
        symbol: positions.get(symbol, ZERO)
        - sum((p.quantity for p in booked if p.symbol == symbol and p.trade_id != own), ZERO)
        for symbol in _symbols(book.trade.plan)
    }


async def _rest_at_broker(services: Services, order: IntentRecord) -> Decimal:
    """What the exit may still take off: nothing once the broker shows it dead or not at all."""
    if order.broker_order_id is None:
        return ZERO
    seen = await services.broker.order(order.broker_order_id)
    if seen is None or seen.is_terminal:
        return ZERO
    return max(seen.quantity - seen.filled_quantity, ZERO)


def _judge(
    plan: TradePlan,
    intent: OrderIntent,
    held: Mapping[str, Decimal],
    pending: Sequence[tuple[OrderBody, Decimal]],
) -> ReducingVerdict:
    """The order against what is held; `pending` are other exits with what they may still fill."""
    instruments = {leg.instrument.symbol: leg.instrument for leg in plan.legs}
    moves = _moves(intent.body, intent.body.quantity)
    if intent.keeps_quantity:
        # The venue keeps the rest of the old order: only the direction is ours to judge.
        moves = {symbol: _within(move, held.get(symbol, ZERO)) for symbol, move in moves.items()}
    if any(symbol not in instruments for symbol in moves):
        return ReducingVerdict(reducing=True)  # not in the plan: nothing to judge it by
    working: dict[str, Decimal] = {}
    for body, rest in pending:
        for symbol, move in _moves(body, rest).items():
            working[symbol] = working.get(symbol, ZERO) + move
    legs = [
        ReducingLeg(
            instrument=instruments[symbol],
            side=Side.BUY if move > 0 else Side.SELL,
            quantity=abs(move),
        )
        for symbol, move in moves.items()
    ]
    holdings = [
        Holding(instrument=instrument, quantity=held.get(symbol, ZERO))
        for symbol, instrument in instruments.items()
    ]
    return is_reducing(legs, holdings, working)


def _within(move: Decimal, held: Decimal) -> Decimal:
    """The move, at most as large as what is held; nothing held leaves it as it is."""
    return move if held == 0 else min(abs(move), abs(held)).copy_sign(move)


def _moves(body: OrderBody, units: Decimal) -> dict[str, Decimal]:
    """Signed quantity by symbol that the order moves when `units` of it fill."""
    if body.order_class is not OrderClass.COMBO:
        return {body.symbol: body.side.sign * units}
    return {
        leg.symbol: multiply(Decimal(leg.side.sign * leg.ratio * body.side.sign), units)
        for leg in body.legs
    }


def _symbols(plan: TradePlan) -> tuple[str, ...]:
    return tuple(leg.instrument.symbol for leg in plan.legs)
