"""`make mutants`: how many small changes to the money and safety code no test would notice (M5).

mutmut plants the mutants in a copy of the tracked files under `.holdfast/mutants`
(`[tool.mutmut]` in pyproject.toml says where), `asking.py` asks the tests after each, one process
at a time. Answers are kept: a run goes on where the last one was ended, and asks again what has
changed. Mutants that change nothing that matters are in `equivalent.toml`, each with its reason.
Property tests (`test_any_ ...`) are left out: minutes per mutant that nothing else kills.

    python -m tests.museum.mutants                         # all, or what is left of them
    python -m tests.museum.mutants --sample 200 --seed 7   # so many of each area, by lot
    python -m tests.museum.mutants --area gate --again     # those that survived, once more
    python -m tests.museum.mutants --report                # the score so far, survivors by name

A sample is drawn by the hash of seed and name: the same seed asks the same mutants, a larger
sample holds the smaller one. Survivors of one sample are killed by tests written for them, so
the figure to quote is that of a seed which nobody has worked on yet.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from deploy.local.postgres import start_postgres
from ledger.migrate import upgrade
from tests.fixtures_postgres import GIVEN_DATABASE, TEST_SETTINGS, dsn_of, run_as_superuser

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / ".holdfast" / "mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
RESULTS = COPY / "results.json"
SURVIVED, NOT_REACHED = 0, 33
GOAL = 0.90
# What `mutmut run` does before it tries the first one.
PLANT = """
from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants
from mutmut.mutation.trampoline import set_mutant_under_test
set_mutant_under_test("mutant_generation")
copy_src_dir(); copy_also_copy_files(); create_mutants(1)
"""


@dataclass(frozen=True)
class Area:
    """A part of the code, its own tests, and others that reach it."""

    modules: tuple[str, ...]
    own: tuple[str, ...]
    others: tuple[str, ...] = ()


def _files(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"tests/{folder}/test_{name}.py" for name in names.split())


FOLDS = _files(
    "unit",
    "trade_fold combo_fold operator_fold stop_limits part_close dust adoption fractional_exits "
    "fault_rows_orders fault_rows_exits fault_rows_news amended_orders slices splits "
    "adversary_fold adversary_hands restore",
)
AREAS = {
    "gate": Area(
        ("domain.risk.",),
        _files("unit", "gate gate_edges breakers reducing sizing portfolio validation fees")
        + _files("ledger", "limit_changes"),
    ),
    "orders": Area(("domain.order.",), _files("unit", "order_table"), FOLDS),
    "steps": Area(("domain.steps.",), _files("unit", "steps_edges doubts"), FOLDS),
    "money": Area(
        ("domain.lots.", "domain.fold_fills.", "domain.money_law."),
        _files("unit", "lots money_law statement fold_fills"),
        FOLDS,
    ),
    "ledger": Area(
        ("ledger.",),
        _files("unit", "audit_chain ledger_rows ledger_errors")
        + _files(
            "ledger",
            "absence alerts as_flat audit audit_file cash combo_legs connection control "
            "daily_loss_transfers deployments direct_flatten_books external_moves fills gate "
            "limit_changes locks market memory_ledger metrics new_exchange opposite_entries "
            "orders reducing_orders risk self_halt slow_gate strategies switches trades",
        ),
    ),
}
LEFT_OUT = (
    "not test_any_ and not test_bad_plan and not test_looser_ and not test_limits_that_"
    " and not test_gate_racing_a_kill and not test_two_hundred_reserves"
)


@dataclass(frozen=True)
class Mutant:
    """One planted change in a function whose text has the hash `mark`.

    `code` is how the tests ended, None if they were not asked after it yet.
    """

    name: str
    mark: str
    area: str
    code: int | None
    equivalent: bool

    @property
    def survived(self) -> bool:
        return self.code in (SURVIVED, NOT_REACHED) and not self.equivalent

    @property
    def killed(self) -> bool:
        return self.code is not None and self.code not in (SURVIVED, NOT_REACHED)


def main(arguments: list[str]) -> int:
    """Runs what is left of the wished mutants, unless only the report is; 1 below the goal."""
    wish = _parser().parse_args(arguments)
    if not wish.report:
        _copy_tree()
        _logged("-c", PLANT, where=COPY)
        with _one_database():
            for area in wish.area or AREAS:
                chosen = [m for m in _chosen(_found(), wish) if m.area == area]
                asked = [m for m in chosen if m.code is None or (wish.again and m.survived)]
                print(f"{area}: asks after {len(asked)} of {len(chosen)}", flush=True)
                _ask(area, asked)
    return _report(_chosen(_found(), wish))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.museum.mutants")
    parser.add_argument("names", nargs="*", help="patterns of mutmut's names")
    parser.add_argument("--area", choices=AREAS, action="append", help="all areas without it")
    parser.add_argument("--sample", type=int, help="mutants of each area, drawn by lot")
    parser.add_argument("--seed", type=int, default=1, help="of the lot")
    parser.add_argument("--again", action="store_true", help="ask the survivors once more")
    parser.add_argument("--report", action="store_true", help="run nothing")
    return parser


def _copy_tree() -> None:
    """The tracked files as they are now; what mutmut has found so far stays."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, COPY / name
        if not source.is_file():
            continue
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


@contextmanager
def _one_database() -> Iterator[None]:
    """One migrated database for all mutants: a server for each would take seconds."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-mutants-"))
    folder.chmod(0o755)
    server = start_postgres(folder, fsync=False, extra_settings=TEST_SETTINGS)
    try:
        asyncio.run(run_as_superuser(server.dsn(), "CREATE DATABASE mutants"))
        os.environ[GIVEN_DATABASE] = dsn_of(server.dsn(), "mutants")
        asyncio.run(upgrade(os.environ[GIVEN_DATABASE]))
        yield
    finally:
        os.environ.pop(GIVEN_DATABASE, None)
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _ask(area: str, mutants: list[Mutant]) -> None:
    if not mutants:
        return
    own = AREAS[area].own
    asked = {"own": own, "mutants": [(m.name, m.mark) for m in mutants]}
    (COPY / "names.json").write_text(json.dumps(asked))
    tests = (*own, *AREAS[area].others)
    plugins = ["-p", "tests.museum.asking", "-p", "no:cacheprovider", "-p", "no:xdist"]
    _logged(
        *("-m", "pytest", "-q", *plugins, "--hypothesis-seed=0", "-k", LEFT_OUT, *tests),
        where=COPY / "mutants",
    )


def _logged(*arguments: str, where: Path) -> None:
    with (COPY / "mutants.log").open("a") as log:
        subprocess.run([sys.executable, *arguments], cwd=where, check=True, stdout=log, stderr=log)


def _found() -> list[Mutant]:
    """Every mutant that mutmut made, with the last answer to its function as it is now."""
    listed = tomllib.loads(EQUIVALENT.read_text("utf-8"))["equivalent"]
    harmless = [each["mutant"] for each in listed]
    answers = {}
    if RESULTS.exists():
        for line in RESULTS.read_text().splitlines():
            answer = json.loads(line)
            answers[answer["name"], answer["hash"]] = answer["code"]
    mutants = []
    for path in sorted((COPY / "mutants").rglob("*.py.meta")):
        made = json.loads(path.read_text())
        for name in made["exit_code_by_key"]:
            area = next((a for a, each in AREAS.items() if name.startswith(each.modules)), None)
            function = name.rpartition(".")[2].rpartition("__mutmut_")[0]
            mark = made["hash_by_function_name"].get(function, "")
            if area is not None:
                answer = answers.get((name, mark))
                mutants.append(Mutant(name, mark, area, answer, _fits(name, harmless)))
    return mutants


def _fits(name: str, patterns: tuple[str, ...] | list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _chosen(mutants: list[Mutant], wish: argparse.Namespace) -> list[Mutant]:
    chosen = list[Mutant]()
    for area in wish.area or AREAS:
        of_area = [m for m in mutants if m.area == area]
        if wish.names:
            of_area = [m for m in of_area if _fits(m.name, wish.names)]
        of_area.sort(key=lambda m: hashlib.sha256(f"{wish.seed}:{m.name}".encode()).digest())
        chosen += of_area[: wish.sample]
    return chosen


def _report(mutants: list[Mutant]) -> int:
    for mutant in sorted(mutants, key=lambda m: m.name):
        if mutant.survived:
            print(f"  survived: {mutant.name}")
    print("area     mutants  killed  survived  equivalent  untried   score  95 % interval")
    below = False
    for area in (*AREAS, "all"):
        of_area = [m for m in mutants if area in (m.area, "all")]
        if of_area:
            below = _line(area, of_area) < GOAL or below
    return 1 if below else 0


def _line(area: str, mutants: list[Mutant]) -> float:
    """Prints one line of the table and returns its score."""
    killed = sum(m.killed for m in mutants)
    survived = sum(m.survived for m in mutants)
    untried = sum(m.code is None for m in mutants)
    equivalent = len(mutants) - killed - survived - untried
    low, high = interval(killed, killed + survived)
    score = killed / max(1, killed + survived)
    print(
        f"{area:<8} {len(mutants):>7} {killed:>7} {survived:>9} {equivalent:>11} {untried:>8} "
        f"{score:>7.1%}  {low:.1%} to {high:.1%}"
    )
    return score


def interval(killed: int, tried: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; the whole range where nothing was tried."""
    if tried == 0:
        return 0.0, 1.0
    z = 1.96
    share = killed / tried
    middle = share + z * z / (2 * tried)
    reach = z * math.sqrt(share * (1 - share) / tried + z * z / (4 * tried * tried))
    width = 1 + z * z / tried
    return (middle - reach) / width, (middle + reach) / width


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
