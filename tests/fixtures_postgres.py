"""pytest plugin: one real PostgreSQL per test run, one clean database per test.

The server is started by the process that runs the tests; with xdist by the controller, which
tells its workers the address. Each worker migrates one database; every test that asks for
`ledger` or `ledger_dsn` finds it without rows. Where a run of many short processes has started
server and database already (`tests.museum.mutants`), `TEST_LEDGER_DSN` is that database.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.local.postgres import LocalPostgres, start_postgres
from ledger.migrate import upgrade
from ledger.repository import Ledger
from ledger.tables import metadata

GIVEN_DATABASE = "TEST_LEDGER_DSN"
TEST_SETTINGS = ("shared_buffers=32MB", "max_connections=200", "autovacuum=off")
_KEY = pytest.StashKey[tuple[LocalPostgres, Path]]()
_numbers = itertools.count(1)


def _server_of_run(config: pytest.Config) -> LocalPostgres:
    if _KEY not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
        # A folder that the unprivileged user of the server may pass.
        folder.chmod(0o755)
        server = start_postgres(folder, fsync=False, extra_settings=TEST_SETTINGS)
        config.stash[_KEY] = (server, folder)
    return config.stash[_KEY][0]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist, in the controller: workers share the controller's server."""
    node.workerinput["postgres_dsn"] = _server_of_run(node.config).dsn()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _KEY in config.stash:
        server, folder = config.stash[_KEY]
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_dsn(request: pytest.FixtureRequest) -> str:
    """Address of the run's server (superuser, database `postgres`)."""
    worker_input: dict[str, str] | None = getattr(request.config, "workerinput", None)
    if worker_input is not None:
        return worker_input["postgres_dsn"]
    if given := os.environ.get(GIVEN_DATABASE):
        return dsn_of(given, "postgres")
    return _server_of_run(request.config).dsn()


def dsn_of(postgres_dsn: str, database: str) -> str:
    return f"{postgres_dsn.rpartition('/')[0]}/{database}"


async def run_as_superuser(dsn: str, *statements: str) -> None:
    """Runs plain statements outside a transaction, behind the back of the product."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def worker_database(postgres_dsn: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of the one migrated database of this worker."""
    if given := os.environ.get(GIVEN_DATABASE):
        yield given
        return
    worker_input: dict[str, str] = getattr(request.config, "workerinput", {})
    name = f"ledger_{worker_input.get('workerid', 'main')}"
    dsn = dsn_of(postgres_dsn, name)

    async def make() -> None:
        await run_as_superuser(postgres_dsn, f"CREATE DATABASE {name}")
        await upgrade(dsn)

    asyncio.run(make())
    yield dsn
    asyncio.run(run_as_superuser(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def empty_dsn(postgres_dsn: str, worker_database: str) -> AsyncIterator[str]:
    """Address of an empty database of this test alone."""
    name = f"{worker_database.rpartition('/')[2]}_empty_{next(_numbers)}"
    await run_as_superuser(postgres_dsn, f"CREATE DATABASE {name}")
    yield dsn_of(postgres_dsn, name)
    await run_as_superuser(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def ledger_dsn(worker_database: str) -> str:
    """Address of a migrated database as it is after the migration: no rows but the first ones."""
    await run_as_superuser(worker_database, _OTHERS_OUT, "; ".join(_emptied()))
    return worker_database


@pytest.fixture
async def ledger(ledger_dsn: str) -> AsyncIterator[Ledger]:
    """A ledger without rows."""
    made = await Ledger.connect(ledger_dsn)
    yield made
    await made.aclose()


_OTHERS_OUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def _emptied() -> Iterator[str]:
    """Deleting from small tables takes 10 ms; copying a database takes 30 times that."""
    # The role switches the append-only trigger off for this connection.
    yield "SET session_replication_role = replica"
    for table in reversed(metadata.sorted_tables):
        if table.name not in ("installation", "audit_head", "control"):
            yield f"DELETE FROM {table.name}"
    yield "DELETE FROM audit_head"
    yield "INSERT INTO audit_head (row, sequence, hash) VALUES (1, 0, repeat('0', 64))"
    yield "DELETE FROM control"
    yield "INSERT INTO control (account, updated_by) VALUES ('*', 'migration')"
