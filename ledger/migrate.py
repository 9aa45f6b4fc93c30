"""Schema up and down from Python; nobody needs the alembic command line.

Two processes may call `upgrade` at the same time: an advisory lock lets one work and the other
find it done.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from ledger.connection import ledger_errors
from ledger.schema import MIGRATIONS, engine_once

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


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


async def _run(dsn: str, revision: str, *, up: bool) -> None:
    engine = engine_once(dsn)

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
