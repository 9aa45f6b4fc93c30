"""Seeds in which nothing goes wrong, and that a seed means the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.museum.scenes import LOST_AND_A_LITTLE_LATE, crashes
from tests.simulation.scenario import BROKERS, calm
from tests.simulation.world import run_scenario

ROOT = Path(__file__).parents[2]
PLACES = (
    {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1"},
    {"TZ": "America/New_York", "PYTHONHASHSEED": "4711"},
)


@pytest.mark.parametrize("broker", BROKERS)
def test_calm_seeds_end_flat_with_equal_books(broker: str) -> None:
    """I1-I15, I20 at the journal; bare seconds within their bound (I4, M8)."""
    outcomes = [run_scenario(calm(seed, broker)) for seed in range(1, 25)]
    assert [(o.seed, o.violations) for o in outcomes if o.violations] == []
    ends = {result.exit_reason for o in outcomes for result in o.results}
    assert ends >= {"stop", "target", "time_stop"}
    assert max(gap_s for o in outcomes for gap_s in o.bare_s) <= 5.0
    assert 0 < max(wait.counted_s for o in outcomes for wait in o.unconfirmed) <= 0.1


@pytest.mark.parametrize("broker", BROKERS)
def test_order_without_a_reply_is_unconfirmed_and_a_death_is_left_out(broker: str) -> None:
    """M8: naked and unconfirmed seconds apart; downtime is shown."""
    lost = [run_scenario(LOST_AND_A_LITTLE_LATE(seed, broker)) for seed in range(1, 7)]
    assert max(wait.counted_s for o in lost for wait in o.unconfirmed) >= 1.0
    died = [run_scenario(crashes(seed, broker)) for seed in range(1, 7)]
    assert max(wait.excluded_s for o in died for wait in o.unconfirmed) >= 0.2


def test_same_seed_gives_the_same_trace_in_every_process() -> None:
    """M3: other process, time zone and hash seed; other seeds give other traces."""
    told = [_hashes(place) for place in PLACES]
    assert told[0] == told[1]
    assert len(set(told[0])) == len(told[0]) == 4 * len(BROKERS)


def _hashes(place: dict[str, str]) -> list[str]:
    command = [sys.executable, "-m", "tests.simulation", "--seed", "1", "--seeds", "4", "--hash"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **place}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()
