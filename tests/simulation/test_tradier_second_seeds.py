"""Seeds 501-1000 at Tradier: no invariant is violated, every kind of mishap strikes (storms.py)."""

from __future__ import annotations

import pytest

from tests.simulation.storms import storm_tests

pytestmark = pytest.mark.covers("B3", "C2", "C5", "C8", "D1", "D4", "F1", "F7", "K1", "R4")

(
    test_no_seed_violates_an_invariant,
    test_every_kind_of_mishap_struck,
    test_most_positions_are_bare_for_moments_only,
) = storm_tests("tradier", 501)
