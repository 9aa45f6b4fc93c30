"""Every scenario that once failed, and the shrinker and oracle that would find it again."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from tests.simulation import kept
from tests.simulation.bare import MAX_S
from tests.simulation.campaign import names
from tests.simulation.scenario import Scenario, stormy
from tests.simulation.shrinking import shrunk
from tests.simulation.world import run_scenario

PARKED = "cancels-refused-by-a-network-that-was-away"
REJECTED = "protection-rejected-while-the-ledger-was-away"
BARE_FOR_A_MOMENT = (
    "cancel-told-with-what-it-had-filled",
    "exit-behind-a-slow-line",
    "refusal-that-the-answer-explains",
    "walk-that-died-before-its-gate",
)


@pytest.mark.parametrize("path", kept.every(), ids=lambda path: path.stem)
def test_kept_scenario_violates_nothing_any_more(path: Path) -> None:
    assert run_scenario(kept.read(path)).violations == ()


def test_rejected_protection_is_missed_by_the_first_pass_that_can_read() -> None:
    """I4: its read broke off with the ledger, and was not repeated for a minute (48.8 s bare)."""
    outcome = run_scenario(kept.read(kept.FOLDER / f"{REJECTED}.json"))
    assert max(span.counted_s for span in outcome.bare) <= MAX_S


@pytest.mark.parametrize("name", BARE_FOR_A_MOMENT)
def test_position_that_once_waited_bare_is_bare_for_a_moment(name: str) -> None:
    """I4, M8: each of them was bare for two to four seconds."""
    outcome = run_scenario(kept.read(kept.FOLDER / f"{name}.json"))
    assert max(span.beyond_entry_s for span in outcome.bare) <= 1.0


def test_scenario_survives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "FOLDER", tmp_path)
    for seed in range(1, 12):
        scenario = stormy(seed, "tradier")
        again = kept.read(kept.write("same", scenario, "nothing"))
        assert again == scenario


def test_planted_bug_is_found_and_shrunk_to_its_cause() -> None:
    """The oracle bites: without the mend of I11 the kept scenario fails again, and mishaps that
    have nothing to do with it are left out."""
    noise = stormy(5).mishaps
    scenario = kept.read(kept.FOLDER / f"{PARKED}.json")
    noisy = replace(scenario, mishaps=(*scenario.mishaps, *noise))

    def mutant() -> AbstractContextManager[object]:
        return mock.patch("domain.fold.lift_answered", lambda state: state)

    def still_fails(smaller: Scenario) -> bool:
        return "I11" in names(run_scenario(smaller, mutant=mutant))

    assert still_fails(scenario)
    assert {m.kind for m in shrunk(noisy, still_fails).mishaps} == {"fault", "no_network"}
