"""PostgreSQL away, slow or restarted: named within seconds, healed by itself (H5, F5)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import select

from deploy.local.postgres import LocalPostgres, start_postgres, sweep_leftover
from domain.errors import Transient
from ledger.connection import limit_waits, lock_shared
from ledger.control_store import GATE_IDLE_MS, GATE_LOCK_MS, gate_lock_name
from ledger.errors import LedgerDown
from ledger.migrate import upgrade
from ledger.repository import Ledger
from ledger.tables import control
from tests.ledger.samples import ACCOUNT, NOW, intent, kill, owner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own-server")


@pytest.fixture
def own_server(folder: Path) -> Iterator[LocalPostgres]:
    """A server of this test alone, to be stopped and started."""
    server = start_postgres(folder, fsync=False)
    yield server
    server.stop()


async def test_nobody_listening_is_ledger_down_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dsn = f"postgresql://u:p@127.0.0.1:{closed.getsockname()[1]}/d"
        started = time.monotonic()
        with pytest.raises(LedgerDown) as raised:
            await Ledger.connect(dsn)
    assert raised.value.code == "LEDGER_DOWN"
    assert isinstance(raised.value, Transient)
    assert time.monotonic() - started < 2


@pytest.mark.covers("H5")
async def test_half_open_server_is_ledger_down_within_the_connect_timeout() -> None:
    """A listener that never answers: the connect timeout ends it."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        dsn = f"postgresql://u:p@127.0.0.1:{mute.getsockname()[1]}/d"
        started = time.monotonic()
        with pytest.raises(LedgerDown):
            await Ledger.connect(dsn, connect_timeout_s=0.5)
    assert time.monotonic() - started < 3


@pytest.mark.covers("H5")
async def test_restart_under_a_connected_ledger_is_named_and_healed(
    folder: Path, own_server: LocalPostgres
) -> None:
    dsn = own_server.dsn()
    await upgrade(dsn)
    ledger = await Ledger.connect(dsn)
    await ledger.ensure_account(ACCOUNT, "alpaca")
    await ledger.arm(ACCOUNT, "alice", "test")
    await ledger.engage_kill(ACCOUNT, kill())
    own_server.stop()
    for call in (
        ledger.open_gate(intent(), owner(), "t1", NOW),
        ledger.read_control(ACCOUNT),
        ledger.list_trades(),
    ):
        with pytest.raises(LedgerDown):
            await call
    again = start_postgres(folder, port=own_server.port, fsync=False)
    try:
        async with asyncio.timeout(10):
            control = await _until_up(ledger)
        assert control == (kill(),)
    finally:
        await ledger.aclose()
        again.stop()


async def _until_up(ledger: Ledger) -> object:
    while True:
        try:
            return (await ledger.read_control(ACCOUNT)).kills
        except LedgerDown:
            await asyncio.sleep(0.05)


async def test_lost_line_ends_the_listener_with_ledger_down(armed: Ledger, ledger_dsn: str) -> None:
    bells = armed.listen("holdfast_control")
    async with asyncio.timeout(5):
        assert await anext(bells) == ("ready", "")
        admin = await asyncpg.connect(ledger_dsn)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'holdfast-listen' AND datname = current_database()"
        )
        await admin.close()
        with pytest.raises(LedgerDown):
            await anext(bells)


@pytest.mark.covers("H5")
async def test_read_only_server_is_ledger_down_for_writes(empty_dsn: str) -> None:
    await upgrade(empty_dsn)
    database = empty_dsn.rpartition("/")[2]
    await _execute(empty_dsn, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    ledger = await Ledger.connect(empty_dsn)
    with pytest.raises(LedgerDown):
        await ledger.open_gate(intent(), owner(), "t1", NOW)
    await ledger.aclose()


@pytest.mark.covers("F5")
async def test_kill_goes_through_while_the_work_pool_is_used_up(ledger_dsn: str) -> None:
    """F5: the kill path has connections of its own."""
    ledger = await Ledger.connect(ledger_dsn, pool_size=1)
    await ledger.ensure_account(ACCOUNT, "alpaca")
    async with ledger._work():
        async with asyncio.timeout(2):
            answer = await ledger.engage_kill(ACCOUNT, kill())
    assert answer.controls[0].kills == (kill(),)
    await ledger.aclose()


@pytest.mark.covers("C8")
async def test_process_frozen_inside_the_gate_cannot_hold_up_a_kill(armed: Ledger) -> None:
    """M9, C8: its transaction is ended by the server, so it never commits its permit."""

    async def freeze() -> None:
        async with armed._work() as frozen:
            await limit_waits(frozen, lock_ms=GATE_LOCK_MS, idle_ms=GATE_IDLE_MS)
            await lock_shared(frozen, gate_lock_name(ACCOUNT), gate_lock_name("*"))
            await frozen.execute(select(control).with_for_update(read=True))
            started = time.monotonic()
            await armed.engage_kill(ACCOUNT, kill())
            waits_s.append(time.monotonic() - started)
            await frozen.execute(select(control))

    waits_s: list[float] = []
    with pytest.raises(LedgerDown):
        await freeze()
    assert 0.5 < waits_s[0] < 2


def test_server_runs_unprivileged_with_password_and_without_socket(
    folder: Path, own_server: LocalPostgres
) -> None:
    assert own_server.is_running()
    assert (folder / "data").stat().st_uid != 0 or os.geteuid() != 0
    assert (folder / "password").stat().st_mode & 0o077 == 0
    assert list(folder.rglob(".s.PGSQL*")) == []

    async def without_password() -> None:
        await asyncpg.connect(
            host="127.0.0.1", port=own_server.port, user="holdfast", password="wrong"
        )

    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(without_password())


def test_stop_is_idempotent_and_a_second_start_keeps_the_data(folder: Path) -> None:
    first = start_postgres(folder, fsync=False)
    asyncio.run(_execute(first.dsn(), "CREATE TABLE kept (number int)"))
    first.stop()
    first.stop()
    assert not first.is_running()
    second = start_postgres(folder, fsync=False)
    asyncio.run(_execute(second.dsn(), "SELECT * FROM kept"))
    second.stop()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


def test_server_ends_with_its_killed_parent_or_is_swept(folder: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; "
        "from deploy.local.postgres import start_postgres; "
        "server = start_postgres(Path(sys.argv[1]), fsync=False); "
        "print(server.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    pid = int(parent.stdout)
    if sys.platform == "linux":
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{pid}").exists()
    sweep_leftover(folder)
    again = start_postgres(folder, fsync=False)
    assert again.is_running()
    again.stop()
