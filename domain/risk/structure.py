"""The worst that a structure of legs can still cost, whatever its underlyings do.

Options are taken at intrinsic value at each expiry, everything else as a line through its mark.
Money already paid or received is gone either way and not counted: what matters is whether an
order makes the worst case worse (architecture §7, "reducing").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal

from domain.base import Frozen
from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.money import ZERO, Calculated, SignedQuantity, multiply, total


class Holding(Frozen):
    """A signed quantity of an instrument: long > 0."""

    instrument: Instrument
    quantity: SignedQuantity


class WorstLoss(Frozen):
    """Largest loss at any bounded price (>= 0), and how steeply it grows beyond every strike.

    `runaway` > 0: each point up costs that much more without end (a naked short).
    """

    bounded: Calculated
    runaway: Calculated

    @property
    def is_unlimited(self) -> bool:
        return self.runaway > 0

    def is_worse_than(self, other: WorstLoss) -> bool:
        return self.bounded > other.bounded or self.runaway > other.runaway


def underlying_of(instrument: Instrument) -> str:
    return instrument.underlying or instrument.symbol


def worst_losses(
    holdings: Sequence[Holding], marks: Mapping[str, Decimal]
) -> dict[tuple[str, date | None], WorstLoss]:
    """Worst loss per underlying and per instant that matters.

    The instants are each option expiry (everything that expires later is still alive) and, as
    None, the time after the last one. A long option covers a short one only while it lives, so
    a structure is judged at each of them.
    """
    found: dict[tuple[str, date | None], WorstLoss] = {}
    for name in sorted({underlying_of(holding.instrument) for holding in holdings}):
        group = [held for held in holdings if underlying_of(held.instrument) == name]
        expiries = {held.instrument.expiry for held in group if _is_option(held)}
        moments: tuple[date | None, ...] = tuple(sorted(day for day in expiries if day is not None))
        for moment in (*moments, None):
            alive = [held for held in group if _lives_at(held, moment)]
            found[name, moment] = _worst(alive, _mark_of(name, group, marks))
    return found


def max_loss_rises(
    before: Sequence[Holding], after: Sequence[Holding], marks: Mapping[str, Decimal]
) -> bool:
    """True if any underlying at any instant is worse off with `after` than with `before`."""
    old, new = worst_losses(before, marks), worst_losses(after, marks)
    nothing = WorstLoss(bounded=ZERO, runaway=ZERO)
    return any(loss.is_worse_than(old.get(key, nothing)) for key, loss in new.items())


def max_loss(holdings: Sequence[Holding], marks: Mapping[str, Decimal]) -> Decimal | None:
    """The structure's maximum loss in money, at intrinsic values; None where it has no bound.

    For a combo the premium is added by the caller: a debit is paid on top, a credit received.
    """
    losses = worst_losses(holdings, marks)
    if any(loss.is_unlimited for loss in losses.values()):
        return None
    per_underlying: dict[str, Decimal] = {}
    for (name, _), loss in losses.items():
        per_underlying[name] = max(per_underlying.get(name, ZERO), loss.bounded)
    return total(per_underlying.values())


def _is_option(holding: Holding) -> bool:
    return holding.instrument.kind is InstrumentKind.OPTION


def _lives_at(holding: Holding, moment: date | None) -> bool:
    if not _is_option(holding):
        return True
    expiry = holding.instrument.expiry
    return moment is not None and expiry is not None and expiry >= moment


def _mark_of(name: str, group: Sequence[Holding], marks: Mapping[str, Decimal]) -> Decimal:
    """The mark, or without one the highest strike: it only shifts both sides of a comparison."""
    if name in marks:
        return marks[name]
    return max((held.instrument.strike or ZERO for held in group), default=ZERO)


def _worst(alive: Iterable[Holding], mark: Decimal) -> WorstLoss:
    legs = tuple(alive)
    kinks = {ZERO, *(leg.instrument.strike or ZERO for leg in legs if _is_option(leg))}
    worst = max(total(_loss(leg, price, mark) for leg in legs) for price in kinks)
    runaway = -total(_slope(leg) for leg in legs)
    return WorstLoss(bounded=max(ZERO, worst), runaway=max(ZERO, runaway))


def _loss(leg: Holding, price: Decimal, mark: Decimal) -> Decimal:
    instrument = leg.instrument
    size = multiply(leg.quantity, instrument.multiplier)
    if not _is_option(leg):
        return multiply(size, mark - price)
    strike = instrument.strike or ZERO
    in_the_money = price - strike if instrument.right is OptionRight.CALL else strike - price
    return -multiply(size, max(ZERO, in_the_money))


def _slope(leg: Holding) -> Decimal:
    """Money gained per point of the underlying, above every strike."""
    if _is_option(leg) and leg.instrument.right is OptionRight.PUT:
        return ZERO
    return multiply(leg.quantity, leg.instrument.multiplier)
