"""The ledger's side of a person's hand on a trade: positions let go, unknown orders answered."""

from __future__ import annotations

from collections.abc import Sequence

from temporalio import activity

from activities.services import Services, TradeRef
from domain.base import Frozen
from domain.commands import AnsweredOrder, BookByHand
from domain.errors import Broken
from domain.facts import (
    ENDINGS,
    OWNER_CHANGES,
    AdjustmentKind,
    BookedByHand,
    FactBatch,
    PositionAdjusted,
)
from domain.fold_orders import BY_HAND
from domain.money import ZERO, NetPrice
from domain.order import Fill, Side
from domain.splits import Split, scaled_fill, splits_of
from ledger.records import AdjustmentRecord, IntentState


class ByHandInput(Frozen):
    trade: TradeRef
    command: BookByHand


class ByHandActivities:
    """Books what a person changed, in the trade's name. Repeats change nothing."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @activity.defn(name="book_by_hand")
    async def book_by_hand(self, input: ByHandInput) -> FactBatch:
        """Writes adjustments and answers for unknown orders; idempotent by their ids."""
        services, trade_id = self._services.of(input.trade.account), input.trade.trade_id
        for fact in input.command.adjustments:
            rows = adjustment_rows(services.account, trade_id, fact)
            await services.ledger.move_positions(services.account, rows, takes={})
        for answer in input.command.answers:
            await _settle(services, answer)
        booked = BookedByHand(
            at=services.now(),
            adjustment_ids=tuple(fact.adjustment_id for fact in input.command.adjustments),
            client_ids=tuple(answer.client_id for answer in input.command.answers),
        )
        return FactBatch(facts=(booked,))


async def _settle(services: Services, answer: AnsweredOrder) -> None:
    """The intent is no longer open. Evidence of the broker still overrules it (I10).

    An exit that was sent while the ledger was away may have no row: then none is open.
    """
    try:
        await services.ledger.record_answer(
            answer.client_id,
            None,
            IntentState.NOT_SENT,
            code=BY_HAND,
            text=f"{answer.resolution}: {answer.evidence}"[:500],
            at=services.now(),
        )
    except Broken as error:
        activity.logger.warning("answer for %s has no row: %s", answer.client_id, error.code)


def adjustment_rows(
    account: str, trade_id: str, fact: PositionAdjusted
) -> tuple[AdjustmentRecord, ...]:
    """The trade's row; what changes hands with EXTERNAL has its counterpart there (I20)."""
    own = AdjustmentRecord(
        adjustment_id=fact.adjustment_id,
        account=account,
        trade_id=trade_id,
        symbol=fact.symbol,
        quantity=fact.quantity,
        price=fact.price,
        kind=fact.adjustment,
        at=fact.at,
    )
    if fact.adjustment not in OWNER_CHANGES:
        return (own,)
    update = {
        "adjustment_id": f"{fact.adjustment_id}/external",
        "trade_id": None,
        "quantity": -fact.quantity,
        "text": f"{fact.adjustment} by trade {trade_id}",
    }
    return own, own.model_copy(update=update)


class _Moved(Fill):
    """What moved the position and was no execution: an option that expired brought nothing."""

    price: NetPrice


def with_adjustments(
    fills: Sequence[Fill], rows: Sequence[AdjustmentRecord], side: Side
) -> tuple[Fill, ...]:
    """The fills with everything else that moved the position at a price, for the money law.

    What a person put in comes first, what took the position off last; executions from before a
    split are told in new shares. What the broker's own facts took back does not count, and a
    released position is no exit: nothing is claimed for it.
    """
    backs = {row.adjustment_id for row in rows if row.adjustment_id.endswith("/back")}
    before: list[Fill] = []
    after: list[Fill] = []
    for row in rows:
        is_cancelled = row.adjustment_id in backs or f"{row.adjustment_id}/back" in backs
        by_hand = row.kind in (AdjustmentKind.ADOPTED, AdjustmentKind.BY_HAND)
        if is_cancelled or not (by_hand or row.kind in ENDINGS) or row.price is None:
            continue
        moved = _Moved(
            fill_key=row.adjustment_id,
            broker_order_id="",
            symbol=row.symbol,
            side=Side.BUY if row.quantity > 0 else Side.SELL,
            quantity=abs(row.quantity),
            price=row.price,
            fee=ZERO,
            venue_time=row.at,
        )
        (before if by_hand and moved.side is side else after).append(moved)
    splits = booked_splits(fills, rows)
    return (
        *(scaled_fill(each, splits.get(each.symbol, ())) for each in (*before, *fills)),
        *after,
    )


def booked_splits(
    fills: Sequence[Fill], rows: Sequence[AdjustmentRecord]
) -> dict[str, tuple[Split, ...]]:
    """By symbol, with the ratio of what was held right before each."""
    found: dict[str, tuple[Split, ...]] = {}
    for symbol in sorted({row.symbol for row in rows if row.kind is AdjustmentKind.SPLIT}):
        mine = [row for row in rows if row.symbol == symbol]
        moves = [(f.venue_time, f.signed_quantity) for f in fills if f.symbol == symbol]
        moves += [(r.at, r.quantity) for r in mine if r.kind is not AdjustmentKind.SPLIT]
        changes = [(r.at, r.quantity) for r in mine if r.kind is AdjustmentKind.SPLIT]
        found[symbol] = splits_of(moves, changes)
    return found


def booked_facts(
    fills: Sequence[Fill], rows: Sequence[AdjustmentRecord]
) -> tuple[PositionAdjusted, ...]:
    """The rows as the facts that the trade heard."""
    known = {
        (symbol, split.at): split
        for symbol, splits in booked_splits(fills, rows).items()
        for split in splits
    }
    facts: list[PositionAdjusted] = []
    for row in rows:
        is_split = row.kind is AdjustmentKind.SPLIT
        split = known.get((row.symbol, row.at)) if is_split else None
        facts.append(
            PositionAdjusted(
                at=row.at,
                adjustment_id=row.adjustment_id,
                symbol=row.symbol,
                quantity=row.quantity,
                price=row.price,
                adjustment=row.kind,
                split_from=None if split is None else split.old,
                split_to=None if split is None else split.new,
                effective_at=row.at if is_split else None,
            )
        )
    return tuple(facts)
