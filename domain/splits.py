"""A split under an open trade: what it knows is written anew in new shares (R5).

Fills stay on record in the ledger as they were; the trade's own copies, its plan's prices, the
stop and moved targets are scaled at the moment it hears of the split, so that everything after it
counts in one kind of share. A fill from before the split that is told late is scaled as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from pydantic import AwareDatetime

from domain import trade_state as ts
from domain.base import Frozen
from domain.changes import alert, end_walk
from domain.commands import AlertSeverity
from domain.facts import AdjustmentKind, PositionAdjusted
from domain.money import ONE, ZERO, SignedQuantity, divide, multiply
from domain.order import Fill, OrderState
from domain.plan import ExitRule, PlanPrice, RuleKind, TradePlan
from domain.protecting import PROTECTION_REJECTED
from domain.split_math import split_price, split_quantity
from domain.trade_state import ExitProgress, OrderRecord, Role, TradeState

_IN_PRICE = (RuleKind.STOP_TRAIL, RuleKind.STOP_REACHED)
_BY_PERSON = (AdjustmentKind.ADOPTED, AdjustmentKind.BY_HAND)


class Split(Frozen):
    """`old` shares became `new` ones at the market instant `at`."""

    at: AwareDatetime
    old: SignedQuantity
    new: SignedQuantity

    @property
    def ratio(self) -> Decimal:
        return divide(self.new, self.old)


def scaled_fill(fill: Fill, splits: Iterable[Split]) -> Fill:
    """The fill in today's shares: more of them at a lower price, the same money."""
    factor = ONE
    for split in splits:
        if fill.venue_time < split.at:
            factor = multiply(factor, split.ratio)
    if factor == ONE:
        return fill
    return fill.model_copy(
        update={
            "quantity": split_quantity(fill.quantity, factor),
            "price": split_price(fill.price, factor),
        }
    )


def splits_of(
    moves: Iterable[tuple[datetime, Decimal]], rows: Sequence[tuple[datetime, Decimal]]
) -> tuple[Split, ...]:
    """Ratios of booked splits, from what was held right before each.

    Args:
        moves: (time, signed quantity) of everything else that moved the position.
        rows: (time, signed change) of the splits.
    """
    known, found, changed = sorted(moves), [], ZERO
    for at, change in sorted(rows):
        before = sum((quantity for time, quantity in known if time < at), changed)
        changed += change
        if before != 0 and before + change != 0:
            found.append(Split(at=at, old=before, new=before + change))
    return tuple(found)


def known_splits(state: TradeState) -> tuple[Split, ...]:
    """The splits that this trade has heard of."""
    return tuple(
        Split(at=each.effective_at, old=each.split_from, new=each.split_to)
        for each in state.adjustments
        if each.split_from and each.split_to is not None and each.effective_at is not None
    )


def split_trade(state: TradeState, fact: PositionAdjusted, now: datetime) -> TradeState:
    """State in new shares. What was rounded away stays as the quantity of the adjustment."""
    assert fact.split_from is not None, "a split is of something"
    assert fact.split_to is not None, "a split makes something"
    at = fact.effective_at or state.clock.market(now)
    split = Split(at=at, old=fact.split_from, new=fact.split_to)
    after = ts.position_of(state, fact.symbol) + fact.quantity
    fills = tuple(scaled_fill(fill, (split,)) for fill in state.fills)
    state = end_walk(state, "split") if not state.walk.ended else state
    state = state.changed(
        fills=fills,
        plan=_scaled_plan(state.plan, split.ratio),
        adjustments=tuple(_scaled_by_person(each, split.ratio) for each in state.adjustments),
        moved_targets=tuple(
            each.model_copy(update={"price": _tick(state, split_price(each.price, split.ratio))})
            for each in state.moved_targets
        ),
        orders=tuple(_forgiven(record) for record in state.orders),
        exit=ExitProgress() if state.exit.reason == PROTECTION_REJECTED else state.exit,
        watched_epoch=0,
        read_needed="split",
    )
    if state.covered is not None:
        state = state.changed(covered=split_quantity(state.covered, split.ratio))
    if state.stop_price is not None:
        stop = ts.protective_tick(state, split_price(state.stop_price, split.ratio))
        state = state.changed(stop_price=stop)
    rest = after - ts.position_of(state, fact.symbol)
    booked = fact.model_copy(update={"quantity": rest, "effective_at": split.at})
    text = f"{fact.symbol} {split.old} to {split.new}: stop {state.stop_price}"
    state = state.changed(adjustments=(*state.adjustments, booked))
    return alert(state, "SPLIT", text, AlertSeverity.CRITICAL)


def _forgiven(record: OrderRecord) -> OrderRecord:
    """What the venue refused at the old price says nothing about the new one.

    It may cancel a stop for the split before anybody tells of it; the trade then asked for the
    old one, above the new market.
    """
    if record.role not in (Role.STOP, Role.TARGET):
        return record
    state = OrderState.NOT_SENT if record.state is OrderState.REJECTED else record.state
    return record.model_copy(update={"state": state, "refusals": 0, "retry_at": None})


def _tick(state: TradeState, price: Decimal) -> Decimal:
    return state.plan.instrument.tick_down(price)


def _scaled_by_person(each: PositionAdjusted, ratio: Decimal) -> PositionAdjusted:
    if each.adjustment not in _BY_PERSON:
        return each
    price = None if each.price is None else split_price(each.price, ratio)
    return each.model_copy(
        update={"quantity": split_quantity(each.quantity, ratio), "price": price}
    )


def _scaled_plan(plan: TradePlan, ratio: Decimal) -> TradePlan:
    """The plan's exits at new prices; its entry is over."""
    stop = plan.stop
    if stop is not None:
        limit = None if stop.limit_offset is None else split_price(stop.limit_offset, ratio)
        update = {"price": _scaled_price(stop.price, ratio), "limit_offset": limit}
        stop = stop.model_copy(update=update)
    targets = tuple(
        target
        if target.price is None
        else target.model_copy(update={"price": _scaled_price(target.price, ratio)})
        for target in plan.targets
    )
    ratchet = tuple(
        step.model_copy(update={"distance": split_price(step.distance, ratio)})
        for step in plan.ratchet
    )
    rules = tuple(_scaled_rule(rule, ratio) for rule in plan.rules)
    return plan.model_copy(
        update={"stop": stop, "targets": targets, "ratchet": ratchet, "rules": rules}
    )


def _scaled_price(price: PlanPrice, ratio: Decimal) -> PlanPrice:
    absolute = None if price.absolute is None else split_price(price.absolute, ratio)
    offset = None if price.offset is None else split_price(price.offset, ratio)
    return PlanPrice(absolute=absolute, offset=offset)


def _scaled_rule(rule: ExitRule, ratio: Decimal) -> ExitRule:
    if rule.kind not in _IN_PRICE:
        return rule
    return rule.model_copy(update={"threshold": split_price(rule.threshold, ratio)})
