"""The stack of a workflow test: a simulated exchange and workers of its own, one account.

A file whose stack is another one names its own `rig`, which then stands for this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from activities.services import AlertMessage
from ledger.repository import Ledger
from tests.rig import Rig, running_rig


@pytest.fixture
def alerts() -> list[AlertMessage]:
    """Alerts that left the system, in order."""
    return []


@pytest.fixture
async def rig(
    temporal_client: Client, ledger: Ledger, unique: str, alerts: list[AlertMessage]
) -> AsyncIterator[Rig]:
    account, sinks = f"acct-{unique}", (alerts.append,)
    async with running_rig(temporal_client, ledger, account, alert_sinks=sinks) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made
