"""Temporal and PostgreSQL as the product runs them, on a folder that goes away afterwards."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from temporalio.client import Client

from deploy.local.postgres import start_postgres
from deploy.local.processes import Child, free_port
from deploy.local.temporal import NAMESPACE, server_spec
from deploy.temporal.prepare import connect_when_ready
from ledger.migrate import upgrade
from ledger.repository import Ledger
from observability.plugin import holdfast_plugin

# The instant of a commit as PostgreSQL itself knows it: what a kill is measured from.
POSTGRES_SETTINGS = ("track_commit_timestamp=on",)


@dataclass(frozen=True)
class Servers:
    """Two running servers: fsync on, commits synchronous, Temporal's store on disk."""

    client: Client
    address: str
    ledger: Ledger
    dsn: str
    folder: Path


@asynccontextmanager
async def running_servers() -> AsyncIterator[Servers]:
    """Starts both with the settings of `make run`; stops them and removes the folder."""
    folder = _new_folder()
    port = free_port()
    spec = server_spec(port=port, ui_port=None, database=folder / "temporal.db")
    postgres = start_postgres(folder / "postgres", extra_settings=POSTGRES_SETTINGS)
    temporal = Child(spec, folder / "temporal.log")
    try:
        await asyncio.to_thread(temporal.wait_until_ready)
        address = f"127.0.0.1:{port}"
        await connect_when_ready(address, NAMESPACE)
        client = await Client.connect(
            address,
            namespace=NAMESPACE,
            plugins=[holdfast_plugin()],
        )
        dsn = await _migrated(postgres.dsn(), postgres.dsn("bench"))
        ledger = await Ledger.connect(dsn)
        try:
            yield Servers(client, address, ledger, dsn, folder)
        finally:
            await ledger.aclose()
    finally:
        temporal.send_stop()
        await asyncio.to_thread(temporal.wait_stopped)
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    # PostgreSQL runs as another user when this is root: it must be able to pass the folder.
    folder.chmod(0o755)
    return folder


async def _migrated(server_dsn: str, dsn: str) -> str:
    connection = await asyncpg.connect(server_dsn)
    try:
        await connection.execute("CREATE DATABASE bench")
    finally:
        await connection.close()
    await upgrade(dsn)
    return dsn
