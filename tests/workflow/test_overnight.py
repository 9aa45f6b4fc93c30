"""A position held overnight: its DAY stop is renewed, its GTC stop sleeps (faults.md G4, C6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

import pytest
from temporalio.client import Client

from domain.instrument import Instrument
from domain.plan import FixedSize, PlanLeg, TradePlan
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, Listing
from simulator.orders import SimOrder, TimeInForce
from tests.rig import Rig, running_rig
from tests.workflow.test_trade_thread import plan_of
from workflows.trade import TradeWorkflow

D = Decimal
FRACTIONS = Instrument(symbol="ESX", lot_size=D("0.001"), min_quantity=D("0.001"))
OVERNIGHT = timedelta(hours=6, minutes=31)  # from the open of 09:30 to a minute after the close
UNTIL_OPEN = timedelta(hours=24, minutes=1)


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    config = ExchangeConfig(
        requests_per_minute=None, listings=(Listing(FRACTIONS, fractional=True),)
    )
    async with running_rig(temporal_client, ledger, f"acct-{unique}", config=config) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made


def held_plan(rig: Rig, quantity: str) -> TradePlan:
    """A stop and no target: plain stops, DAY for a fraction of a share, else GTC."""
    plan = plan_of(rig)
    leg = PlanLeg(instrument=FRACTIONS, side=plan.side)
    return plan.model_copy(
        update={"targets": (), "size": FixedSize(quantity=D(quantity)), "legs": (leg,)}
    )


def stops(rig: Rig) -> list[SimOrder]:
    return [order for order in rig.exchange.open_orders if order.stop_price is not None]


@pytest.mark.covers("G4")
@pytest.mark.parametrize(
    ("quantity", "time_in_force", "renewed"),
    [("10.5", TimeInForce.DAY, True), ("10", TimeInForce.GTC, False)],
)
async def test_stop_protects_again_at_the_next_open(
    rig: Rig, quantity: str, time_in_force: TimeInForce, renewed: bool
) -> None:
    """The DAY stop dies with its day and is placed again for the next one; GTC stays itself."""
    handle = await rig.start_trade(held_plan(rig, quantity))
    await rig.until(lambda: len(stops(rig)) == 1, "protected")
    (first,) = stops(rig)
    assert first.time_in_force == time_in_force
    opened = rig.exchange.now
    rig.exchange.advance_to(opened + OVERNIGHT)
    await rig.until(lambda: len(stops(rig)) == 1, "a stop waits for the next day")
    (waiting,) = stops(rig)
    assert (waiting.id != first.id) is renewed
    assert waiting.stop_price == first.stop_price

    async def dormant() -> bool:
        return (await handle.query(TradeWorkflow.status)).protection == "dormant"

    await rig.until_async(dormant, "the stop is there and cannot trigger")
    rig.exchange.advance_to(opened + UNTIL_OPEN)
    rig.quote("ESX", "97.00", "97.25")
    result = await handle.result()
    assert (result.outcome, result.exit_reason) == ("closed", "stop")
    assert rig.exchange.holdings() == []
