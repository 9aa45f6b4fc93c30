"""Many trades that end at once: the ledger's connections are for those that still trade (I11)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.services import Services, SettleInput, TradeRef
from activities.trades import SETTLED_AT_ONCE, TradeActivities
from domain.clock import ClockMap
from domain.commands import Settle
from domain.errors import Transient
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import order_lane
from tests.ledger.samples import ACCOUNT, plan

TRADES = 12


def settling(trade_id: str) -> SettleInput:
    mine = plan(trade_id)
    return SettleInput(
        trade=TradeRef.of(mine, ClockMap(wall0=MARKET_NOW, market0=MARKET_NOW)),
        plan=mine,
        command=Settle(outcome="not_filled", exit_reason="", entry_quantity=Decimal(0)),
        stage="not_filled",
    )


class Counted:
    """The ledger; counts who is between its first and its last statement of a settlement."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.inside = self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def adjustments(self, *args: Any) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        return await self._ledger.adjustments(*args)

    async def disable_after_losses(self, *args: Any) -> Any:
        self.inside -= 1
        return await self._ledger.disable_after_losses(*args)


def over(services: Services, ledger: Any) -> Services:
    return replace(services, ledger=ledger)


async def test_trades_that_end_together_take_turns_and_all_close(armed: Ledger) -> None:
    async with order_lane(armed) as lane:
        counted = Counted(armed)
        books = TradeActivities(over(lane.services, counted))
        names = [f"trade-{number}" for number in range(TRADES)]
        for name in names:
            await armed.create_trade(plan(name))
        ends = (ActivityEnvironment().run(books.settle_trade, settling(name)) for name in names)
        await asyncio.gather(*ends)
        assert counted.most == SETTLED_AT_ONCE
        assert await armed.list_trades(account=ACCOUNT, open_only=True) == ()


async def test_turn_that_comes_after_its_time_changes_nothing(armed: Ledger) -> None:
    """Its next attempt is under way by then: two would take a turn each."""
    async with order_lane(armed) as lane:
        times = iter((0.0, 11.0))
        late = replace(lane.services, monotonic=lambda: next(times))
        await armed.create_trade(plan("trade-1"))
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, start_to_close_timeout=timedelta(seconds=10))
        with pytest.raises(Transient) as raised:
            await environment.run(TradeActivities(late).settle_trade, settling("trade-1"))
        assert raised.value.code == "SETTLE_LATE"
        trade = await armed.trade("trade-1")
        assert trade is not None
        assert trade.closed_at is None
