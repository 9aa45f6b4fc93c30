"""Seeds in which nothing goes wrong: every trade lives, ends, and all books agree."""

from __future__ import annotations

import pytest

from tests.simulation.scenario import BROKERS
from tests.simulation.world import run_seed


@pytest.mark.parametrize("broker", BROKERS)
def test_calm_seeds_end_flat_with_equal_books(broker: str) -> None:
    """I1-I3, I5, I12 at the journal; the same seed gives the same trace."""
    outcomes = [run_seed(seed, broker=broker) for seed in range(1, 25)]
    assert [(o.seed, o.violations) for o in outcomes if o.violations] == []
    assert {result.outcome for o in outcomes for result in o.results} >= {"closed", "not_filled"}
    assert run_seed(3, broker=broker).trace_hash == outcomes[2].trace_hash
