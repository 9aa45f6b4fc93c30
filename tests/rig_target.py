"""The commands' way to the parts of a rig: what `starter.py` does, without processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from temporalio.client import Client

from brokers.port import Broker
from cli.context import Target, TemporalDown
from domain.clock import ClockMap
from ledger.errors import LedgerDown
from ledger.repository import Ledger
from settings import Settings
from tests.rig import Rig


@dataclass(frozen=True)
class RigTarget(Target):
    """A target whose parts are those of the rig; single ones can be away."""

    rig: Rig
    ledger_is_up: bool = True
    temporal_is_up: bool = True

    def settings(self) -> Settings:
        found = super().settings()
        changes = {
            "name": self.rig.services.account,
            "installation": self.rig.services.installation,
        }
        return found.model_copy(update={"account": found.account.model_copy(update=changes)})

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        if not self.ledger_is_up:
            raise LedgerDown("no connection")
        yield self.rig.ledger

    async def temporal(self, timeout_s: float = 0) -> Client:
        if not self.temporal_is_up:
            raise TemporalDown("no server")
        return self.rig.client

    @asynccontextmanager
    async def broker(self, *, reserved: bool = False) -> AsyncIterator[Broker]:
        yield self.rig.broker

    async def clock_map(self) -> ClockMap:
        return self.rig.clock
