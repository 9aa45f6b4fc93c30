"""Who must not work side by side waits for the lock of that name alone (B1, K5, K6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest
from sqlalchemy import text

from domain.facts import AdjustmentKind
from domain.ids import Purpose
from ledger.connection import lock_exclusive
from ledger.control_store import gate_lock_name
from ledger.errors import LockBusy
from ledger.records import (
    ALL_ACCOUNTS,
    AdjustmentRecord,
    GateCode,
    GatePermit,
    GateRefused,
)
from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, NOW, decide, fill, intent, kill, owner, request

DEADLINE_S = 60
_WAITING = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
FOUND = AdjustmentRecord(
    adjustment_id="found",
    account=ACCOUNT,
    symbol="AAPL",
    quantity=Decimal(1),
    kind=AdjustmentKind.EXTERNAL,
    at=NOW,
)
Work = Callable[[Ledger], Awaitable[object]]


async def is_held_up(ledger: Ledger, name: str, work: Work) -> bool:
    """True if the work queues behind the lock, and goes through once it is free."""
    async with asyncio.timeout(DEADLINE_S):
        async with ledger._control_work() as holder:
            await lock_exclusive(holder, name)
            task = asyncio.ensure_future(work(ledger))
            while not task.done():
                if (await holder.execute(_WAITING)).scalar_one() == 1:
                    break
                await asyncio.wait([task], timeout=0.01)
            waited = not task.done()
        try:
            await task
        except LockBusy:
            return True  # on a machine that stalls it may have waited for too long
    return waited


@pytest.mark.covers("B1", "K5", "K6")
@pytest.mark.parametrize(
    ("name", "work"),
    [
        (
            f"holdfast/external/{ACCOUNT}",
            lambda one: one.move_positions(ACCOUNT, [FOUND], takes={}),
        ),
        (f"holdfast/reserve/{ACCOUNT}", lambda one: one.reserve(request(), decide, NOW)),
        (f"fills/alpaca/{ACCOUNT}", lambda one: one.record_fill(ACCOUNT, fill(is_sum=True))),
        ("holdfast/audit", lambda one: one.append_audit("alice", "note", "x", {})),
        (gate_lock_name(ACCOUNT), lambda one: one.engage_kill(ACCOUNT, kill())),
    ],
)
async def test_writer_waits_for_the_lock_of_its_account(
    armed: Ledger, name: str, work: Work
) -> None:
    assert not await is_held_up(armed, f"{name}-of-another", work)
    assert await is_held_up(armed, name, work)


@pytest.mark.covers("K5")
async def test_entry_is_refused_behind_a_kill_under_way_and_an_exit_is_not(
    signalled: Ledger,
) -> None:
    """Held by the account's own kill or by one of all accounts."""
    leave = intent(purpose=Purpose.EXIT, increasing=False)
    for number, account in enumerate((ACCOUNT, ALL_ACCOUNTS, "another")):
        async with asyncio.timeout(DEADLINE_S), signalled._control_work() as holder:
            await lock_exclusive(holder, gate_lock_name(account))
            entry = await signalled.open_gate(intent(sequence=number), owner(), "t1", NOW)
            exit_ = await signalled.open_gate(leave, owner(), "t1", NOW)
        held_up = isinstance(entry, GateRefused) and entry.code is GateCode.CONTROL_LOCKED
        assert held_up is (account != "another")
        assert isinstance(exit_, GatePermit)
