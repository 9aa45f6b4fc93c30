"""`make mutants`: how many small changes to the money and safety code no test would notice (M5).

mutmut works in a copy of the tracked files under `.holdfast/mutants`, one process, and goes on
where it was ended. Its configuration is `[tool.mutmut]` in pyproject.toml; mutants that change
nothing that matters are in `equivalent.toml`, each with its reason.

    python -m tests.museum.mutants                       # all, or what is left of them
    python -m tests.museum.mutants "domain.risk*"        # some
    python -m tests.museum.mutants --report              # the score so far, survivors by name
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / ".holdfast" / "mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
KILLED, SURVIVED = 1, 0
GOAL = 0.90


def main(arguments: list[str]) -> int:
    """Runs what is left, unless only the report is wished for; 1 below the goal."""
    if "--report" not in arguments:
        _copy_tree()
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *arguments]
        subprocess.run(command, cwd=COPY, check=False)
    return _report()


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


def _report() -> int:
    equivalent = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]
    killed, survivors, untried = 0, list[str](), 0
    by_module: Counter[tuple[str, str]] = Counter()
    for path in sorted((COPY / "mutants").rglob("*.py.meta")):
        for name, code in json.loads(path.read_text())["exit_code_by_key"].items():
            module = name.rsplit(".", 1)[0]
            if code is None:
                untried += 1
            elif code != SURVIVED and code != 33:  # 33: no test reaches it
                killed += 1
                by_module[module, "killed"] += 1
            elif not any(fnmatchcase(name, each["mutant"]) for each in equivalent):
                survivors.append(name)
                by_module[module, "survived"] += 1
    for module in sorted({module for module, _ in by_module}):
        dead, alive = by_module[module, "killed"], by_module[module, "survived"]
        print(f"{module:<36} {dead:>5} killed {alive:>4} survived  {dead / (dead + alive):6.1%}")
    for name in survivors:
        print(f"  survived: {name}")
    score = killed / max(1, killed + len(survivors))
    print(f"mutation score {score:.1%} of {killed + len(survivors)} mutants, {untried} not tried")
    return 0 if score >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
