"""The tree obeys architecture §3 and style.md §3; planted sources show that each rule bites."""

from __future__ import annotations

import functools
import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from domain.order import TRANSITIONS, OrderEvent, OrderState
from tests import architecture_rules as rules
from tests.architecture_rules import Source, Violation
from tests.conftest import LONGEST_FIRST

ROOT = Path(__file__).resolve().parent.parent
HISTORIES = ROOT / "tests" / "replay" / "histories"
SKIPPED_FOLDERS = {"reports", "build", "dist"}

# Explicit and few: (path, beginning of the violation's text, why).
WAIVERS: tuple[tuple[str, str, str], ...] = ()


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """The trees have millions of nodes and no cycles: the collector would look through them while
    they grow, and again and again in every test that this process runs afterwards."""
    gc.disable()
    yield
    violations.cache_clear()
    sources.cache_clear()
    gc.enable()


@functools.cache
def sources() -> tuple[Source, ...]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and relative.parts[0] not in SKIPPED_FOLDERS:
            found.append(Source.parse(relative.as_posix(), path.read_text()))
    return tuple(found)


@functools.cache
def own_packages() -> frozenset[str]:
    folders = {source.folder for source in sources() if source.folder}
    return frozenset(folders) | rules.EMPTY_INIT_FOLDERS


def waived(violation: Violation) -> bool:
    return any(
        violation.path == path and violation.text.startswith(text) for path, text, _why in WAIVERS
    )


def assert_none(found: Iterator[Violation]) -> None:
    left = [str(violation) for violation in found if not waived(violation)]
    assert not left, "\n" + "\n".join(left)


Rule = Callable[[Source], Iterator[Violation]]


def check_imports(source: Source) -> Iterator[Violation]:
    return rules.check_imports(source, own_packages())


FILE_RULES: tuple[Rule, ...] = (
    check_imports,
    rules.check_empty_init,
    rules.check_determinism,
    rules.check_set_iteration,
    rules.check_no_float,
    rules.check_activity_calls,
    rules.check_retry_policies,
    rules.check_workflow_definitions,
    rules.check_size,
    rules.check_leftovers,
    rules.check_machine_paths,
)


@functools.cache
def violations(rule: Rule) -> tuple[Violation, ...]:
    """Of the whole tree, waived ones too."""
    return tuple(violation for source in sources() for violation in rule(source))


@pytest.mark.parametrize("rule", FILE_RULES, ids=lambda rule: rule.__name__)
def test_tree_obeys(rule: Rule) -> None:
    assert_none(iter(violations(rule)))


def test_every_class_of_domain_is_frozen() -> None:
    assert_none(rules.check_frozen_classes(sources()))


def test_every_workflow_has_a_recorded_history() -> None:
    assert_none(
        violation
        for source in sources()
        for violation in rules.check_replay_histories(source, HISTORIES)
    )


def test_every_order_state_and_event_stands_in_the_transition_table() -> None:
    states = {state for state, _event in TRANSITIONS} | set(TRANSITIONS.values())
    assert states == set(OrderState)
    assert {event for _state, event in TRANSITIONS} == set(OrderEvent)


def test_lock_file_holds_versions_and_hashes_and_no_host_name() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--index" not in text
    requirements = re.findall(r"^[A-Za-z0-9]\S*", text, flags=re.MULTILINE)
    assert requirements
    assert all("==" in each for each in requirements), requirements
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


def test_every_waiver_is_still_needed() -> None:
    everything = [violation for rule in FILE_RULES for violation in violations(rule)]
    for path, text, _why in WAIVERS:
        assert any(v.path == path and v.text.startswith(text) for v in everything), path


def test_files_that_are_run_first_are_there() -> None:
    assert [name for name in LONGEST_FIRST if not (ROOT / "tests" / name).is_file()] == []


# --- planted sources --------------------------------------------------------------------------

PLANTED: tuple[tuple[str, Rule, str, str], ...] = (
    ("absolute", check_imports, "domain/bad.py", "import temporalio\n"),
    ("relative", check_imports, "workflows/bad.py", "from ..ledger import repository\n"),
    ("lazy", check_imports, "domain/bad.py", "def f():\n    import pandas\n"),
    ("clock", check_imports, "domain/bad.py", "import time\n"),
    ("adapter", check_imports, "activities/bad.py", "from brokers.alpaca.client import Client\n"),
    ("pandas", check_imports, "activities/bad.py", "import pandas\n"),
    ("sharing", check_imports, "simulator/bad.py", "from domain.order import Side\n"),
    ("mixed", check_imports, "simulator/bad.py", "from brokers import port\n"),
    ("root", check_imports, "ledger/bad.py", "import settings\n"),
    ("venue", check_imports, "brokers/tradier/bad.py", "from brokers.alpaca import wire\n"),
    ("environment", check_imports, "brokers/alpaca/bad.py", "import os\n"),
    ("init", rules.check_empty_init, "domain/__init__.py", "from domain import money\n"),
    ("now", rules.check_determinism, "domain/bad.py",
     "import datetime as d\nd.datetime.now(d.UTC)\n"),
    ("renamed", rules.check_determinism, "workflows/bad.py",
     "from datetime import datetime as moment\nmoment.utcnow()\n"),
    ("uuid", rules.check_determinism, "workflows/bad.py", "from uuid import uuid4\nx = uuid4\n"),
    ("zone", rules.check_determinism, "domain/bad.py",
     "from zoneinfo import ZoneInfo\nZoneInfo('UTC')\n"),
    ("context", rules.check_determinism, "domain/bad.py",
     "from decimal import getcontext\ngetcontext().prec = 3\n"),
    ("wait", rules.check_determinism, "workflows/bad.py",
     "import asyncio\nasync def f(t):\n    await asyncio.wait(t)\n"),
    ("chance", rules.check_determinism, "domain/bad.py", "import random\nrandom.Random(1)\n"),
    ("print", rules.check_determinism, "workflows/bad.py", "print('x')\n"),
    ("set literal", rules.check_set_iteration, "domain/bad.py", "for x in {1, 2}:\n    pass\n"),
    ("set call", rules.check_set_iteration, "domain/bad.py", "y = [x for x in set(z)]\n"),
    ("set name", rules.check_set_iteration, "workflows/bad.py",
     "def f(s: frozenset[str]):\n    return tuple(s)\n"),
    ("set attribute", rules.check_set_iteration, "workflows/bad.py",
     "class A:\n    def f(self):\n        self.s: set[int] = set()\n"
     "        for x in self.s:\n            pass\n"),
    ("set union", rules.check_set_iteration, "domain/bad.py",
     "def f(a: set[int], b):\n    return [x for x in a | b]\n"),
    ("float field", rules.check_no_float, "domain/bad.py", "class A:\n    price: float = 1\n"),
    ("float return", rules.check_no_float, "domain/bad.py",
     "def f(x) -> list[float] | None: ...\n"),
    ("float argument", rules.check_no_float, "domain/bad.py", "def f(x: float): ...\n"),
    ("no timeout", rules.check_activity_calls, "workflows/bad.py",
     "from workflows._lifecycle import READ\n"
     "workflow.execute_activity(f, retry_policy=READ)\n"),
    ("own policy", rules.check_activity_calls, "workflows/bad.py",
     "workflow.start_activity(f, start_to_close_timeout=T, retry_policy=RetryPolicy())\n"),
    ("policy made", rules.check_retry_policies, "workflows/bad.py",
     "from temporalio import common\nONCE = common.RetryPolicy(maximum_attempts=1)\n"),
    ("no name", rules.check_workflow_definitions, "workflows/bad.py",
     "@workflow.defn(versioning_behavior=V.PINNED)\nclass A: ...\n"),
    ("bare", rules.check_workflow_definitions, "workflows/bad.py",
     "@workflow.defn\nclass A: ...\n"),
    ("long", rules.check_size, "ledger/bad.py", "def f():\n" + "    pass\n" * 70),
    ("wide", rules.check_size, "ledger/bad.py", "#" * 101 + "\n"),
    ("leftover", rules.check_leftovers, "ledger/bad.py", "# TO" + "DO later\n"),
    ("path", rules.check_machine_paths, "ledger/bad.py", "x = '/ro" + "ot/x'\n"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "path", "text"), [each[1:] for each in PLANTED], ids=[each[0] for each in PLANTED]
)
def test_planted_violation_is_seen(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source.parse(path, text)))


HARMLESS: tuple[tuple[str, Rule, str, str], ...] = (
    ("own folder", check_imports, "domain/good.py", "from domain.money import ZERO\n"),
    ("port", check_imports, "activities/good.py", "from brokers.port import BrokerPort\n"),
    ("late pandas", check_imports, "activities/good.py", "def f():\n    import pandas\n"),
    ("instrument", check_imports, "simulator/good.py", "from domain.instrument import x\n"),
    ("parsed time", rules.check_determinism, "domain/good.py",
     "from datetime import datetime\ndatetime.fromisoformat('x')\n"),
    ("workflow clock", rules.check_determinism, "workflows/good.py",
     "from temporalio import workflow\nworkflow.now()\nworkflow.random()\n"),
    ("local name", rules.check_determinism, "domain/good.py", "def f(time):\n    time.now()\n"),
    ("sorted set", rules.check_set_iteration, "domain/good.py",
     "for x in sorted({2, 1}):\n    pass\ny = any(x for x in {1})\n"),
    ("seconds", rules.check_no_float, "domain/good.py", "def f_s(x_s: float) -> float: ...\n"),
    ("lifecycle options", rules.check_activity_calls, "workflows/good.py",
     "from workflows._lifecycle import order_send\n"
     "workflow.start_activity(f, x, **order_send(1))\n"),
    ("lifecycle policy", rules.check_activity_calls, "workflows/good.py",
     "from workflows import _lifecycle as life\n"
     "workflow.execute_activity(f, start_to_close_timeout=T, retry_policy=life.READ)\n"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "path", "text"), [each[1:] for each in HARMLESS], ids=[each[0] for each in HARMLESS]
)
def test_harmless_source_passes(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source.parse(path, text)))


def test_mutable_class_of_domain_is_seen() -> None:
    text = (
        "class Base(Frozen): ...\nclass Child(Base): ...\nclass Loose: ...\n"
        "class Model(BaseModel): ...\n@dataclass\nclass Data: ...\n"
        "@dataclass(frozen=True, slots=True)\nclass Good: ...\n"
    )
    seen = rules.check_frozen_classes([Source.parse("domain/bad.py", text)])
    assert [violation.text for violation in seen] == [
        f"class {name} is not frozen" for name in ("Loose", "Model", "Data")
    ]


def test_workflow_without_a_history_is_seen(tmp_path: Path) -> None:
    text = "@workflow.defn(name='Trade', versioning_behavior=P)\nclass T: ...\n"
    source = Source.parse("workflows/trade.py", text)
    assert list(rules.check_replay_histories(source, tmp_path))
    (tmp_path / "Trade").mkdir()
    (tmp_path / "Trade" / "happy.json").write_text("{}")
    assert not list(rules.check_replay_histories(source, tmp_path))
