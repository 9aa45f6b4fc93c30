"""The equity that a day's loss is counted from: taken once per roll, if it can be meant at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from activities.baseline import take_baseline
from activities.services import Services
from domain.account import AccountSnapshot, MarketClock
from tests.unit.risk_world import account

ROLL = datetime(2026, 3, 2, 22, tzinfo=UTC)
"""17:00 in New York: the trading day of 3 March begins."""


@dataclass
class Books:
    """An account at the broker, and what the ledger has stored by roll."""

    equity: str | None
    now: datetime = ROLL
    stored: dict[datetime, Decimal] = field(default_factory=dict)

    async def account(self) -> AccountSnapshot:
        return account(equity=self.equity)

    async def market_clock(self) -> MarketClock:
        return MarketClock(market_now=self.now, is_open=True)

    async def equity_baseline(self, _account: str, roll: datetime) -> Any:
        equity = self.stored.get(roll)
        return None if equity is None else SimpleNamespace(equity=equity)

    async def set_equity_baseline(
        self, _account: str, roll: datetime, equity: Decimal, _read_at: datetime
    ) -> None:
        self.stored[roll] = equity

    async def take(self) -> Decimal | None:
        services = SimpleNamespace(ledger=self, broker=self, account="acct", now=lambda: self.now)
        return await take_baseline(cast(Services, services))


@pytest.mark.parametrize(("equity", "stored"), [("0.01", True), ("0", False), ("-5", False)])
async def test_only_a_positive_equity_can_be_lost_from(equity: str, stored: bool) -> None:
    books = Books(equity)
    assert await books.take() == (Decimal(equity) if stored else None)
    assert list(books.stored) == ([ROLL] if stored else [])


async def test_what_the_broker_does_not_tell_is_taken_by_the_next_look() -> None:
    books = Books(None)
    assert await books.take() is None
    books.equity = "1000"
    assert await books.take() == 1000


async def test_the_first_reading_of_a_day_stands_until_the_next_roll() -> None:
    books = Books("1000")
    await books.take()
    books.equity, books.now = "900", ROLL + timedelta(hours=23, minutes=59)
    assert await books.take() == 1000
    books.now = ROLL + timedelta(days=1)
    assert await books.take() == 900
