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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from pydantic import Field, ValidationError

from domain.bar import Bar
from domain.base import Frozen
from domain.errors import BadInput
from domain.signal import Decision, StrategyContext

LOAD_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 5.0
LINE_CHARACTERS_MAX = 1_000_000
UNREAD_LINES_MAX = 16
IDLE_EXIT_TIMEOUT_S = 0.5
STOP_TIMEOUT_S = 5.0
HANGS_MAX = 3
REST_AFTER_HANGS_S = 60.0
PROJECT_DIRECTORY = Path(__file__).resolve().parent.parent
STRATEGY_DIRECTORY = Path(__file__).resolve().parent
# Codes after which nobody knows what the child would answer next.
_FATAL = frozenset({"STRATEGY_HUNG", "STRATEGY_DIED", "STRATEGY_GARBAGE", "STRATEGY_MEMORY"})
_NOT_STRATEGIES = frozenset({"registry.py", "__init__.py"})


class Question(Frozen):
    """One line to the child: decide about the newest of these bars.

    Without a context: which parameters hold if these are given?
    """

    bars: tuple[Bar, ...] = ()
    context: StrategyContext | None = None
    parameters: dict[str, str] = Field(default_factory=dict)
    timeout_s: float


class Answer(Frozen):
    """One line from the child. DECISION and PARAMETERS carry some; others name what went wrong."""

    code: str
    decision: Decision | None = None
    parameters: dict[str, str] = Field(default_factory=dict)
    text: str = ""


class Listing(Frozen):
    """One file of the strategy folder: usable, or refused with the reason.

    `parameters` are those that hold: what the file declares, changed by what was given.
    """

    name: str
    usable: bool
    code: str = "READY"
    text: str = ""
    parameters: dict[str, str] = Field(default_factory=dict)

    @property
    def refusal(self) -> BadInput:
        """Why it is not usable in one line for people: no traceback, `file:line` instead."""
        error = BadInput(self.code, "strategy", self.name)
        said = self.text.partition("\n")[0]
        if said:
            is_named = said.startswith((self.code, self.name))
            error.text = said if is_named else f"{self.name}: {said}"
        return error


class StrategyProcess:
    """One loaded strategy. Use as a context manager, or call `close`; not for several threads."""

    def __init__(
        self,
        path: Path,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        load_timeout_s: float = LOAD_TIMEOUT_S,
    ) -> None:
        self.name = path.stem
        self._path = path
        self._answer_timeout_s = answer_timeout_s
        self._load_timeout_s = load_timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._pump: threading.Thread | None = None
        self._refused: tuple[int, Listing] | None = None
        self._hangs = 0
        self._rests_until_s = 0.0

    def load(self) -> Listing:
        """Starts the child and loads the file; repeats do nothing while it runs.

        A file that did not load is tried again once it has changed, not at every bar.
        """
        if self._process is not None and self._process.poll() is None:
            return Listing(name=self.name, usable=True)
        changed_at = self._path.stat().st_mtime_ns if self._path.is_file() else 0
        if self._refused is not None and self._refused[0] == changed_at:
            return self._refused[1]
        self._start()
        answer = self._next_answer(self._load_timeout_s)
        usable = answer.code == "READY"
        listing = Listing(name=self.name, usable=usable, code=answer.code, text=answer.text)
        self._refused = None if usable else (changed_at, listing)
        if not usable:
            self.close()
        return listing

    def check(self, parameters: Mapping[str, str]) -> Listing:
        """The file with these parameters: usable, or PARAMETER_UNKNOWN, PARAMETER_INVALID.

        Checked against the file's `PARAMETERS`: a pydantic model, or defaults by name.
        """
        listing = self.load()
        if not listing.usable:
            return listing
        asked = Question(parameters=dict(parameters), timeout_s=self._answer_timeout_s)
        answer = self._exchange(asked)
        return Listing(
            name=self.name,
            usable=answer.code == "PARAMETERS",
            code="READY" if answer.code == "PARAMETERS" else answer.code,
            text=answer.text,
            parameters=answer.parameters,
        )

    def decide(self, bars: Sequence[Bar], context: StrategyContext) -> Decision:
        """The strategy's decision about the newest bar; never raises for what the strategy does.

        A hang ends its process; the next question starts a fresh one. After `HANGS_MAX` hangs in
        a row it rests a while, so that it cannot hold up a session that catches up on many bars.
        """
        rest_s = self._rests_until_s - time.monotonic()
        if rest_s > 0:
            text = f"hung {HANGS_MAX} times in a row, asked again in {rest_s:.0f} s"
            return Decision.none(context, text, "STRATEGY_HUNG")
        listing = self.load()
        if not listing.usable:
            return Decision.none(context, listing.text, listing.code)
        answer = self._exchange(
            Question(bars=tuple(bars), context=context, timeout_s=self._answer_timeout_s)
        )
        decision = answer.decision
        if answer.code != "DECISION" or decision is None:
            return Decision.none(context, answer.text, answer.code)
        mine = (context.strategy, context.instrument.symbol, context.now)
        if (decision.strategy, decision.symbol, decision.bar_time) != mine:
            # A line too many: every later answer would belong to the question before.
            self.close()
            return Decision.none(context, "the answer was to another question", "STRATEGY_ANSWER")
        return decision

    def _exchange(self, question: Question) -> Answer:
        """One question, one answer; a child that cannot go on is ended."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(question.model_dump_json() + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError):
            answer = Answer(code="STRATEGY_DIED", text="the process was gone")
        else:
            answer = self._next_answer(self._answer_timeout_s)
        if answer.code in _FATAL:
            self.close()
        self._hangs = self._hangs + 1 if answer.code == "STRATEGY_HUNG" else 0
        if self._hangs >= HANGS_MAX:
            self._hangs, self._rests_until_s = 0, time.monotonic() + REST_AFTER_HANGS_S
        return answer

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
            return Answer(code="STRATEGY_GARBAGE", text="the answer was unreadable")


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
            listings.append(strategy.check({}))
    return tuple(listings)


def find_strategy(name: str, directory: Path = STRATEGY_DIRECTORY) -> Path | None:
    """The file of the strategy called `name`, or None."""
    return next((path for path in strategy_files(directory) if path.stem == name), None)


def _pump(stream: IO[str], lines: queue.Queue[str]) -> None:
    """Moves lines from the pipe to the queue; an empty text marks the end."""
    with stream, contextlib.suppress(OSError, ValueError):
        # Bounded both ways: a child that writes for ever must not fill our memory.
        while lines.qsize() < UNREAD_LINES_MAX:
            line = stream.readline(LINE_CHARACTERS_MAX)
            if not line:
                break
            lines.put(line)
    lines.put("")


def _child_environment() -> dict[str, str]:
    """What Python needs and nothing else: a strategy has no business with our secrets."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    # Threads of numpy reserve memory for every core; the child's memory is limited.
    environment["OPENBLAS_NUM_THREADS"] = environment["OMP_NUM_THREADS"] = "1"
    return environment
