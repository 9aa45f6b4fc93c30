"""No child outlives its parent: `python -m deploy.local.child PARENT SIGNAL -- COMMAND...`.

Linux: asks the kernel for SIGNAL when the parent dies (PR_SET_PDEATHSIG) and becomes the
command by exec, so that nothing of this file stays. Elsewhere: stays as a guard that polls its
parent and ends the command's process session when the parent is gone.

The kernel ties the signal to the *thread* that forked: the supervisor forks from its main
thread only (`processes.spawn` asserts it).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

PR_SET_PDEATHSIG = 1
GUARD_POLL_S = 0.2
PARENT_GONE_EXIT_CODE = 71


def main(arguments: Sequence[str]) -> int:
    parent_pid, death_signal = int(arguments[0]), signal.Signals(int(arguments[1]))
    assert arguments[2] == "--", arguments
    command = list(arguments[3:])
    if sys.platform == "linux":
        die_with_parent(death_signal)
        # The parent may have died before the request reached the kernel.
        if os.getppid() != parent_pid:
            return PARENT_GONE_EXIT_CODE
        os.execvp(command[0], command)  # noqa: S606 - the supervisor's own command line
    return guard(parent_pid, death_signal, command)


def die_with_parent(death_signal: signal.Signals) -> None:
    """Linux: this process receives `death_signal` when the thread that forked it ends.

    Raises:
        OSError: the kernel refused; a child that could become an orphan must not start.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")


def guard(parent_pid: int, death_signal: signal.Signals, command: Sequence[str]) -> int:
    """Runs the command and ends it when `parent_pid` is no longer the parent (macOS)."""
    process = subprocess.Popen(command)  # noqa: S603 - the supervisor's own command line

    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, forward)
    while process.poll() is None:
        if os.getppid() != parent_pid:
            process.send_signal(death_signal)
            return process.wait()
        time.sleep(GUARD_POLL_S)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
