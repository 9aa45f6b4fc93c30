"""The usual members of a local stack: exchange, workers, and what must be prepared before them.

`starter.py` puts these into a `StackConfig`. A worker tells that it polls by creating the file
named in HOLDFAST_READY_FILE; its addresses come by environment, so that secrets stand on no
command line.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from temporalio.client import Schedule

from deploy.local.processes import ChildSpec, port_is_open
from deploy.local.runfile import RunInfo
from deploy.local.supervisor import EXCHANGE, LEDGER_DATABASE, ChildTemplate
from deploy.temporal.lanes import OrderLane
from deploy.temporal.prepare import connect_when_ready, prepare
from observability.payload_codec import HoldfastCodec

READY_FILE_VARIABLE = "HOLDFAST_READY_FILE"
WORKER_READY_TIMEOUT_S = 60.0
WORKER_STOP_TIMEOUT_S = 20.0


def exchange_child(arguments: Sequence[str] = ()) -> ChildTemplate:
    """The simulated exchange on the ports of the run file, with further `arguments`.

    Not restarted when it dies: its accounts and books would be gone, and a broker that forgot
    everything is worse than one that does not answer. Its journal stays in the data directory.
    """

    def template(info: RunInfo) -> ChildSpec:
        ports = [_port(info.exchange_url), _port(info.exchange_control_url)]
        journal = Path(info.data_dir) / "exchange-journal.ndjson"
        command = [sys.executable, "-m", "simulator"]
        command += ["--port", str(ports[0]), "--control-port", str(ports[1])]
        command += ["--journal", str(journal), *arguments]

        def ready() -> str | None:
            return port_is_open(ports[0]) or port_is_open(ports[1])

        return ChildSpec(name=EXCHANGE, command=command, ready=ready, restart=False)

    return template


def worker_child(
    role: str, *configs: Path, environment: Mapping[str, str] | None = None, name: str = ""
) -> ChildTemplate:
    """`worker.py --role ROLE --config FILE ...`, an account a file, told of the addresses."""

    def template(info: RunInfo) -> ChildSpec:
        child_name = name or f"worker-{role.replace(':', '-')}"
        ready_file = Path(info.data_dir) / f"{child_name}.ready"
        ready_file.unlink(missing_ok=True)
        command = [sys.executable, "worker.py", "--role", role]
        for config in configs:
            command += ["--config", str(config.resolve())]
        return ChildSpec(
            name=child_name,
            command=command,
            ready=lambda: None if ready_file.exists() else f"{ready_file} is not there",
            environment={
                **stack_environment(info),
                READY_FILE_VARIABLE: str(ready_file),
                **(environment or {}),
            },
            ready_timeout_s=WORKER_READY_TIMEOUT_S,
            stop_timeout_s=WORKER_STOP_TIMEOUT_S,
        )

    return template


def stack_environment(info: RunInfo) -> dict[str, str]:
    """The variables that point `load_settings` at a running stack."""
    found = {
        "HOLDFAST_TEMPORAL_ADDRESS": info.temporal_address,
        "HOLDFAST_TEMPORAL_NAMESPACE": info.temporal_namespace,
        "HOLDFAST_LEDGER_DSN": info.ledger_dsn,
        "HOLDFAST_BROKER_TRADING_URL": info.exchange_url,
        "HOLDFAST_DATA_DIR": info.data_dir,
    }
    return {name: value for name, value in found.items() if value}


def prepare_ledger(info: RunInfo) -> None:
    """Creates the ledger's database and brings its schema up; for `StackConfig.prepare`."""
    asyncio.run(_prepare_ledger(info.ledger_dsn))


async def _prepare_ledger(dsn: str) -> None:
    server = urlsplit(dsn)._replace(path="/postgres").geturl()
    connection = await asyncpg.connect(server)
    try:
        known = "SELECT 1 FROM pg_database WHERE datname = $1"
        if await connection.fetchval(known, LEDGER_DATABASE) is None:
            await connection.execute(f'CREATE DATABASE "{LEDGER_DATABASE}"')
    finally:
        await connection.close()
    from ledger.migrate import upgrade  # alembic is slow to import, and `kill` must not wait for it

    await upgrade(dsn)


def prepare_temporal(
    *,
    lanes: Sequence[OrderLane] = (),
    schedules: Mapping[str, Schedule] | None = None,
    codec: HoldfastCodec | None = None,
) -> Callable[[RunInfo], None]:
    """Namespace, lanes and schedules (`deploy.temporal.prepare`); for `StackConfig.prepare`."""

    async def run(info: RunInfo) -> None:
        address, namespace = info.temporal_address, info.temporal_namespace
        client = await connect_when_ready(address, namespace, codec=codec)
        await prepare(client, lanes=lanes, schedules=schedules)

    return lambda info: asyncio.run(run(info))


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None, url
    return port
