"""Golden trades at the Alpaca face, clean: faults.md §2.4, judged by the exchange's journal."""

from __future__ import annotations

import pytest

from simulator.config import WireFace
from tests.golden.conftest import Verdicts, assert_clean, names_at

FACE = WireFace.ALPACA
pytestmark = pytest.mark.timeout(420)


@pytest.mark.covers("C2", "C10", "D6", "D7", "D9", "G3", "G6", "K2", "E9")
@pytest.mark.covers("C2", "C10", "D6", "D7", "D9", "G3", "G4", "H10", "K2")
@pytest.mark.parametrize("name", names_at(FACE))
def test_golden_trade_goes_as_written_and_breaks_nothing(verdicts: Verdicts, name: str) -> None:
    assert_clean(verdicts, name)
