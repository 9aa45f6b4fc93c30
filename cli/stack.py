"""`up`, `down`, `status`, `doctor`: the local stack."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.client import Client, Schedule
from temporalio.common import WorkflowIDConflictPolicy

from activities.day_report import DayReportInput
from activities.reconcile import ReconcileInput
from activities.services import StreamInput
from brokers.alpaca.config import AlpacaMode
from cli.checks import named
from cli.context import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    Target,
    execute,
    failed,
    line_of,
    operator_name,
    target_of,
)
from cli.deploy import NAMED_MAX, deployed_alone, take_over_workflows
from cli.doctor import examine
from cli.exchange_check import exchange_arguments, no_market
from cli.new_exchange import what_a_new_exchange_forgot
from cli.output import print_fields, print_json, print_rows
from deploy.local import control
from deploy.local.kill_journal import KillJournal
from deploy.local.runfile import RunInfo
from deploy.local.stack import exchange_child, prepare_ledger, prepare_temporal, worker_child
from deploy.local.supervisor import StackConfig, StackFailed, Supervisor, lock
from deploy.temporal.handover import pin_of, pinned_elsewhere
from deploy.temporal.lanes import OrderLane
from deploy.temporal.payload_needs import is_readable
from deploy.temporal.prepare import connect_when_ready
from deploy.temporal.schedules import (
    day_report_schedule,
    day_report_schedule_id,
    reconcile_schedule,
    reconcile_schedule_id,
    start_now,
)
from deploy.temporal.versions import set_current_version
from domain.errors import HoldfastError
from domain.ids import TRADE_QUEUE, streams_workflow_id, trade_workflow_id
from ledger.repository import Ledger
from observability.build import build_id, repository_root
from observability.payload_codec import HoldfastCodec
from payload_keys import payload_codec
from payload_watch import KEY_MISSING, missing_keys, missing_line
from settings import ConfigError, Settings
from wiring import copy_journal
from workflows._lifecycle import TASK_TIMEOUT

app = typer.Typer()
LEDGER_FOLDER = "postgres"
STREAMS = "Streams"
TRADES_MAX = 100_000
# A build that is gone does not answer; waiting for it would only delay the override.
OVERRIDE_WAIT_S = 5.0
NO_ALERT_CHANNEL = (
    "NO_ALERT_CHANNEL nobody is called, alerts are only listed and logged: put [[alerts.channels]] "
    "with a name into {config} and its URL into HOLDFAST_ALERT_URL_<NAME>, then `alert test`; "
    "docs/operator.md#alerts-and-what-they-want"
)
KILL_WAITS = (
    "KILL_WAITS a kill waits in the local journal and nothing was moved aside, as with --resume: "
    "it goes into the ledger of this data directory and stays until people reset it"
)
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def stack_config(
    target: Target,
    settings: Settings,
    *,
    workers: str,
    exchange_arguments: list[str],
    override_pins: bool = False,
) -> StackConfig:
    """The usual stack: servers, exchange in mode simulator, workers of the named roles."""
    account = settings.account.name
    simulated = settings.broker.mode is AlpacaMode.SIMULATOR
    face = ["--face", settings.broker.venue.value]
    lane = OrderLane(settings.account.name, settings.broker.requests_per_minute)
    codec = payload_codec(settings)
    return StackConfig(
        data_dir=target.data_dir,
        exchange=exchange_child([*face, *exchange_arguments]) if simulated else None,
        workers=[worker_child(role, target.config) for role in workers.split(",") if role],
        prepare=(
            prepare_ledger,
            lambda info: asyncio.run(prepare_account(info, settings, override_pins=override_pins)),
            prepare_temporal(
                lanes=(lane,), schedules=_schedules(settings.account.name), codec=codec
            ),
        ),
        after_start=(
            lambda info: asyncio.run(
                make_current(info, account, workers, codec=codec, override_pins=override_pins)
            ),
        ),
    )


def _schedules(account: str) -> dict[str, Schedule]:
    """Broker truth against ledger, every five minutes; the report of the evening."""
    reports = [DayReportInput(account=account)]
    return {
        reconcile_schedule_id(account): reconcile_schedule(
            account, [ReconcileInput(account=account)]
        ),
        day_report_schedule_id(account): day_report_schedule(account, reports),
    }


def set_aside_simulation(target: Target, settings: Settings) -> Path | None:
    """Moves the data of an earlier simulation away: its exchange, and all it held, is gone.

    A kill that waits in the local journal stays where it is and blocks entries. Answers where the
    earlier data is now, None if there was nothing to move.

    Raises:
        StackFailed: ALREADY_RUNNING: the data is another supervisor's, which may only be starting.
    """
    data_dir = target.data_dir
    simulated = settings.broker.mode is AlpacaMode.SIMULATOR
    if not simulated or not (data_dir / LEDGER_FOLDER).exists():
        return None
    with lock(data_dir):
        # Another `up` may have moved it between the look and the lock.
        if not (data_dir / LEDGER_FOLDER).exists() or target.kill_journal.is_pending():
            return None
        aside = data_dir.with_name(f"{data_dir.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        data_dir.rename(aside)
    return aside


async def prepare_account(
    info: RunInfo, settings: Settings, *, override_pins: bool = False
) -> None:
    """Installation and account rows, kills from the local journal, and the check of the builds.

    Raises:
        StackFailed: `BUILD_MISSING`: open trades or sessions are pinned to a build that is not
            here, and nobody asked to override their pins.
    """
    ledger = await Ledger.connect(info.ledger_dsn)
    try:
        account = settings.account
        await ledger.ensure_installation(account.installation)
        await ledger.ensure_account(account.name, settings.broker.venue.value, account.currency)
        copied = await copy_journal(ledger, KillJournal(Path(info.data_dir)))
        if copied:
            typer.echo(f"{copied} kills were copied from the local journal", err=True)
        await tell_of_new_exchange(info, settings)
        await tell_of_missing_keys(info, settings)
        mine = build_id()
        builds = {
            trade_workflow_id(trade.trade_id): trade.build_id
            for trade in await ledger.list_trades(open_only=True)
            if trade.build_id not in ("", mine)
        }
        builds |= await _pinned(info, mine)
        if builds and not override_pins:
            raise StackFailed(_missing_builds(builds, mine), code="BUILD_MISSING")
        await deployed_alone(ledger, (settings,), operator_name(None))
    finally:
        await ledger.aclose()


def _missing_builds(builds: dict[str, str], mine: str) -> str:
    """Names what is pinned to builds that are not here, and the two ways out."""
    named = [f"{workflow} on {build}" for workflow, build in sorted(builds.items())]
    more = len(named) - NAMED_MAX
    told = ", ".join(named[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
    return (
        f"open trades and sessions are pinned to builds that are not here: {told}; this "
        f"build is {mine}. Either start the old build and run `deploy` of this one, or "
        "`up --resume --override-pins`: moves every one whose history replays clean"
    )


async def tell_of_new_exchange(info: RunInfo, settings: Settings) -> None:
    """A warning on standard error if a simulated exchange lost what the ledger has open."""
    if settings.broker.mode is not AlpacaMode.SIMULATOR:
        return
    ledger = await Ledger.connect(info.ledger_dsn, pool_size=1)
    try:
        gone = await what_a_new_exchange_forgot(ledger, settings.account.name)
    finally:
        await ledger.aclose()
    if gone:
        typer.echo(gone, err=True)


async def tell_of_missing_keys(info: RunInfo, settings: Settings) -> None:
    """A line on standard error if open workflows need payload keys that are not here (H14).

    The stack starts all the same: what can be read goes on, and the kill goes through it.
    """
    codec = payload_codec(settings)
    ledger = await Ledger.connect(info.ledger_dsn, pool_size=1)
    try:
        address, namespace = info.temporal_address, info.temporal_namespace
        missing = await missing_keys(
            ledger, namespace, codec, lambda: connect_when_ready(address, namespace, codec=codec)
        )
    finally:
        await ledger.aclose()
    if missing:
        typer.echo(f"{KEY_MISSING} {missing_line(missing)}", err=True)


async def _pinned(info: RunInfo, mine: str) -> dict[str, str]:
    """Build by id of the open workflows that this build cannot serve; streams start anew."""
    client = await connect_when_ready(info.temporal_address, info.temporal_namespace)
    pins = await pinned_elsewhere(client, mine)
    return {pin.workflow_id: pin.build_id for pin in pins if pin.kind != STREAMS}


async def make_current(
    info: RunInfo,
    account: str,
    workers: str,
    *,
    codec: HoldfastCodec,
    override_pins: bool = False,
) -> None:
    """New workflows start on this build from here on; the account's streams are hosted."""
    if not workers:
        return
    address, namespace = info.temporal_address, info.temporal_namespace
    client = await connect_when_ready(address, namespace, codec=codec)
    await set_current_version(client, build_id())
    streams = await pin_of(client, streams_workflow_id(account))
    # A streams workflow carries no state: one of a build that is gone, or that nobody here can
    # read, starts anew. Without it the readable trades would hear of no fill.
    is_foreign = streams is not None and streams.build_id not in ("", build_id())
    is_foreign |= not await is_readable(client, codec, streams_workflow_id(account))
    replace = WorkflowIDConflictPolicy.TERMINATE_EXISTING
    await client.start_workflow(
        STREAMS,
        StreamInput(account=account),
        id=streams_workflow_id(account),
        task_queue=TRADE_QUEUE,
        task_timeout=TASK_TIMEOUT,
        id_conflict_policy=replace if is_foreign else WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"fill stream and exit watch of {account}",
    )
    if override_pins:
        await _override_pins(client, info)
    # What was lost or done elsewhere meanwhile is found in seconds, not in minutes.
    await start_now(client, reconcile_schedule_id(account))


async def _override_pins(client: Client, info: RunInfo) -> None:
    """Moves what builds that are gone have left; what does not replay clean is named."""
    ledger = await Ledger.connect(info.ledger_dsn)
    try:
        done = await take_over_workflows(
            client, ledger, build_id(), wait_s=OVERRIDE_WAIT_S, override=True
        )
        await ledger.append_audit(
            operator_name(None), "override_pins", build_id(), {"moved": done["moved"]}
        )
    finally:
        await ledger.aclose()
    typer.echo(
        f"{done['moved']} of {done['found']} pins were moved to build {build_id()}", err=True
    )
    for row in done["left"]:
        typer.echo(f"PIN_LEFT {row['workflow']} on {row['build']}: {row['why']}", err=True)


@app.command()
def up(
    context: typer.Context,
    detach: Annotated[bool, typer.Option(help="return once the stack is ready")] = False,
    workers: Annotated[str, typer.Option(help="roles, by comma; empty for none")] = "all",
    exchange_config: Annotated[Path | None, typer.Option(help="JSON of the exchange")] = None,
    tape: Annotated[Path | None, typer.Option(help="tape that the exchange plays")] = None,
    speed: Annotated[str, typer.Option(help="market seconds per wall second")] = "1",
    exchange_start: Annotated[str, typer.Option(help="market time at the start")] = "",
    resume: Annotated[bool, typer.Option(help="keep the data of an earlier simulation")] = False,
    override_pins: Annotated[
        bool, typer.Option(help="move trades of builds that are gone, if they replay clean")
    ] = False,
) -> None:
    """Starts the stack: PostgreSQL, Temporal, simulated exchange, workers."""
    target = target_of(context)
    try:
        arguments = exchange_arguments(exchange_config, tape, speed, exchange_start)
        payload_codec(target.settings())  # before anything of an earlier run is moved
        simulated = target.settings().broker.mode is AlpacaMode.SIMULATOR
        if not target.settings().alerts.channels:
            typer.echo(NO_ALERT_CHANNEL.format(config=target.config), err=True)
        if simulated and exchange_config is None and tape is None:
            typer.echo(no_market(), err=True)
        aside = None if resume else set_aside_simulation(target, target.settings())
        if aside is not None:
            typer.echo(f"a new simulated exchange starts empty; the earlier data is in {aside}")
        elif simulated and not resume and target.kill_journal.is_pending():
            typer.echo(KILL_WAITS, err=True)
        if detach:
            info = control.start_detached(_foreground_command(target, workers), target.data_dir)
            asyncio.run(tell_of_new_exchange(info, target.settings()))
            asyncio.run(tell_of_missing_keys(info, target.settings()))
            _print_addresses(info)
            return
        settings = target.settings()
        config = stack_config(
            target,
            settings,
            workers=workers,
            exchange_arguments=arguments,
            override_pins=override_pins,
        )
        Supervisor(config).run()
    except HoldfastError as error:
        raise failed(error) from None


def _foreground_command(target: Target, workers: str) -> list[str]:
    """This command again without `--detach`, with the options as they were given."""
    given = [each for each in sys.argv[1:] if each != "--detach"]
    start = [sys.executable, str(repository_root() / "starter.py")]
    if "up" in given:
        return [*start, *given]
    named = ["--config", str(target.config.resolve()), "--data", str(target.data_dir)]
    return [*start, *named, "up", "--workers", workers]


def _print_addresses(info: RunInfo) -> None:
    fields = {
        "data": info.data_dir,
        "web ui": info.web_ui_url,
        "temporal": info.temporal_address,
        "exchange": info.exchange_url,
    }
    print_fields(fields, as_json=False)


@app.command()
def down(context: typer.Context) -> None:
    """Stops the stack in order: workers drain, then exchange, Temporal, PostgreSQL."""
    target = target_of(context)
    open_trades = execute(lambda: _words_of_open_trades(target))
    try:
        stopped = control.down(target.data_dir)
    except HoldfastError as error:
        raise failed(error) from None
    typer.echo("stopped" if stopped else "nothing was running")
    if stopped and open_trades:
        typer.echo(open_trades)


async def _words_of_open_trades(target: Target) -> str:
    """What the stop leaves behind; empty when no trade is open or no stack runs."""
    try:
        async with target.ledger() as ledger:
            number = len(await ledger.list_trades(open_only=True, limit=TRADES_MAX))
        simulated = target.settings().broker.mode is AlpacaMode.SIMULATOR
    except HoldfastError as error:
        # Never in the way of the stop itself.
        return f"whether trades are open was not read: {line_of(error)}"
    if number == 0:
        return ""
    if not simulated:
        return f"open trades: {number}; resting orders stay at the broker, `up` goes on with them"
    return (
        f"open trades: {number}; `up --resume` goes on with them, though a new simulated exchange "
        "does not know their orders (EXCHANGE_NEW); a plain `up` moves the data aside"
    )


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """What runs, what is armed or killed, which trades are open.

    Exit 1 when not up, 2 when the settings cannot be read.
    """
    target = target_of(context)
    found = execute(lambda: _status(target))
    if as_json:
        print_json(found)
    else:
        processes = found.pop("processes")
        print_fields({k: v for k, v in found.items() if v or k != "web_ui"}, as_json=False)
        print_rows(processes, ("process", "pid", "alive"), as_json=False)
    if "settings" in found:
        raise typer.Exit(EXIT_BAD_INPUT)
    if not found["up"]:
        raise typer.Exit(EXIT_FAILED)


async def _status(target: Target) -> dict[str, Any]:
    stack = control.status(target.data_dir)
    info = stack.info
    found: dict[str, Any] = {
        "up": stack.is_up,
        "at": datetime.now(UTC),
        "data": str(target.data_dir),
        "web_ui": info.web_ui_url if stack.is_up and info is not None else "",
        "kill_in_journal": target.kill_journal.is_pending(),
        "processes": [
            {"process": each.entry.name, "pid": each.entry.pid, "alive": each.alive}
            for each in stack.processes
        ],
    }
    try:
        found |= await _book_status(target)
    except ConfigError as error:
        found |= {"settings": line_of(error), "ledger": "not read"}
    except HoldfastError as error:
        found["ledger"] = target.named(line_of(error))
    return found


async def _book_status(target: Target) -> dict[str, Any]:
    account = target.settings().account.name
    async with target.ledger() as ledger:
        switches = await ledger.read_control(account)
        trades = await ledger.list_trades(account=account, open_only=True)
        positions = await ledger.positions_by_trade(account)
    return {
        "ledger": "ok",
        "account": account,
        "armed": switches.armed,
        "control_version": switches.version,
        "kills": [
            f"{kill.mode} {kill.scope.text} by {kill.by}: {kill.reason}" for kill in switches.kills
        ],
        "open_trades": dict(Counter(trade.stage for trade in trades)),
        "positions": [f"{p.quantity:f} {p.symbol} ({p.trade_id})" for p in positions],
    }


@app.command()
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Looks at everything a trade needs; exit 1 when something is wrong."""
    target = target_of(context)
    findings = named(target, execute(lambda: examine(target)))
    rows = [each.model_dump() for each in findings]
    print_rows(rows, ("check", "verdict", "text"), as_json=as_json)
    if any(each.verdict == "wrong" for each in findings):
        raise typer.Exit(EXIT_FAILED)
