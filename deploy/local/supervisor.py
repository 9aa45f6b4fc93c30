"""One small supervisor for the whole local stack (architecture §10).

Starts PostgreSQL, Temporal, the simulated exchange and the workers in this order, each in its
own process session, and stops them in the reverse one. Every child ends with the supervisor,
whatever ends it; what a kill still leaves behind is swept at the next start on the same data
directory. Works synchronously and from the main thread only: the kernel ties a child's death
signal to the thread that forked it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

from deploy.local.postgres import (
    LocalPostgres,
    PostgresFailed,
    start_postgres,
    sweep_leftover,
)
from deploy.local.processes import (
    Child,
    ChildFailed,
    ChildSpec,
    end_leftover,
    free_port,
    kill_group,
    start_time,
    tail,
)
from deploy.local.runfile import (
    ProcessEntry,
    RunInfo,
    StackState,
    read_run_file,
    remove_run_file,
    write_run_file,
)
from deploy.local.temporal import NAMESPACE, server_spec
from domain.errors import HoldfastError
from observability.build import repository_root

CHECK_EVERY_S = 0.2
RESTART_DELAY_FIRST_S = 0.2
RESTART_DELAY_MAX_S = 10.0
# A child that lived this long has recovered: its next failure starts from the short delay.
RESTART_FORGIVEN_AFTER_S = 60.0
LEDGER_DATABASE = "holdfast"
POSTGRES, TEMPORAL, EXCHANGE = "postgres", "temporal", "exchange"
ALREADY_RUNNING = "ALREADY_RUNNING"

ChildTemplate = Callable[[RunInfo], ChildSpec]


class StackFailed(HoldfastError):
    """The stack could not be started, stopped or found; `code` tells which."""

    code = "STACK_FAILED"


@dataclass(frozen=True)
class StackConfig:
    """What to run. Templates are asked for their command once the addresses are known.

    `prepare` runs after PostgreSQL, Temporal and the exchange are ready and before the workers
    start (migrations, namespace set-up), `after_start` once the workers poll and before the stack
    counts as ready (current version). `before_stop` runs first when stopping in order
    (sessions). `report` receives one line per event.
    """

    data_dir: Path
    exchange: ChildTemplate | None = None
    workers: Sequence[ChildTemplate] = ()
    prepare: Sequence[Callable[[RunInfo], None]] = ()
    after_start: Sequence[Callable[[RunInfo], None]] = ()
    before_stop: Sequence[Callable[[RunInfo], None]] = ()
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
    web_ui: bool = True
    restart: bool = True
    fsync: bool = True


class _Part(Protocol):
    """A started part of the stack."""

    @property
    def pid(self) -> int: ...
    def exit_code(self) -> int | None: ...
    def send_stop(self) -> None: ...
    def wait_stopped(self) -> None: ...
    def kill(self) -> None: ...


@dataclass
class _Slot:
    """A part's place: how to start it again, and how often that was needed lately."""

    name: str
    start: Callable[[], _Part]
    log_file: Path
    restart: bool = True
    part: _Part | None = None
    restarts: int = 0
    started_at: float = 0.0
    not_before: float = field(default=0.0)


class _PostgresPart:
    """`LocalPostgres` in the supervisor's words."""

    def __init__(self, server: LocalPostgres) -> None:
        self._server = server

    @property
    def pid(self) -> int:
        return self._server.pid

    def exit_code(self) -> int | None:
        return self._server.process.poll()

    def send_stop(self) -> None:
        """Nothing: `stop` sends and waits, and nothing is stopped beside PostgreSQL."""

    def wait_stopped(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        kill_group(self.pid)
        self._server.process.wait()


class Supervisor:
    """Owns the local stack from `start` to `stop`."""

    def __init__(self, config: StackConfig) -> None:
        self._config = config
        self._data_dir = config.data_dir.resolve()
        self._slots: list[_Slot] = []
        self._lock_file: IO[str] | None = None
        # A plain flag: a lock of `threading.Event` could be held by the very thread that the
        # signal handler interrupts.
        self._stop_wanted = False
        self._info = RunInfo(
            data_dir=str(self._data_dir),
            supervisor=ProcessEntry(
                name="supervisor", pid=os.getpid(), started=start_time(os.getpid())
            ),
        )

    @property
    def info(self) -> RunInfo:
        return self._info

    def start(self) -> RunInfo:
        """Starts everything and returns the addresses; undoes itself when a part fails.

        Raises:
            StackFailed: ALREADY_RUNNING, or STACK_FAILED with the tail of the failed log.
        """
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._lock_file = lock(self._data_dir)
        try:
            sweep(self._data_dir)
            self._update(state=StackState.STARTING)
            if sys.platform != "linux":
                start_watcher(self._data_dir)
            self._start_parts()
            self._update(state=StackState.READY)
        except (ChildFailed, PostgresFailed) as error:
            self.stop(hard=True)
            raise StackFailed(str(error)) from error
        except BaseException:
            self.stop(hard=True)
            raise
        return self._info

    def check(self) -> None:
        """One look at every part: reports what ended and starts it again with backoff."""
        for slot in self._slots:
            if slot.part is None:
                self._restart_when_due(slot)
            elif (code := slot.part.exit_code()) is not None:
                self._note_end(slot, code)

    def run(self) -> None:
        """`start`, watch until SIGINT or SIGTERM, `stop` in order: the foreground `up`.

        A signal while starting undoes the start; a second one while stopping kills what is left.
        """
        with self._signals_stop():
            self.start()
            self.run_forever()

    def run_forever(self) -> None:
        """Watches a started stack until a signal or `request_stop`, then stops in order."""
        with self._signals_stop():
            while not self._stop_wanted:
                self.check()
                time.sleep(CHECK_EVERY_S)
            self.stop()

    def request_stop(self) -> None:
        self._stop_wanted = True

    def stop(self, *, hard: bool = False) -> None:
        """Sessions, workers (drain), exchange, Temporal, PostgreSQL; `hard` kills at once."""
        if self._lock_file is None:
            return
        self._update(state=StackState.STOPPING)
        if not hard:
            self._run_before_stop()
        workers = [slot for slot in self._slots if slot.name not in _INFRASTRUCTURE]
        rest = [slot for slot in reversed(self._slots) if slot.name in _INFRASTRUCTURE]
        # All workers drain at the same time; the servers end one after another.
        for group in (workers, *([slot] for slot in rest)):
            _stop_group(group, hard=hard)
        self._slots.clear()
        remove_run_file(self._data_dir)
        self._lock_file.close()
        self._lock_file = None

    @contextlib.contextmanager
    def running(self) -> Iterator[RunInfo]:
        """`start` and `stop` around a block."""
        # Whoever reads READY may interrupt at once: no step may lie between start and `try`.
        try:
            yield self.start()
        finally:
            self.stop()

    def _start_parts(self) -> None:
        logs = self._data_dir / "logs"
        self._update(temporal_namespace=NAMESPACE)
        self._start_postgres()
        port = free_port()
        ui_port = free_port() if self._config.web_ui else None
        database = self._data_dir / "temporal.db"
        spec = server_spec(port=port, ui_port=ui_port, database=database)
        self._add_child(spec, logs)
        self._update(
            temporal_address=f"127.0.0.1:{port}",
            web_ui_url="" if ui_port is None else f"http://127.0.0.1:{ui_port}",
        )
        if self._config.exchange is not None:
            self._update(**_exchange_addresses())
            self._add_child(self._config.exchange(self._info), logs)
        for step in self._config.prepare:
            step(self._info)
        for template in self._config.workers:
            self._add_child(template(self._info), logs)
        for step in self._config.after_start:
            step(self._info)

    def _start_postgres(self) -> None:
        directory = self._data_dir / "postgres"
        port = free_port()

        def start() -> _Part:
            server = start_postgres(directory, port=port, fsync=self._config.fsync)
            self._update(ledger_dsn=server.dsn(LEDGER_DATABASE))
            return _PostgresPart(server)

        self._add(_Slot(POSTGRES, start, directory / "postgres.log"))

    def _add_child(self, spec: ChildSpec, logs: Path) -> None:
        log_file = logs / f"{spec.name}.log"

        def start() -> _Part:
            child = Child(spec, log_file)
            try:
                child.wait_until_ready()
            except BaseException:
                child.kill()
                raise
            return child

        self._add(_Slot(spec.name, start, log_file, restart=spec.restart))

    def _add(self, slot: _Slot) -> None:
        self._slots.append(slot)
        self._start_slot(slot)

    def _start_slot(self, slot: _Slot) -> None:
        slot.part = slot.start()
        slot.started_at = time.monotonic()
        self._update(processes=self._entries())

    def _note_end(self, slot: _Slot, code: int) -> None:
        lived_s = time.monotonic() - slot.started_at
        if lived_s > RESTART_FORGIVEN_AFTER_S:
            slot.restarts = 0
        delay_s = min(RESTART_DELAY_FIRST_S * 2**slot.restarts, RESTART_DELAY_MAX_S)
        slot.restarts += 1
        # Whatever it left in its session must not run beside its successor.
        if slot.part is not None:
            slot.part.kill()
        slot.part = None
        slot.not_before = time.monotonic() + delay_s
        will_restart = self._config.restart and slot.restart
        then = f"restart in {delay_s:g} s" if will_restart else "not restarted"
        self._config.report(
            f"{slot.name} ended with exit code {code} after {lived_s:.1f} s, {then}; "
            f"last lines of {slot.log_file}:\n{tail(slot.log_file)}"
        )

    def _restart_when_due(self, slot: _Slot) -> None:
        will_restart = self._config.restart and slot.restart
        if not will_restart or time.monotonic() < slot.not_before:
            return
        try:
            self._start_slot(slot)
        except (ChildFailed, PostgresFailed) as error:
            self._config.report(f"{slot.name} could not be restarted: {error}")
            slot.restarts += 1
            delay_s = min(RESTART_DELAY_FIRST_S * 2**slot.restarts, RESTART_DELAY_MAX_S)
            slot.not_before = time.monotonic() + delay_s
        else:
            self._config.report(f"{slot.name} was started again")

    def _run_before_stop(self) -> None:
        for step in self._config.before_stop:
            try:
                step(self._info)
            except Exception as error:
                # A session that cannot be told must not keep the machine from stopping.
                self._config.report(f"stopping goes on after: {error!r}")

    def _entries(self) -> tuple[ProcessEntry, ...]:
        return tuple(
            ProcessEntry(
                name=slot.name,
                pid=slot.part.pid,
                started=start_time(slot.part.pid),
                log_file=str(slot.log_file),
            )
            for slot in self._slots
            if slot.part is not None
        )

    def _update(self, **changes: Any) -> None:
        self._info = self._info.model_copy(update=changes)
        write_run_file(self._info)

    @contextlib.contextmanager
    def _signals_stop(self) -> Iterator[None]:
        def on_signal(_number: int, _frame: FrameType | None) -> None:
            if self._info.state is StackState.STARTING:
                raise KeyboardInterrupt
            if self._stop_wanted:
                for slot in self._slots:
                    if slot.part is not None:
                        kill_group(slot.part.pid)
            self._stop_wanted = True

        previous = {
            number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


_INFRASTRUCTURE = (POSTGRES, TEMPORAL, EXCHANGE)


def _exchange_addresses() -> dict[str, str]:
    return {
        "exchange_url": f"http://127.0.0.1:{free_port()}",
        "exchange_control_url": f"http://127.0.0.1:{free_port()}",
    }


def _stop_group(slots: Sequence[_Slot], *, hard: bool) -> None:
    parts = [slot.part for slot in slots if slot.part is not None]
    if hard:
        for part in parts:
            part.kill()
        return
    for part in parts:
        part.send_stop()
    for part in parts:
        part.wait_stopped()


def start_watcher(data_dir: Path) -> subprocess.Popen[bytes]:
    """Starts `deploy.local.watcher` for this process; it ends by itself after this one."""
    command = [sys.executable, "-m", "deploy.local.watcher", str(os.getpid()), str(data_dir)]
    return subprocess.Popen(  # noqa: S603 - our own command line
        command, cwd=repository_root(), stdin=subprocess.DEVNULL, start_new_session=True
    )


def lock(data_dir: Path) -> IO[str]:
    """The data directory's only owner; the kernel releases it with the process or the file.

    Raises:
        StackFailed: ALREADY_RUNNING.
    """
    path = data_dir / "supervisor.lock"
    lock_file = path.open("w")
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and lock another `up` may have moved the directory away, with this file.
        if not path.exists() or not os.path.samestat(os.stat(lock_file.fileno()), path.stat()):
            raise BlockingIOError
    except BlockingIOError:
        lock_file.close()
        text = f"a supervisor runs on {data_dir} already; stop it with: starter.py down"
        raise StackFailed(text, code=ALREADY_RUNNING) from None
    return lock_file


def sweep(data_dir: Path) -> tuple[str, ...]:
    """Ends what a killed supervisor left of this data directory; names what it ended.

    PostgreSQL is asked to shut down by its own data directory, the rest is killed.
    """
    info = read_run_file(data_dir)
    others = [each for each in info.processes if each.name != POSTGRES] if info else []
    swept = [entry.name for entry in others if end_leftover(entry.mark)]
    if (data_dir / "postgres").exists() and sweep_leftover(data_dir / "postgres"):
        swept.append(POSTGRES)
    remove_run_file(data_dir)
    return tuple(swept)
