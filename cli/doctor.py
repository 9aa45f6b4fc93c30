"""`doctor`: one line per thing that a trade needs, with what to do about it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from activities.gateway import sweeper_lease
from cli.context import Target, line_of
from deploy.local import control
from deploy.local.postgres import binary_dir
from deploy.local.temporal import temporal_binary
from deploy.temporal.lanes import OrderLane
from deploy.temporal.prepare import RETENTION_MIN
from deploy.temporal.versions import current_version
from domain.base import Frozen
from domain.control import ApiBreakerState, BreakerState
from domain.errors import HoldfastError
from ledger.repository import Ledger
from observability.build import build_id
from settings import Settings

DISK_FREE_MIN_MB = 500
CLOCK_SKEW_MAX_S = 2.0
WALK_INTERVAL_S = Decimal(10)


class Finding(Frozen):
    """One look: `ok`, `note` (works, but know it) or `wrong`."""

    check: str
    verdict: str
    text: str = ""


def _ok(check: str, text: object = "") -> Finding:
    return Finding(check=check, verdict="ok", text=str(text))


def _note(check: str, text: str) -> Finding:
    return Finding(check=check, verdict="note", text=text)


def _wrong(check: str, text: str) -> Finding:
    return Finding(check=check, verdict="wrong", text=text)


async def examine(target: Target) -> list[Finding]:
    """Every finding, in the order in which a person would look."""
    findings = list(_machine(target))
    try:
        settings = target.settings()
    except HoldfastError as error:
        return [*findings, _wrong("settings", error.text)]
    findings += list(_settings(settings))
    parts = {
        "ledger": _ledger(target, settings),
        "temporal": _temporal(target, settings),
        "broker": _broker(target),
    }
    for name, part in parts.items():
        try:
            findings += [each async for each in part]
        except HoldfastError as error:
            findings.append(_wrong(name, line_of(error)))
    return findings


def _machine(target: Target) -> list[Finding]:
    found = [_ok("python", platform.python_version())]
    for name, locate in (("temporal", temporal_binary), ("postgres", binary_dir)):
        try:
            found.append(_ok(f"{name} program", locate()))
        except (OSError, ImportError, HoldfastError) as error:
            found.append(_wrong(f"{name} program", str(error)))
    folder = target.data_dir if target.data_dir.exists() else target.data_dir.anchor or "."
    free_mb = shutil.disk_usage(folder).free // 2**20
    is_enough = free_mb >= DISK_FREE_MIN_MB
    found.append((_ok if is_enough else _wrong)("disk", f"{free_mb} MB free"))
    stack = control.status(target.data_dir)
    dead = [each.entry.name for each in stack.processes if not each.alive]
    if stack.info is None:
        found.append(_note("stack", "not up; start it with: starter.py up --detach"))
    elif dead:
        found.append(_wrong("stack", f"not running: {', '.join(dead)}"))
    else:
        found.append(_ok("stack", f"{len(stack.processes)} processes"))
    if target.kill_journal.is_pending():
        text = "a kill waits in the local journal; entries are blocked until the ledger has it"
        found.append(_note("kill journal", text))
    return found


def _settings(settings: Settings) -> list[Finding]:
    lane = OrderLane(settings.account.name, settings.broker.requests_per_minute)
    walks = lane.max_concurrent_walks(WALK_INTERVAL_S)
    found = [
        _ok("settings", settings.source),
        _ok("mode", f"{settings.broker.mode} at {settings.broker.venue}"),
        _ok(
            "order lane", f"{lane.activities_per_second:.2f}/s, max_concurrent_walks {walks} (10 s)"
        ),
    ]
    if settings.safety.dry_run:
        found.append(_note("dry run", "on: nothing is ever sent"))
    return found


async def _ledger(target: Target, settings: Settings) -> AsyncIterator[Finding]:
    account = settings.account.name
    async with target.ledger() as ledger:
        yield _ok("ledger", "schema is current")
        problems = await ledger.verify_audit()
        if problems:
            yield _wrong("audit chain", "; ".join(p.text for p in problems[:3]))
        else:
            yield _ok("audit chain")
        installation = await ledger.installation_id()
        if installation != settings.account.installation:
            yield _wrong("installation", f"ledger {installation}, settings differ")
        async for finding in _switches(ledger, settings, account):
            yield finding


async def _switches(ledger: Ledger, settings: Settings, account: str) -> AsyncIterator[Finding]:
    switches = await ledger.read_control(account)
    if switches.kills:
        yield _note("kill", "; ".join(f"{k.mode} {k.scope.text}" for k in switches.kills))
    yield _ok("armed", "yes") if switches.armed else _note("armed", "no: entries are refused")
    risk = await ledger.risk_breaker(account)
    if risk.state is not BreakerState.NORMAL:
        yield _wrong("risk breaker", f"{risk.state} {risk.reason}")
    venue = settings.broker.venue.value
    api = await ledger.api_breaker(venue)
    if api.state is not ApiBreakerState.CLOSED:
        yield _wrong("api breaker", f"{venue} {api.state}")
    lease = await ledger.lease(sweeper_lease(account))
    if lease is None or lease.expires_at < datetime.now(UTC):
        yield _note("kill sweeper", "no gateway sweeps; the command line would do it itself")
    else:
        yield _ok("kill sweeper", lease.holder)
    unresolved = await ledger.unresolved_intents(account)
    if unresolved:
        yield _note("orders", f"{len(unresolved)} orders are unresolved")


async def _temporal(target: Target, settings: Settings) -> AsyncIterator[Finding]:
    client = await target.temporal()
    yield _ok("temporal", settings.temporal.address)
    yield await _retention(client)
    current, mine = await current_version(client), build_id()
    if current == mine:
        yield _ok("build", mine)
    else:
        yield _wrong("build", f"current is {current}, this code is {mine}; run: starter.py up")


async def _retention(client: Client) -> Finding:
    described = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=client.namespace)
    )
    days = described.config.workflow_execution_retention_ttl.ToTimedelta()
    return (_ok if days >= RETENTION_MIN else _wrong)("retention", f"{days.days} days")


async def _broker(target: Target) -> AsyncIterator[Finding]:
    async with target.broker() as broker:
        account = await broker.account()
        yield _ok("broker", f"equity {account.equity} {account.currency}")
        if account.trading_blocked:
            yield _wrong("broker account", "trading is blocked by the broker")
        clock = await broker.market_clock()
        mapped = await target.clock_map()
        skew_s = (clock.market_now - mapped.market(datetime.now(UTC))).total_seconds()
        wall_s = abs(mapped.wall_duration_s(skew_s))
        verdict = _ok if wall_s <= CLOCK_SKEW_MAX_S else _wrong
        yield verdict("clock", f"{wall_s:.2f} s from the broker's")
        yield _ok("market", "open" if clock.is_open else f"closed until {clock.next_open}")
