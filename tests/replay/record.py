"""Records a history of every shape that ran: `make record-history`.

Each shape is played on the real server, ledger and exchange and written to
`tests/replay/histories/<Workflow>/<what it pins>.json`. Histories are facts: a change that cannot
replay them cannot be deployed over open trades. Recording again replaces them all, which is right
only when no trade of the old build can be open any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from activities.day_report import DayReportInput
from activities.flatten import FlattenInput, flatten_id
from activities.reconcile import ReconcileInput
from deploy.local.postgres import start_postgres
from deploy.local.processes import Child, free_port
from deploy.local.temporal import NAMESPACE, server_spec
from domain.control import KillScope, KillScopeKind
from domain.ids import day_report_workflow_id, reconcile_workflow_id, streams_workflow_id
from domain.messages import OperatorRequest, OperatorSignal, TradeResult, VersionSignal
from ledger.migrate import upgrade
from ledger.repository import Ledger
from observability.plugin import holdfast_plugin
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig
from tests.workflow import test_session as session_play
from workflows.day_report import DayReportWorkflow
from workflows.flatten import FlattenWorkflow
from workflows.reconcile import ReconcileWorkflow
from workflows.trade import TradeWorkflow

HISTORIES = Path(__file__).parent / "histories"
Handle = WorkflowHandle[TradeWorkflow, TradeResult]
Shape = Callable[[Rig], Awaitable[Handle]]


async def ratcheted(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.ratcheted_out(rig)
    return handle


async def all_targets(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    rig.quote(play.SYMBOL, "105.00", "105.25")
    return handle


async def not_filled(rig: Rig) -> Handle:
    return await rig.start_trade(play.plan_of(rig, "1", walk=play.walk_of(max_time_s="2")))


async def refused(rig: Rig) -> Handle:
    await rig.ledger.disarm(rig.services.account, "record", "refuse")
    return await rig.start_trade(play.plan_of(rig, "1"))


async def unknown_entry(rig: Rig) -> Handle:
    play.fault(rig, "drop_reply", {"method": "POST", "client_id": play.ENTRY_IDS})
    return await stopped_out(rig)


async def unknown_protection(rig: Rig) -> Handle:
    play.fault(rig, "drop_reply", {"method": "POST", "client_id": play.OCO_IDS})
    return await stopped_out(rig)


async def stopped_out(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    play.fall(rig)
    return handle


async def partly_filled(rig: Rig) -> Handle:
    play.fault(rig, "partial_fill", {"client_id": play.ENTRY_IDS}, quantity="4")
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.fill_entry(rig)
    play.calm_market(rig)
    await rig.until(lambda: play.stops_at(rig, play.STOP) == 3, "three tranches of four")
    play.fall(rig)
    return handle


async def killed_while_walking(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await rig.until(lambda: bool(play.own_orders(rig)), "the entry works")
    await handle.signal(TradeWorkflow.kill, OperatorSignal(command_id="k-1", mode="block"))
    return handle


async def killed_with_flatten(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    await handle.signal(TradeWorkflow.kill, OperatorSignal(command_id="k-1", mode="flatten"))
    return handle


async def flattened(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    request = OperatorRequest(command_id="f-1", by="record")
    await handle.execute_update(TradeWorkflow.request_flatten, request)
    return handle


async def stop_moved(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    move = OperatorRequest(command_id="m-1", by="record", price=play.D(100))
    await handle.execute_update("move_stop", move)
    await rig.until(lambda: play.stops_at(rig, play.D(100)) == 3, "three stops moved")
    play.fall(rig)
    return handle


async def handed_over(rig: Rig) -> Handle:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    await handle.signal(TradeWorkflow.version_changed, VersionSignal(build_id="same"))
    await play.wait_for_hand_over(rig, handle)
    play.fall(rig)
    return handle


SHAPES: dict[str, Shape] = {
    "ratcheted_stop": ratcheted,
    "all_targets": all_targets,
    "stopped_out": stopped_out,
    "not_filled": not_filled,
    "refused_by_risk": refused,
    "entry_answer_lost": unknown_entry,
    "protection_answer_lost": unknown_protection,
    "partial_fill": partly_filled,
    "killed_while_walking": killed_while_walking,
    "killed_with_flatten": killed_with_flatten,
    "flattened": flattened,
    "stop_moved": stop_moved,
    "continued_as_new": handed_over,
}


# --- the other workflows --------------------------------------------------------------------------


async def flattened_account(rig: Rig) -> str:
    await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    account = rig.services.account
    scope = KillScope(kind=KillScopeKind.ACCOUNT, value=account)
    given = FlattenInput(
        command_id="flat-1", account=account, scope=scope, by="record", reason="record"
    )
    handle = await rig.client.start_workflow(
        FlattenWorkflow.run,
        given,
        id=flatten_id("flat-1", scope, account),
        task_queue=rig.queue,
    )
    await handle.result()
    return handle.id


async def reconciled(rig: Rig) -> str:
    await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    handle = await rig.client.start_workflow(
        ReconcileWorkflow.run,
        ReconcileInput(account=rig.services.account, settle_s=0.3),
        id=reconcile_workflow_id(rig.services.account),
        task_queue=rig.queue,
    )
    await handle.result()
    return handle.id


async def session_of_one_signal(rig: Rig) -> str:
    with TemporaryDirectory(prefix="holdfast-record-") as text:
        strategy = Path(text) / "on_second_bar.py"
        strategy.write_text(session_play.STRATEGY)
        rig.quote(play.SYMBOL, "99.75", "100.25")
        started = await session_play.start(rig, strategy, Path(text))
        await started.handle.result()
        return started.handle.id


async def evening(rig: Rig) -> str:
    """The page goes to a folder that is thrown away; the rig's own worker would write it here."""
    account = rig.services.account
    with TemporaryDirectory(prefix="holdfast-record-") as text, contextlib.chdir(text):
        handle = await rig.client.start_workflow(
            DayReportWorkflow.run,
            DayReportInput(account=account),
            id=day_report_workflow_id(account),
            task_queue=rig.queue,
        )
        await handle.result()
    return handle.id


OTHERS: dict[str, tuple[str, Callable[[Rig], Awaitable[str]]]] = {
    "closed_an_account": ("Flatten", flattened_account),
    "one_open_trade": ("Reconcile", reconciled),
    "one_signal": ("Session", session_of_one_signal),
    "evening": ("DayReport", evening),
}


async def record_other(name: str, client: Client, dsn: str) -> None:
    """Plays one shape of another workflow and writes it."""
    workflow, shape = OTHERS[name]
    ledger = await Ledger.connect(dsn)
    try:
        async with running_rig(client, ledger, f"record-{name.replace('_', '-')}") as rig:
            play.calm_market(rig)
            await write(client, workflow, name, await shape(rig), None)
    finally:
        await ledger.aclose()


async def record(name: str, shape: Shape, client: Client, dsn: str) -> None:
    """Plays one shape and writes every run of its trade, and the streams beside it."""
    ledger = await Ledger.connect(dsn)
    account = f"record-{name.replace('_', '-')}"
    try:
        async with running_rig(client, ledger, account) as rig:
            play.calm_market(rig)
            handle = await shape(rig)
            last = play.newest_run(rig, handle)
            await last.result()
            first_id, last_id = handle.first_execution_run_id, (await last.describe()).run_id
            await write(client, "Trade", name, handle.id, first_id)
            if last_id != first_id:
                await write(client, "Trade", f"{name}_second_run", handle.id, last_id)
            streams = client.get_workflow_handle(streams_workflow_id(account))
        if name == "stopped_out":
            await write(client, "Streams", "started_and_stopped", streams.id, None)
    finally:
        await ledger.aclose()


def without_stacks(value: Any) -> Any:
    """The history without stack traces: they name folders of this machine and pin nothing."""
    if isinstance(value, dict):
        return {
            key: "" if key == "stackTrace" else without_stacks(each) for key, each in value.items()
        }
    return [without_stacks(each) for each in value] if isinstance(value, list) else value


async def write(
    client: Client, workflow: str, name: str, workflow_id: str, run_id: str | None
) -> None:
    """One history as one line of JSON per event: small, and a change shows in a diff."""
    history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    events = without_stacks(json.loads(history.to_json())["events"])
    folder = HISTORIES / workflow
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events)
    (folder / f"{name}.json").write_text(f'{{"events":[\n{lines}\n]}}\n', encoding="utf-8")
    sys.stdout.write(f"{workflow}/{name}: {len(events)} events\n")


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
            for name in names or [*SHAPES, *OTHERS]:
                if name in OTHERS:
                    await record_other(name, client, postgres.dsn())
                else:
                    await record(name, SHAPES[name], client, postgres.dsn())
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
