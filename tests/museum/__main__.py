"""`make museum`: hunts every exhibit and prints bug, seeds needed, invariant.

python -m tests.museum [name ...] [--from SEED] [--seeds N]
python -m tests.museum --list
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from tests.museum.catalogue import EXHIBITS
from tests.museum.exhibit import SEEDS_MAX, hunt


def main(words: Sequence[str] | None = None) -> int:
    """Prints one line per exhibit; the exit code is 1 if one was not found, 2 for a wrong name."""
    wishes = argparse.ArgumentParser(prog="museum", description="hunt the planted bugs")
    wishes.add_argument("names", nargs="*", help="exhibits; all without one")
    wishes.add_argument("--from", dest="first", type=int, default=1, help="first seed")
    wishes.add_argument("--seeds", type=int, default=SEEDS_MAX, help="seeds per exhibit")
    wishes.add_argument("--list", action="store_true", help="name the exhibits, hunt none")
    given = wishes.parse_args(words)
    known = [each.name for each in EXHIBITS]
    if strangers := [name for name in given.names if name not in known]:
        # Nothing hunted must not read as everything found.
        wishes.error(f"MUSEUM_NAME names: value was {strangers}, allowed {', '.join(known)}")
    chosen = [each for each in EXHIBITS if not given.names or each.name in given.names]
    if given.list:
        for each in chosen:
            print(f"{each.name:<42} {each.broker:<8} {each.bug}")
        return 0
    print(f"{'exhibit':<42} {'broker':<8} {'seeds':>5}  {'seed':>5} {'s':>6}  found by")
    missed = 0
    for exhibit in chosen:
        began_s = time.monotonic()
        find = hunt(exhibit, given.first, given.seeds)
        took_s = time.monotonic() - began_s
        head = f"{exhibit.name:<42} {exhibit.broker:<8}"
        if find is None:
            missed += 1
            line = f"{head} {'–':>5}  {'':>5} {took_s:6.1f}  NOT FOUND in {given.seeds} seeds"
        else:
            line = f"{head} {find.tried:>5}  {find.seed:>5} {took_s:6.1f}  {find.violation[:70]}"
        print(line, flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
