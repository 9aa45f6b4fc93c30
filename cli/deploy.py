"""`deploy`: the new build takes over open trades and sessions, then serves the stack.

A worker of the code that is on disk starts beside the old one, becomes current, and every open
workflow of another build is told. When the old build has none left its workers are restarted by
the supervisor: they come back with the new code (architecture §4, Versions).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.client import Client
from temporalio.service import RPCError

from cli.contest_files import ContestFiles
from cli.context import EXIT_FAILED, Target, execute, failed, operator_name, target_of
from cli.deploy_check import COLUMNS, codec_of, different, replay_open
from cli.history import replay_history
from cli.output import print_fields, print_json, print_rows
from deploy.local import control
from deploy.local.processes import Child, ChildFailed, ChildSpec
from deploy.local.runfile import ProcessEntry, RunInfo
from deploy.local.stack import worker_child
from deploy.temporal.handover import (
    Pinned,
    free_pin,
    hand_over,
    move_pin,
    pin_of,
    pinned_elsewhere,
)
from deploy.temporal.versions import current_version, set_current_version
from domain.errors import Broken, HoldfastError, Refused
from domain.ids import trade_workflow_id
from ledger.repository import SCHEMA_VERSION, Ledger
from observability.build import DEPLOYMENT_NAME, build_id
from settings import Settings
from settings_file import load_settings
from wiring import config_hash

app = typer.Typer()
NEXT_WORKER = "next-build"
WORKERS = "worker-"
ALREADY_POLLS_S = 1.0
RESTART_TIMEOUT_S = 60.0
LOOK_S = 0.2
NOT_IN_TIME = "did not hand over in time"
NAMED_MAX = 20


@app.command()
def deploy(
    context: typer.Context,
    wait_s: Annotated[float, typer.Option(help="for the old build to hand over")] = 60.0,
    override_pins: Annotated[
        bool, typer.Option(help="move what does not hand over, if it replays clean")
    ] = False,
    restart: Annotated[bool, typer.Option(help="restart the stack's workers at the end")] = True,
    check: Annotated[
        bool, typer.Option("--check", help="only replay what is open on the code on disk")
    ] = False,
    force: Annotated[
        bool, typer.Option(help="hand over although a history does not replay")
    ] = False,
    by: Annotated[str | None, typer.Option("--by", help="operator; default: login name")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Hands open trades and sessions to the code on disk. Exit 1: some are left, and named.

    Before anything starts, the histories of all that is open are replayed on that code.
    """
    target = target_of(context)
    who = operator_name(by)
    execute(lambda: _ledger_is_known(target))
    if check or not force:
        rows = execute(lambda: _replayed(target, who, only_look=check))
        _stop_if_different(rows, only_look=check, as_json=as_json)
    try:
        with _worker_of_this_build(target):
            found = execute(lambda: _deploy(target, wait_s, override_pins, who))
            if restart and not found["left"]:
                found["restarted"] = restart_workers(target.data_dir)
                execute(lambda: _deployed_alone(target, who))
    except HoldfastError as error:
        raise failed(error) from None
    left = found.pop("left")
    if as_json:
        print_json({**found, "left": left})
    else:
        print_fields(found, as_json=False)
        print_rows(left, ("workflow", "build", "why"), as_json=False)
    if left:
        raise typer.Exit(EXIT_FAILED)


async def _ledger_is_known(target: Target) -> None:
    """A worker of this code cannot start on another schema, and only `up` migrates.

    Raises:
        Broken: `SCHEMA_VERSION`, before anything was started.
    """
    try:
        async with target.ledger():
            return
    except Broken as error:
        if error.code != SCHEMA_VERSION:
            raise
        up = "starter.py up --resume --override-pins"
        more = f"`deploy` migrates nothing: `starter.py down`, then `{up}`"
        raise Broken(target.named(f"{error.text}; {more}"), code=SCHEMA_VERSION) from None


async def _replayed(target: Target, by: str, *, only_look: bool) -> list[dict[str, Any]]:
    """What does not replay is in the audit, unless somebody only looks."""
    rows = await replay_open(await target.temporal())
    left_out = [row["workflow"] for row in different(rows)]
    if left_out and not only_look:
        async with target.ledger() as ledger:
            details = {"refused": "REPLAY_DIFFERS", "workflows": left_out[:NAMED_MAX]}
            await ledger.append_audit(by, "deploy", build_id(), details)
    return rows


def _stop_if_different(rows: list[dict[str, Any]], *, only_look: bool, as_json: bool) -> None:
    differing = different(rows)
    if only_look:
        print_rows(rows, COLUMNS, as_json=as_json)
        if not differing:
            raise typer.Exit
    if not differing:
        return
    if not only_look:
        print_rows(differing, COLUMNS, as_json=as_json)
    text = (
        f"REPLAY_DIFFERS {len(differing)} of {len(rows)} open histories do not replay on build "
        f"{build_id()}; nothing was started. --force hands them over all the same"
    )
    typer.echo(text, err=True)
    raise typer.Exit(EXIT_FAILED)


async def _deploy(target: Target, wait_s: float, override: bool, by: str) -> dict[str, Any]:
    client, mine = await target.temporal(), build_id()
    before = await current_version(client)
    await set_current_version(client, mine)
    async with target.ledger() as ledger:
        for each in served_settings(target):
            await _deployed_beside(ledger, each, by)
        done = await take_over_workflows(client, ledger, mine, wait_s=wait_s, override=override)
        text = {"before": before or "", "moved": done["moved"], "left": len(done["left"])}
        await ledger.append_audit(by, "deploy", mine, {**text, "override": override})
    return {"build": mine, "before": before, **done}


async def _deployed_beside(ledger: Ledger, settings: Settings, by: str) -> None:
    """While the hand-over lasts the old workers open positions as well as the new ones (H13)."""
    account = settings.account.name
    before = await ledger.deployed(account)
    if before is not None:
        builds = [*before.build_ids, build_id()]
        configs = [*before.config_hashes, config_hash(settings)]
        await ledger.set_deployed(account, builds, configs, by)


async def _deployed_alone(target: Target, by: str) -> None:
    """Every worker was started anew: one that is not of this build was missed (H13)."""
    async with target.ledger() as ledger:
        await deployed_alone(ledger, served_settings(target), by)


async def deployed_alone(ledger: Ledger, every: Iterable[Settings], by: str) -> None:
    """From here on no worker of other code or other settings opens a position of these accounts.

    The one way in which `up`, `deploy`, the demonstration, the week and the contest say so (H13).
    """
    for each in every:
        await ledger.set_deployed(each.account.name, [build_id()], [config_hash(each)], by)


def served_settings(target: Target) -> tuple[Settings, ...]:
    """Settings of every account that the stack of the target serves; a contest has many.

    Raises:
        BadInput: the settings.
    """
    mine, files = target.settings(), ContestFiles(target.data_dir)
    if not files.record.is_file():
        return (mine,)
    paths = [portfolio.settings for portfolio in files.load().portfolios]
    others = [load_settings(Path(path), target.environment()) for path in paths]
    return (mine, *(each for each in others if each.account.name != mine.account.name))


async def take_over_workflows(
    client: Client,
    ledger: Ledger,
    mine: str,
    *,
    wait_s: float,
    override: bool,
    deployment: str = DEPLOYMENT_NAME,
) -> dict[str, Any]:
    """Moves open workflows of other builds to `mine`, which must be current.

    Answers how many were found and moved, and the rows of those that are left, with the reason.
    """
    pins = await pinned_elsewhere(client, mine, deployment)
    waiting = await hand_over(client, mine, pins, wait_s=wait_s)
    left = []
    for pin in waiting:
        why = await _override(client, pin, mine, wait_s) if override else NOT_IN_TIME
        if why:
            left.append({"workflow": pin.workflow_id, "build": pin.build_id, "why": why})
    await note_builds(client, ledger, mine)
    return {"found": len(pins), "moved": len(pins) - len(left), "left": left}


async def _override(client: Client, pin: Pinned, mine: str, wait_s: float) -> str:
    """Moves one pin by force; answers why not, empty if it is served now."""
    handle = client.get_workflow_handle(pin.workflow_id, run_id=pin.run_id)
    replayed = await replay_history(
        await handle.fetch_history(), codec=codec_of(client), namespace=client.namespace
    )
    if replayed["verdict"] != "ok":
        return f"REPLAY_DIFFERS {replayed['text']}"
    try:
        await move_pin(client, pin, mine)
    except RPCError as error:
        return f"the server refused: {error.message}"
    left = await hand_over(client, mine, [pin], wait_s=wait_s)
    await free_pin(client, pin.workflow_id)
    return "moved, but no worker has served it yet" if left else ""


async def note_builds(client: Client, ledger: Ledger, mine: str) -> None:
    """Writes the build of trades that were handed over; `up` reads it before it starts."""
    for trade in await ledger.list_trades(open_only=True):
        if trade.build_id in ("", mine):
            continue
        pin = await pin_of(client, trade_workflow_id(trade.trade_id))
        if pin is not None and pin.build_id == mine:
            await ledger.update_trade(trade.trade_id, build_id=mine)


@contextmanager
def _worker_of_this_build(target: Target) -> Iterator[None]:
    """A worker of the code on disk as long as the hand-over lasts, unless one polls already."""
    info = target.run_info
    if info is None:
        raise Refused("no stack runs here: starter.py up", code="NO_STACK")
    if execute(lambda: _polls_already(target)):
        yield
        return
    child = Child(next_worker(target, info), Path(info.data_dir) / "logs" / f"{NEXT_WORKER}.log")
    try:
        try:
            child.wait_until_ready()
        except ChildFailed as error:
            raise Refused(str(error), code="WORKER_FAILED") from None
        yield
    finally:
        child.send_stop()
        child.wait_stopped()


def next_worker(target: Target, info: RunInfo) -> ChildSpec:
    """A worker of the code on disk for every account of the stack.

    Trades share one queue: one that serves a single account would be given all accounts' work.

    Raises:
        BadInput: the settings.
    """
    configs = [Path(each.source) for each in served_settings(target)]
    return worker_child("trade", *configs, name=NEXT_WORKER)(info)


async def _polls_already(target: Target) -> bool:
    client = await target.temporal()
    try:
        await set_current_version(client, build_id(), timeout_s=ALREADY_POLLS_S)
    except RPCError:
        return False
    return True


def restart_workers(data_dir: Path) -> int:
    """Ends the stack's workers one by one; the supervisor starts each again with this code.

    Raises:
        Refused: WORKER_NOT_BACK: one did not come back in time.
    """
    before = [each.entry for each in control.status(data_dir).processes if _is_worker(each.entry)]
    for entry in before:
        (data_dir / f"{entry.name}.ready").unlink(missing_ok=True)
        with suppress(ProcessLookupError):
            os.kill(entry.pid, signal.SIGTERM)
        deadline = time.monotonic() + RESTART_TIMEOUT_S
        while not _is_back(data_dir, entry):
            if time.monotonic() > deadline:
                text = f"{entry.name} did not come back; see the stack's logs"
                raise Refused(text, code="WORKER_NOT_BACK")
            time.sleep(LOOK_S)
    return len(before)


def _is_worker(entry: ProcessEntry) -> bool:
    return entry.name.startswith(WORKERS)


def _is_back(data_dir: Path, old: ProcessEntry) -> bool:
    """True if a new process of the name lives and says that it polls."""
    for each in control.status(data_dir).processes:
        if each.entry.name == old.name and each.entry.pid != old.pid and each.alive:
            return (data_dir / f"{old.name}.ready").exists()
    return False
