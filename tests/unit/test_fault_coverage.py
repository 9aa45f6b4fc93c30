"""The fault matrix is told as it is: rows, markers and document agree (issue 4)."""

from __future__ import annotations

import pytest

from docs import fault_coverage as coverage


def test_document_says_what_rows_and_markers_say() -> None:
    text = coverage.DOCUMENT.read_text()
    assert text == coverage.document(), "stale: run python -m docs.fault_coverage"


def test_every_marker_names_a_row_that_exists() -> None:
    known = {row.id for row in coverage.read_rows()}
    strangers = [
        (cover.path, cover.name, row)
        for cover in coverage.all_covers()
        for row in cover.rows
        if row not in known
    ]
    assert not strangers


def test_matrix_is_whole_and_its_invariants_are_explained() -> None:
    rows, invariants = coverage.read_rows(), coverage.read_invariants()
    counts = {letter: len([r for r in rows if r.id[0] == letter]) for letter in coverage.GROUPS}
    assert "".join(f"{letter}{count} " for letter, count in counts.items()) == (
        "A9 B6 C12 D9 E10 F8 G6 H15 K9 R9 "
    )
    assert list(invariants) == [f"I{number}" for number in range(1, 21)]
    for row in rows:
        assert row.priority in ("P0", "P1"), row.id
        assert row.tier in ("T0", "T1", "T2"), row.id
        assert set(row.keeps) <= set(invariants), row.id


def test_at_most_five_rows_are_open_and_none_of_the_first_priority() -> None:
    covers = coverage.all_covers()
    left = [row for row in coverage.read_rows() if coverage.status(row, covers) == "open"]
    assert len(left) <= coverage.OPEN_MAX, [row.id for row in left]
    assert not [row.id for row in left if row.priority == "P0"]


def test_markers_of_function_class_and_module_are_read() -> None:
    source = """
import pytest
pytestmark = [pytest.mark.covers("A1"), pytest.mark.slow]

@pytest.mark.covers("C2", "D1")
async def test_one(): ...

class TestMany:
    pass

def helper(): ...

test_made, test_too = helper()

@pytest.mark.covers("K2")
class TestTwo:
    @pytest.mark.covers("K3")
    def test_three(self): ...
"""
    found = {cover.name: cover.rows for cover in coverage.covers_in(source, "x.py")}
    assert found == {
        "test_one": ("A1", "C2", "D1"),
        "test_made": ("A1",),
        "test_too": ("A1",),
        "test_three": ("A1", "K2", "K3"),
    }


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("@pytest.mark.covers(*IDS)\ndef test_one(): ...", "allowed: plain ids"),
        ('@pytest.mark.covers("A1")\ndef helper(): ...', "no test"),
    ],
)
def test_marker_that_nobody_could_count_is_refused(source: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        list(coverage.covers_in(source, "x.py"))


def test_row_with_a_gap_is_partly_covered_and_one_without_a_test_is_open() -> None:
    row = coverage.Row("A1", "w", (), "T0", "P0")
    cover = coverage.Cover("x.py", "test_x", ("A1",))
    assert coverage.status(row, ()) == "open"
    assert coverage.status(row, (cover,)) == "covered"
    gap = coverage.Row("A1", "w", (), "T0", "P0", missing="the rest")
    assert coverage.status(gap, (cover,)) == "partly"
