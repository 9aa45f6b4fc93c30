"""A supervisor program for `test_supervisor.py`: the real servers and two small children.

`python -m tests.e2e.stack_program DATA_DIR` runs until it is told to stop.
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


def small_child(name: str, story: Path) -> ChildSpec:
    """A Python process that is ready when it says so and writes its end into the story."""
    marker = story.with_suffix(".ready")
    return ChildSpec(
        name=name,
        command=(sys.executable, "-c", _WORKER, str(story), name),
        ready=lambda: None if marker.exists() else "has not said it is ready",
    )


def stack(data_dir: Path) -> StackConfig:
    def worker(info: RunInfo) -> ChildSpec:
        return small_child("worker", Path(info.data_dir) / "worker.story")

    def exchange(info: RunInfo) -> ChildSpec:
        return small_child("exchange", Path(info.data_dir) / "exchange.story")

    return StackConfig(data_dir=data_dir, exchange=exchange, workers=(worker,), fsync=False)


def main() -> None:
    supervisor = Supervisor(stack(Path(sys.argv[1])))
    supervisor.start()
    supervisor.run_forever()


if __name__ == "__main__":
    main()
