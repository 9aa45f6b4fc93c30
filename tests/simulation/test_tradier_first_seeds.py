"""Seeds 1-500 at Tradier: no invariant is violated, every kind of mishap strikes (storms.py)."""

from __future__ import annotations

from tests.simulation.storms import storm_tests

test_no_seed_violates_an_invariant, test_every_kind_of_mishap_struck = storm_tests("tradier", 1)
