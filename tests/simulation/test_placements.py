"""Never two accepted orders for one wish, whatever happens to its send (M6, I1, C2, C5, C8)."""

from __future__ import annotations

import pytest

from tests.simulation.placements import run_batch
from tests.simulation.scenario import BROKERS


@pytest.mark.parametrize("broker", BROKERS)
def test_no_wish_has_two_accepted_orders(broker: str) -> None:
    """Found at the venue without unique ids: an attempt that waited for the gate's answer while
    the server had given it up, the row was claimed and the order called absent.

    Before that was mended these batches had 12 doubles in 1,500 placements at Tradier.
    """
    batches = [run_batch(number, broker) for number in (1, 2, 3)]
    assert sum(batch.duplicates + batch.unresolved for batch in batches) == 0
    assert sum(batch.placed for batch in batches) == 1500
    assert sum(batch.zombies for batch in batches) > 5
    assert sum(batch.lost for batch in batches) > 40
