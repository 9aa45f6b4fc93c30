"""Named places where a test may kill this very process (faults.md A and B rows).

Inert unless `HOLDFAST_FAILPOINT` is set: `name:nth:action`, several parted by commas. Names are
`<activity>.enter`, `<activity>.exit`, `activation` and `activation.exit` (one workflow activation;
`replay` and `eviction` where it is done again from history or leaves the cache) and the durable
steps inside of an order activity or of a repair (`STEPS`, called by `Services.failpoint`); `nth`
counts from 1 per process; the actions are `kill` (SIGKILL, nothing is flushed), `exit`
(`os._exit(70)`) and `pause` (the thread stops for good, so that a test can look and then kill by
pid). With `HOLDFAST_FAILPOINT_ONCE=<file>` a point fires only if it can create that file,
so that a restarted process does not die at the same place again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from domain.errors import BadInput

VARIABLE = "HOLDFAST_FAILPOINT"
ONCE_VARIABLE = "HOLDFAST_FAILPOINT_ONCE"
EXIT_CODE = 70
ACTIVATIONS = ("activation", "replay", "eviction")
STEPS = (
    *("before_intent_row", "after_intent_row", "after_response", "after_ledger"),
    "after_repair",
)


class Action(StrEnum):
    KILL = "kill"
    EXIT = "exit"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Failpoint:
    """One place, the how-many-th pass, and what happens there."""

    name: str
    nth: int
    action: Action


class Failpoints:
    """Counts passes and acts at the wanted one; safe to call from any thread."""

    def __init__(self, points: tuple[Failpoint, ...], once_file: Path | None = None) -> None:
        self._points = points
        self._once_file = once_file
        self._passes: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._points)

    def hit(self, name: str) -> None:
        """Counts one pass of `name`; may not return."""
        if not self._points:
            return
        with self._lock:
            self._passes[name] += 1
            nth = self._passes[name]
        for point in self._points:
            if point.name == name and point.nth == nth and self._may_fire():
                _act(point)

    async def reach(self, name: str) -> None:
        """Counts one pass of an activity's entry or exit: here one activity alone can be held."""
        self.hit(name)

    def _may_fire(self) -> bool:
        if self._once_file is None:
            return True
        try:
            os.close(os.open(self._once_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True


def parse_failpoints(environment: Mapping[str, str]) -> Failpoints:
    """The points named in the environment; none when the variable is not set.

    Raises:
        BadInput: FAILPOINT_FORMAT, because a test with a misspelt point could not fail.
    """
    text = environment.get(VARIABLE, "")
    once = environment.get(ONCE_VARIABLE)
    points = tuple(_parse_one(part) for part in text.split(",")) if text else ()
    return Failpoints(points, Path(once) if once else None)


def _parse_one(text: str) -> Failpoint:
    name, _, rest = text.strip().partition(":")
    nth, _, action = rest.partition(":")
    known_name = name in (*ACTIVATIONS, *STEPS) or name.endswith((".enter", ".exit"))
    if not known_name or not nth.isdecimal() or int(nth) < 1 or action not in list(Action):
        names = f"<activity>.enter|<activity>.exit|{'|'.join((*ACTIVATIONS, *STEPS))}"
        allowed = f"{names}:nth:kill|exit|pause"
        raise BadInput("FAILPOINT_FORMAT", VARIABLE, text, allowed)
    return Failpoint(name, int(nth), Action(action))


def _act(point: Failpoint) -> None:
    sys.stderr.write(f"failpoint {point.name}:{point.nth}:{point.action}\n")
    sys.stderr.flush()
    if point.action is Action.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if point.action is Action.EXIT:
        os._exit(EXIT_CODE)
    threading.Event().wait()
