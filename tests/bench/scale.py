"""A thousand open trades: what a kill takes off the market, and how a restart compares to a floor.

One stage for both, because opening so many trades is the longest part. A tenth of the trades is
wedged: pinned to a build whose worker is gone, so that only the direct cancels reach their orders.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

import worker
from activities.services import Services
from deploy.temporal.versions import set_current_version
from domain.ids import trade_workflow_id
from domain.plan import TradePlan
from domain.risk.limits import RestrictedList
from ledger.errors import LedgerDown
from observability.build import build_id, repository_root
from tests.bench.bare import QUEUE, BareInput, BareNote, BareWorkflow, Step
from tests.bench.figures import spread, until, verdict
from tests.bench.plans import (
    FAR_QUOTE,
    SYMBOL,
    TARGET_QUOTES,
    WALK_SYMBOL,
    parked_entry_plan,
    small_plan,
)
from tests.bench.servers import Servers
from tests.bench.stage import (
    Stage,
    product_environment,
    running_stage,
    start_trade,
    start_worker,
)
from tests.rig import broker_at, roomy_limits

ACCOUNT = "bench-scale"
# BENCH_TRADES=200 for a look on a busy machine; the goals are about 1,000.
TRADES = int(os.environ.get("BENCH_TRADES", "1000"))
WEDGED = TRADES // 10
PARKED = TRADES // 10
HELD = TRADES - WEDGED - PARKED
AT_ONCE = 8
GONE_AFTER_MAX_S = 2.0
RATIO_MAX = 1.5
# Generous: beside other work everything takes many times as long, and comes to an end.
OPEN_TIMEOUT_S = 600.0
LOOK_S = 0.2
LOOKS_PER_DESCRIBE = 10
TRIES_MAX = 5
PAUSE_S = 10.0
REST_TIMEOUT_S = 1800.0
WAKE_TIMEOUT_S = 1800.0
ANSWERED_S = 5.0
GONE_BUILD = "bench-gone"
# As many steps as a small trade has behind it when it rests: gate, order, exits.
BARE_STEPS = (Step(lane=1), Step(lane=1), Step(lane=2), Step(bookkeeping=1, after_signal=True))


async def measure_scale(servers: Servers) -> list[str]:
    """Opens the trades, kills the worker and wakes all, then kills the entries; lines to print."""
    floor_s = await _floor(servers)
    async with running_stage(servers, ACCOUNT, Decimal(10_000_000)) as stage:
        stage.quote(SYMBOL, "99.90", "100.10")
        stage.quote(WALK_SYMBOL, *FAR_QUOTE)
        process = await start_worker(stage, first=True)
        try:
            opened_s = await _open_all(stage)
            lines = [
                f"{HELD} held, {PARKED} entries working, {WEDGED} wedged with a working entry; "
                f"opened in {opened_s:.0f} s"
            ]
            lines += await _kill_entries(stage)
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
            stage.quote(SYMBOL, *TARGET_QUOTES[0])
            born = time.time()
            process = await start_worker(stage)
            lines.append(f"new process polls after {time.time() - born:.2f} s")
            acted = await _all_closed(servers, born)
            lines += _restart_lines(acted, floor_s)
            return lines
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


async def _open_all(stage: Stage) -> float:
    """Opens the wedged ones on a build that then leaves, and the others on the product's."""
    began = time.monotonic()
    account = stage.book.account
    broker = broker_at(stage.server, account, stage.exchange.config.keys[0])
    services = Services(
        ledger=stage.servers.ledger,
        broker=broker,
        account=account,
        broker_name="alpaca",
        installation=stage.installation,
        limits=roomy_limits(),
        restricted=RestrictedList(as_of=datetime.now(UTC)),
    )
    async with worker.trade_worker(stage.servers.client, services, build=GONE_BUILD):
        await set_current_version(stage.servers.client, GONE_BUILD)
        await _open(stage, [parked_entry_plan(stage.book, f"g{n}") for n in range(WEDGED)])
        await _until_rest(stage, WEDGED, 0)
        await set_current_version(stage.servers.client, build_id())
    await broker.aclose()
    plans = [parked_entry_plan(stage.book, f"p{n}") for n in range(PARKED)]
    plans += [small_plan(stage.book, f"h{n}") for n in range(HELD)]
    await _open(stage, plans)
    await _until_rest(stage, WEDGED + PARKED, HELD)
    return time.monotonic() - began


async def _open(stage: Stage, plans: list[TradePlan]) -> None:
    """Keeps a few trades in their entry at a time, as a desk would at its busiest."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(plan: TradePlan) -> None:
        async with free:
            for again in range(TRIES_MAX):
                name = f"{plan.trade_id}-{again}" if again else plan.trade_id
                await asyncio.sleep(PAUSE_S * again)
                if await _opened(stage, plan.model_copy(update={"trade_id": name})):
                    return
            raise AssertionError(f"{plan.trade_id} was not filled {TRIES_MAX} times")

    try:
        async with asyncio.TaskGroup() as group:
            for plan in plans:
                group.create_task(one(plan))
    except* AssertionError as failed:
        raise AssertionError(str(failed.exceptions[0])) from None


async def _opened(stage: Stage, plan: TradePlan) -> bool:
    """False if the trade ended without an order: on a busy machine the gate's word gets too old or
    the API breaker opens, and entries then stay in for a while.

    Raises:
        AssertionError: it neither opened nor ended in time.
    """
    with suppress(RPCError):  # A stalled server: the look below tells whether it has begun.
        await start_trade(stage, plan)
    handle = stage.servers.client.get_workflow_handle(trade_workflow_id(plan.trade_id))
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    looks = 0
    while not await _is_opened(stage, plan.trade_id):
        assert time.monotonic() < deadline, f"{handle.id} did not open"
        looks += 1
        await asyncio.sleep(LOOK_S)
        # Seldom: the server has better to do while trades open.
        if looks % LOOKS_PER_DESCRIBE:
            continue
        try:
            seen = await handle.describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            continue
        if seen.status is not WorkflowExecutionStatus.RUNNING:
            return False
    return True


async def _is_opened(stage: Stage, trade_id: str) -> bool:
    try:
        orders = await stage.servers.ledger.orders_of_trade(trade_id)
    except LedgerDown:  # The machine stalls: asked again.
        return False
    return any(order.broker_order_id is not None for order in orders)


async def _until_rest(stage: Stage, entries: int, stops: int) -> None:
    def rest() -> bool:
        found = Counter(_is_entry(order) for order in stage.exchange.open_orders)
        shown = sum(o.stop_price is not None for o in stage.exchange.open_orders)
        return found[True] >= entries and shown >= stops

    await until(rest, f"{entries} entries and {stops} stops rest", REST_TIMEOUT_S)


def _is_entry(order: Any) -> bool:
    return bool(order.symbol == WALK_SYMBOL)


# --- the kill ------------------------------------------------------------------------------------


async def _kill_entries(stage: Stage) -> list[str]:
    """`starter.py kill --mode cancel-entries`: command, gate, last entry off the market."""
    seen = len(stage.journal.rows)
    protective = _protective(stage)
    command = [sys.executable, "starter.py", "--config", str(stage.config), "kill"]
    command += ["--scope", f"account:{stage.book.account}", "--mode", "cancel-entries"]
    command += ["--reason", "bench", "--by", "bench", "--json"]
    began = time.time()
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=product_environment(stage),
        cwd=repository_root(),
        capture_output=True,
        text=True,
    )
    took_s = time.time() - began
    left = sum(_is_entry(order) for order in stage.exchange.open_orders)
    ended = [
        datetime.fromisoformat(str(row["wall"])).timestamp()
        for row in stage.journal.after(seen)
        if row["kind"] == "canceled"
    ]
    connection = await asyncpg.connect(stage.servers.dsn)
    try:
        committed = await connection.fetchval(
            "SELECT pg_xact_commit_timestamp(xmin) FROM kills ORDER BY engaged_at DESC LIMIT 1"
        )
    finally:
        await connection.close()
    gate_s = committed.timestamp() - began
    gone_s = max(ended, default=began) - committed.timestamp()
    return [
        f"kill by command line, exit {done.returncode}, receipt after {took_s:.2f} s: gate closed "
        f"{gate_s:.2f} s after the command (a new Python process), {len(ended)} entries cancelled, "
        f"{left} left",
        verdict(
            f"last of {WEDGED + PARKED} entries off the market after the gate (no rate limit)",
            gone_s,
            GONE_AFTER_MAX_S,
            " s",
        ),
        verdict("protective orders cancelled by it", protective - _protective(stage), 0, "", 0),
        *([] if done.returncode == 0 else [json.dumps(done.stdout[-400:] + done.stderr[-400:])]),
    ]


def _protective(stage: Stage) -> int:
    return sum(order.symbol == SYMBOL for order in stage.exchange.open_orders)


# --- the restart ---------------------------------------------------------------------------------


async def _all_closed(servers: Servers, born: float) -> list[float]:
    """Seconds after the birth at which each held trade was settled; one query at the end of all."""
    query = "SELECT count(*) FROM trades WHERE closed_at IS NOT NULL AND symbol = $1"
    connection = await asyncpg.connect(servers.dsn)
    try:
        deadline = time.monotonic() + WAKE_TIMEOUT_S
        while await connection.fetchval(query, SYMBOL) < HELD:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.25)
        rows = await connection.fetch(
            "SELECT pg_xact_commit_timestamp(xmin) AS at FROM trades "
            "WHERE closed_at IS NOT NULL AND symbol = $1",
            SYMBOL,
        )
    finally:
        await connection.close()
    return [row["at"].timestamp() - born for row in rows]


def _restart_lines(acted: list[float], floor_s: list[float]) -> list[str]:
    return [
        f"settled after the birth of the process: {spread(acted, 's')}; "
        f"{HELD - len(acted)} missing",
        f"floor, bare workflows woken by one signal: {spread(floor_s, 's')}",
        verdict(
            "last trade settled / last bare workflow woken",
            max(acted) / max(floor_s),
            RATIO_MAX,
        ),
    ]


async def _floor(servers: Servers) -> list[float]:
    """Seconds after the birth of a new bare worker at which each of the workflows went on."""
    log = servers.folder / "bare.log"
    process = await _start_bare(servers, log)
    try:
        free = asyncio.Semaphore(AT_ONCE)
        handles = await asyncio.gather(*(_bare(servers, n, free) for n in range(HELD)))
        steps = sum(step.lane for step in BARE_STEPS)
        async with asyncio.timeout(REST_TIMEOUT_S):
            while _rested(log, steps) < HELD:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(LOOK_S)
        # A step whose answer was still on its way would come again after the signal.
        await asyncio.sleep(ANSWERED_S)
        before = len(_names(log))
        process.kill()
        await asyncio.to_thread(process.wait)
        await asyncio.gather(*(_wake(handle, free) for handle in handles))
        born = time.time()
        process = await _start_bare(servers, log)
        woken: list[float] = []
        async with asyncio.timeout(WAKE_TIMEOUT_S):
            while len(woken) < HELD:
                done = len(set(_names(log)[before:]))
                woken += [time.time() - born] * (done - len(woken))
                await asyncio.sleep(0.05)
        return woken
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def _bare(
    servers: Servers, number: int, free: asyncio.Semaphore
) -> WorkflowHandle[BareWorkflow, str]:
    async with free:
        return await servers.client.start_workflow(
            BareWorkflow.run,
            BareInput(name=f"f{number}", steps=BARE_STEPS),
            id=f"bench-floor/{number}",
            task_queue=QUEUE,
            task_timeout=timedelta(seconds=3),
        )


async def _wake(handle: WorkflowHandle[BareWorkflow, str], free: asyncio.Semaphore) -> None:
    """All at once they would run into their time limit, as the product's doorbell found out."""
    async with free:
        await handle.signal(BareWorkflow.go, BareNote(name="go"))


async def _start_bare(servers: Servers, log: Path) -> subprocess.Popen[bytes]:
    ready = log.with_suffix(".ready")
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.bench.bare_program", servers.address, str(log)]
    process = await asyncio.to_thread(subprocess.Popen, command, cwd=repository_root())
    await until(ready.exists, "the bare worker polls")
    return process


def _names(log: Path) -> list[str]:
    """One for each step that was done; a step may have come twice."""
    return log.read_text().splitlines() if log.exists() else []


def _rested(log: Path, steps: int) -> int:
    return sum(count >= steps for count in Counter(_names(log)).values())
