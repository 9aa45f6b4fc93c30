"""Schema up, down and up again on a real PostgreSQL; binaries started as the product does."""

from __future__ import annotations

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from domain.errors import Broken
from ledger.connection import async_url
from ledger.migrate import downgrade, upgrade
from ledger.repository import Ledger
from ledger.schema import current_revision, head_revision
from ledger.tables import metadata


async def _tables(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    return {row["tablename"] for row in rows}


async def test_up_down_up_leaves_nothing_behind_and_works_again(empty_dsn: str) -> None:
    await upgrade(empty_dsn)
    assert await _tables(empty_dsn) == {*metadata.tables, "alembic_version"}
    await downgrade(empty_dsn)
    assert await _tables(empty_dsn) == {"alembic_version"}
    assert await current_revision(empty_dsn) is None
    await upgrade(empty_dsn)
    assert await current_revision(empty_dsn) == head_revision()
    ledger = await Ledger.connect(empty_dsn)
    assert await ledger.ensure_account("paper", "alpaca")
    await ledger.aclose()


async def test_second_upgrade_changes_nothing_and_keeps_the_installation(empty_dsn: str) -> None:
    await upgrade(empty_dsn)
    first = await Ledger.connect(empty_dsn)
    installation = await first.installation_id()
    await first.aclose()
    await upgrade(empty_dsn)
    second = await Ledger.connect(empty_dsn)
    assert await second.installation_id() == installation
    assert len(installation) == 4
    assert set(installation) <= set("0123456789abcdef")
    await second.aclose()


async def test_migrations_and_tables_tell_the_same_schema(ledger_dsn: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, metadata))

    engine = create_async_engine(async_url(ledger_dsn), poolclass=NullPool)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_ledger_without_schema_is_refused_with_its_code(empty_dsn: str) -> None:
    with pytest.raises(Broken) as raised:
        await Ledger.connect(empty_dsn)
    assert raised.value.code == "SCHEMA_VERSION"
