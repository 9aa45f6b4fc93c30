"""The local stack leaves no orphan, whatever ends it (architecture §10; faults.md H rows).

Real PostgreSQL and Temporal, real signals; processes are recognised by pid and start time, and
what they left behind by their process session.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local import control
from deploy.local.control import down, start_detached, status
from deploy.local.processes import ChildSpec, ProcessMark, start_time
from deploy.local.runfile import RunInfo, StackState, run_file, write_run_file
from deploy.local.stack import (
    exchange_child,
    prepare_ledger,
    prepare_temporal,
    stack_environment,
)
from deploy.local.supervisor import StackConfig, StackFailed, Supervisor
from deploy.temporal.lanes import OrderLane
from ledger.schema import current_revision, head_revision
from tests.e2e.stack_program import small_child, stack

GONE_TIMEOUT_S = 10.0


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # A zombie of a killed supervisor is ours to reap; a living one is stopped.
    down(tmp_path)
    for process in control._DETACHED:
        process.wait(GONE_TIMEOUT_S)
    control._DETACHED.clear()


def start(data_dir: Path) -> RunInfo:
    for marker in data_dir.glob("*.ready"):
        marker.unlink()
    command = [sys.executable, "-m", "tests.e2e.stack_program", str(data_dir)]
    return start_detached(command, data_dir)


def eventually(condition: Callable[[], bool], what: str, timeout_s: float) -> float:
    """Waits for the condition; returns the seconds that it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - begin


def sessions_alive(info: RunInfo) -> list[str]:
    """Command lines of all processes in the sessions of the stack's children (Linux)."""
    leaders = {entry.pid for entry in info.processes}
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            if os.getsid(pid) in leaders and (folder / "cmdline").read_bytes():
                alive.append((folder / "cmdline").read_text().replace("\0", " ")[:80])
        except (ProcessLookupError, FileNotFoundError):
            continue
    return alive


def all_gone(info: RunInfo) -> bool:
    """No child lives, nor the supervisor where that is not this very process."""
    own = info.supervisor.pid == os.getpid()
    entries = info.processes if own else (info.supervisor, *info.processes)
    marks_gone = not any(entry.mark.is_alive() for entry in entries)
    return marks_gone and (sys.platform != "linux" or not sessions_alive(info))


def test_sigkill_of_the_supervisor_leaves_no_orphan_and_the_next_start_works(
    data_dir: Path,
) -> None:
    first = start(data_dir)
    assert {entry.name for entry in first.processes} == {
        *("postgres", "temporal", "exchange", "worker")
    }
    assert status(data_dir).is_up

    os.kill(first.supervisor.pid, signal.SIGKILL)
    second = start(data_dir)

    # The second start swept what the first one left, before it started anything itself.
    eventually(lambda: all_gone(first), "the first stack is gone", GONE_TIMEOUT_S)
    assert status(data_dir).is_up
    assert second.ledger_dsn != first.ledger_dsn

    os.kill(second.supervisor.pid, signal.SIGKILL)
    eventually(lambda: all_gone(second), "nothing is left without a sweep", GONE_TIMEOUT_S)
    assert not status(data_dir).is_up


@pytest.mark.covers("H15")
def test_stop_signal_drains_workers_before_the_servers_and_exits_clean(data_dir: Path) -> None:
    info = start(data_dir)
    mode = stat.S_IMODE(run_file(data_dir).stat().st_mode)
    assert mode == 0o600, oct(mode)

    assert down(data_dir)

    assert all_gone(info)
    assert not run_file(data_dir).exists()
    worker, exchange = data_dir / "worker.story", data_dir / "exchange.story"
    assert worker.read_text() == "worker drained\n"
    assert exchange.read_text() == "exchange drained\n"
    assert worker.stat().st_mtime_ns < exchange.stat().st_mtime_ns
    assert not down(data_dir)


def test_interrupt_at_the_moment_of_ready_still_stops_every_child(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for READY may send Ctrl-C before `start` has returned."""
    seen: list[RunInfo] = []

    def write_then_interrupt(info: RunInfo) -> None:
        write_run_file(info)
        if info.state is StackState.READY:
            seen.append(info)
            raise KeyboardInterrupt

    monkeypatch.setattr("deploy.local.supervisor.write_run_file", write_then_interrupt)
    supervisor = Supervisor(StackConfig(data_dir=data_dir, web_ui=False, fsync=False))
    with pytest.raises(KeyboardInterrupt), supervisor.running():
        raise AssertionError("not reached")
    (info,) = seen
    assert len(info.processes) == 2
    assert all_gone(info)
    assert not run_file(data_dir).exists()


def test_killed_server_is_started_again_and_reported(data_dir: Path) -> None:
    lines: list[str] = []
    plain = stack(data_dir)
    config = StackConfig(
        data_dir=data_dir, workers=plain.workers, report=lines.append, web_ui=False, fsync=False
    )
    supervisor = Supervisor(config)
    with supervisor.running() as info:
        for name in ("temporal", "postgres"):
            entry = info.process(name)
            assert entry is not None
            os.kill(entry.pid, signal.SIGKILL)

            def is_back(name: str = name, old_pid: int = entry.pid) -> bool:
                supervisor.check()
                now = supervisor.info.process(name)
                return now is not None and now.pid != old_pid and now.mark.is_alive()

            eventually(is_back, f"{name} is back", 20.0)
        assert supervisor.info.temporal_address == info.temporal_address
        assert supervisor.info.ledger_dsn == info.ledger_dsn
    assert [line for line in lines if line.startswith("temporal ended with exit code -9")]
    assert [line for line in lines if line.startswith("postgres ended with exit code -9")]
    assert all_gone(supervisor.info)


def test_second_supervisor_on_the_same_directory_is_refused(data_dir: Path) -> None:
    info = start(data_dir)
    with pytest.raises(StackFailed) as refused:
        Supervisor(stack(data_dir)).start()
    assert refused.value.code == "ALREADY_RUNNING"
    assert read_supervisor_pid(data_dir) == info.supervisor.pid
    assert status(data_dir).is_up


def test_child_that_dies_at_start_is_shown_with_its_log_and_nothing_stays(
    data_dir: Path,
) -> None:
    def broken(info: RunInfo) -> ChildSpec:
        spec = small_child("worker", Path(info.data_dir) / "never.story")
        return ChildSpec(
            name="worker",
            command=(sys.executable, "-c", "raise SystemExit('no such account')"),
            ready=spec.ready,
        )

    config = StackConfig(data_dir=data_dir, workers=(broken,), web_ui=False, fsync=False)
    supervisor = Supervisor(config)
    with pytest.raises(StackFailed, match=r"worker ended with exit code 1.*\n.*no such account"):
        supervisor.start()
    assert all_gone(supervisor.info)
    assert not run_file(data_dir).exists()


def test_stack_serves_a_migrated_ledger_a_prepared_namespace_and_the_exchange(
    data_dir: Path,
) -> None:
    lane = OrderLane(account="demo", broker_requests_per_minute=200)
    config = StackConfig(
        data_dir=data_dir,
        exchange=exchange_child(),
        prepare=(prepare_ledger, prepare_temporal(lanes=[lane])),
        web_ui=True,
        fsync=False,
    )
    with Supervisor(config).running() as info:
        assert asyncio.run(current_revision(info.ledger_dsn)) == head_revision()
        assert stack_environment(info)["HOLDFAST_BROKER_TRADING_URL"] == info.exchange_url
        for url in (f"{info.exchange_control_url}/sim/state", info.web_ui_url):
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert answer.status == 200
    # A second start on the same data finds its ledger again.
    with Supervisor(config).running() as info:
        assert asyncio.run(current_revision(info.ledger_dsn)) == head_revision()


def test_second_stop_signal_ends_a_child_that_does_not_drain(data_dir: Path) -> None:
    command = [sys.executable, "-m", "tests.e2e.stack_program", str(data_dir), "stubborn"]
    info = start_detached(command, data_dir)
    os.kill(info.supervisor.pid, signal.SIGINT)

    def is_stopping() -> bool:
        now = status(data_dir).info
        return now is not None and now.state is StackState.STOPPING

    eventually(is_stopping, "the stack is stopping", GONE_TIMEOUT_S)
    assert info.supervisor.mark.is_alive()
    os.kill(info.supervisor.pid, signal.SIGINT)
    eventually(lambda: all_gone(info), "everything is gone", GONE_TIMEOUT_S)
    assert not run_file(data_dir).exists()


def test_watcher_sweeps_after_a_killed_parent_where_no_death_signal_exists(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from deploy.local import runfile, supervisor\n"
        "from deploy.local.processes import start_time\n"
        "import os\n"
        "sleeper = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "entry = lambda name, pid: runfile.ProcessEntry(name=name, pid=pid,"
        " started=start_time(pid))\n"
        "info = runfile.RunInfo(data_dir=sys.argv[1], supervisor=entry('s', os.getpid()),"
        " state='ready', processes=(entry('sleeper', sleeper.pid),))\n"
        "watcher = supervisor.start_watcher(Path(sys.argv[1]))\n"
        "runfile.write_run_file(info)\n"
        "time.sleep(600)\n"
    )
    info = start_detached([sys.executable, "-c", program, str(tmp_path)], tmp_path)
    assert not all_gone(info)
    os.kill(info.supervisor.pid, signal.SIGKILL)
    eventually(lambda: all_gone(info), "the watcher has swept", GONE_TIMEOUT_S)
    eventually(lambda: not run_file(tmp_path).exists(), "the run file is gone", GONE_TIMEOUT_S)
    control._DETACHED.pop().wait(GONE_TIMEOUT_S)


def read_supervisor_pid(data_dir: Path) -> int:
    info = status(data_dir).info
    assert info is not None
    return info.supervisor.pid


def test_guard_ends_its_command_when_the_parent_is_killed(tmp_path: Path) -> None:
    """The way of systems without a death signal; runs everywhere."""
    pid_file = tmp_path / "pid"
    command = f"import os, pathlib; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))"
    guarded = [sys.executable, "-c", f"{command}; import time; time.sleep(600)"]
    program = (
        "import os, signal, subprocess, sys, time\n"
        "guard = 'import signal, sys; from deploy.local.child import guard;"
        " guard(int(sys.argv[1]), signal.SIGKILL, sys.argv[2:])'\n"
        "subprocess.Popen([sys.executable, '-c', guard, str(os.getpid()), *sys.argv[1:]])\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, *guarded])
    eventually(lambda: pid_file.exists() and pid_file.read_text() != "", "it runs", 20.0)
    pid = int(pid_file.read_text())
    mark = ProcessMark(pid, start_time(pid))
    assert mark.is_alive()
    parent.kill()
    parent.wait()
    eventually(lambda: not mark.is_alive(), "the guarded command has ended", GONE_TIMEOUT_S)
