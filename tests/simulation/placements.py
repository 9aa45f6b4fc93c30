"""Placements only, as many as there is time for: never two accepted orders for one wish (M6, I1).

    python -m tests.simulation.placements --count 1000000 --log placements.jsonl

Every placement is the real order activity (intent, gate, send, answer, ledger) through the real
adapter. 5 % of the answers are lost, 1 % of the attempts are zombies: stopped right after the
gate, given up by the server after five seconds, woken while the order is being resolved. Orders
are looked up in vain for a while. A wish whose order is proven absent is placed again under a new
key; two accepted orders for one wish are a duplicate, whatever their keys.

A batch is a seed, so a log can be continued: batches that it names are not run again. `--jobs 2`
uses two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import temporalio.activity

from activities.services import PlaceInput, ResolveInput, TradeRef
from domain.clock import real_time
from domain.commands import PlaceOrder, ResolveOrder, Urgency
from domain.facts import (
    FactBatch,
    OrderAccepted,
    OrderNotSent,
    OrderRejected,
    OrderResolved,
    OrderUnknown,
)
from domain.ids import IntentKey, Purpose, trade_prefix
from domain.order import OrderBody, OrderIntent, OrderType, Side
from tests.simulation.clock import START, VirtualLoop, run_virtual
from tests.simulation.processes import Process
from tests.simulation.scenario import ACCOUNT, BROKERS, SYMBOLS, Move, Scenario, plan_of
from tests.simulation.spread import spread
from tests.simulation.temporal import Client, Run, Step, _context_of
from tests.simulation.world import INSTALLATION, World, quiet

BATCH = 500
PROGRESS_S = 30.0
AT_ONCE = 10
LOST_REPLIES = 0.05
ZOMBIES = 0.01
SEND_LIMIT_S = 5.0
RESOLVE_TRIES_MAX = 60
KEYS_MAX = 3
D = Decimal


@dataclass
class Sums:
    """What a batch came to."""

    placed: int = 0
    duplicates: int = 0
    lost: int = 0
    zombies: int = 0
    again: int = 0
    unresolved: int = 0
    ends: Counter[str] = field(default_factory=Counter)

    def add(self, other: dict[str, Any]) -> None:
        for name in ("placed", "duplicates", "lost", "zombies", "again", "unresolved"):
            setattr(self, name, getattr(self, name) + other[name])
        self.ends.update(other["ends"])


def run_batch(number: int, broker: str) -> Sums:
    """The batch's placements in one world."""
    loop = VirtualLoop()
    with quiet():
        return run_virtual(_Batch(number, broker, loop).run(), loop)


class _Batch:
    def __init__(self, number: int, broker: str, loop: VirtualLoop) -> None:
        self._dice = random.Random(f"placements:{broker}:{number}")
        scenario = Scenario(seed=number, broker=broker)
        self._world = World(scenario, loop)
        self._loop = loop
        self._plan = plan_of(self._dice, "p", SYMBOLS[0])
        self._sums = Sums()
        self._number = number

    async def run(self) -> Sums:
        world = self._world
        world.mishaps.ledger.stall_s = self._stall_s
        world.ledger.set_api_breaker = self._keep_closed  # type: ignore[assignment,method-assign]
        world.exchange.state.listeners.clear()  # nobody is connected to the order stream
        world._show(Move(0.0, SYMBOLS[0], D("99.98"), D("100.02"), D(1000)))
        process = world.birth("gateway")
        faults = world.exchange.state.faults
        lost = {"method": "POST", "probability": LOST_REPLIES, "count": None}
        faults.add({"kind": "drop_reply", "match": lost})
        faults.add({"kind": "lookup_lag", "match": {"count": None}, "params": {"lag_s": 1.5}})
        for first in range(0, BATCH, AT_ONCE):
            wishes = (self._wish(process, first + n) for n in range(AT_ONCE))
            await asyncio.gather(*wishes)
        await asyncio.sleep(30.0)
        self._count()
        self._sums.lost = faults.fired["drop_reply"]
        return self._sums

    async def _keep_closed(self, *_state: object) -> None:
        """The API breaker would stop the entries that are to be placed here."""

    def _stall_s(self, method: str) -> float:
        """One attempt in a hundred stops between its gate and its send."""
        if method != "open_gate" or self._dice.random() >= ZOMBIES:
            return 0.0
        self._sums.zombies += 1
        return self._dice.choice((0.2, 5.5, 7.0))

    async def _wish(self, process: Process, number: int) -> None:
        """One order is wanted; it is tried under up to three keys until one is accepted."""
        name = f"p{self._number}-{number}"
        plan = self._plan.model_copy(update={"trade_id": name, "signal_id": name})
        await self._world.ledger.create_trade(plan)
        trade = TradeRef.of(plan, real_time(START))
        self._sums.placed += 1
        for sequence in range(1, KEYS_MAX + 1):
            end = await self._place(process, trade, sequence)
            if end != "absent":
                break
            self._sums.again += 1
        self._sums.ends[end] += 1
        await self._tidy(name)

    async def _place(self, process: Process, trade: TradeRef, sequence: int) -> str:
        key = IntentKey(trade_id=trade.trade_id, purpose=Purpose.ENTRY, sequence=sequence)
        body = OrderBody(
            symbol=SYMBOLS[0],
            side=Side.BUY,
            quantity=D(1),
            order_type=OrderType.LIMIT,
            limit_price=D("50.00"),
            intent_date=START.date(),
        )
        intent = OrderIntent.derive(INSTALLATION, key, body, increasing=True)
        command = PlaceOrder(intent=intent, urgency=Urgency.ENTRY)
        sent_at = self._loop.now()
        end = await self._attempt(process, "place_order", PlaceInput(trade=trade, command=command))
        may_repost = self._world.scenario.broker == "alpaca"
        for number in range(RESOLVE_TRIES_MAX):
            if end != "unknown":
                return end
            await asyncio.sleep(1.0)
            resolve = ResolveOrder(
                intent=intent, sent_at=sent_at, may_repost=may_repost, urgency=Urgency.ENTRY
            )
            given = ResolveInput(trade=trade, command=resolve)
            end = await self._attempt(process, "resolve_order", given, number)
        self._sums.unresolved += 1
        return "unresolved"

    async def _attempt(self, process: Process, name: str, given: Any, number: int = 0) -> str:
        """One attempt under the server's time limit; given up, it runs on as a zombie."""
        task = process.spawn(self._body(process, name, given, number))
        done, _ = await asyncio.wait({task}, timeout=SEND_LIMIT_S)
        if not done:
            return "unknown"
        return _end_of(task.result())

    async def _body(self, process: Process, name: str, given: Any, number: int) -> FactBatch:
        run = Run(f"trade/{given.trade.trade_id}", "run", "Trade", None)
        step = Step(
            run=run,
            seq=number,
            name=name,
            queue="",
            scheduled_at=self._loop.now(),
            argument=given,
            wait_s=None,
            limit_s=SEND_LIMIT_S,
            beat_s=0.0,
            first_s=0.0,
            longest_s=0.0,
            factor=1.0,
            attempts_max=1,
        )
        context = _context_of(step, 1, Client(self._world.server))
        token = temporalio.activity._Context.set(context)
        try:
            batch: FactBatch = await process.bodies[name](given)
        finally:
            temporalio.activity._Context.reset(token)
        return batch

    async def _tidy(self, trade_id: str) -> None:
        """Working orders make the venue slow; what was accepted stays in the journal."""
        prefix = trade_prefix(INSTALLATION, trade_id)
        for order in self._world.exchange.open_orders:
            if order.client_id.startswith(prefix):
                self._world.exchange.cancel(order.id)

    def _count(self) -> None:
        accepted = Counter(
            str(row["client_id"])[:16] for row in self._world.exchange.journal.of("accepted")
        )
        self._sums.duplicates = sum(count - 1 for count in accepted.values())


def _end_of(batch: FactBatch) -> str:
    for fact in batch.facts:
        match fact:
            case OrderAccepted():
                return "accepted"
            case OrderResolved():
                return "accepted" if fact.order is not None else "absent"
            case OrderNotSent():
                return "absent"
            case OrderRejected():
                return "rejected"
            case OrderUnknown():
                return "unknown"
            case _:
                continue
    return "unknown"


def main() -> int:
    """0 if no wish has two accepted orders and none stayed unresolved."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.placements")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--broker", choices=BROKERS)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one core each")
    parser.add_argument("--log", type=Path, help="one line of JSON per batch; continued if there")
    options = parser.parse_args()
    brokers = (options.broker,) if options.broker else BROKERS
    batches = [
        (n, b) for n in range(1, options.count // BATCH // len(brokers) + 1) for b in brokers
    ]
    rows = {at: row for at, row in _done(options.log).items() if at in set(batches)}
    began_s, told_s, fresh = time.perf_counter(), 0.0, 0
    for at, row in spread(_row, [at for at in batches if at not in rows], options.jobs):
        rows[at], fresh = row, fresh + row["placed"]
        if options.log is not None:
            with options.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
        if row["duplicates"] or row["unresolved"]:
            told = f"{row['duplicates']} duplicates, {row['unresolved']} unresolved"
            print(f"batch {at[0]} at {at[1]}: {told}", flush=True)
        ran_s = time.perf_counter() - began_s
        if ran_s - told_s >= PROGRESS_S:
            told_s = ran_s
            print(f"  {len(rows)} of {len(batches)} batches, {fresh / ran_s:.0f}/s", flush=True)
    sums = Sums()
    for row in rows.values():
        sums.add(row)
    print(_summary(sums, list(rows.values()), fresh / max(time.perf_counter() - began_s, 1e-9)))
    return int(bool(sums.duplicates or sums.unresolved))


def _row(at: tuple[int, str]) -> dict[str, Any]:
    """One batch as the log has it."""
    began_s = time.process_time()
    batch = run_batch(*at)
    row = {"batch": at[0], "broker": at[1], "account": ACCOUNT, **vars(batch)}
    row |= {"cpu_s": round(time.process_time() - began_s, 3), "commit": _commit()}
    return row | {"at": datetime.now(UTC).isoformat(timespec="seconds")}


@cache
def _commit() -> str:
    """The commit that is checked out; `+` behind it: with changes."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=10"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _summary(sums: Sums, rows: list[dict[str, Any]], rate: float) -> str:
    seeds = {
        broker: [row["batch"] for row in rows if row["broker"] == broker] for broker in BROKERS
    }
    ranges = ", ".join(f"{b} {min(s)}-{max(s)} ({len(s)})" for b, s in seeds.items() if s)
    commits = ", ".join(sorted({str(row.get("commit", "not told")) for row in rows}))
    timed = [row for row in rows if row.get("cpu_s")]
    cpu_s = sum(row["cpu_s"] for row in timed)
    per_cpu_s = sum(row["placed"] for row in timed) / max(cpu_s, 1e-9)
    return (
        f"{sums.placed} placements, {sums.duplicates} duplicate accepted orders; "
        f"{sums.lost} lost replies, {sums.zombies} zombies, {sums.again} placed again under a "
        f"new key, {sums.unresolved} unresolved; {dict(sums.ends)}; {rate:.0f} a second now, "
        f"{per_cpu_s:.0f} in a second of CPU; seeds {ranges}; commit {commits}"
    )


def _done(log: Path | None) -> dict[tuple[int, str], dict[str, Any]]:
    """Rows that the log has. A run that was killed may have left half a line: it is taken off."""
    if log is None or not log.exists():
        return {}
    whole, _, cut = log.read_text(encoding="utf-8").rpartition("\n")
    if cut:
        log.write_text(whole + "\n" if whole else "", encoding="utf-8")
    rows = [json.loads(line) for line in whole.splitlines()]
    return {(row["batch"], row["broker"]): row for row in rows}


if __name__ == "__main__":
    sys.exit(main())
