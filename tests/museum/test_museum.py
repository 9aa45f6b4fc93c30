"""The oracle bites: every planted public bug is seen, and its seed is clean without it (M4).

The quick set begins near seeds that are known to find; `make museum` hunts from seed 1.
"""

from __future__ import annotations

import pytest

from tests.museum.__main__ import main
from tests.museum.catalogue import EXHIBITS
from tests.museum.exhibit import Exhibit, hunt

QUICK_SEEDS_MAX = 20
QUICK = [exhibit for exhibit in EXHIBITS if exhibit.is_quick]
WANTED = 26


@pytest.mark.parametrize("exhibit", QUICK, ids=lambda exhibit: exhibit.name)
def test_planted_bug_is_found_and_the_same_seed_is_clean_without_it(exhibit: Exhibit) -> None:
    find = hunt(exhibit, seeds_max=QUICK_SEEDS_MAX)
    assert find is not None, f"{exhibit.name}: nothing of {exhibit.invariants} fired"


def test_catalogue_names_public_reports_and_is_large_enough() -> None:
    assert len({exhibit.name for exhibit in EXHIBITS}) == len(EXHIBITS) >= WANTED
    for exhibit in EXHIBITS:
        assert exhibit.reports
        assert exhibit.planted, exhibit.name
        assert exhibit.invariants


def test_name_of_no_exhibit_is_refused_and_not_told_as_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["timeout-is-failur"])
    assert refused.value.code == 2
    assert "MUSEUM_NAME names: value was ['timeout-is-failur']" in capsys.readouterr().err


def test_list_names_every_exhibit_and_hunts_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [exhibit.name for exhibit in EXHIBITS]
