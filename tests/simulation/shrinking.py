"""Makes a failing scenario small: fewer mishaps, fewer trades, the same failure (ddmin)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from domain.plan import TradePlan
from tests.simulation.options import contracts_of
from tests.simulation.scenario import Mishap, Move, Scenario

Fails = Callable[[Scenario], bool]
TRIES_MAX = 200


def shrunk(scenario: Scenario, fails: Fails) -> Scenario:
    """The smallest scenario found that still fails; `scenario` itself must fail.

    Delta debugging over the mishaps, then each knob and each trade is tried without.
    """
    tries = 0

    def still_fails(smaller: Scenario) -> bool:
        nonlocal tries
        tries += 1
        return tries <= TRIES_MAX and fails(smaller)

    mishaps = _smallest(
        scenario.mishaps, lambda kept: still_fails(replace(scenario, mishaps=tuple(kept)))
    )
    scenario = replace(scenario, mishaps=mishaps)
    for changes in _simpler(scenario):
        smaller = replace(scenario, **changes)  # type: ignore[arg-type]
        if still_fails(smaller):
            scenario = smaller
    for knob in list(scenario.matching):
        rest = {name: value for name, value in scenario.matching.items() if name != knob}
        if still_fails(replace(scenario, matching=rest)):
            scenario = replace(scenario, matching=rest)
    return scenario


def _simpler(scenario: Scenario) -> list[dict[str, object]]:
    plain: list[dict[str, object]] = [
        {"json_payloads": False},
        {"through_httpx": False},
        {"slow_network": False},
        {"requests_per_minute": None},
        {"lane_per_minute": None},
    ]
    if len(scenario.plans) > 1:
        plain += [
            {"plans": (plan,), "starts_s": (at_s,), "market": _market_of(scenario, plan)}
            for plan, at_s in zip(scenario.plans, scenario.starts_s, strict=True)
        ]
    return plain


def _market_of(scenario: Scenario, plan: TradePlan) -> tuple[Move, ...]:
    """The market without contracts that only the other trades list."""
    kept = contracts_of((plan,))
    gone = {each.symbol for each in contracts_of(scenario.plans) if each not in kept}
    return tuple(move for move in scenario.market if move.symbol not in gone)


def _smallest(
    mishaps: Sequence[Mishap], fails: Callable[[Sequence[Mishap]], bool]
) -> tuple[Mishap, ...]:
    """Zeller's ddmin: leaves out ever smaller parts while the rest still fails."""
    kept, parts = list(mishaps), 2
    if not kept or fails(()):
        return ()
    while len(kept) >= 2:
        size = max(1, len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if fails(rest):
                kept, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(len(kept), parts * 2)
    return tuple(kept)
