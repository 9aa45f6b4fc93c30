"""What an exhibit is: a public bug, how it is planted here, and the invariant that must see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from simulator.exchange import Exchange
from tests.simulation.scenario import Scenario, stormy
from tests.simulation.world import Outcome, run_scenario

Plant = Callable[[], AbstractContextManager[object]]
SEEDS_MAX = 1_000
GAP_MAX_S = 5.0
"""How long I4 lets a position be without its whole stop (G)."""


@dataclass(frozen=True)
class Exhibit:
    """One bug that somebody had in public.

    Args:
        name: how it is called here.
        reports: public issues, pull requests or orders that tell it (peers.md §4, faults.md §1).
        bug: what went wrong there.
        planted: what is changed here so that it goes wrong again.
        invariants: one of these must fire.
        plant: makes the change for the time of a run.
        seed: the first seed that is tried; near one that is known to find it.
        venue: rebuilds the venue's part of the bug at the exchange.
        scene: what a seed means; the storms of the simulation unless the bug needs more.
        is_quick: in the set of every build; the others are hunted by `make museum`.
    """

    name: str
    reports: tuple[str, ...]
    bug: str
    planted: str
    invariants: tuple[str, ...]
    plant: Plant
    broker: str = "alpaca"
    seed: int = 1
    venue: Callable[[Exchange], None] | None = None
    scene: Callable[[int, str], Scenario] = stormy
    is_quick: bool = True

    def run(self, seed: int, *, planted: bool = True) -> Outcome:
        """One seed with the bug, or the same seed without it."""
        scenario = self.scene(seed, self.broker)
        if planted:
            return run_scenario(scenario, mutant=self.plant, exchange_behaviour=self.venue)
        return run_scenario(scenario, exchange_behaviour=self.venue)

    def seen_in(self, outcome: Outcome) -> str:
        """The violation by which the bug is seen; empty if it is not."""
        bare_s = max(outcome.bare_s, default=0.0)
        if "I4" in self.invariants and bare_s > GAP_MAX_S:
            return f"I4 a position was without its stop for {bare_s:.1f} s"
        return next((v for v in outcome.violations if v.split(" ")[0] in self.invariants), "")


@dataclass(frozen=True)
class Find:
    """A bug found: how many seeds it took, which one it was, and what fired."""

    tried: int
    seed: int
    violation: str


def hunt(exhibit: Exhibit, first: int | None = None, seeds_max: int = SEEDS_MAX) -> Find | None:
    """Tries seeds one after the other until the bug is seen.

    A violation counts only if the same seed without the bug has none of its kind: else it would
    be the finding of something else.
    """
    begin = exhibit.seed if first is None else first
    for tried in range(1, seeds_max + 1):
        seed = begin + tried - 1
        violation = exhibit.seen_in(exhibit.run(seed))
        if violation and not exhibit.seen_in(exhibit.run(seed, planted=False)):
            return Find(tried, seed, violation)
    return None


def planted(*changes: tuple[Any, Any, Any]) -> Plant:
    """A plant that sets these attributes (owner, name, value) for a while; of a dict, keys."""

    @contextmanager
    def plant() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, value in changes:
                if isinstance(owner, dict):
                    stack.enter_context(patch.dict(owner, {name: value}))
                else:
                    stack.enter_context(patch.object(owner, name, value))
            yield

    return plant
