"""The seeds of `make test`: four files of 500, so that two pytest workers share them.

Each file runs its seeds in chunks, and in the end demands that every kind of mishap struck.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.bare import MAX_S, quantile
from tests.simulation.campaign import SOMETIMES_SEEDS, Tally, explain, run_seeds

CHUNK = 50
EXPLAINED_MAX = 3


def storm_tests(
    broker: str, first: int
) -> tuple[Callable[[int], None], Callable[[], None], Callable[[], None]]:
    """The chunks from this seed on, what must have happened in all of them, and bare time."""
    sums = Tally()

    @pytest.mark.parametrize("start", range(first, first + SOMETIMES_SEEDS, CHUNK))
    def test_no_seed_violates_an_invariant(start: int) -> None:
        tally = run_seeds(range(start, start + CHUNK), broker)
        sums.merge(tally)
        text = "\n".join(explain(outcome) for outcome in tally.failed[:EXPLAINED_MAX])
        assert not tally.failed, f"{len(tally.failed)} seeds failed\n{text}"

    def test_every_kind_of_mishap_struck() -> None:
        """A fault that never strikes proves nothing ("sometimes" assertions)."""
        if sums.seeds < SOMETIMES_SEEDS:
            pytest.skip(f"{sums.seeds} of {SOMETIMES_SEEDS} seeds were run")
        assert sums.never_happened(broker) == []

    def test_most_positions_are_bare_for_moments_only() -> None:
        """I4, M8: `make simulate` tells the whole distribution, this guards its body."""
        if sums.seeds < SOMETIMES_SEEDS:
            pytest.skip(f"{sums.seeds} of {SOMETIMES_SEEDS} seeds were run")
        for values in sums.bare.values():
            assert quantile(values, 0.5) <= 1.0
            assert quantile(values, 0.9) <= MAX_S

    return (
        test_no_seed_violates_an_invariant,
        test_every_kind_of_mishap_struck,
        test_most_positions_are_bare_for_moments_only,
    )
