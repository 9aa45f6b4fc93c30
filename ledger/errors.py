"""Errors of the ledger, under the tree of `domain.errors`."""

from __future__ import annotations

from domain.errors import Refused, Transient


class LedgerDown(Transient):
    """PostgreSQL did not answer in time: entries fail closed, reducing orders go on (H5)."""

    code = "LEDGER_DOWN"


class LockBusy(Transient):
    """A row was held longer than `lock_timeout`; nothing was changed."""

    code = "LOCK_BUSY"


class VersionConflict(Refused):
    """Somebody else changed the row first (HTTP 409, I17)."""

    code = "VERSION_CONFLICT"
    http_status = 409

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"expected version was {expected}, the row has version {actual}")
        self.expected = expected
        self.actual = actual
