"""The event-kill driver: `make chaos` (faults.md H1, H2, H5, C7, C8, K1).

First every trade is played without a fault, which gives its event index; then one run per cell
trade x broker x fault x failpoint, several at a time because they mostly wait. Every row is kept
as it comes, so that a run that was ended goes on with the cells that are left.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from temporalio.service import RPCError

from domain.errors import HoldfastError
from observability.build import commit
from simulator.config import WireFace
from tests.chaos.faults import SHARES, Cell, Fault, cells_of, share_of
from tests.chaos.grounds import Lane, running_lanes
from tests.chaos.play import Played, play_cell
from tests.chaos.results import DONE, FOLDER, Results, coverage_table, exposure_table
from tests.chaos.times import Times
from tests.golden.catalogue import CATALOGUE, Golden

CLEAN_RUNS = 2
CLEAN_TRIES = 8
TRIES = 3
OWN_SERVERS = 2
TELL_EVERY_S = 30.0


@dataclass
class Driver:
    """Plays cells on lanes and keeps what comes of them."""

    trades: dict[str, Golden]
    faults: tuple[Fault, ...]
    results: Results
    times: Times = field(default_factory=Times)
    first: int = 0
    every: int = 1
    again: bool = False
    deadline: float = float("inf")
    commit: str = field(default_factory=commit)
    played: Counter[str] = field(default_factory=Counter)

    def cells(self) -> list[Cell]:
        """Every cell of the chosen trades and faults, in the order of their numbers.

        Fault by fault, so that a run that is ended early has a whole answer about the first ones.
        """
        found: list[Cell] = []
        for fault in self.faults:
            for trade in self.trades.values():
                for face in trade.brokers:
                    index = self.results.indexes.get(_name(trade, face, fault.is_cold), [])
                    found += cells_of(trade.name, face.value, index, (fault,))
        return found

    def left(self) -> list[Cell]:
        """Cells of this run that are not played yet: of trades in shares the share that is due."""
        numbered = self.cells()[self.first :: self.every]
        if self.again:
            return [cell for cell in numbered if self.results.is_violated(cell)]
        waiting = [cell for cell in numbered if not self.results.is_done(cell)]
        due: dict[str, int] = {}
        for cell in waiting:
            share = share_of(cell)
            if share is not None:
                due[cell.trade] = min(share, due.get(cell.trade, share))
        return [c for c in waiting if share_of(c) is None or share_of(c) == due[c.trade]]

    def progress(self) -> str:
        """How much of what was chosen is played by all runs so far, and what the next one plays."""
        chosen = self.cells()[self.first :: self.every]
        done = sum(self.results.is_done(cell) for cell in chosen)
        text = f"all runs so far: {done} of {len(chosen)} cells played"
        due = len(self.left())
        if not due:
            return text
        text += f"; the same command again plays the next {due}"
        if due < len(chosen) - done and not self.again:
            text += f" (a trade that is not of the core is spread over {SHARES} runs)"
        return text

    def without_index(self) -> list[str]:
        """What has no cells because no clean run of it was seen."""
        names = (
            _name(trade, face, is_cold)
            for trade in self.trades.values()
            for face in trade.brokers
            for is_cold in {fault.is_cold for fault in self.faults}
        )
        return sorted(name for name in names if name not in self.results.indexes)

    async def run(self, jobs: int) -> None:
        """Indexes first, then all cells that are left, until they or the time are over."""
        needs_own = Fault.TEMPORAL_KILL in self.faults
        async with running_lanes(jobs, OWN_SERVERS if needs_own else 0) as lanes:
            await self._index(lanes[:jobs])
            left = self.left()
            say(f"{len(left)} cells to play of {len(self.cells())}; {jobs} at a time")
            shared = [cell for cell in left if not cell.fault.needs_own_server]
            alone = [cell for cell in left if cell.fault.needs_own_server]
            telling = asyncio.create_task(self._tell(len(left)))
            try:
                await asyncio.gather(
                    self._spread(lanes[:jobs], shared), self._spread(lanes[jobs:], alone, shared)
                )
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)

    async def _index(self, lanes: list[Lane]) -> None:
        """The event index of each trade: the passes that every run without a fault makes."""
        missing = self.without_index()
        waiting = [
            (trade, face, is_cold)
            for trade in self.trades.values()
            for face in trade.brokers
            for is_cold in (False, True)
            if _name(trade, face, is_cold) in missing
        ]

        async def work(lane: Lane) -> None:
            while waiting:
                trade, face, is_cold = waiting.pop(0)
                await self._record(lane, trade, face, is_cold)

        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(work(lane))

    async def _record(self, lane: Lane, trade: Golden, face: WireFace, is_cold: bool) -> None:
        """Passes that two clean runs have in common; a machine that stalls spoils some runs."""
        name, clean = _name(trade, face, is_cold), list[list[str]]()
        for _ in range(CLEAN_TRIES):
            played = await self._try(lane, trade, face, None, is_cold=is_cold)
            if played is not None and played.row.outcome == "ok":
                clean.append([each for each in played.passes if is_event(each)])
            if len(clean) == CLEAN_RUNS:
                first, second = clean
                self.results.keep_index(name, [each for each in second if each in first])
                say(f"{name}: {len(self.results.indexes[name])} failpoints")
                return
        say(f"no index of {name}: {CLEAN_TRIES} runs, {len(clean)} of them clean; it is left out")

    async def _spread(self, lanes: list[Lane], *queues: list[Cell]) -> None:
        """Plays on these lanes; the next queue when the one before is empty."""

        async def work(lane: Lane) -> None:
            for cells in queues:
                while cells and time.monotonic() < self.deadline:
                    await self.play(lane, cells.pop(0))

        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(work(lane))

    async def play(self, lane: Lane, cell: Cell) -> None:
        """Plays the cell; one whose failpoint was not passed is tried again a few times."""
        trade, face = self.trades[cell.trade], WireFace(cell.broker)
        played: Played | None = None
        for _ in range(TRIES):
            played = await self._try(lane, trade, face, cell, is_cold=cell.fault.is_cold)
            if played is None or played.row.outcome != "never_fired":
                break
        self.played["not_played" if played is None else played.row.outcome] += 1

    async def _try(
        self, lane: Lane, trade: Golden, face: WireFace, cell: Cell | None, *, is_cold: bool
    ) -> Played | None:
        """One run, kept and told; None if the driver's own parts did not work, several times."""
        for _ in range(TRIES):
            try:
                played = await play_cell(lane, trade, face, cell, self.times, is_cold=is_cold)
            except (HoldfastError, RPCError, AssertionError, OSError, TimeoutError) as error:
                name = trade.name if cell is None else cell.key
                say(f"not played: {name}: {type(error).__name__} {str(error)[-400:]}")
                continue
            self._keep(played)
            row = played.row
            if row.outcome != "ok":
                say(f"{row.outcome} {row.fault} {row.cell}: {'; '.join(row.violations)[:400]}")
            return played
        return None

    def _keep(self, played: Played) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.results.keep(replace(played.row, commit=self.commit, at=now), played.evidence)

    async def _tell(self, total: int) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            minutes = (time.monotonic() - began) / 60
            done = self.played.total()
            say(
                f"{done} of {total} cells tried, {done / minutes:.1f} a minute: {told(self.played)}"
            )


def is_event(failpoint: str) -> bool:
    """Work that is done again from history and leaving the cache are no events of a trade."""
    return not failpoint.startswith(("replay", "eviction"))


def _name(trade: Golden, face: WireFace, is_cold: bool) -> str:
    return f"{trade.name}/{face.value}/{'cold' if is_cold else 'warm'}"


def told(played: Counter[str]) -> str:
    """The cells of a run: what was played, and apart from it what was tried in vain."""
    done = sum(played[outcome] for outcome in DONE)
    text = f"{done} cells played, {played['violated']} of them violated"
    if played["never_fired"]:
        text += f"; {played['never_fired']} not played, their failpoint was never passed"
    if played["not_played"]:
        text += f"; {played['not_played']} not played, the driver's own parts failed"
    return text


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--trades", default="", help="names, comma between; all if left out")
    parser.add_argument("--brokers", default="", help="alpaca,tradier")
    parser.add_argument("--faults", default="", help=",".join(fault.value for fault in Fault))
    parser.add_argument("--from", dest="first", type=int, default=0, help="number of a cell")
    parser.add_argument("--every", type=int, default=1, help="a sample: every n-th cell")
    parser.add_argument("--again", action="store_true", help="only cells that are violated")
    parser.add_argument("--jobs", type=int, default=6, help="cells at a time")
    parser.add_argument("--pace", type=float, default=1.0, help="2 doubles every deadline")
    parser.add_argument("--minutes", type=float, default=0.0, help="no new cell after that long")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs left")
    return parser.parse_args(argv)


def chosen_trades(names: str, brokers: str) -> dict[str, Golden]:
    """The trades of these names at these brokers.

    Raises:
        SystemExit: a name that is none.
    """
    known = CATALOGUE
    wanted = [name for name in names.split(",") if name] or list(known)
    venues = [face.value for face in WireFace]
    faces = [name for name in brokers.split(",") if name] or venues
    if others := [name for name in faces if name not in venues]:
        raise SystemExit(f"CHAOS_BROKER brokers: value was {others}, allowed {venues}")
    strangers = [name for name in wanted if name not in known]
    if strangers:
        raise SystemExit(f"CHAOS_TRADE trades: value was {strangers}, allowed {sorted(known)}")
    return {
        name: replace(
            known[name], brokers=tuple(face for face in known[name].brokers if face in faces)
        )
        for name in wanted
    }


def chosen_faults(names: str) -> tuple[Fault, ...]:
    """The faults of these names; all without one.

    Raises:
        SystemExit: a name that is none.
    """
    known = [fault.value for fault in Fault]
    wanted = [name for name in names.split(",") if name] or known
    if strangers := [name for name in wanted if name not in known]:
        raise SystemExit(f"CHAOS_FAULT faults: value was {strangers}, allowed {known}")
    return tuple(Fault(name) for name in wanted)


def main(argv: Sequence[str] | None = None) -> int:
    """Plays; prints the coverage; 1 if a cell of the chosen ones is violated or never fired."""
    options = arguments(argv)
    if options.fresh and options.folder.exists():
        for name in ("indexes.json", "cells.jsonl"):
            (options.folder / name).unlink(missing_ok=True)
    driver = Driver(
        chosen_trades(options.trades, options.brokers),
        chosen_faults(options.faults),
        Results.open(options.folder),
        Times(options.pace),
        first=options.first,
        every=options.every,
        again=options.again,
    )
    driver.times.shorten_workflows()
    if options.minutes:
        driver.deadline = time.monotonic() + 60 * options.minutes
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also in the background, where SIGINT is ignored: servers and workers end with the driver.
        signal.signal(number, signal.default_int_handler)
    try:
        asyncio.run(driver.run(options.jobs))
    except KeyboardInterrupt:
        say("ended by hand; the next run goes on from here")
    minutes = (time.monotonic() - began) / 60
    print(coverage_table(driver.cells(), driver.results))
    print(exposure_table(driver.cells(), driver.results))
    bad = [
        row
        for row in (driver.results.rows.get(cell.key) for cell in driver.cells())
        if row is not None and row["outcome"] != "ok"
    ]
    say(f"this run: {told(driver.played)} in {minutes:.1f} minutes")
    say(driver.progress())
    for row in bad:
        say(f"{row['outcome']} {row['cell']}: {'; '.join(row['violations'])[:300]}")
    missing = driver.without_index()
    if missing:
        say(f"not played, no clean run was seen: {', '.join(missing)}")
    return 1 if bad or missing else 0
