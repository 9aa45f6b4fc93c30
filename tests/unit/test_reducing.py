"""Reducing: the one door past every limit (architecture §7, B5, E8, I4)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.instrument import Instrument, OptionRight
from domain.order import Side
from domain.risk.reducing import ReducingLeg, is_reducing
from domain.risk.structure import Holding, max_loss
from tests.unit.risk_world import SHARE, option

P90, P95 = option(OptionRight.PUT, 90), option(OptionRight.PUT, 95)
C100, C105, C110 = (option(OptionRight.CALL, strike) for strike in (100, 105, 110))
FAR_CALL = option(OptionRight.CALL, 105, expiry=date(2027, 1, 15))
MARKS = {"AAPL": Decimal(100)}


def held(*rows: tuple[Instrument, int]) -> tuple[Holding, ...]:
    return tuple(
        Holding(instrument=instrument, quantity=Decimal(size)) for instrument, size in rows
    )


def legs(*rows: tuple[Instrument, int]) -> tuple[ReducingLeg, ...]:
    return tuple(
        ReducingLeg(
            instrument=instrument,
            side=Side.BUY if size > 0 else Side.SELL,
            quantity=Decimal(abs(size)),
        )
        for instrument, size in rows
    )


@pytest.mark.parametrize(
    ("position", "order", "pending", "code"),
    [
        (100, -99, 0, ""),
        (100, -100, 0, ""),
        (100, -101, 0, "CROSSES_ZERO"),
        (100, 1, 0, "LEG_INCREASES"),
        (0, -1, 0, "LEG_INCREASES"),
        (-100, 100, 0, ""),
        (-100, 101, 0, "CROSSES_ZERO"),
        (-100, -1, 0, "LEG_INCREASES"),
        (100, -39, -60, ""),
        (100, -40, -60, ""),
        (100, -41, -60, "CROSSES_ZERO"),
        (-100, 41, 60, "CROSSES_ZERO"),
        (100, -101, 60, "CROSSES_ZERO"),
        (100, -100, 60, ""),
    ],
)
def test_one_leg_moves_towards_zero_and_never_across(
    position: int, order: int, pending: int, code: str
) -> None:
    verdict = is_reducing(legs((SHARE, order)), held((SHARE, position)), {"AAPL": Decimal(pending)})
    assert verdict.code == code
    assert verdict.reducing is (code == "")


@pytest.mark.parametrize("quantity", [0])
def test_an_empty_order_is_not_reducing(quantity: int) -> None:
    assert is_reducing((), held((SHARE, 100)), {}).code == "EMPTY"
    assert is_reducing(legs((SHARE, quantity)), held((SHARE, 100)), {}).code == "LEG_INCREASES"


CONDOR = held((P90, 2), (P95, -2), (C105, -2), (C110, 2))


@pytest.mark.parametrize(
    ("position", "order", "code"),
    [
        # The whole structure or whole units of it.
        (CONDOR, [(P90, -2), (P95, 2), (C105, 2), (C110, -2)], ""),
        (CONDOR, [(P90, -1), (P95, 1), (C105, 1), (C110, -1)], ""),
        # Short legs first is the safe unwinding; never the long under a short.
        (CONDOR, [(P95, 2)], ""),
        (CONDOR, [(P95, 2), (C105, 2)], ""),
        (CONDOR, [(P90, -1)], "MAX_LOSS_RISES"),
        (CONDOR, [(C110, -2)], "MAX_LOSS_RISES"),
        (CONDOR, [(P95, 1), (C110, -1)], "MAX_LOSS_RISES"),
        (CONDOR, [(P90, -2), (P95, 2), (C105, 3), (C110, -2)], "CROSSES_ZERO"),
        (CONDOR, [(P90, -1), (C105, -1)], "LEG_INCREASES"),
        # One vertical of the two may go alone.
        (CONDOR, [(P90, -2), (P95, 2)], ""),
        # A long call alone has nothing to protect.
        (held((C100, 3)), [(C100, -3)], ""),
        # Covered call: the short call first, not the shares.
        (held((SHARE, 100), (C105, -1)), [(C105, 1)], ""),
        (held((SHARE, 100), (C105, -1)), [(SHARE, -100)], "MAX_LOSS_RISES"),
        (held((SHARE, 100), (C105, -1)), [(SHARE, -100), (C105, 1)], ""),
        # Protective put: the shares first, not the put.
        (held((SHARE, 100), (P95, 1)), [(SHARE, -50)], ""),
        (held((SHARE, 100), (P95, 1)), [(P95, -1)], "MAX_LOSS_RISES"),
        # A later long call covers an earlier short one, not the other way round.
        (held((C105, -1), (FAR_CALL, 1)), [(FAR_CALL, -1)], "MAX_LOSS_RISES"),
        (held((C105, -1), (FAR_CALL, 1)), [(C105, 1)], ""),
    ],
)
def test_structure_never_ends_with_a_larger_worst_case(
    position: Sequence[Holding], order: list[tuple[Instrument, int]], code: str
) -> None:
    assert is_reducing(legs(*order), position, {}, MARKS).code == code


def test_a_pending_exit_of_the_long_leg_is_believed_to_fill() -> None:
    """The long may be gone already: selling the other long then leaves the short bare."""
    position = held((P95, -1), (P90, 2))
    assert is_reducing(legs((P90, -1)), position, {}, MARKS).reducing
    verdict = is_reducing(legs((P90, -1)), position, {P90.symbol: Decimal(-1)}, MARKS)
    assert verdict.code == "MAX_LOSS_RISES"


def test_max_loss_of_structures() -> None:
    assert max_loss(CONDOR, {}) == Decimal(1000)
    assert max_loss(held((C105, -1)), {}) is None
    assert max_loss(held((P95, -1)), {}) == Decimal(9500)
    assert max_loss(held((SHARE, 100)), MARKS) == Decimal(10_000)
    assert max_loss((), {}) == 0


strikes = st.sampled_from([P90, P95, C100, C105, C110, SHARE])


@given(st.dictionaries(strikes.map(lambda leg: leg.symbol), st.integers(-3, 3), min_size=1))
def test_closing_the_whole_structure_is_always_reducing(sizes: dict[str, int]) -> None:
    """Liveness of the exit: whatever is held, all of it may always be closed at once."""
    known = {leg.symbol: leg for leg in (P90, P95, C100, C105, C110, SHARE)}
    rows = [(known[symbol], size) for symbol, size in sizes.items() if size != 0]
    if not rows:
        return
    order = legs(*((instrument, -size) for instrument, size in rows))
    assert is_reducing(order, held(*rows), {}, MARKS).reducing


@given(st.integers(-500, 500), st.integers(-500, 500), st.integers(-500, 500))
def test_a_reducing_order_never_flips_the_position(position: int, order: int, pending: int) -> None:
    """I4: position, exits that work and this order together never cross zero."""
    verdict = is_reducing(legs((SHARE, order)), held((SHARE, position)), {"AAPL": Decimal(pending)})
    if not verdict.reducing:
        return
    for filled in (0, pending if pending * position < 0 else 0):
        left = position + order + filled
        assert left * position >= 0
        assert abs(left) < abs(position)
