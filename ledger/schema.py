"""Which revision of the schema this code needs, and which one a database has.

Apart from `ledger.migrate`, because alembic takes a third of a second to import and every command
and worker asks this first, a kill too. The files' numbers are the revisions (tested).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ledger.connection import async_url, ledger_errors

MIGRATIONS = Path(__file__).parent / "migrations"
CONNECT_TIMEOUT_S = 2.0
_TABLE = text("SELECT to_regclass('alembic_version') IS NOT NULL")
_REVISION = text("SELECT version_num FROM alembic_version")


@cache
def head_revision() -> str:
    """The newest revision that this code knows."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


async def current_revision(dsn: str, *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> str | None:
    """The revision that the database has, None for an empty one.

    Raises:
        LedgerDown: PostgreSQL did not answer.
    """
    engine = engine_once(dsn, connect_timeout_s)
    with ledger_errors():
        async with engine.connect() as connection:
            if not (await connection.execute(_TABLE)).scalar_one():
                return None
            found: str | None = (await connection.execute(_REVISION)).scalar_one_or_none()
    return found


def engine_once(dsn: str, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> AsyncEngine:
    """An engine without a pool, for one look or one migration."""
    arguments = {"timeout": connect_timeout_s}
    return create_async_engine(async_url(dsn), poolclass=NullPool, connect_args=arguments)
