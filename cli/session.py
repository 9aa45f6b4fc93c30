"""`session start|stop|pause|resume|list`: strategy sessions on a running stack."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
)
from temporalio.service import RPCError

from brokers.port import Broker
from cli.context import EXIT_FAILED, Target, execute, operator_name, target_of
from cli.output import print_fields, print_json, print_rows
from cli.plans import tradable_asset
from cli.session_calls import (
    BAR_INTERVAL_S,
    TRADES_MAX,
    ask,
    entries_refused,
    is_running,
    report_command,
    session_handle,
    start_session,
)
from cli.session_stop import stop_session
from domain.clock import STRATEGY_DURATION_WALL_S_MIN, ClockMap
from domain.errors import BadInput, HoldfastError, Refused
from domain.ids import check_id
from domain.session import (
    SessionReceipt,
    SessionRequest,
    SessionSpec,
    SessionStatus,
)
from marketdata.event_dates import read_blackouts, read_event_dates
from marketdata.session_days import check_days
from observability.build import build_id
from strategies.registry import StrategyProcess, find_strategy
from workflows.session import SessionWorkflow

app = typer.Typer(no_args_is_help=True, help="Start, stop and see strategy sessions.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
By = Annotated[str | None, typer.Option("--by", help="operator; default: login name")]
Reason = Annotated[str, typer.Option("--reason", help="for the audit")]
Version = Annotated[int | None, typer.Option("--version", help="refused if it changed; exit 4")]
CommandId = Annotated[str | None, typer.Option("--command-id", help="repeat of an earlier one")]
DAY = "%Y-%m-%d"
# Signal ids are `<session>-<hhmm>-<8 hex>` and at most 48 characters long.
SESSION_NAME_MAX = 34
POLL_S = 5
LISTED_MAX = 200
QUERY_TIMEOUT = timedelta(seconds=3)
ENTRIES_REFUSED = "entries refused"


@app.command()
def start(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="name of the session, part of all its trades' ids")],
    strategy: Annotated[list[Path], typer.Option(help="configuration, file or name; repeatable")],
    universe: Annotated[list[str], typer.Option(help="symbol; repeatable")],
    bar_s: Annotated[int, typer.Option(help="seconds of market time in a bar")] = BAR_INTERVAL_S,
    poll_s: Annotated[int, typer.Option(help="seconds of market time between quotes")] = 0,
    tape: Annotated[Path | None, typer.Option(help="tape file to read the bars from")] = None,
    calendar: Annotated[str, typer.Option(help="days of this calendar, such as XNYS")] = "",
    first_day: Annotated[datetime | None, typer.Option(formats=[DAY], help="first day")] = None,
    last_day: Annotated[datetime | None, typer.Option(formats=[DAY], help="last day")] = None,
    no_entry_first_min: Annotated[int, typer.Option(min=0, help="minutes after the open")] = 0,
    no_entry_last_min: Annotated[int, typer.Option(min=0, help="minutes before the close")] = 30,
    window: Annotated[list[str] | None, typer.Option(help="HH:MM-HH:MM, local; repeatable")] = None,
    flat_before_close_min: Annotated[int, typer.Option(min=0, help="0: hold overnight")] = 0,
    events: Annotated[Path | None, typer.Option(help="file of macro and earnings dates")] = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Starts a session on the account; it ends at the last close, or by `stop`."""
    target = target_of(context)

    async def run() -> dict[str, Any]:
        settings, clock = target.settings(), await target.clock_map()
        wanted = SessionSpec(
            name=check_session_name(name),
            account=settings.account.name,
            strategies=await _strategies(target, strategy),
            universe=(),
            opens_at=clock.market(datetime.now(UTC)),
            tape="" if tape is None else str(tape.resolve()),
            bar_interval_s=bar_s,
            poll_s=bar_s if tape is not None else min(poll_s or _shortest_poll_s(clock), bar_s),
            installation=settings.account.installation,
            mode=settings.broker.mode.value,
            build_id=build_id(),
            calendar=calendar,
            first_day=None if first_day is None else first_day.date(),
            last_day=None if last_day is None else last_day.date(),
            entry_blocked_first_s=no_entry_first_min * 60,
            entry_blocked_last_s=no_entry_last_min * 60,
            entry_windows=tuple(window or ()),
            flat_before_close_s=flat_before_close_min * 60,
            events_file="" if events is None else str(events.resolve()),
            started_by=operator_name(by),
        )
        if events is not None:
            read_event_dates([events])
            read_blackouts([events])
        _check_times(wanted, clock)
        async with target.broker() as broker:
            spec = await complete(wanted, universe, broker)
        check_days(spec, clock.market(datetime.now(UTC)))
        return await start_session(await target.temporal(), spec, clock, settings)

    print_fields(execute(run), as_json=as_json)


@app.command()
def stop(
    context: typer.Context,
    name: str,
    flatten: Annotated[bool, typer.Option(help="take every position off, now")] = False,
    wait_s: Annotated[float, typer.Option(help="for the receipt; 0: do not wait")] = 90.0,
    reason: Reason = "",
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
    as_json: Json = False,
) -> None:
    """Ends a session: entries die, positions keep their exits or, with --flatten, go.

    The receipt says which trades are open now. Exit 1: not ended, or not all flat that should be;
    ask again.
    """
    target = target_of(context)
    request = _request("stop", name, reason, operator_name(by), version, command_id, flatten)

    async def run() -> dict[str, Any]:
        told = await stop_session(target, name, request, wait_s)
        refused = await entries_refused(target, [name])
        return told | {ENTRIES_REFUSED: refused.get(name)}

    found = execute(run)
    trades = found.pop("trades")
    if as_json:
        print_json({**found, "trades": trades, "report": report_command(target, name)})
    else:
        print_fields(found, as_json=False)
        print_rows(trades, ("trade_id", "symbol", "stage", "protection"), as_json=False)
        typer.echo(f"report: {report_command(target, name)}")
    if found["stage"] != "ended" or (flatten and found["open trades"] != 0):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def pause(
    context: typer.Context,
    name: str,
    reason: Reason = "",
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
) -> None:
    """Goes on evaluating and recording, but takes no signal."""
    request = _request("pause", name, reason, operator_name(by), version, command_id)
    _say(target_of(context), name, SessionWorkflow.request_pause, request)


@app.command()
def resume(
    context: typer.Context,
    name: str,
    reason: Reason = "",
    by: By = None,
    version: Version = None,
    command_id: CommandId = None,
) -> None:
    """Takes signals again; it lifts no kill."""
    request = _request("resume", name, reason, operator_name(by), version, command_id)
    _say(target_of(context), name, SessionWorkflow.request_resume, request)


@app.command("list")
def list_sessions(context: typer.Context, as_json: Json = False) -> None:
    """Sessions of this stack, newest first."""
    target = target_of(context)

    async def run() -> list[dict[str, Any]]:
        found = await with_open_trades(target, await sessions(await target.temporal()))
        counted = [row["session"] for row in found if "taken" in row]
        refused = await entries_refused(target, counted)
        return [row | {ENTRIES_REFUSED: refused.get(row["session"])} for row in found]

    columns = (
        "session",
        "stage",
        "version",
        "started",
        "signals",
        "taken",
        ENTRIES_REFUSED,
        "open trades",
        "reason",
    )
    rows = execute(run)
    print_rows(rows, columns, as_json=as_json)
    if rows and not as_json:
        typer.echo(f"report of one: {report_command(target, 'NAME')}")


async def complete(spec: SessionSpec, symbols: list[str], broker: Broker) -> SessionSpec:
    """The spec with the broker's instruments and the hours of the day.

    Raises:
        BadInput: UNIVERSE_EMPTY, SYMBOL_UNKNOWN; also for several symbols in one text.
        Refused, Transient, Uncertain: from the broker.
    """
    if not symbols:
        raise BadInput("UNIVERSE_EMPTY", "universe", "", "at least one symbol")
    for symbol in symbols:
        if "," in symbol:
            allowed = "one symbol each: --universe AAPL --universe MSFT"
            raise BadInput("SYMBOL_UNKNOWN", "universe", symbol, allowed)
    instruments = [
        (await tradable_asset(broker, symbol, "universe")).instrument
        for symbol in dict.fromkeys(symbols)
    ]
    hours = await broker.market_clock()
    opens_at = hours.opened_at or (hours.market_now if hours.is_open else hours.next_open)
    return spec.model_copy(
        update={
            "universe": tuple(instruments),
            "opens_at": opens_at or hours.market_now,
            "closes_at": hours.next_close,
        }
    )


async def with_open_trades(target: Target, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trades outlive their session: where it does not count them itself, the ledger does."""
    account = target.settings().account.name
    try:
        async with target.ledger() as ledger:
            open_ones = await ledger.list_trades(account=account, open_only=True, limit=TRADES_MAX)
    except HoldfastError:
        return rows
    counted = Counter(trade.session for trade in open_ones)
    return [{"open trades": counted[row["session"]]} | row for row in rows]


async def sessions(client: Client) -> list[dict[str, Any]]:
    """One row for each session; the running ones are asked for their counts."""
    rows = []
    async for found in client.list_workflows("WorkflowType = 'Session'", limit=LISTED_MAX):
        row: dict[str, Any] = {
            "session": found.id.partition("/")[2],
            "stage": _stage_of(found.status),
            "started": found.start_time,
            "closed": found.close_time,
        }
        if found.status is WorkflowExecutionStatus.CONTINUED_AS_NEW:
            continue
        if found.status is WorkflowExecutionStatus.RUNNING:
            row |= await _asked(client, found.id)
        rows.append(row)
    return rows


def _stage_of(status: WorkflowExecutionStatus | None) -> str:
    """In the words of the receipt of `session stop`."""
    if status is WorkflowExecutionStatus.COMPLETED:
        return "ended"
    return "unknown" if status is None else status.name.lower()


async def _asked(client: Client, workflow_id: str) -> dict[str, Any]:
    """What a running session says of itself; nothing when no worker answers."""
    handle = client.get_workflow_handle(workflow_id)
    try:
        status: SessionStatus = await handle.query(
            SessionWorkflow.status, rpc_timeout=QUERY_TIMEOUT
        )
    except RPCError as error:
        return {"reason": f"did not answer: {error.message}"}
    return {
        "stage": status.stage,
        "reason": status.reason,
        "market_time": status.market_time,
        "version": status.version,
        "day": status.days_done + 1,
        "closes_at": None if status.day is None else status.day.closes_at,
        "baseline": status.baseline,
        **status.counts.model_dump(),
        "open trades": len(status.open_trades),
    }


def check_session_name(name: str) -> str:
    """The name, if trade ids made of it stay valid.

    Raises:
        BadInput: ID_FORMAT.
    """
    check_id(name, "name")
    if len(name) > SESSION_NAME_MAX:
        raise BadInput("ID_FORMAT", "name", name, f"<= {SESSION_NAME_MAX} characters")
    return name


async def _strategies(target: Target, wanted: list[Path]) -> tuple[str, ...]:
    """Names of stored configurations as they are; anything else is a file that must load."""
    async with target.ledger() as ledger:
        stored = {row.name for row in await ledger.strategies()}
    return tuple(str(each) if str(each) in stored else check_strategy(each) for each in wanted)


def check_strategy(path: Path) -> str:
    """The strategy's name or full path, after it has loaded once.

    Raises:
        BadInput: STRATEGY_UNKNOWN, or the code with which it does not load.
    """
    known = find_strategy(path.stem)
    found = known if known is not None and not path.is_file() else path.resolve()
    if not found.is_file():
        raise BadInput(
            "STRATEGY_UNKNOWN", "strategy", str(path), "a file, or a name of strategies/"
        )
    with StrategyProcess(found) as strategy:
        listing = strategy.load()
    if not listing.usable:
        raise listing.refusal
    return found.stem if known == found else str(found)


def _shortest_poll_s(clock: ClockMap) -> int:
    """Five seconds, or what the machine can keep where market time runs faster."""
    return max(POLL_S, math.ceil(float(clock.speed) * STRATEGY_DURATION_WALL_S_MIN))


def _check_times(spec: SessionSpec, clock: ClockMap) -> None:
    for field, duration_s in (("bar_s", spec.bar_interval_s), ("poll_s", spec.poll_s)):
        if duration_s < 1 or not clock.allows_strategy_duration(duration_s):
            allowed = f">= {STRATEGY_DURATION_WALL_S_MIN} s of wall time at speed {clock.speed:f}"
            raise BadInput("DURATION_TOO_SHORT", field, duration_s, allowed)


def _request(
    word: str,
    name: str,
    reason: str,
    by: str,
    version: int | None,
    command_id: str | None,
    flatten: bool = False,
) -> SessionRequest:
    """Without an id of its own each call is a new command."""
    made = f"{word}-{name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    return SessionRequest(
        command_id=command_id or made, by=by, reason=reason, version=version, flatten=flatten
    )


def _say(target: Target, name: str, word: Any, request: SessionRequest) -> None:
    """Asks and prints what became of it."""

    async def run() -> SessionReceipt:
        handle = session_handle(await target.temporal(), name)
        if not await is_running(handle, name):
            text = f"session {name} has ended; its report: {report_command(target, name)}"
            raise Refused(text, code="SESSION_ENDED")
        return await ask(handle, name, word, request)

    answer = execute(run)
    typer.echo(f"{answer.text}; session {name} has version {answer.version}")
