"""Many seeds in a row: what failed, what happened, how fast it was."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, partial

from tests.simulation.bare import BareSpan
from tests.simulation.options import STRUCTURES
from tests.simulation.scenario import (
    EVENTS,
    FAILPOINTS,
    NOT_AT,
    OPTION_EVENTS,
    ORDER_FAULTS,
    REPLY_FAULTS,
    STREAM_FAULTS,
    Scenario,
    stormy,
)
from tests.simulation.shrinking import shrunk
from tests.simulation.spread import spread
from tests.simulation.world import Outcome, run_scenario

MUST_HAPPEN = frozenset(
    [f"fault/{kind}" for kind in {*REPLY_FAULTS, *ORDER_FAULTS, *STREAM_FAULTS}]
    + [f"crash_at/{name}" for name in FAILPOINTS]
    + [f"crash/{name}" for name in ("all", "gateway", "streams", "trade")]
    + [f"stall/{where}" for where in ("gate", "request", "reply", "body")]
    + [f"operator/{verb}" for verb in ("flatten", "kill", "close_part", "pause", "new_build")]
    + [f"quote_odd/{how}" for how in ("none", "one_sided", "crossed", "frozen")]
    + [f"event/{what}" for what in (*EVENTS, *OPTION_EVENTS)]
    + [f"traded/{each}" for each in ("shares", *STRUCTURES)]
    + ["reconciled", "ledger_down", "commit_lost", "temporal_down", "no_network", "evicted"]
    + ["replayed", "continued_as_new", "exit_watch", "lane"]
)

"""Kinds of which every long enough campaign must have seen one ("sometimes" assertions)."""
SOMETIMES_SEEDS = 500
PIECE = 25


@dataclass
class Tally:
    """Sums over a campaign."""

    seeds: int = 0
    trades: int = 0
    cpu_s: float = 0.0
    happened: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)
    bare: dict[str, list[float]] = field(default_factory=dict)
    spans: list[tuple[BareSpan, int]] = field(default_factory=list)
    excluded_s: float = 0.0
    unconfirmed: dict[str, list[float]] = field(default_factory=dict)
    away_s: float = 0.0

    def never_happened(self, broker: str) -> list[str]:
        """Kinds of mishap that can strike at this broker and never did."""
        cannot = {f"{word}/{kind}" for kind in NOT_AT[broker] for word in ("fault", "event")}
        if broker == "tradier":
            cannot.add("exit_watch")  # Only combos are watched there: too few for 500 seeds.
        return sorted(kind for kind in MUST_HAPPEN - cannot if not self.happened[kind])

    @property
    def trades_per_minute(self) -> float:
        return 60 * self.trades / max(self.cpu_s, 1e-9)

    def merge(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.trades += other.trades
        self.cpu_s += other.cpu_s
        self.happened.update(other.happened)
        self.endings.update(other.endings)
        self.failed += other.failed
        for mine, others in ((self.bare, other.bare), (self.unconfirmed, other.unconfirmed)):
            for name, values in others.items():
                mine.setdefault(name, []).extend(values)
        self.spans += other.spans
        self.excluded_s += other.excluded_s
        self.away_s += other.away_s

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.trades += outcome.trades
        self.happened.update(outcome.happened)
        self.endings.update(f"{r.outcome} {r.exit_reason or r.code}" for r in outcome.results)
        for span in outcome.bare:
            self.bare.setdefault(span.protection, []).append(span.counted_s)
            beyond = f"{span.protection}, entry over"
            self.bare.setdefault(beyond, []).append(span.beyond_entry_s)
            self.spans.append((span, outcome.seed))
            self.excluded_s += span.excluded_s
        for wait in outcome.unconfirmed:
            self.unconfirmed.setdefault(wait.protection, []).append(wait.counted_s)
            self.away_s += wait.excluded_s
        if outcome.violations:
            self.failed.append(outcome)


def run_seeds(seeds: Iterable[int], broker: str) -> Tally:
    """Runs the seeds' own scenarios at this broker."""
    tally = Tally()
    _keep_what_is_loaded()
    began_s = time.process_time()
    for seed in seeds:
        tally.add(run_scenario(stormy(seed, broker)))
    tally.cpu_s = time.process_time() - began_s
    return tally


@cache
def _keep_what_is_loaded() -> None:
    """No collection of garbage need look at the program itself after every seed."""
    gc.collect()
    gc.freeze()


def run_spread(seeds: range, broker: str, jobs: int) -> Tally:
    """The same over some processes; `cpu_s` is the sum of theirs."""
    pieces = [seeds[at : at + PIECE] for at in range(0, len(seeds), PIECE)]
    tally = Tally()
    for _, piece in spread(partial(run_seeds, broker=broker), pieces, jobs):
        tally.merge(piece)
    tally.failed.sort(key=lambda outcome: outcome.seed)
    return tally


def worst_bare(tally: Tally, count: int) -> list[str]:
    """The longest spans, a line each: `--seed` of it tells every event."""
    longest = sorted(tally.spans, key=lambda pair: -pair[0].beyond_entry_s)[:count]
    return [
        f"seed {seed} {span.protection} from {span.began_s:.3f} s: {span.counted_s:.3f} s bare, "
        f"{span.entry_s:.3f} s of it with an entry at work, {span.excluded_s:.3f} s excluded"
        for span, seed in longest
    ]


def names(outcome: Outcome) -> frozenset[str]:
    """Which invariants were violated."""
    return frozenset(text.split(" ", 1)[0] for text in outcome.violations)


def smallest(outcome: Outcome) -> Scenario:
    """The seed's scenario, shrunk to what still violates one of the same invariants."""
    wanted = names(outcome)

    def fails(smaller: Scenario) -> bool:
        return bool(names(run_scenario(smaller)) & wanted)

    return shrunk(stormy(outcome.seed, outcome.broker), fails)


def explain(outcome: Outcome) -> str:
    """Seed, shrunk mishaps and the line that repeats the failure."""
    scenario, small = stormy(outcome.seed, outcome.broker), smallest(outcome)
    lines = [f"seed {outcome.seed} at {outcome.broker}: {len(outcome.violations)} violations"]
    lines += [f"  {text}" for text in outcome.violations[:5]]
    lines.append(f"  still fails with {len(small.mishaps)} of {len(scenario.mishaps)} mishaps:")
    lines += [f"    {mishap.text}" for mishap in small.mishaps]
    knobs = {name: str(value) for name, value in small.matching.items()}
    lines.append(f"    knobs {knobs}, slow network {small.slow_network}, {len(small.plans)} trades")
    lines.append(f"  repeat: make simulate SEED={outcome.seed} BROKER={outcome.broker}")
    return "\n".join(lines)
