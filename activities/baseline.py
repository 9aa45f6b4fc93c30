"""The equity baseline of the day, taken before anybody trades (peers.md §4 row 17)."""

from __future__ import annotations

from decimal import Decimal

from activities.risk import MarketView, ensure_baseline, last_roll
from activities.services import Services


async def take_baseline(services: Services) -> Decimal | None:
    """Equity of the account at its last roll; read and stored now if nobody did before.

    Taken at the first trade alone, a loss of the morning would be no loss of the day.

    Raises:
        HoldfastError: broker or ledger did not answer.
    """
    account, clock = await services.broker.account(), await services.broker.market_clock()
    market = MarketView(account=account, clock=clock, quotes={}, assets=None)
    await ensure_baseline(services, market)
    roll = last_roll(clock.market_now)
    stored = await services.ledger.equity_baseline(services.account, roll)
    return None if stored is None else stored.equity
