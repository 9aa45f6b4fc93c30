"""The disk of the ledger is full, really: a small file system filled to its last block (H6, I12).

Entries are refused, nothing is booked by half, and the ledger goes on once there is room again.
Temporal's own store is not tried here: without it nothing starts, and what rests at the broker
stays (H2).
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.local.postgres import start_postgres
from ledger.errors import LedgerDown
from ledger.migrate import upgrade
from ledger.records import GatePermit
from ledger.repository import Ledger
from tests.fixtures_postgres import run_as_superuser
from tests.ledger.samples import ACCOUNT, NOW, intent, owner, plan

SIZE_MB = 160
TRADES = 60
BLOCK = b"\0" * 65_536


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=0755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mounting, check=False).returncode != 0:
        pytest.skip("a file system of its own needs root and the right to mount")
    try:
        for each in (folder, *folder.parents):
            if each.is_relative_to(tmp_path.parents[1]):
                each.chmod(0o755)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
async def small_ledger(small_disk: Path) -> AsyncIterator[Ledger]:
    server = start_postgres(small_disk / "postgres", extra_settings=("shared_buffers=16MB",))
    try:
        await run_as_superuser(server.dsn(), "CREATE DATABASE small")
        await upgrade(server.dsn("small"))
        made = await Ledger.connect(server.dsn("small"))
        await made.ensure_account(ACCOUNT, "alpaca")
        await made.arm(ACCOUNT, "test", "test")
        for number in range(TRADES):
            await made.create_trade(plan(f"trade-{number}"))
        yield made
        await made.aclose()
    finally:
        server.stop()


def fill(disk: Path) -> Path:
    """Takes every block that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(BLOCK)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
    return ballast


@pytest.mark.covers("H6")
async def test_full_disk_stops_entries_and_nothing_is_lost_when_there_is_room_again(
    small_disk: Path, small_ledger: Ledger
) -> None:
    """H6: until the pages that were there are full, entries go on; then none is let through."""
    ledger, permitted = small_ledger, set[str]()

    async def knock(number: int) -> bool:
        wish = intent(f"trade-{number}")
        if not isinstance(
            await ledger.open_gate(wish, owner(f"trade-{number}"), "t1", NOW), GatePermit
        ):
            return False
        permitted.add(wish.client_id)
        return True

    assert await knock(0)
    ballast = fill(small_disk)
    refused = 0
    for number in range(1, TRADES):
        try:
            assert await knock(number)
        except LedgerDown:
            refused += 1
    assert refused >= TRADES // 2
    ballast.unlink()
    for number in range(TRADES):
        assert await knock(number), "room again: an attempt that left no row may be made once more"
    rows = await ledger.open_orders(ACCOUNT)
    assert sorted(row.intent.client_id for row in rows) == sorted(permitted)
    assert len(permitted) == TRADES
