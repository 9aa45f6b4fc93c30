"""A supervisor program for `test_supervisor.py`: the real servers and two small children.

`python -m tests.e2e.stack_program DATA_DIR [stubborn]` runs until it is told to stop.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.local.processes import ChildSpec
from deploy.local.runfile import RunInfo
from deploy.local.supervisor import StackConfig, Supervisor

# Notes its drain on SIGTERM, and a process of its own that must not outlive it either.
_WORKER = """
import pathlib, signal, subprocess, sys, threading
log = pathlib.Path(sys.argv[1])
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
log.with_suffix('.ready').write_text('')
ended.wait()
with log.open('a') as out: out.write(sys.argv[2] + ' drained\\n')
"""


# Would never end by itself, and takes no notice of a wish.
_STUBBORN = """
import pathlib, signal, sys, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).with_suffix('.ready').write_text('')
threading.Event().wait()
"""


def small_child(name: str, story: Path, program: str = _WORKER) -> ChildSpec:
    """A Python process that is ready when it says so and writes its end into the story."""
    marker = story.with_suffix(".ready")
    return ChildSpec(
        name=name,
        command=(sys.executable, "-c", program, str(story), name),
        stop_timeout_s=60,
        ready=lambda: None if marker.exists() else "has not said it is ready",
    )


def stack(data_dir: Path, worker_program: str = _WORKER) -> StackConfig:
    def worker(info: RunInfo) -> ChildSpec:
        return small_child("worker", Path(info.data_dir) / "worker.story", worker_program)

    def exchange(info: RunInfo) -> ChildSpec:
        return small_child("exchange", Path(info.data_dir) / "exchange.story")

    return StackConfig(data_dir=data_dir, exchange=exchange, workers=(worker,), fsync=False)


def main() -> None:
    program = _STUBBORN if "stubborn" in sys.argv else _WORKER
    Supervisor(stack(Path(sys.argv[1]), program)).run()


if __name__ == "__main__":
    main()
