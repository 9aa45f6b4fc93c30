"""`preflight`: before trading. One table, green, red or unknown, with a reason on each line.

Where `doctor` asks whether the installation is sound, this asks whether entries may go now. Every
part is read on its own and within a time limit, so that a part that is down is one red line and
the others are still shown. Nothing is written and nothing is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import Client, WorkflowSerializationContext
from temporalio.service import RPCError

from activities.reconcile import good_pass_cursor, look_of
from activities.streams import StreamHeard, heard_cursor, lease_name
from brokers.alpaca.config import AlpacaMode
from cli import checks, preflight_day
from cli import preflight_lines as lines
from cli.checks import NOTE, OK, UNKNOWN, Finding, note, ok, unknown, wrong
from cli.context import EXIT_FAILED, Target, execute, line_of, target_of
from cli.output import console, print_json
from domain.account import AccountSnapshot, MarketClock
from domain.clock import ClockMap, real_time
from domain.errors import HoldfastError
from domain.order import OrderSnapshot, Position, Quote
from domain.recon.classify import Discrepancy, Look, classify, confirmed
from domain.session import SessionInput
from ledger.repository import Ledger
from settings import Settings

app = typer.Typer()
# Two rounds of reading must fit into ten seconds, with everything down.
PART_TIMEOUT_S = 4.0
# Between the two looks of which a difference must be part; an order is in flight for less.
SETTLE_S = 1.0
SESSIONS_MAX = 50
_COLOURS = {OK: "green", NOTE: "green", UNKNOWN: "yellow"}

T = TypeVar("T")


@dataclass(frozen=True)
class BrokerReading:
    """What the broker says of the account, at one moment."""

    account: AccountSnapshot
    clock: MarketClock
    offset: Finding
    positions: tuple[Position, ...]
    orders: tuple[OrderSnapshot, ...]


@dataclass(frozen=True)
class TemporalReading:
    """Lines of the server and its workers, and the symbols of the running sessions."""

    findings: list[Finding]
    universe: tuple[str, ...]


@app.command()
def preflight(
    context: typer.Context,
    symbol: Annotated[list[str] | None, typer.Option(help="also judge this symbol's data")] = None,
    armed: Annotated[bool, typer.Option("--armed", help="disarmed is red, too")] = False,
    accept: Annotated[
        list[str] | None, typer.Option(help="foreign orders and positions in it are known")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Before trading: may entries go now? Exit 0 only if nothing is red.

    What entries need and nobody could tell counts as red. `doctor` is about the installation.
    """
    target = target_of(context)
    wanted, known = tuple(symbol or ()), frozenset(accept or ())
    seen = execute(lambda: examine(target, wanted, known, want_armed=armed))
    findings = checks.named(target, seen)
    if as_json:
        print_json([each.model_dump() | {"colour": colour(each)} for each in findings])
    else:
        show(findings)
    if any(each.is_bad for each in findings):
        raise typer.Exit(EXIT_FAILED)


def colour(finding: Finding) -> str:
    """`green`, `red` or `unknown`."""
    if finding.verdict == UNKNOWN:
        return "unknown"
    return "green" if finding.verdict in (OK, NOTE) else "red"


def show(findings: Sequence[Finding]) -> None:
    """The table, and one line that says what it comes to."""
    bad = [each for each in findings if each.is_bad]
    printer, width = console(), max(len(each.check) for each in findings)
    for each in findings:
        style = "red" if each.is_bad else _COLOURS.get(each.verdict, "red")
        printer.print(f"{colour(each):8}", style=style, end="")
        printer.print(f"{each.check:{width}}  {each.text}", markup=False, soft_wrap=True)
    if bad:
        printer.print(f"NOT READY: {', '.join(each.check for each in bad)}", markup=False)
    else:
        printer.print("READY: nothing is red")


async def examine(
    target: Target,
    symbols: Sequence[str] = (),
    accepted: frozenset[str] = frozenset(),
    *,
    want_armed: bool = False,
) -> list[Finding]:
    """Every line, in the order in which a person would look."""
    findings = [checks.disk(target.data_dir)]
    if target.kill_journal.is_pending():
        findings.append(wrong("kill journal", "a kill waits for the ledger; entries are blocked"))
    try:
        settings = target.settings()
    except HoldfastError as error:
        return [*findings, wrong("settings", error.text)]
    findings += [_stack(target, settings), *_mode(settings)]
    ledger, broker, temporal = await asyncio.gather(
        _attempt(read_ledger(target, settings)),
        _attempt(read_broker(target)),
        _attempt(read_temporal(target, settings)),
    )
    watched = _watched(symbols, ledger, broker, temporal)
    now = datetime.now(UTC)
    findings += _judge_temporal(temporal)
    findings += _judge_ledger(ledger, watched, now, want_armed=want_armed)
    findings += _judge_broker(broker, settings)
    for more in await asyncio.gather(
        _judge_quotes(target, settings, broker, watched),
        _judge_books(target, settings, ledger, broker, accepted),
    ):
        findings += more
    findings.append(_restricted(target, settings, now))
    return findings


async def _attempt(reading: Awaitable[T], timeout_s: float = PART_TIMEOUT_S) -> T | str:
    """The reading, or in words why there is none."""
    try:
        async with asyncio.timeout(timeout_s):
            return await reading
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except HoldfastError as error:
        return line_of(error)
    except RPCError as error:
        return f"Temporal: {error.message}"


# --- reading ------------------------------------------------------------------------------------


async def read_ledger(target: Target, settings: Settings) -> lines.LedgerReading:
    """The account's rows; connecting also checks that the migrations are current."""
    async with target.ledger() as ledger:
        return await reading_of(ledger, settings)


async def reading_of(ledger: Ledger, settings: Settings) -> lines.LedgerReading:
    """The same from an open ledger."""
    account = settings.account.name
    heard = await ledger.get_cursor(heard_cursor(account))
    lease = await ledger.lease(lease_name(account))
    is_held = lease is not None and lease.expires_at > datetime.now(UTC)
    reconciled = await ledger.get_cursor(good_pass_cursor(account))
    return lines.LedgerReading(
        control=await ledger.read_control(account),
        conditions=await ledger.conditions(account),
        risk=await ledger.risk_breaker(account),
        api=await ledger.api_breaker(settings.broker.venue.value),
        trades=tuple(await ledger.list_trades(account=account, open_only=True)),
        owned=await ledger.positions_by_trade(account),
        intents=await ledger.open_orders(account),
        children=await ledger.open_children(account),
        heard=None if heard is None else StreamHeard.model_validate_json(heard),
        streamer=lease.holder if lease is not None and is_held else "",
        reconciled_at=None if reconciled is None else datetime.fromisoformat(reconciled),
    )


async def read_broker(target: Target) -> BrokerReading:
    """Account, clock, positions and working orders."""
    async with target.broker() as broker:
        clock, offset = await checks.broker_clock(target, broker)
        return BrokerReading(
            account=await broker.account(),
            clock=clock,
            offset=offset,
            positions=await broker.positions(),
            orders=await broker.open_orders(),
        )


async def read_temporal(target: Target, settings: Settings) -> TemporalReading:
    """Server, build, workers, and what the running sessions watch."""
    client = await target.temporal()

    async def every() -> AsyncIterator[Finding]:
        async for each in checks.temporal_server(client):
            yield each
        async for each in checks.workers(client, settings.account.name):
            yield each

    findings = await checks.collected("temporal", every())
    return TemporalReading(findings, await session_symbols(client, settings.account.name))


async def session_symbols(client: Client, account: str) -> tuple[str, ...]:
    """Symbols of the running sessions of the account, from how they were started."""
    found: dict[str, None] = {}
    query = "WorkflowType = 'Session' AND ExecutionStatus = 'Running'"
    async for each in client.list_workflows(query, limit=SESSIONS_MAX):
        answer = await client.workflow_service.get_workflow_execution_history(
            GetWorkflowExecutionHistoryRequest(
                namespace=client.namespace,
                execution=WorkflowExecution(workflow_id=each.id, run_id=each.run_id),
                maximum_page_size=1,
            )
        )
        started = answer.history.events[0].workflow_execution_started_event_attributes
        about = WorkflowSerializationContext(client.namespace, each.id)
        reader = client.data_converter.with_context(about)
        values = await reader.decode(started.input.payloads, [SessionInput])
        spec = values[0].spec
        if spec.account == account:
            found |= dict.fromkeys(instrument.symbol for instrument in spec.universe)
    return tuple(found)


def _watched(
    symbols: Sequence[str],
    ledger: lines.LedgerReading | str,
    broker: BrokerReading | str,
    temporal: TemporalReading | str,
) -> tuple[str, ...]:
    """Symbols whose data must be fresh: asked for, in a session, in a trade, held."""
    found = list(symbols)
    if not isinstance(temporal, str):
        found += temporal.universe
    if not isinstance(ledger, str):
        found += [leg.instrument.symbol for trade in ledger.trades for leg in trade.plan.legs]
    if not isinstance(broker, str):
        found += [held.symbol for held in broker.positions if held.quantity != 0]
    return tuple(dict.fromkeys(found))


# --- judging ------------------------------------------------------------------------------------


def _stack(target: Target, settings: Settings) -> Finding:
    """Not up is wrong, unless servers of their own are named in the settings."""
    found = checks.stack(target)
    is_needed = target.run_info is None and not settings.ledger.dsn.get_secret_value()
    return wrong(found.check, found.text) if is_needed else found


def _mode(settings: Settings) -> list[Finding]:
    mode = f"{settings.broker.mode} at {settings.broker.venue}, account {settings.account.name}"
    dry = note("dry run", "on: nothing is ever sent") if settings.safety.dry_run else None
    return [ok("mode", mode), *([] if dry is None else [dry])]


def _judge_temporal(reading: TemporalReading | str) -> list[Finding]:
    if isinstance(reading, str):
        return [wrong("temporal", reading), unknown("workers", "Temporal was not read")]
    return reading.findings


def _judge_ledger(
    reading: lines.LedgerReading | str, watched: Sequence[str], now: datetime, *, want_armed: bool
) -> list[Finding]:
    if isinstance(reading, str):
        unread = ("armed", "kill", "risk breaker", "order stream", "open trades")
        text = "the database was not read"
        return [wrong("database", reading), *(unknown(each, text) for each in unread)]
    return [
        ok("database", "reachable, migrations current"),
        *lines.switches(reading, watched, want_armed=want_armed),
        *lines.stream(reading, now),
        *lines.open_trades(reading),
    ]


def _judge_broker(reading: BrokerReading | str, settings: Settings) -> list[Finding]:
    if isinstance(reading, str):
        unread = ("clock", "broker account", "buying power", "market")
        text = "the broker was not read"
        return [wrong("broker", reading), *(unknown(each, text) for each in unread)]
    simulated = settings.broker.mode is AlpacaMode.SIMULATOR
    ours = settings.account
    return [
        reading.offset,
        *lines.account(reading.account, ours.currency, settings.limits),
        *preflight_day.findings(
            reading.clock,
            ours.calendar,
            ours.time_zone,
            simulated=simulated,
            blocked_last_s=settings.limits.entry_blocked_last_s,
        ),
    ]


async def _judge_quotes(
    target: Target, settings: Settings, reading: BrokerReading | str, watched: Sequence[str]
) -> list[Finding]:
    if isinstance(reading, str):
        return [unknown("data age", "the broker was not read")]

    async def ask() -> tuple[dict[str, Quote], ClockMap]:
        if not watched:
            return {}, real_time(datetime.now(UTC))
        async with target.broker() as broker:
            return await broker.quotes(list(watched)), await target.clock_map()

    answer = await _attempt(ask())
    if isinstance(answer, str):
        return [wrong("data age", answer)]
    found, clock = answer
    is_open = reading.clock.is_open
    now = datetime.now(UTC)
    return lines.quotes(watched, found, clock, now, limits=settings.limits, is_open=is_open)


async def _judge_books(
    target: Target,
    settings: Settings,
    ledger: lines.LedgerReading | str,
    broker: BrokerReading | str,
    accepted: frozenset[str],
) -> list[Finding]:
    """Owners of orders and positions; what looks wrong is looked at twice."""
    if isinstance(ledger, str) or isinstance(broker, str):
        text = "database or broker was not read"
        return [unknown(f"{each} without owner", text) for each in ("orders", "positions")]
    first = _look(settings, ledger, broker)
    findings: tuple[Discrepancy, ...] | str = ()
    if classify(first):
        findings = await _attempt(_confirm(target, settings, first))
    if isinstance(findings, str):
        return [unknown(f"{each} without owner", findings) for each in ("orders", "positions")]
    return lines.books(findings, ledger.owned, accepted)


async def _confirm(target: Target, settings: Settings, first: Look) -> tuple[Discrepancy, ...]:
    await asyncio.sleep(SETTLE_S)
    # The ledger last: what fills between the reads is booked by then.
    broker = await read_broker(target)
    ledger = await read_ledger(target, settings)
    return confirmed(first, _look(settings, ledger, broker))


def _look(settings: Settings, ledger: lines.LedgerReading, broker: BrokerReading) -> Look:
    shown = broker.account
    return look_of(
        settings.account.installation,
        orders=broker.orders,
        positions=broker.positions,
        intents=ledger.intents,
        children=ledger.children,
        trades=ledger.trades,
        owned=ledger.owned,
        account_is_flat=shown.equity is not None and shown.equity == shown.cash,
        now=datetime.now(UTC),
    )


def _restricted(target: Target, settings: Settings, now: datetime) -> Finding:
    """The list counts as of when the gateway read it: its ready file tells when."""
    try:
        listed = settings.restricted_list()
    except HoldfastError as error:
        return wrong("restricted list", line_of(error))
    as_of: datetime | None = listed.as_of
    if settings.restricted.symbols is not None:
        as_of = _gateway_started(target.data_dir)
    return lines.restricted(as_of, len(listed.symbols), now)


def _gateway_started(data_dir: Path) -> datetime | None:
    files = [
        f for f in data_dir.glob("worker-*.ready") if f.stem.split("-")[1] in ("all", "gateway")
    ]
    times = [datetime.fromtimestamp(each.stat().st_mtime, UTC) for each in files]
    return max(times, default=None)
