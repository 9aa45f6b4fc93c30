"""`make soak MINUTES=n`: trades without end on real servers, one fault a second, memory watched.

The worker, PostgreSQL and Temporal are processes of their own; the exchange lives in this one and
is not measured. At the end the market calms down, everything closes, and the exchange's journal is
asked for duplicates, the ledger for reservations that nobody released (M12 of the fault catalogue).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

from domain.plan import PlanPrice, StopPlan, TargetPlan, TradePlan
from domain.risk.breakers import FAILURE_WINDOW_S, FAILURES_TO_OPEN
from tests.bench.plans import TradeBook, small_plan
from tests.bench.servers import Servers, running_servers
from tests.bench.stage import Stage, running_stage, start_trade, start_worker

ACCOUNT = "soak"
OPEN_MAX = 30
# One open trade in each: an entry that may cross the target of another is refused.
SYMBOLS = tuple(f"S{number:02}" for number in range(OPEN_MAX))
GROWTH_MAX = 0.05
# Caches fill first: the day of the goal counts from its minute 30.
WARM_SHARE = 0.25
SAMPLE_S = 5.0
CALM_TIMEOUT_S = 300.0
BASE = Decimal(100)
SWING = Decimal("1.6")
NEAR = Decimal("0.6")
STARTED_AT_ONCE_MAX = 5
TOLD_EVERY_S = 30.0
# Transport failures: a fifth one within a minute opens the API breaker, and nothing enters. Each
# meets its request within seconds: those that wait, for a DELETE say, strike as a bunch.
FAILURES: tuple[dict[str, Any], ...] = (
    {"kind": "drop_reply", "match": {"method": "POST"}},
    {"kind": "error_before", "match": {"method": "GET"}},
    {"kind": "error_after", "match": {"method": "POST"}},
    {"kind": "truncated", "match": {"method": "POST"}},
)
FAILURES_A_MINUTE = FAILURES_TO_OPEN // 2
OTHERS: tuple[dict[str, Any], ...] = (
    {"kind": "rate_limited", "params": {"retry_after": "1"}},
    {"kind": "slow", "params": {"delay_s": 1.0}},
    {"kind": "lookup_lag", "params": {"lag_s": 2.0}},
    {"kind": "reject", "params": {"text": "soak"}},
    {"kind": "partial_fill", "params": {"fraction": "0.5"}},
    {"kind": "cancel_lost"},
    {"kind": "stream_drop"},
    {"kind": "stream_duplicate"},
    {"kind": "stream_disconnect"},
)


@dataclass
class Seen:
    """What the run has come to."""

    started: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    # Seconds since the begin, and resident KiB by process name.
    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)


async def soak(servers: Servers, minutes: float, seed: int) -> int:
    """Runs for `minutes`; 0 if memory stayed and the journal is clean."""
    chance, seen = random.Random(seed), Seen()
    async with running_stage(servers, ACCOUNT, Decimal(10_000_000), SYMBOLS) as stage:
        _quote(stage, BASE)
        process = await start_worker(stage, first=True)
        connection = await asyncpg.connect(servers.dsn)
        try:
            pids = _pids(process.pid)
            end = time.monotonic() + minutes * 60
            jobs = (
                _market(stage, chance, end),
                _faults(stage, chance, seen, end),
                _trades(stage, connection, seen, end),
                _memory(pids, seen, end),
            )
            await asyncio.gather(*jobs)
            left = await _calm(stage, connection)
            alive = process.poll() is None
            return await _verdict(stage, connection, seen, left, alive)
        finally:
            await connection.close()
            process.kill()
            await asyncio.to_thread(process.wait)


def _quote(stage: Stage, mid: Decimal) -> None:
    for symbol in SYMBOLS:
        stage.quote(symbol, str(mid - Decimal("0.05")), str(mid + Decimal("0.05")))


async def _market(stage: Stage, chance: random.Random, end: float) -> None:
    """Swings far enough that targets and stops are hit."""
    mid = BASE
    while time.monotonic() < end:
        step = Decimal(chance.choice(("-0.4", "-0.2", "0.2", "0.4")))
        mid = min(max(mid + step, BASE - SWING), BASE + SWING)
        _quote(stage, mid)
        await asyncio.sleep(1)


async def _faults(stage: Stage, chance: random.Random, seen: Seen, end: float) -> None:
    failed_s: deque[float] = deque(maxlen=FAILURES_A_MINUTE)
    while (now_s := time.monotonic()) < end:
        may_fail = len(failed_s) < FAILURES_A_MINUTE or now_s - failed_s[0] > FAILURE_WINDOW_S
        rule = chance.choice(FAILURES + OTHERS if may_fail else OTHERS)
        if rule in FAILURES:
            failed_s.append(now_s)
        stage.exchange.state.faults.add(rule)
        seen.faults[rule["kind"]] += 1
        await asyncio.sleep(1)
    stage.exchange.state.faults.clear()


async def _trades(stage: Stage, connection: asyncpg.Connection, seen: Seen, end: float) -> None:
    """As many open trades as the machine carries, never more than one in a symbol."""
    # By what was started: a row comes late where the machine is busy.
    running: dict[str, str] = {}
    while time.monotonic() < end:
        ended = await _ended(connection, list(running.values()))
        running = {symbol: name for symbol, name in running.items() if name not in ended}
        free = [symbol for symbol in SYMBOLS if symbol not in running]
        for symbol in free[:STARTED_AT_ONCE_MAX]:
            plan = _plan(stage.book, f"s{seen.started}", symbol)
            await start_trade(stage, plan)
            running[symbol] = plan.trade_id
            seen.started += 1
        await asyncio.sleep(0.5)


def _plan(book: TradeBook, name: str, symbol: str) -> TradePlan:
    """A share with stop and target so near that the market's next swing decides."""
    whole = TargetPlan(price=PlanPrice(offset=NEAR), fraction=Decimal(1))
    changes = {
        "targets": (whole,),
        "stop": StopPlan(price=PlanPrice(offset=-NEAR)),
        "signal_time": book.clock.market(datetime.now(UTC)),
    }
    return TradePlan.model_validate({**dict(small_plan(book, name, symbol)), **changes})


async def _ended(connection: asyncpg.Connection, trade_ids: Sequence[str]) -> frozenset[str]:
    rows = await connection.fetch(
        "SELECT trade_id FROM trades WHERE closed_at NOTNULL AND trade_id = ANY($1)", trade_ids
    )
    return frozenset(row["trade_id"] for row in rows)


async def _open(connection: asyncpg.Connection) -> int:
    found: int = await connection.fetchval("SELECT count(*) FROM trades WHERE closed_at IS NULL")
    return found


def _pids(worker: int) -> dict[str, int]:
    """The product's process and its two servers; the servers are children of this process."""
    found = {"worker": worker}
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines():
        pid, _, words = line.strip().partition(" ")
        for name in ("temporal", "postgres"):
            if name in words.partition(" ")[0]:
                found[name] = int(pid)
    return found


async def _memory(pids: dict[str, int], seen: Seen, end: float) -> None:
    began, told = time.monotonic(), 0.0
    while time.monotonic() < end:
        now = time.monotonic() - began
        sizes = {name: _resident_kib(pid) for name, pid in pids.items()}
        seen.samples.append((now, sizes))
        if now - told >= TOLD_EVERY_S:
            told = now
            shown = " · ".join(f"{name} {size // 1024} MiB" for name, size in sizes.items())
            print(f"{now:5.0f} s · {seen.started} trades · {shown}", flush=True)
        await asyncio.sleep(SAMPLE_S)


def _resident_kib(pid: int) -> int:
    told = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return int(told.stdout.strip() or 0)


async def _calm(stage: Stage, connection: asyncpg.Connection) -> int:
    """No more faults; the market visits target and stop until all is closed."""
    until = time.monotonic() + CALM_TIMEOUT_S
    while (left := await _open(connection)) and time.monotonic() < until:
        for mid in (BASE, BASE + SWING * 2, BASE - SWING * 2):
            _quote(stage, mid)
            await asyncio.sleep(1)
    return left


async def _verdict(
    stage: Stage, connection: asyncpg.Connection, seen: Seen, left: int, alive: bool
) -> int:
    ids = Counter(row["client_id"] for row in stage.journal.rows if row["kind"] == "accepted")
    doubled = sorted(str(name) for name, times in ids.items() if name and times > 1)
    held = [row for row in stage.exchange.holdings() if row.quantity]
    reserved = await connection.fetchval(
        "SELECT count(*) FROM reservations WHERE approved AND released_at IS NULL"
    )
    grown = _growth(seen)
    print(f"{seen.started} trades, {sum(seen.faults.values())} faults: {dict(seen.faults)}")
    ends = await connection.fetch(
        "SELECT coalesce(result, '') AS result, count(*) FROM trades GROUP BY 1 ORDER BY 2 DESC"
    )
    print("ended: " + ", ".join(f"{row['count']} {row['result']}" for row in ends))
    print(f"left open {left} · worker alive {alive} · client ids accepted twice {len(doubled)}")
    print(f"positions left {len(held)} · reservations left {reserved}")
    if left:
        await _tell_left(stage, connection)
    for name, (first, last) in grown.items():
        share = last / first - 1
        word = "met" if share <= GROWTH_MAX else "MISSED"
        print(
            f"{word}: {name} {first / 1024:.0f} -> {last / 1024:.0f} MiB, {share:+.1%} from "
            f"{WARM_SHARE:.0%} of the run on (target ≤ {GROWTH_MAX:.0%})"
        )
    clean = not (left or doubled or held or reserved) and alive
    return int(not clean)


async def _tell_left(stage: Stage, connection: asyncpg.Connection) -> None:
    """What a person needs to see why trades did not end; the worker's log is kept beside it."""
    for row in await connection.fetch(
        "SELECT t.trade_id, t.stage, t.protection, t.updated_at, o.purpose, o.sequence, "
        "o.state, o.status, o.code FROM trades t LEFT JOIN orders o ON o.trade_id = t.trade_id "
        "WHERE t.closed_at IS NULL ORDER BY t.trade_id, o.created_at"
    ):
        print("  " + " · ".join(str(value) for value in row.values()))
    for row in await connection.fetch(
        "SELECT code, count(*), max(text) FROM alerts GROUP BY code ORDER BY code"
    ):
        print("  alert " + " · ".join(str(value) for value in row.values()))
    log = Path("reports") / "soak-worker.log"
    log.parent.mkdir(exist_ok=True)
    await asyncio.to_thread(shutil.copy, stage.servers.folder / "worker.log", log)
    print(f"worker's log: {log}")


def _growth(seen: Seen) -> dict[str, tuple[float, float]]:
    """Medians of the tenth after the warm-up and of the last tenth, KiB by process."""
    count = len(seen.samples)
    tenth = max(count // 10, 1)
    warm = int(count * WARM_SHARE)
    early, late = seen.samples[warm : warm + tenth], seen.samples[-tenth:]
    return {
        name: (_median([row[1][name] for row in early]), _median([row[1][name] for row in late]))
        for name in seen.samples[0][1]
    }


def _median(values: Sequence[int]) -> float:
    return float(sorted(values)[len(values) // 2])


async def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    async with running_servers() as servers:
        return await soak(servers, options.minutes, options.seed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
