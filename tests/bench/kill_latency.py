"""From the commit of a kill to the last accepted order that adds risk, while 50 trades walk."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import asyncpg

from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from domain.order import Side
from simulator.journal import Journal
from tests.bench.figures import quantile, spread, until, verdict
from tests.bench.plans import FAR_QUOTE, SYMBOL, TradeBook, endless_walk_plan
from tests.bench.servers import Servers
from tests.rig import Rig, roomy_limits, running_rig

KILLS = 200
WALKERS = 50
# A machine that is too busy prints fewer kills than asked, and says so.
BUDGET_S = 400.0
LATENCY_MAX_MS = 250.0
STEP_INTERVAL_S = Decimal(4)
# Longer than a gate may be old plus a send: what is not accepted by then never will be.
WATCH_S = 0.4
# A strategy does not start fifty trades in one instant, and the steps spread over the interval.
START_GAP_S = 0.2
WALK_S = (0.2, 0.5)

_COMMITTED = "SELECT pg_xact_commit_timestamp(xmin) FROM kills WHERE command_id = $1"
_LIFT = "UPDATE kills SET reset_at = clock_timestamp() WHERE reset_at IS NULL"


async def measure_kill(servers: Servers, kills: int = KILLS) -> list[str]:
    """Kills the account `kills` times in mode `block`; answers the lines to print.

    The kill is lifted behind the product's back (a reset takes minutes on purpose), so that the
    same 50 trades walk on. Each walk step that it stopped is a refusal of the last-hop gate.
    """
    limits = roomy_limits(
        max_open_positions=WALKERS, max_total_notional="10000000", max_messages_per_minute=100_000
    )
    async with running_rig(
        servers.client, servers.ledger, "bench-kill", limits=limits, streams=False
    ) as rig:
        journal = _with_wall_clock(rig)
        rig.quote(SYMBOL, *FAR_QUOTE)
        book = TradeBook(rig.services.account, rig.clock)
        for number in range(WALKERS):
            await rig.start_trade(endless_walk_plan(book, f"w{number}", STEP_INTERVAL_S))
            await asyncio.sleep(START_GAP_S)
        await until(lambda: len(rig.exchange.open_orders) >= WALKERS, "all trades walk", 300)
        connection = await asyncpg.connect(servers.dsn)
        try:
            began = datetime.now(UTC)
            latencies: list[float] = []
            seconds = 0.0
            while len(latencies) < kills and seconds < BUDGET_S:
                latencies.append(await _one_kill(rig, connection, journal))
                seconds = (datetime.now(UTC) - began).total_seconds()
            codes = Counter(
                row["code"]
                for row in await connection.fetch("SELECT code FROM orders WHERE code <> ''")
            )
        finally:
            await connection.close()
    accepted = sum(_adds_risk(row) for row in journal.rows)
    return _lines(latencies, accepted, seconds, codes)


def _lines(latencies: list[float], accepted: int, seconds: float, codes: Counter[str]) -> list[str]:
    after = [value for value in latencies if value > 0]
    p99 = quantile(latencies, 0.99)
    refused = ", ".join(f"{name} {count}" for name, count in codes.most_common())
    return [
        f"{len(latencies)} of {KILLS} kills over {WALKERS} walking trades in {seconds:.0f} s, "
        f"{accepted} increasing orders accepted; refused sends: {refused or 'none'}",
        f"kills after whose commit anything was still accepted: {len(after)}"
        + (f"; {spread(after, 'ms', 1)}" if after else ""),
        verdict("p99 of commit to last accepted", p99, LATENCY_MAX_MS, " ms", 0),
    ]


async def _one_kill(rig: Rig, connection: asyncpg.Connection, journal: Journal) -> float:
    """Milliseconds from the commit to the last accepted increasing order; 0 if there was none."""
    await asyncio.sleep(random.uniform(*WALK_S))
    kill = KillSwitch(
        scope=KillScope(kind=KillScopeKind.ACCOUNT, value=rig.services.account),
        mode=KillMode.BLOCK,
        reason="bench",
        by="bench",
        command_id=uuid.uuid4().hex,
        engaged_at=datetime.now(UTC),
    )
    seen = len(journal.rows)
    await rig.ledger.engage_kill(rig.services.account, kill)
    await asyncio.sleep(WATCH_S)
    committed: datetime = await connection.fetchval(_COMMITTED, kill.command_id)
    later = [_wall(row) for row in journal.after(seen) if _adds_risk(row)]
    await connection.execute(_LIFT)
    last = max((wall for wall in later if wall > committed), default=committed)
    return (last - committed).total_seconds() * 1000


def _with_wall_clock(rig: Rig) -> Journal:
    """The exchange's journal with wall time beside market time."""
    journal = Journal(wall=lambda: datetime.now(UTC))
    rig.exchange.state.journal = journal
    return journal


def _adds_risk(row: dict[str, object]) -> bool:
    return row["kind"] == "accepted" and row["side"] == Side.BUY.value


def _wall(row: dict[str, object]) -> datetime:
    return datetime.fromisoformat(str(row["wall"]))
