"""What the cells of a run share: one Temporal server, one PostgreSQL, and lanes that take turns.

A lane has one workflow queue and one ledger and plays one cell after the other: a deployment knows
a limited number of queues, and a cell needs nothing of the one before it. The ledger is the lane's
own because a broker's API breaker is one for all of its accounts. Cells that kill the Temporal
server play on lanes with a server of their own.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
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

DATABASE = "chaos"
# A crash of the machine is not what is tried here, and many cells write at once.
POSTGRES_SETTINGS = ("shared_buffers=64MB", "max_connections=400")
RESTART_PAUSE_S = 0.2
# The driver itself is not under test: a machine that stalls is no fault of a cell.
CONNECT_TIMEOUT_S = 30.0
LANE_POOL = 4


@dataclass
class TemporalUnderTest:
    """A Temporal server that can be killed and started again on its store."""

    folder: Path
    port: int = field(default_factory=free_port)
    child: Child | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> Client:
        """Starts it, on the store that is there; answers a client once it serves."""
        spec = server_spec(port=self.port, ui_port=None, database=self.folder / "temporal.db")
        self.child = Child(spec, self.folder / "temporal.log")
        await asyncio.to_thread(self.child.wait_until_ready)
        await connect_when_ready(self.address, NAMESPACE)
        return await Client.connect(
            self.address,
            namespace=NAMESPACE,
            plugins=[holdfast_plugin()],
        )

    def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        if self.child is not None:
            self.child.kill()

    async def kill_and_restart(self) -> None:
        self.kill()
        await asyncio.sleep(RESTART_PAUSE_S)
        spec = server_spec(port=self.port, ui_port=None, database=self.folder / "temporal.db")
        self.child = Child(spec, self.folder / "temporal.log")
        await asyncio.to_thread(self.child.wait_until_ready)
        await connect_when_ready(self.address, NAMESPACE)


@dataclass(frozen=True)
class Database:
    """Where the ledger is, and a way to it behind the product's back."""

    dsn: str
    superuser_dsn: str

    @property
    def port(self) -> int:
        return int(self.dsn.rpartition("/")[0].rpartition(":")[2])

    def through(self, port: int, user: tuple[str, str] | None = None) -> str:
        """The ledger's address by another port, as another role."""
        head, _, database = self.dsn.rpartition("/")
        login = head.rpartition("@")[0]
        if user is not None:
            login = f"postgresql://{user[0]}:{user[1]}"
        return f"{login}@127.0.0.1:{port}/{database}"

    async def run(self, *statements: str) -> None:
        """Plain statements as superuser, outside of a transaction."""
        connection = await asyncpg.connect(self.superuser_dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


@dataclass(frozen=True)
class Lane:
    """One place where cells are played, one at a time."""

    number: int
    client: Client
    temporal: TemporalUnderTest
    database: Database
    ledger: Ledger
    folder: Path
    current: set[str] = field(default_factory=set)

    @property
    def queue(self) -> str:
        return f"chaos-lane-{self.number}"

    @property
    def deployment(self) -> str:
        return self.queue


@asynccontextmanager
async def running_lanes(jobs: int, own_servers: int = 0) -> AsyncIterator[list[Lane]]:
    """Starts the servers; `jobs` lanes on one Temporal server, the last ones on their own."""
    folder = _new_folder()
    postgres = start_postgres(folder / "postgres", fsync=False, extra_settings=POSTGRES_SETTINGS)
    servers = [TemporalUnderTest(folder / f"temporal-{n}") for n in range(1 + own_servers)]
    try:
        template = Database(postgres.dsn(DATABASE), postgres.dsn())
        await template.run(f"CREATE DATABASE {DATABASE}")
        await upgrade(template.dsn)
        clients = [await server.start() for server in servers]
        async with AsyncExitStack() as stack:
            lanes = []
            for number in range(jobs + own_servers):
                name = f"{DATABASE}_{number}"
                await template.run(f"CREATE DATABASE {name} TEMPLATE {DATABASE}")
                database = Database(postgres.dsn(name), postgres.dsn())
                ledger = await Ledger.connect(
                    database.dsn, pool_size=LANE_POOL, connect_timeout_s=CONNECT_TIMEOUT_S
                )
                stack.push_async_callback(ledger.aclose)
                which = max(0, number - jobs + 1)
                lanes.append(Lane(number, clients[which], servers[which], database, ledger, folder))
            yield lanes
    finally:
        for server in servers:
            server.kill()
        await asyncio.to_thread(postgres.stop)
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-chaos-"))
    # PostgreSQL runs as another user when this is root: it must be able to pass the folder.
    folder.chmod(0o755)
    return folder
