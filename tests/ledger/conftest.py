"""An armed account for the ledger's tests."""

from __future__ import annotations

import pytest

from ledger.repository import Ledger
from tests.ledger.samples import ACCOUNT, plan


@pytest.fixture
async def signalled(armed: Ledger) -> Ledger:
    """An armed account into which the signal of `trade-1` came: its entries may go out (I15)."""
    await armed.create_trade(plan())
    return armed


@pytest.fixture
async def armed(ledger: Ledger) -> Ledger:
    """A ledger with one armed account."""
    await ledger.ensure_account(ACCOUNT, "alpaca")
    await ledger.arm(ACCOUNT, "alice", "test")
    return ledger
