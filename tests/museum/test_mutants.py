"""The score's arithmetic and its lot: a share without its interval would be no figure (M5)."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import cast

import pytest

from tests.museum.asking import pytest_runtestloop
from tests.museum.mutants import AREAS, ROOT, Mutant, _chosen, interval


@pytest.mark.parametrize(
    ("killed", "tried", "low", "high"),
    [(90, 100, 0.8256, 0.9448), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_interval_is_wilsons(killed: int, tried: int, low: float, high: float) -> None:
    assert interval(killed, tried) == pytest.approx((low, high), abs=5e-4)


def _lot(mutants: list[Mutant], sample: int, seed: int) -> set[str]:
    wish = argparse.Namespace(area=None, names=[], sample=sample, seed=seed)
    return {mutant.name for mutant in _chosen(mutants, wish)}


def test_larger_sample_holds_the_smaller_one_and_another_seed_draws_another() -> None:
    mutants = [Mutant(f"domain.steps.x_{n}", "mark", "steps", None, False) for n in range(60)]
    small, large = _lot(mutants, 10, seed=1), _lot(list(reversed(mutants)), 20, seed=1)
    assert small < large
    assert (len(small), len(large)) == (10, 20)
    assert _lot(mutants, 10, seed=2) != small


def test_mutant_that_no_test_reaches_has_survived_unless_it_is_equivalent() -> None:
    codes = {0: True, 33: True, 1: False, 36: False, None: False}
    for code, survived in codes.items():
        assert Mutant("a", "m", "gate", code, False).survived is survived
        assert not Mutant("a", "m", "gate", code, True).survived
        assert Mutant("a", "m", "gate", code, False).killed is (code in (1, 36))


def test_every_area_asks_tests_that_exist() -> None:
    for area in AREAS.values():
        for name in (*area.own, *area.others):
            assert (ROOT / name).is_file(), name


def test_mutants_are_not_asked_after_while_a_file_of_tests_is_broken() -> None:
    """Seven files of the ledger were passed over once, and what only they kill survived."""
    session = cast(pytest.Session, SimpleNamespace(testsfailed=7))
    with pytest.raises(pytest.UsageError, match="not collected"):
        pytest_runtestloop(session)
