"""`python -m deploy.local.watcher SUPERVISOR_PID DATA_DIR`: the death signal where there is none.

Linux ends the children by itself. Elsewhere this small process outlives a killed supervisor just
long enough to sweep what it left, PostgreSQL included.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.local.runfile import read_run_file
from deploy.local.supervisor import sweep

POLL_S = 0.2


def main(arguments: Sequence[str]) -> int:
    supervisor_pid, data_dir = int(arguments[0]), Path(arguments[1])
    while os.getppid() == supervisor_pid:
        time.sleep(POLL_S)
    info = read_run_file(data_dir)
    # A next supervisor may already run on the directory: its stack is not ours to end.
    if info is not None and info.supervisor.pid == supervisor_pid:
        sweep(data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
