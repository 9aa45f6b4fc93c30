"""The seeds of `make test`: four files of 500, so that two pytest workers share them.

Each file runs its seeds in chunks, and in the end demands that every kind of mishap struck.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest

from deploy.temporal.lanes import OrderLane
from tests.simulation.bare import MAX_S, quantile
from tests.simulation.campaign import SOMETIMES_SEEDS, Tally, explain, run_seeds

CHUNK = 50
EXPLAINED_MAX = 3
STEPS_OF_A_RETURN = 5
"""Requests a stop's way back may stand behind: its cancels, a look, the post."""


def storm_tests(
    broker: str, first: int
) -> tuple[Callable[[int], None], Callable[[], None], Callable[[], None]]:
    """The chunks from this seed on, what must have happened in all of them, and bare time."""
    starts = range(first, first + SOMETIMES_SEEDS, CHUNK)

    @cache
    def played(start: int) -> Tally:
        return run_seeds(range(start, start + CHUNK), broker)

    @cache
    def all_played() -> Tally:
        """Of the chunks that were played before; a test that runs alone plays them itself."""
        sums = Tally()
        for start in starts:
            sums.merge(played(start))
        return sums

    @pytest.mark.parametrize("start", starts)
    def test_no_seed_violates_an_invariant(start: int) -> None:
        failed = played(start).failed
        text = "\n".join(explain(outcome) for outcome in failed[:EXPLAINED_MAX])
        assert not failed, f"{len(failed)} seeds failed\n{text}"

    def test_every_kind_of_mishap_struck() -> None:
        """A fault that never strikes proves nothing ("sometimes" assertions)."""
        assert all_played().never_happened(broker) == []

    def test_most_positions_are_bare_for_moments_only() -> None:
        """I4, M8: `make simulate` tells the whole distribution, this guards its body."""
        for protection, values in all_played().bare.items():
            gap_s = lane_gap_s(protection)
            assert quantile(values, 0.5) <= 1.0 + gap_s, protection
            assert quantile(values, 0.9) <= MAX_S + STEPS_OF_A_RETURN * gap_s, protection

    return (
        test_no_seed_violates_an_invariant,
        test_every_kind_of_mishap_struck,
        test_most_positions_are_bare_for_moments_only,
    )


def lane_gap_s(protection: str) -> float:
    """Seconds in which the order lane of this class of spans lets one more step go; 0 without a
    rate."""
    rate = re.search(r" at (\d+)/min", protection)
    return 0.0 if rate is None else float(1 / OrderLane("", int(rate[1])).activities_per_second)
