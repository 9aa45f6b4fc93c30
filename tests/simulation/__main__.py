"""`python -m tests.simulation`: campaigns of seeds from the command line (docs/simulation.md).

python -m tests.simulation --seeds 2000 --jobs 2   both brokers, seeds 1..1000 each, two cores
python -m tests.simulation --seed 7 --broker tradier   one seed, told in full
python -m tests.simulation --seed 7 --hash         its trace hash only
"""

from __future__ import annotations

import argparse
import sys

from tests.simulation import kept
from tests.simulation.bare import told
from tests.simulation.campaign import (
    SOMETIMES_SEEDS,
    Tally,
    explain,
    run_spread,
    smallest,
    worst_bare,
)
from tests.simulation.scenario import BROKERS, stormy
from tests.simulation.world import run_scenario


def main() -> int:
    """0 if no invariant was violated and every kind of mishap struck."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=None, help="how many, split over the brokers")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="one seed, told in full")
    parser.add_argument("--broker", choices=BROKERS)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one core each")
    parser.add_argument("--hash", action="store_true", help="print the trace hash only")
    parser.add_argument("--bare", type=int, default=0, help="list so many of the longest spans")
    parser.add_argument("--keep", metavar="NAME", help="shrink the failing --seed and keep it")
    options = parser.parse_args()
    if options.seeds is None:
        options.seeds = 1 if options.seed is not None else 200
    brokers = (options.broker,) if options.broker else BROKERS
    if options.seed is not None:
        if options.keep:
            return _keep(options.seed, brokers[0], options.keep)
        last = options.seed + (options.seeds if options.hash else 1)
        seeds = range(options.seed, last)
        return max(_one(seed, broker, options.hash) for broker in brokers for seed in seeds)
    each = max(1, options.seeds // len(brokers))
    worst = 0
    for broker in brokers:
        tally = run_spread(range(options.first, options.first + each), broker, options.jobs)
        worst = max(worst, _tell(tally, broker, each))
        for line in worst_bare(tally, options.bare):
            print(f"    {line}")
    return worst


def _one(seed: int, broker: str, only_hash: bool) -> int:
    scenario = stormy(seed, broker)
    outcome = run_scenario(scenario)
    if only_hash:
        print(f"{broker} {seed} {outcome.trace_hash}")
        return 0
    for row in outcome.rows:
        if row["kind"] not in ("quote", "cash", "position"):
            print(" ".join(f"{name}={value}" for name, value in row.items() if name != "order"))
    for mishap in scenario.mishaps:
        print(mishap.text)
    for result in outcome.results:
        print(f"{result.trade_id}: {result.outcome} {result.exit_reason or result.code}")
    print(f"{broker} {seed} {outcome.trace_hash} {outcome.virtual_s:.1f} virtual seconds")
    if outcome.violations:
        print(explain(outcome))
    return int(bool(outcome.violations))


def _keep(seed: int, broker: str, name: str) -> int:
    outcome = run_scenario(stormy(seed, broker))
    if not outcome.violations:
        print(f"{broker} {seed} violates nothing")
        return 1
    print(kept.write(name, smallest(outcome), outcome.violations[0]))
    return 0


def _tell(tally: Tally, broker: str, each: int) -> int:
    print(
        f"{broker}: {tally.seeds} seeds, {tally.trades} trades, {tally.cpu_s:.1f} s of CPU "
        f"({tally.trades_per_minute:.0f} trades a minute), {len(tally.failed)} seeds failed"
    )
    print("  endings: " + ", ".join(f"{k} {n}" for k, n in tally.endings.most_common()))
    print("  happened: " + ", ".join(f"{k} {n}" for k, n in sorted(tally.happened.items())))
    print(f"  bare: {told(tally.bare, tally.excluded_s)}")
    print(f"  unconfirmed: {told(tally.unconfirmed, tally.away_s)}")
    for outcome in tally.failed:
        print(explain(outcome))
    missing = tally.never_happened(broker)
    if missing and each >= SOMETIMES_SEEDS:
        print(f"  never happened: {', '.join(missing)}")
        return 1
    return int(bool(tally.failed))


if __name__ == "__main__":
    sys.exit(main())
