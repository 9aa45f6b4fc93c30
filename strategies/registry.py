"""Finds strategies and asks them: drop a `.py` with `generate_signal(bars, context)` in here.

Every strategy runs in a child process of its own. A file that does not load is refused with its
traceback; an answer that is not finite, not valid or not there in time becomes a named refusal
in the decision log. One strategy never stops another (faults.md §3 row 1, requirements #13, #19).
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from pydantic import ValidationError

from domain.bar import Bar
from domain.base import Frozen
from domain.signal import Decision, StrategyContext

LOAD_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 5.0
IDLE_EXIT_TIMEOUT_S = 0.5
STOP_TIMEOUT_S = 5.0
PROJECT_DIRECTORY = Path(__file__).resolve().parent.parent
STRATEGY_DIRECTORY = Path(__file__).resolve().parent
_NOT_STRATEGIES = frozenset({"registry.py", "__init__.py"})


class Question(Frozen):
    """One line to the child: decide about the newest of these bars."""

    bars: tuple[Bar, ...]
    context: StrategyContext
    timeout_s: float


class Answer(Frozen):
    """One line from the child. DECISION carries one; other codes name what went wrong."""

    code: str
    decision: Decision | None = None
    text: str = ""


class Listing(Frozen):
    """One file of the strategy folder: usable, or refused with the reason."""

    name: str
    usable: bool
    code: str = "READY"
    text: str = ""


class StrategyProcess:
    """One loaded strategy. Use as a context manager, or call `close`; not for several threads."""

    def __init__(self, path: Path, *, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.name = path.stem
        self._path = path
        self._answer_timeout_s = answer_timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._pump: threading.Thread | None = None

    def load(self) -> Listing:
        """Starts the child and loads the file; repeats do nothing while it runs."""
        if self._process is not None and self._process.poll() is None:
            return Listing(name=self.name, usable=True)
        self._start()
        answer = self._next_answer(LOAD_TIMEOUT_S)
        if answer.code != "READY":
            self.close()
        return Listing(
            name=self.name, usable=answer.code == "READY", code=answer.code, text=answer.text
        )

    def decide(self, bars: Sequence[Bar], context: StrategyContext) -> Decision:
        """The strategy's decision about the newest bar; never raises for what the strategy does.

        A hang ends its process; the next question starts a fresh one.
        """
        listing = self.load()
        if not listing.usable:
            return Decision.none(context, listing.text, listing.code)
        assert self._process is not None
        assert self._process.stdin is not None
        question = Question(bars=tuple(bars), context=context, timeout_s=self._answer_timeout_s)
        try:
            self._process.stdin.write(question.model_dump_json() + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError):
            answer = Answer(code="STRATEGY_DIED", text="the process was gone")
        else:
            answer = self._next_answer(self._answer_timeout_s)
        if answer.code in ("STRATEGY_HUNG", "STRATEGY_DIED"):
            self.close()
        if answer.code == "DECISION" and answer.decision is not None:
            return answer.decision
        return Decision.none(context, answer.text, answer.code)

    def close(self) -> None:
        """Ends the child: an idle one leaves when its input closes, a hung one is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(timeout=IDLE_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=STOP_TIMEOUT_S)
        if self._pump is not None:
            self._pump.join(timeout=STOP_TIMEOUT_S)

    def __enter__(self) -> StrategyProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        lines: queue.Queue[str] = queue.Queue()
        process = subprocess.Popen(  # noqa: S603 (our own interpreter and a file of our folder)
            [sys.executable, "-m", "strategies._host", str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT_DIRECTORY,
            env=_child_environment(),
            text=True,
            encoding="utf-8",
        )
        self._process, self._lines = process, lines
        assert process.stdout is not None
        self._pump = threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True)
        self._pump.start()

    def _next_answer(self, timeout_s: float) -> Answer:
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return Answer(code="STRATEGY_HUNG", text=f"no answer within {timeout_s:g} s")
        if not line:
            return Answer(code="STRATEGY_DIED", text="the process ended without an answer")
        try:
            return Answer.model_validate_json(line)
        except ValidationError:
            return Answer(code="STRATEGY_ANSWER", text="the answer was unreadable")


def strategy_files(directory: Path = STRATEGY_DIRECTORY) -> tuple[Path, ...]:
    """All strategy files in order of name; names that begin with `_` are helpers."""
    return tuple(
        path
        for path in sorted(directory.glob("*.py"))
        if path.name not in _NOT_STRATEGIES and not path.name.startswith("_")
    )


def list_strategies(directory: Path = STRATEGY_DIRECTORY) -> tuple[Listing, ...]:
    """Loads every file once and says which are usable and why the others are not."""
    listings: list[Listing] = []
    for path in strategy_files(directory):
        with StrategyProcess(path) as strategy:
            listings.append(strategy.load())
    return tuple(listings)


def find_strategy(name: str, directory: Path = STRATEGY_DIRECTORY) -> Path | None:
    """The file of the strategy called `name`, or None."""
    return next((path for path in strategy_files(directory) if path.stem == name), None)


def _pump(stream: IO[str], lines: queue.Queue[str]) -> None:
    """Moves lines from the pipe to the queue; an empty text marks the end."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")


def _child_environment() -> dict[str, str]:
    """What Python needs and nothing else: a strategy has no business with our secrets."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return environment
