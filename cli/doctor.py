"""`doctor`: the installation. One line per thing that must be there, with what to do about it.

`preflight` (cli/preflight.py) is about trading now: switches, breakers, account, market, books.
Both use the looks of cli/checks.py.
"""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal

from activities.gateway import sweeper_lease
from brokers.alpaca.config import AlpacaMode
from brokers.port import TellsBudget
from cli import checks
from cli.checks import Finding, note, ok, wrong
from cli.context import Target
from deploy.local.postgres import binary_dir
from deploy.local.temporal import temporal_binary
from deploy.temporal.lanes import OrderLane
from domain.errors import HoldfastError
from payload_keys import payload_keys
from settings import Settings

WALK_INTERVAL_S = Decimal(10)


async def examine(target: Target, *, before_up: bool = False) -> list[Finding]:
    """Every finding, in the order in which a person would look.

    Args:
        target: which installation.
        before_up: nothing runs yet, as at the end of `init`: what only `up` starts is left out.
    """
    findings = _machine(target)
    try:
        settings = target.settings()
    except HoldfastError as error:
        return [*findings, wrong("settings", error.text)]
    findings += _settings(settings)
    parts: dict[str, AsyncIterator[Finding]] = {}
    if not before_up:
        parts |= {"ledger": _ledger(target, settings), "temporal": _temporal(target, settings)}
    if not before_up or settings.broker.mode is not AlpacaMode.SIMULATOR:
        parts |= {"broker": _broker(target)}
    for name, part in parts.items():
        findings += await checks.collected(name, part)
    return findings


def _machine(target: Target) -> list[Finding]:
    found = [ok("python", platform.python_version())]
    for name, locate in (("temporal", temporal_binary), ("postgres", binary_dir)):
        try:
            found.append(ok(f"{name} program", locate()))
        except (OSError, ImportError, HoldfastError) as error:
            found.append(wrong(f"{name} program", str(error)))
    found += [checks.disk(target.data_dir), checks.stack(target)]
    if target.kill_journal.is_pending():
        text = "a kill waits in the local journal; entries are blocked until the ledger has it"
        found.append(note("kill journal", text))
    return found


def _settings(settings: Settings) -> list[Finding]:
    lane = OrderLane(settings.account.name, settings.broker.requests_per_minute)
    walks = lane.max_concurrent_walks(WALK_INTERVAL_S)
    found = [
        ok("settings", settings.source),
        ok("mode", f"{settings.broker.mode} at {settings.broker.venue}"),
        ok(
            "order lane",
            f"{lane.activities_per_second:.2f}/s, {lane.burst} at once, "
            f"max_concurrent_walks {walks} (10 s)",
        ),
    ]
    if settings.safety.dry_run:
        found.append(note("dry run", "on: nothing is ever sent"))
    return [*found, *_encryption(settings)]


def _encryption(settings: Settings) -> list[Finding]:
    """Nothing where it is off; else which key writes, never the key."""
    try:
        keys = payload_keys(settings).keys
    except HoldfastError as error:
        return [wrong("encryption", error.text)]
    if not keys:
        return []
    text = f"key {keys[0].key_id} writes, {len(keys)} read"
    plain = settings.encryption.accept_plain
    return [
        note("encryption", f"{text}; plain payloads are read too")
        if plain
        else ok("encryption", text)
    ]


async def _ledger(target: Target, settings: Settings) -> AsyncIterator[Finding]:
    account = settings.account.name
    async with target.ledger() as ledger:
        yield ok("ledger", "schema is current")
        problems = await ledger.verify_audit()
        if problems:
            yield wrong("audit chain", "; ".join(p.text for p in problems[:3]))
        else:
            yield ok("audit chain")
        installation = await ledger.installation_id()
        if installation != settings.account.installation:
            yield wrong("installation", f"ledger {installation}, settings differ")
        lease = await ledger.lease(sweeper_lease(account))
        if lease is None or lease.expires_at < datetime.now(UTC):
            yield note("kill sweeper", "no gateway sweeps; the command line would do it itself")
        else:
            yield ok("kill sweeper", lease.holder)
        armed = (await ledger.read_control(account)).armed
        more = "starter.py preflight tells whether it may trade"
        yield ok("armed", f"yes; {more}") if armed else note("armed", f"no; {more}")


async def _temporal(target: Target, settings: Settings) -> AsyncIterator[Finding]:
    client = await target.temporal()
    async for each in checks.temporal_server(client):
        yield each
    async for each in checks.workers(client, settings.account.name):
        yield each


def request_budget(ours: int, told: int) -> Finding:
    """The settings against the broker's own word: what it does not take, it refuses when busy."""
    text = f"requests_per_minute {ours}, the broker takes {told}"
    return ok("request budget", text) if ours <= told else wrong("request budget", text)


async def _broker(target: Target) -> AsyncIterator[Finding]:
    async with target.broker() as broker:
        account = await broker.account()
        yield ok("broker", f"equity {account.equity} {account.currency}")
        told = broker.told_requests_per_minute if isinstance(broker, TellsBudget) else None
        if told is not None:
            yield request_budget(target.settings().broker.requests_per_minute, told)
        _, offset = await checks.broker_clock(target, broker)
        yield offset
