"""The supervisor from outside: start it detached, ask about it, stop it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.processes import POLL_S, TAIL_LINES, kill_group, tail
from deploy.local.runfile import ProcessEntry, RunInfo, StackState, read_run_file
from deploy.local.supervisor import StackFailed, lock, sweep

# PostgreSQL and Temporal start in about two seconds; a first `initdb` on a busy machine takes ten.
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
_REFUSAL = re.compile(r"([A-Z][A-Z_]{3,}) ")

# Kept so that Python does not warn about a process that is meant to outlive this one.
_DETACHED: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the stack and whether it lives."""

    entry: ProcessEntry
    alive: bool


@dataclass(frozen=True, slots=True)
class StackStatus:
    """What runs on a data directory; `info` is None when nothing does."""

    info: RunInfo | None
    processes: tuple[ProcessStatus, ...] = ()

    @property
    def is_up(self) -> bool:
        """Ready, and the supervisor and each of its processes live."""
        ready = self.info is not None and self.info.state is StackState.READY
        return ready and all(each.alive for each in self.processes)


def status(data_dir: Path) -> StackStatus:
    """Reads the run file and looks at each process by pid and start time."""
    info = read_run_file(data_dir)
    if info is None:
        return StackStatus(None)
    entries = (info.supervisor, *info.processes)
    return StackStatus(info, tuple(ProcessStatus(each, each.mark.is_alive()) for each in entries))


def start_detached(
    command: Sequence[str], data_dir: Path, *, timeout_s: float = START_TIMEOUT_S
) -> RunInfo:
    """Runs `command` (the foreground `up`) in a session of its own until its stack is ready.

    It keeps the folder of the caller: `./holdfast.toml` and relative paths mean the same there.

    Raises:
        StackFailed: with the code of its refusal, such as ALREADY_RUNNING or BUILD_MISSING;
            STACK_FAILED: it ended otherwise, or was not ready in time, with the end of its log.
    """
    data_dir = data_dir.resolve()
    log_file = data_dir / "logs" / "supervisor.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        started_at = log.tell()
        process = subprocess.Popen(  # noqa: S603 - our own command line
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _DETACHED[:] = [each for each in _DETACHED if each.poll() is None] + [process]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        info = read_run_file(data_dir)
        ready = info is not None and info.state is StackState.READY
        if ready and info is not None and info.supervisor.pid == process.pid:
            return info
        code = process.poll()
        if code is not None:
            raise _why_it_ended(code, log_file, started_at)
        time.sleep(POLL_S)
    kill_group(process.pid)
    process.wait()
    raise StackFailed(f"up was not ready after {timeout_s:g} s:\n{tail(log_file)}")


def _why_it_ended(code: int, log_file: Path, started_at: int) -> StackFailed:
    """The child's own refusal, which it says last, else the end of what it wrote this time."""
    written = log_file.read_bytes()[started_at:] if log_file.exists() else b""
    lines = written.decode(errors="replace").splitlines()[-TAIL_LINES:]
    refusal = _REFUSAL.match(lines[-1]) if lines and code > 0 else None
    if refusal is not None:
        return StackFailed(lines[-1], code=refusal[1])
    shown = "\n".join(lines).strip() or f"it wrote nothing to {log_file}"
    return StackFailed(f"up ended with exit code {code}:\n{shown}")


def down(data_dir: Path, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stops the stack in order and sweeps what is left; False when there was nothing.

    Raises:
        StackFailed: the supervisor did not end in time, even after the second (hard) signal.
    """
    data_dir = data_dir.resolve()
    info = read_run_file(data_dir)
    if info is None:
        return False
    supervisor = info.supervisor.mark
    for patience_s in (timeout_s, timeout_s / 2):
        if not supervisor.is_alive():
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor.pid, signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while supervisor.is_alive() and time.monotonic() < deadline:
            time.sleep(POLL_S)
    if supervisor.is_alive():
        raise StackFailed(f"supervisor process {supervisor.pid} did not end")
    with lock(data_dir):
        sweep(data_dir)
    return True
