"""Is an order reducing? Computed from what the broker confirmed, never claimed by the caller.

Reducing orders skip limits, breakers and every internal stop, so this is the one door that must
not be opened by mistake (architecture §7): every leg moves towards zero, none crosses it, and
the structure's maximum loss does not rise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from pydantic import Field

from domain.base import Frozen
from domain.instrument import Instrument
from domain.money import ZERO, Quantity
from domain.order import Side
from domain.risk.structure import Holding, max_loss_rises


class ReducingLeg(Frozen):
    """One leg of the order under judgement; `quantity` is contracts of the leg, not units."""

    instrument: Instrument
    side: Side
    quantity: Quantity

    @property
    def signed(self) -> Decimal:
        return self.side.sign * self.quantity


class ReducingVerdict(Frozen):
    """The answer and, if no, why: `LEG_INCREASES`, `CROSSES_ZERO`, `MAX_LOSS_RISES`, `EMPTY`."""

    reducing: bool
    code: str = ""
    facts: dict[str, str] = Field(default_factory=dict)


def is_reducing(
    legs: Sequence[ReducingLeg],
    positions: Sequence[Holding],
    pending_exits: Mapping[str, Decimal],
    marks: Mapping[str, Decimal] | None = None,
) -> ReducingVerdict:
    """Judges an order against broker-confirmed positions of the structure.

    `pending_exits` maps a symbol to the signed quantity of exits that already work or may have
    been sent (a pending sell is negative); they use up the position first. A pending quantity
    on the increasing side does not widen the room. `marks` are prices of the underlyings, used
    where shares and options are held together.
    """
    if not legs:
        return ReducingVerdict(reducing=False, code="EMPTY")
    held = _by_symbol(positions)
    for symbol, moved in _moves(legs).items():
        position = held.get(symbol, ZERO)
        facts = {"symbol": symbol, "position": str(position), "order": str(moved)}
        if moved == 0 or position == 0 or (moved > 0) == (position > 0):
            return ReducingVerdict(reducing=False, code="LEG_INCREASES", facts=facts)
        pending = pending_exits.get(symbol, ZERO)
        reserved = abs(pending) if (pending > 0) != (position > 0) else ZERO
        if abs(moved) > abs(position) - reserved:
            facts["pending_exits"] = str(pending)
            return ReducingVerdict(reducing=False, code="CROSSES_ZERO", facts=facts)
    if _loss_rises(legs, positions, pending_exits, marks or {}):
        return ReducingVerdict(reducing=False, code="MAX_LOSS_RISES")
    return ReducingVerdict(reducing=True)


def _loss_rises(
    legs: Sequence[ReducingLeg],
    positions: Sequence[Holding],
    pending_exits: Mapping[str, Decimal],
    marks: Mapping[str, Decimal],
) -> bool:
    """Pending exits may fill or not: the order must be harmless in both worlds."""
    moves = _moves(legs)
    for already in ({}, pending_exits):
        before = _shifted(positions, already)
        after = _shifted(before, moves)
        if max_loss_rises(before, after, marks):
            return True
    return False


def _by_symbol(positions: Sequence[Holding]) -> dict[str, Decimal]:
    held: dict[str, Decimal] = {}
    for holding in positions:
        symbol = holding.instrument.symbol
        held[symbol] = held.get(symbol, ZERO) + holding.quantity
    return held


def _moves(legs: Sequence[ReducingLeg]) -> dict[str, Decimal]:
    moves: dict[str, Decimal] = {}
    for leg in legs:
        moves[leg.instrument.symbol] = moves.get(leg.instrument.symbol, ZERO) + leg.signed
    return moves


def _shifted(positions: Sequence[Holding], moves: Mapping[str, Decimal]) -> tuple[Holding, ...]:
    instruments = {held.instrument.symbol: held.instrument for held in positions}
    quantities = _by_symbol(positions)
    return tuple(
        Holding(instrument=instrument, quantity=quantities[symbol] + moves.get(symbol, ZERO))
        for symbol, instrument in instruments.items()
    )
