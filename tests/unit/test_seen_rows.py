"""Rows that are known again: the same row is read once, anything else anew."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from brokers.alpaca import mapping
from brokers.seen import ROWS_MAX, Seen
from domain.errors import Uncertain

D = Decimal


def _counting(read: list[object]) -> Callable[[object], int]:
    """Reads a row as the number of rows read so far."""

    def note(row: object) -> int:
        read.append(row)
        return len(read)

    return note


def test_an_unchanged_row_is_read_once() -> None:
    read: list[object] = []
    seen: Seen[object, int] = Seen(_counting(read))
    assert [seen({"id": "a", "qty": "1"}), seen({"id": "a", "qty": "1"})] == [1, 1]
    assert seen({"id": "a", "qty": "2"}) == 2
    assert len(read) == 2


@pytest.mark.parametrize("other", [1, True, D("1"), D("1.0"), "1.0", None])
def test_values_that_only_compare_equal_are_other_rows(other: object) -> None:
    """A boolean where a number stood must reach the checks (faults.md §3 rows 5, 58)."""
    seen: Seen[object, object] = Seen(lambda row: row)
    assert seen({"qty": "1"}) == {"qty": "1"}
    told = seen({"qty": other})
    assert isinstance(told, dict)
    assert repr(told["qty"]) == repr(other)
    again = seen({"qty": 1})
    assert isinstance(again, dict)
    assert repr(again["qty"]) == "1"


def test_a_bad_row_is_refused_each_time() -> None:
    seen = Seen(mapping.order_snapshot)
    for _ in range(2):
        with pytest.raises(Uncertain):
            seen({"id": 7})


def test_a_row_too_deep_to_name_is_read_all_the_same() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    seen: Seen[object, str] = Seen(lambda row: "read")
    assert seen(deep) == "read"


def test_the_oldest_rows_are_forgotten() -> None:
    """Days of orders pass through one client: what it remembers is bounded."""
    read: list[object] = []
    seen: Seen[object, int] = Seen(_counting(read))
    for row in range(ROWS_MAX + 1):
        seen(row)
    seen(ROWS_MAX)
    assert len(read) == ROWS_MAX + 1
    seen(0)
    assert read[-1] == 0


def test_an_object_known_by_identity_is_read_once() -> None:
    read: list[object] = []
    first, second = (1, 2), (1, 2, 3)
    seen: Seen[object, int] = Seen(_counting(read), key=id)
    assert [seen(first), seen(second), seen(first)] == [1, 2, 1]
