"""The documents say what the code is: generated parts, stages, links, dependencies, paths."""

from __future__ import annotations

import random
import re
import tomllib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

import starter
from docs import diagrams
from domain import trade_state as ts
from domain.bar import Bar
from domain.clock import real_time
from domain.facts import FillReported, FlattenRequested
from domain.instrument import Instrument
from domain.order import TRANSITIONS, OrderEvent, OrderState
from domain.signal import StrategyContext, plan_of
from domain.trade_state import FINAL_STAGES, Stage, TradeState
from domain.validation import PlanContext, check_plan
from settings import ObservabilitySection, SafetySection, TemporalSection, TradeSection
from settings_file import load_settings
from simulator.config import ExchangeConfig
from strategies.registry import StrategyProcess
from tests.architecture_rules import LEFTOVERS, MACHINE_PATHS
from tests.unit.test_trade_fold import RATCHET, THREE, make_plan
from tests.unit.test_trade_properties import PRICES, mischief_of
from tests.unit.toy_broker import ToyBroker, Trade

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_generated_parts_are_what_the_code_says() -> None:
    text = diagrams.ARCHITECTURE.read_text()
    assert diagrams.refreshed(text) == text, "stale: run python -m docs.diagrams"


def test_a_planted_difference_is_seen() -> None:
    text = diagrams.ARCHITECTURE.read_text()
    planted = text.replace("live --> filled", "live --> canceled")
    assert planted != text
    assert diagrams.refreshed(planted) == text


def test_missing_markers_are_refused() -> None:
    with pytest.raises(ValueError, match="markers"):
        diagrams.refreshed("no markers here")


def test_order_table_shows_every_row_of_the_transition_table() -> None:
    lines = diagrams.order_table().splitlines()
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")][1:]
    cells = {
        (heads[index], line.split("|")[1].strip()): cell.strip()
        for line in lines[2:]
        for index, cell in enumerate(line.strip("|").split("|")[1:])
    }
    for state in OrderState:
        column = "ended" if state in diagrams.ENDED else str(state)
        for event in OrderEvent:
            target = TRANSITIONS.get((state, event))
            wanted = "–" if target is None else "·" if target is state else str(target)
            assert cells[column, str(event)] == wanted, (state, event)


def test_every_stage_stands_in_the_diagram_and_final_ones_end() -> None:
    assert set(diagrams.STAGE_MOVES) == set(Stage)
    ends = {stage for stage, moves in diagrams.STAGE_MOVES.items() if not moves}
    assert ends == FINAL_STAGES


class Watched(Trade):
    """A trade that notes every change of its stage."""

    moves: set[tuple[Stage, Stage]]

    def __setattr__(self, name: str, value: object) -> None:
        if name == "state" and isinstance(value, TradeState) and hasattr(self, "state"):
            before, after = ts.stage(self.state), ts.stage(value)
            if before is not after:
                self.moves = {*getattr(self, "moves", ()), (before, after)}
        super().__setattr__(name, value)


def test_seeded_trades_move_only_between_stages_that_the_diagram_knows() -> None:
    seen: set[tuple[Stage, Stage]] = set()
    for seed in range(60):
        seen |= _moves_of_one_life(random.Random(seed))
    known = {(source, target) for source, moves in diagrams.STAGE_MOVES.items() for target in moves}
    known |= {(source, Stage.NEEDS_OPERATOR) for source in Stage if source not in FINAL_STAGES}
    assert seen <= known, sorted(seen - known)
    assert {(Stage.OPEN, Stage.CLOSING), (Stage.CLOSING, Stage.CLOSED)} <= seen


def _moves_of_one_life(rng: random.Random) -> set[tuple[Stage, Stage]]:
    plan = make_plan(time_stop_s=Decimal(300), targets=THREE, ratchet=RATCHET)
    size = Decimal(rng.choice([1, 3, 100]))
    broker = ToyBroker(symbol="AAPL", bid=Decimal("99.75"), ask=Decimal(100), size=size)
    mischief = mischief_of(rng, rng.choice([0.0, 0.1, 0.3]))
    trade = Watched(plan, broker, worst=Decimal(101), rng=rng, mischief=mischief)
    flatten_at = rng.randrange(60)
    for turn in range(60):
        if turn == flatten_at:
            trade.tell(FlattenRequested(at=trade.now, command_id="f", by="a", reason="docs"))
        if rng.random() < 0.4:
            bid = rng.choice(PRICES)
            broker.move(bid, bid + Decimal("0.25"))
        if rng.random() < 0.5 and broker.undelivered:
            fill = broker.undelivered.pop(rng.randrange(len(broker.undelivered)))
            trade.tell(FillReported(at=trade.now, fill=fill))
        trade.look()
        broker.now += timedelta(seconds=rng.choice([0, 0.2, 1, 4]))
    trade.mischief = lambda command: ""
    for _ in range(40):
        trade.pass_time(10)
        if ts.is_final(trade.state):
            break
    return trade.moves


def test_every_dependency_has_its_line_and_every_line_its_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    wanted = {
        re.split(r"[\[<>=]", text)[0]
        for text in (*project["project"]["dependencies"], *groups["dev"], *groups["data"])
    }
    text = (ROOT / "docs" / "dependencies.md").read_text()
    written = set(re.findall(r"^\| `([A-Za-z0-9-]+)` \|", text, re.MULTILINE))
    assert written == wanted


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_inside_the_repository_lead_somewhere(path: Path) -> None:
    targets = [link for link in _LINK.findall(path.read_text()) if "://" not in link]
    broken = [link for link in targets if not (path.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_hold_no_machine_path_and_nothing_left_open(path: Path) -> None:
    text = path.read_text()
    assert not MACHINE_PATHS.search(text)
    assert not LEFTOVERS.search(text)


def test_the_strategy_of_the_guide_loads_and_makes_a_plan(tmp_path: Path) -> None:
    """What a person copies from the guide must work as it stands."""
    guide = (ROOT / "docs" / "strategies.md").read_text()
    example = re.search(r"```python\n(.*?)```", guide, re.DOTALL)
    assert example is not None
    path = tmp_path / "new_high.py"
    path.write_text(example.group(1))
    start = datetime(2026, 3, 2, 15, tzinfo=UTC)
    bars = [_bar(start + timedelta(minutes=minute), minute == 24) for minute in range(25)]
    context = StrategyContext(
        session="guide",
        strategy="new_high",
        instrument=Instrument(symbol="X", tick_size=Decimal("0.01")),
        now=bars[-1].end,
        session_open=start,
    )
    with StrategyProcess(path) as strategy:
        assert strategy.load().usable
        assert strategy.decide(bars[:-1], context).signal is None
        signal = strategy.decide(bars, context).signal
    assert signal is not None
    plan = plan_of(signal, context.instrument, "demo")
    clock = real_time(context.now)
    checked = PlanContext(market_now=context.now, session_date=start.date(), clock_map=clock)
    assert check_plan(plan, checked).targets == plan.targets


def _bar(start: datetime, is_high: bool) -> Bar:
    top = Decimal(11) if is_high else Decimal(10)
    return Bar(
        symbol="X",
        start=start,
        end=start + timedelta(minutes=1),
        open=Decimal(10),
        high=top,
        low=Decimal(10),
        close=top,
        volume=Decimal(1),
    )


_CALL = re.compile(r"starter\.py((?: --(?:data|config) \S+)*)((?: [a-z][a-z-]*){1,2})")


def commands_in(text: str) -> set[tuple[str, ...]]:
    """Command words behind `starter.py`; a table's first cell names siblings after the first."""
    found: set[tuple[str, ...]] = set()
    for line in text.splitlines():
        for call in _CALL.finditer(line):
            first = tuple(call.group(2).split())
            found.add(first)
            if line.startswith("| `starter.py"):
                cell = line.split("|")[1]
                for name in re.findall(r"`([a-z][a-z -]*)`", cell):
                    words = tuple(name.split())
                    found.add(words if len(words) == len(first) else (*first[:-1], *words))
    return found


def test_every_command_of_the_documents_exists() -> None:
    program = typer.main.get_command(starter.app)
    assert isinstance(program, TyperGroup)
    called = {call for path in DOCUMENTS for call in commands_in(path.read_text())}
    assert {("kill",), ("down",), ("trade", "submit"), ("trade", "move-stop")} <= called
    missing = []
    for call in sorted(called):
        command = program.commands.get(call[0])
        inner = command.commands if isinstance(command, TyperGroup) else None
        if command is None or (inner is not None and (len(call) < 2 or call[1] not in inner)):
            missing.append(" ".join(call))
    assert not missing


def test_the_plan_of_the_first_steps_is_a_valid_plan() -> None:
    text = (ROOT / "docs" / "examples" / "plan.json").read_text()
    now = datetime(2026, 3, 2, 15, tzinfo=UTC)
    body = text.replace("TIME", now.isoformat()).replace("NAME", "150000")
    settings = load_settings(ROOT / "config" / "demo.toml", {})
    context = PlanContext(
        market_now=now, session_date=now.date(), limits=settings.limits, clock_map=real_time(now)
    )
    plan = check_plan(body.encode(), context)
    exchange = ExchangeConfig.from_json(ROOT / "docs" / "examples" / "exchange.json")
    assert plan.instrument in [listing.instrument for listing in exchange.listings]
    assert exchange.requests_per_minute is not None
    assert settings.broker.requests_per_minute <= exchange.requests_per_minute, "else throttled"


def test_the_vertical_of_the_options_page_is_a_valid_plan_on_its_exchange() -> None:
    text = (ROOT / "docs" / "examples" / "vertical.json").read_text()
    now = datetime(2026, 3, 2, 15, tzinfo=UTC)
    filled = {"TIME": now.isoformat(), "DAY": f"{now:%Y-%m-%d}", "NAME": "150000"}
    for word, value in (filled | {"ACCOUNT": "desk"}).items():
        text = text.replace(word, value)
    context = PlanContext(market_now=now, session_date=now.date(), clock_map=real_time(now))
    plan = check_plan(text.encode(), context)
    exchange = ExchangeConfig.from_json(ROOT / "docs" / "examples" / "exchange-options.json")
    listed = [listing.instrument for listing in exchange.listings]
    assert all(leg.instrument in listed for leg in plan.legs)
    assert {leg.instrument.symbol for leg in plan.legs} <= {b.symbol for b in exchange.generated}


def test_every_alert_has_a_line_in_the_runbook() -> None:
    """`alerts.md` promises it; on call one looked for POSITION_NAKED and found nothing."""
    told = (ROOT / "docs" / "alerts.md").read_text().split("## What is told")[1]
    runbook = (ROOT / "docs" / "operator.md").read_text()
    codes = set(re.findall(r"`([A-Z][A-Z_]{3,})`", told))
    assert {code for code in codes if f"`{code}`" not in runbook} == set()


def test_settings_without_effect_are_named_in_the_readme() -> None:
    """A key that nobody reads must not look as if it did something."""
    roots = [
        ROOT / "worker.py",
        ROOT / "wiring.py",
        ROOT / "observing.py",
        *(ROOT / "cli").glob("*.py"),
    ]
    code = "\n".join(path.read_text() for path in roots)
    sections = (SafetySection, TemporalSection, TradeSection, ObservabilitySection)
    keys = {key for section in sections for key in section.model_fields}
    unread = {key for key in keys if not re.search(rf"\.{key}\b", code)}
    readme = (ROOT / "README.md").read_text()
    entry = re.search(r"- Settings that are read and checked but.*?\n- ", readme, re.DOTALL)
    named = set(re.findall(r"`(\w+)`", entry.group())) if entry is not None else set()
    assert named == unread, "README, known limits: name exactly the settings without effect"


def test_decisions_are_numbered_without_a_gap_and_say_what_binds() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [int(path.name[:4]) for path in records]
    assert numbers == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text()
        assert text.startswith(f"# {path.name[:4]} "), path.name
        for head in ("## Context", "## Decision", "## Consequences"):
            assert head in text, (path.name, head)
