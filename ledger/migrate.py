"""Schema up and down from Python; nobody needs the alembic command line.

Two processes may call `upgrade` at the same time: an advisory lock lets one work and the other
find it done.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ledger.connection import async_url, ledger_errors

_MIGRATIONS = Path(__file__).parent / "migrations"
CONNECT_TIMEOUT_S = 2.0
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('holdfast/migrate', 0))")


async def upgrade(dsn: str, revision: str = "head") -> None:
    """Brings the schema of `dsn` up to `revision`, all or nothing.

    Raises:
        LedgerDown: PostgreSQL did not answer.
    """
    await _run(dsn, revision, up=True)


async def downgrade(dsn: str, revision: str = "base") -> None:
    """Takes the schema back to `revision`; `base` drops every table with its rows."""
    await _run(dsn, revision, up=False)


@cache
def head_revision() -> str | None:
    """The newest revision that this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


async def current_revision(dsn: str, *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> str | None:
    """The revision that the database has, None for an empty one.

    Raises:
        LedgerDown: PostgreSQL did not answer.
    """
    engine = _engine(dsn, connect_timeout_s)
    with ledger_errors():
        async with engine.connect() as connection:
            found = await connection.run_sync(_current)
    return found


def _engine(dsn: str, connect_timeout_s: float) -> AsyncEngine:
    arguments = {"timeout": connect_timeout_s}
    return create_async_engine(async_url(dsn), poolclass=NullPool, connect_args=arguments)


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


async def _run(dsn: str, revision: str, *, up: bool) -> None:
    engine = _engine(dsn, CONNECT_TIMEOUT_S)

    def work(connection: Connection) -> None:
        connection.execute(_LOCK)
        config = _config()
        config.attributes["connection"] = connection
        if up:
            command.upgrade(config, revision)
        else:
            command.downgrade(config, revision)

    with ledger_errors():
        async with engine.begin() as connection:
            await connection.run_sync(work)
