"""The owner's money is no loss and hides none (architecture §7, daily loss)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from temporalio.testing import ActivityEnvironment

from activities.risk import RiskActivities, last_roll
from activities.services import ReserveInput, TradeRef
from domain.clock import ClockMap
from domain.facts import RiskRefused
from ledger.records import CashMovement
from ledger.repository import Ledger
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import order_lane
from tests.ledger.samples import ACCOUNT, plan

BASELINE_READ = datetime.now(UTC) - timedelta(hours=2)


async def _code(armed: Ledger, baseline: str, *moved: tuple[str, timedelta]) -> str:
    """What the gate says of an entry; the account has 100,000 now."""
    roll = last_roll(MARKET_NOW)
    await armed.set_equity_baseline(ACCOUNT, roll, Decimal(baseline), BASELINE_READ)
    for number, (amount, after) in enumerate(moved):
        movement = CashMovement(
            movement_id=f"wire-{number}",
            account=ACCOUNT,
            amount=Decimal(amount),
            at=BASELINE_READ + after,
            booked_by="alice",
        )
        await armed.book_cash(movement)
    clock = ClockMap(wall0=datetime.now(UTC), market0=MARKET_NOW)
    given = ReserveInput(trade=TradeRef.of(plan(), clock), plan=plan())
    async with order_lane(armed) as lane:
        batch = await ActivityEnvironment().run(RiskActivities(lane.services).reserve_risk, given)
    (fact,) = batch.facts
    return fact.code if isinstance(fact, RiskRefused) else ""


LATER, BEFORE = timedelta(hours=1), timedelta(hours=-1)


@pytest.mark.parametrize(
    ("baseline", "moved", "code"),
    [
        ("110000", (), "DAILY_LOSS"),
        ("110000", (("-10000", LATER),), ""),
        ("110000", (("-10000", BEFORE),), "DAILY_LOSS"),
        ("100000", (("10000", LATER),), "DAILY_LOSS"),
        ("100000", (("10000", BEFORE),), ""),
        ("90000", (("20000", LATER), ("-10000", LATER)), ""),
    ],
)
async def test_transfers_since_the_baseline_are_neither_loss_nor_gain(
    armed: Ledger, baseline: str, moved: tuple[tuple[str, timedelta], ...], code: str
) -> None:
    assert await _code(armed, baseline, *moved) == code
