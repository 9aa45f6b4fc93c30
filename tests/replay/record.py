"""Records a history of every shape that ran: `make record-history`.

Each shape is played on the real server, ledger and exchange and written to
`tests/replay/histories/<Workflow>/<what it pins>.json`. Histories are facts: a change that cannot
replay them cannot be deployed over open trades. Recording again replaces them all, which is right
only when no trade of the old build can be open any more.

    python -m tests.replay.record             all of them
    python -m tests.replay.record adopted     only these
    python -m tests.replay.record gt01 gt05   these golden trades, at every broker

Golden trades are many: their files are compressed.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from deploy.local.postgres import start_postgres
from deploy.local.processes import Child, free_port
from deploy.local.temporal import NAMESPACE, server_spec
from domain.ids import streams_workflow_id
from ledger.migrate import upgrade
from ledger.repository import Ledger
from observability.plugin import holdfast_plugin
from tests import trade_scenarios as play
from tests.replay.golden_shapes import GOLDEN, play_golden, spelled_out
from tests.replay.session_shapes import OTHERS
from tests.replay.trade_shapes import EXCHANGES, SHAPES
from tests.rig import Rig, running_rig

HISTORIES = Path(__file__).parent / "histories"
RUN_NAMES = ("", "_second_run", "_third_run", "_fourth_run")
TRADE_NAMES = ("", "_second_trade", "_third_trade")


async def record(name: str, client: Client, dsn: str) -> None:
    """Plays one shape and writes every run of its workflows, and the streams beside one trade."""
    ledger = await Ledger.connect(dsn)
    account = f"record-{name.replace('_', '-')}"
    try:
        if name in GOLDEN:
            await record_golden(name, client, ledger, account)
            return
        async with running_rig(client, ledger, account, config=EXCHANGES.get(name)) as rig:
            play.calm_market(rig)
            if name in OTHERS:
                played = await OTHERS[name](rig)
            else:
                played = [("Trade", await ended_trade(rig, name))]
            for workflow, workflow_id in played:
                await write_runs(client, workflow, name, workflow_id)
        if name == "stopped_out":
            # Now it has ended.
            await write_runs(client, "Streams", "started_and_stopped", streams_workflow_id(account))
    finally:
        await ledger.aclose()


async def record_golden(name: str, client: Client, ledger: Ledger, account: str) -> None:
    """Plays one golden trade and writes every run of each of its trades."""
    golden, face = GOLDEN[name]
    config, limits = golden.config(face), golden.limits
    async with running_rig(client, ledger, account, config=config, limits=limits) as rig:
        ids = await play_golden(rig, golden)
    for suffix, workflow_id in zip(TRADE_NAMES, ids, strict=False):
        await write_runs(client, "Trade", f"{name}{suffix}", workflow_id)


async def ended_trade(rig: Rig, name: str) -> str:
    """Plays one trade to its end."""
    handle = await SHAPES[name](rig)
    await play.newest_run(rig, handle).result()
    return handle.id


async def write_runs(client: Client, workflow: str, name: str, workflow_id: str) -> None:
    """One file for each run of the chain, the first one under the name of the shape."""
    runs = [run async for run in runs_of(client, workflow_id)]
    for suffix, events in zip(RUN_NAMES[: len(runs)], runs, strict=True):
        write(workflow, f"{name}{suffix}", events)


async def runs_of(client: Client, workflow_id: str) -> AsyncIterator[list[Any]]:
    """Events of each run, the first run first."""
    newest: WorkflowHandle[Any, Any] = client.get_workflow_handle(workflow_id)
    info = (await newest.describe()).raw_description.workflow_execution_info
    run_id = info.first_run_id
    while run_id:
        history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
        yield without_stacks(json.loads(history.to_json())["events"])
        last = history.events[-1]
        run_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id


def without_stacks(value: Any) -> Any:
    """The history without stack traces: they name folders of this machine and pin nothing."""
    if isinstance(value, dict):
        return {
            key: "" if key == "stackTrace" else without_stacks(each) for key, each in value.items()
        }
    return [without_stacks(each) for each in value] if isinstance(value, list) else value


def write(workflow: str, name: str, events: list[Any]) -> None:
    """One history as one line of JSON per event: small, and a change shows in a diff."""
    folder = HISTORIES / workflow
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events)
    text = f'{{"events":[\n{lines}\n]}}\n'
    if name.startswith("gt"):
        (folder / f"{name}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    sys.stdout.write(f"{workflow}/{name}: {len(events)} events\n")
    sys.stdout.flush()


async def record_all(names: list[str]) -> None:
    with TemporaryDirectory(prefix="holdfast-record-") as text:
        folder = Path(text)
        _let_pass(folder)
        postgres = start_postgres(folder, fsync=False)
        port = free_port()
        spec = server_spec(port=port, ui_port=None, database=folder / "temporal.db")
        temporal = Child(spec, folder / "temporal.log")
        try:
            temporal.wait_until_ready()
            await upgrade(postgres.dsn())
            client = await _connected(f"127.0.0.1:{port}")
            for name in spelled_out(names) or [*SHAPES, *OTHERS, *GOLDEN]:
                await record(name, client, postgres.dsn())
        finally:
            temporal.send_stop()
            temporal.wait_stopped()
            postgres.stop()


def _let_pass(folder: Path) -> None:
    """PostgreSQL may run as a user of its own."""
    folder.chmod(0o755)


async def _connected(address: str) -> Client:
    """The port opens before the namespace can be used."""
    for _ in range(200):
        try:
            client = await Client.connect(address, namespace=NAMESPACE, plugins=[holdfast_plugin()])
            await client.count_workflows()
            return client
        except (RuntimeError, RPCError):
            await asyncio.sleep(0.05)
    raise TimeoutError(f"Temporal at {address} did not serve its namespace in 10 s")


if __name__ == "__main__":
    asyncio.run(record_all(sys.argv[1:]))
