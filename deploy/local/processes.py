"""Children of the supervisor: start, recognise, watch, stop.

A process is recognised by pid *and* start time: a pid alone may belong to a stranger after a
reboot or a wrap-around, and the sweep of leftovers must never kill a stranger.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from observability.build import repository_root

POLL_S = 0.05
TAIL_LINES = 20
_PS_TIMEOUT_S = 5


class ChildFailed(Exception):
    """A child did not become ready, or ended; the text shows the tail of its log."""


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """What recognises one process for as long as it lives."""

    pid: int
    started: str

    def is_alive(self) -> bool:
        return self.started != "" and start_time(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to run one child.

    `death_signal` reaches it when the supervisor is killed; `stop_signal` when it is stopped in
    order, `stop_timeout_s` before SIGKILL. `ready` answers None, or why it is not ready yet.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], str | None]
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: Path = field(default_factory=repository_root)
    ready_timeout_s: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    restart: bool = True


class Child:
    """One running child in its own process session, with its log file."""

    def __init__(self, spec: ChildSpec, log_file: Path) -> None:
        self.spec = spec
        self.log_file = log_file
        self._process = spawn(spec, log_file)
        self.mark = ProcessMark(self._process.pid, start_time(self._process.pid))

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; minus the signal number when one ended it."""
        return self._process.poll()

    def wait_until_ready(self) -> None:
        """Returns once `ready` answers None.

        Raises:
            ChildFailed: it ended first, or the deadline passed.
        """
        deadline = time.monotonic() + self.spec.ready_timeout_s
        reason: str | None = "was not asked yet"
        while time.monotonic() < deadline:
            code = self.exit_code()
            if code is not None:
                raise ChildFailed(self._report(f"ended with exit code {code}"))
            reason = self.spec.ready()
            if reason is None:
                return
            time.sleep(POLL_S)
        waited = f"was not ready after {self.spec.ready_timeout_s:g} s ({reason})"
        raise ChildFailed(self._report(waited))

    def send_stop(self) -> None:
        self._signal(self.spec.stop_signal)

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Waits for the end; what is left of its session after the deadline is killed."""
        limit_s = self.spec.stop_timeout_s if timeout_s is None else timeout_s
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole session; also takes what the child left behind."""
        kill_group(self.pid)
        self._process.wait()

    def tail(self) -> str:
        return tail(self.log_file)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _report(self, what: str) -> str:
        return f"{self.spec.name} {what}; last lines of {self.log_file}:\n{self.tail()}"


def spawn(spec: ChildSpec, log_file: Path) -> subprocess.Popen[bytes]:
    """Starts the command through the death-signal wrapper, output appended to the log."""
    # PR_SET_PDEATHSIG fires when the forking *thread* ends.
    assert threading.current_thread() is threading.main_thread(), "fork from the main thread"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    wrapper = [sys.executable, "-m", "deploy.local.child"]
    root = str(repository_root())
    inherited = os.environ.get("PYTHONPATH")
    path = root if not inherited else os.pathsep.join((root, inherited))
    with log_file.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - the supervisor's own command line
            [*wrapper, str(os.getpid()), str(int(spec.death_signal)), "--", *spec.command],
            cwd=spec.working_directory,
            env={**os.environ, "PYTHONPATH": path, **spec.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def start_time(pid: int) -> str:
    """The process's start time as an opaque text; "" when there is no such process.

    A zombie counts as gone: it holds no port and no file.
    """
    stat = Path(f"/proc/{pid}/stat")
    if sys.platform == "linux":
        try:
            # The name in parentheses may hold blanks; count fields from behind it.
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        # Ticks since boot say nothing across a reboot without the boot's own id.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return "" if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    shown = subprocess.run(  # noqa: S603 - a pid is all that varies
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],  # noqa: S607 - macOS keeps ps in /bin
        capture_output=True,
        text=True,
        timeout=_PS_TIMEOUT_S,
        check=False,
    ).stdout.strip()
    return "" if shown == "" or shown.startswith("Z") else shown.partition(" ")[2].strip()


def end_leftover(mark: ProcessMark, timeout_s: float = 5.0) -> bool:
    """Ends a process of an earlier run with its session; False when it is already gone."""
    if not mark.is_alive():
        return False
    kill_group(mark.pid)
    deadline = time.monotonic() + timeout_s
    while mark.is_alive():
        if time.monotonic() > deadline:
            raise ChildFailed(f"leftover process {mark.pid} could not be ended")
        time.sleep(POLL_S)
    return True


def kill_group(leader_pid: int) -> None:
    """SIGKILL to every process of the group that a session leader opened."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, signal.SIGKILL)


def free_port() -> int:
    """A free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_open(port: int) -> str | None:
    """None when something listens on the loopback port, otherwise the reason."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError as error:
        return f"port {port}: {error}"
    return None


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log; an empty text when there is none."""
    try:
        with path.open("rb") as log:
            return _last_lines(log, lines)
    except FileNotFoundError:
        return ""


def _last_lines(log: IO[bytes], lines: int) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - 16_384))
    return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
