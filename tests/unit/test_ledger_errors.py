"""What PostgreSQL answers when it cannot serve is *ledger down*, so that exits go on (H5, H6)."""

from __future__ import annotations

import asyncpg
import pytest

from ledger.connection import ledger_errors
from ledger.errors import LedgerDown


@pytest.mark.covers("H5", "H6")
@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DiskFullError,
        asyncpg.OutOfMemoryError,
        asyncpg.TooManyConnectionsError,
        asyncpg.PostgresIOError,
        asyncpg.DataCorruptedError,
        asyncpg.ReadOnlySQLTransactionError,
    ],
)
def test_database_that_cannot_serve_is_down_and_no_bug(error: type[Exception]) -> None:
    """A raw driver error failed the activity: the exit stayed unknown instead of going out."""
    with pytest.raises(LedgerDown), ledger_errors():
        raise error("could not extend file")


def test_bug_of_ours_stays_a_bug() -> None:
    with pytest.raises(asyncpg.UndefinedColumnError), ledger_errors():
        raise asyncpg.UndefinedColumnError("no such column")
