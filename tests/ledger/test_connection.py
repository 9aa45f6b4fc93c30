"""The line to PostgreSQL: short waits, whole transactions, a bell that tells when it is lost."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import text

from ledger import connection as lines
from ledger.connection import LedgerConnection, async_url, limit_waits, lock_exclusive, plain_dsn
from ledger.errors import LedgerDown, LockBusy
from ledger.repository import Ledger
from tests.fixtures_postgres import run_as_superuser
from tests.ledger.samples import ACCOUNT

DEADLINE_S = 60


def test_address_is_told_as_driver_and_toolkit_take_it() -> None:
    for given in ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d"):
        assert plain_dsn(given) == "postgresql://u@h/d"
        assert async_url(given) == "postgresql+asyncpg://u@h/d"


async def test_line_without_room_is_down_in_time_and_a_kill_has_its_own(
    ledger_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F5: what uses up the work pool cannot hold up a kill."""
    monkeypatch.setattr(lines, "POOL_TIMEOUT_S", 0.05)
    line = LedgerConnection(ledger_dsn, pool_size=1)
    async with asyncio.timeout(DEADLINE_S), line._work():
        with pytest.raises(LedgerDown, match="no connection was free in time"):
            async with line._work():
                pass
        async with line._control_work() as control:
            assert (await control.execute(text("SELECT 1"))).scalar_one() == 1
    await line.aclose()
    await line.aclose()


async def test_server_is_told_every_limit(ledger: Ledger) -> None:
    wished = {
        "application_name": "holdfast",
        "synchronous_commit": "on",
        "TimeZone": "UTC",
        "statement_timeout": "4500ms",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "5s",
    }
    async with ledger._work() as connection:
        for name, value in wished.items():
            assert (await connection.execute(text(f"SHOW {name}"))).scalar_one() == value
        await limit_waits(connection, lock_ms=70, idle_ms=900)
        for name, value in (
            ("lock_timeout", "70ms"),
            ("idle_in_transaction_session_timeout", "900ms"),
        ):
            assert (await connection.execute(text(f"SHOW {name}"))).scalar_one() == value
    async with ledger._work() as connection:
        assert (await connection.execute(text("SHOW lock_timeout"))).scalar_one() == "2s"


async def test_lock_of_one_name_is_waited_for_and_of_another_is_not(ledger: Ledger) -> None:
    async with asyncio.timeout(DEADLINE_S), ledger._work() as first:
        await lock_exclusive(first, "here")
        async with ledger._work() as second:
            await limit_waits(second, lock_ms=20, idle_ms=5000)
            await lock_exclusive(second, "there")
            with pytest.raises(LockBusy), lines.ledger_errors():
                await lock_exclusive(second, "here")
            await second.rollback()


async def test_each_transaction_is_timed_with_its_outcome(ledger: Ledger) -> None:
    seen: list[tuple[float, str]] = []
    ledger.on_transaction = lambda seconds, outcome: seen.append((seconds, outcome))
    began_s = time.perf_counter()
    for block in (ledger._work, ledger._statement, ledger._control_work):
        async with block() as connection:
            await connection.execute(text("SELECT 1"))
        with pytest.raises(ZeroDivisionError):
            async with block():
                raise ZeroDivisionError
    assert [outcome for _, outcome in seen] == ["done", "failed"] * 3
    assert all(0 < seconds <= time.perf_counter() - began_s for seconds, _ in seen)


async def test_bell_says_when_it_is_ready_and_when_its_line_is_lost(
    armed: Ledger, ledger_dsn: str
) -> None:
    bells = armed.listen("holdfast_control", "holdfast_watches")
    async with asyncio.timeout(DEADLINE_S):
        assert await anext(bells) == ("ready", "")
        await armed.disarm(ACCOUNT, "alice", "test")
        assert await anext(bells) == ("holdfast_control", ACCOUNT)
        hang_up = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'holdfast-listen' AND datname = current_database()"
        )
        await run_as_superuser(ledger_dsn, hang_up)
        with pytest.raises(LedgerDown, match="the listening connection was lost"):
            await anext(bells)


async def test_silent_bell_asks_its_line_and_goes_on(
    armed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LISTEN_PING_S", 0.02)
    bells = armed.listen("holdfast_control")
    async with asyncio.timeout(DEADLINE_S):
        await anext(bells)
        rung = asyncio.ensure_future(anext(bells))
        done, _ = await asyncio.wait([rung], timeout=0.2)
        assert not done
        await armed.disarm(ACCOUNT, "alice", "test")
        assert await rung == ("holdfast_control", ACCOUNT)
    await bells.aclose()
