"""Scenarios that once failed, kept as files: a seed means something else when the dice change.

`python -m tests.simulation --seed 69 --broker tradier --keep NAME` shrinks a failing seed and
writes `kept/NAME.json`; `test_kept.py` plays every one of them for ever.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from domain.plan import TradePlan
from simulator.config import ReplaceQuantity
from tests.simulation.scenario import Mishap, Move, Scenario

FOLDER = Path(__file__).with_name("kept")


def write(name: str, scenario: Scenario, found: str) -> Path:
    """Writes the scenario with a sentence on what it found."""
    raw = asdict(scenario) | {"found": found}
    raw["plans"] = [plan.model_dump(mode="json") for plan in scenario.plans]
    raw["market"] = [
        [move.at_s, move.symbol, str(move.bid), str(move.ask), str(move.size)]
        for move in scenario.market
    ]
    raw["mishaps"] = [[m.at_s, m.kind, [list(pair) for pair in m.values]] for m in scenario.mishaps]
    raw["matching"] = {name: str(value) for name, value in scenario.matching.items()}
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(raw, indent=None, separators=(",", ":"), default=str) + "\n")
    return path


def read(path: Path) -> Scenario:
    """The scenario of a file."""
    raw: dict[str, Any] = json.loads(path.read_text())
    raw.pop("found")
    raw["plans"] = tuple(TradePlan.model_validate(plan) for plan in raw["plans"])
    raw["starts_s"] = tuple(raw["starts_s"])
    raw["market"] = tuple(
        Move(at_s, symbol, Decimal(bid), Decimal(ask), Decimal(size))
        for at_s, symbol, bid, ask, size in raw["market"]
    )
    raw["mishaps"] = tuple(
        Mishap(at_s, kind, tuple((name, _tuples(value)) for name, value in values))
        for at_s, kind, values in raw["mishaps"]
    )
    raw["matching"] = {
        name: ReplaceQuantity(value) if name == "replace_quantity" else Decimal(value)
        for name, value in raw["matching"].items()
    }
    return Scenario(**raw)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def every() -> list[Path]:
    return sorted(FOLDER.glob("*.json"))
