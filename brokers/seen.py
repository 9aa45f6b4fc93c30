"""Remembers what a row of the venue came to: lists tell the same rows again and again.

Every read of open orders or executions brings rows that nobody has changed since the last one;
reading one anew (validation, exact numbers, checks) costs ten times as much as knowing it again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Row = TypeVar("Row")
Read = TypeVar("Read")

ROWS_MAX = 1024
_KEY_MAX = 16_384


class Seen(Generic[Row, Read]):
    """Calls `read` once for each row that differs from the last `ROWS_MAX` ones.

    Args:
        read: pure; what it returns must be immutable. An error is raised anew each time.
        key: what tells two rows apart. `repr` of JSON values does (1, 1.0, True and "1" differ);
            `id` does for immutable objects, which live here as long as their key.
    """

    def __init__(self, read: Callable[[Row], Read], key: Callable[[Row], Hashable] = repr) -> None:
        self._read = read
        self._key = key
        self._known: dict[Hashable, tuple[Row, Read]] = {}

    def __call__(self, row: Row) -> Read:
        try:
            key = self._key(row)
        except (RecursionError, ValueError):  # Too deep, or a number too long to be written.
            return self._read(row)
        known = self._known.get(key)
        if known is not None:
            return known[1]
        made = self._read(row)
        if isinstance(key, str) and len(key) > _KEY_MAX:
            return made
        if len(self._known) >= ROWS_MAX:
            # The oldest goes: what is still listed comes back with its next read.
            del self._known[next(iter(self._known))]
        self._known[key] = row, made
        return made
