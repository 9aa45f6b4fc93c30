"""The Temporal server away for half an hour of market time (faults.md H2; I2, I4, I11).

The quick run lets market time pass 120 times as fast as the wall: what the market does in half an
hour happens, on the same real server, in fifteen seconds. The nightly run waits the half hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from domain.clock import ClockMap
from domain.instrument import Instrument
from domain.order import Side
from domain.plan import PlanLeg, PlanPrice, TargetPlan, TradePlan, WalkPlan
from ledger.repository import Ledger
from simulator.config import CalendarConfig, ExchangeConfig, Listing
from tests import trade_scenarios as play
from tests.chaos.grounds import TemporalUnderTest
from tests.rig import Rig, running_rig

pytestmark = pytest.mark.timeout(900)
D = Decimal
HALF_HOUR = timedelta(minutes=30)
NEXT = timedelta(minutes=1)
SYMBOLS = HELD, TARGETED, WALKING = "ESX", "ESY", "ESZ"
CALM = ("99.00", "102.00")


@dataclass
class Market:
    """The exchange's clock follows the map; every symbol has a fresh quote."""

    rig: Rig
    quotes: dict[str, tuple[str, str]]

    def move(self) -> datetime:
        """As far as the map has come, and not a moment further."""
        now = self.rig.clock.market(datetime.now(UTC))
        self.rig.server.venue.advance_to(max(now, self.rig.exchange.now))
        for symbol, (bid, ask) in self.quotes.items():
            self.rig.quote(symbol, bid, ask)
        return now

    async def run(self) -> None:
        while True:
            self.move()
            await asyncio.sleep(0.1)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TemporalUnderTest]:
    """A server of this test alone, which may die."""
    made = TemporalUnderTest(tmp_path)
    yield made
    made.kill()


@asynccontextmanager
async def running(
    server: TemporalUnderTest, ledger: Ledger, account: str, speed: Decimal
) -> AsyncIterator[tuple[Rig, Market]]:
    instruments = [Instrument(symbol=name, tick_size=D("0.01")) for name in SYMBOLS]
    config = ExchangeConfig(
        requests_per_minute=None,
        listings=tuple(Listing(each) for each in instruments),
        calendar=CalendarConfig(always_open=True),
    )
    client = await server.start()
    async with running_rig(client, ledger, account, config=config) as made:
        clock = ClockMap(wall0=datetime.now(UTC), market0=made.exchange.now, speed=speed)
        rig = replace(made, clock=clock, deadline_s=240.0)
        market = Market(rig, dict.fromkeys(SYMBOLS, CALM))
        moving = asyncio.create_task(market.run())
        try:
            yield rig, market
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)


def plan_of(rig: Rig, symbol: str, targets: tuple[TargetPlan, ...]) -> TradePlan:
    """The standard walk in steps that are long enough at this speed; its last step waits long."""
    interval_s = D("0.5") * rig.clock.speed
    walk = WalkPlan(
        step=D("0.25"),
        interval_s=interval_s,
        steps_max=3,
        worst_offset=D("0.75"),
        max_time_s=D(30_000),
    )
    leg = PlanLeg(instrument=Instrument(symbol=symbol, tick_size=D("0.01")), side=Side.BUY)
    changes: dict[str, Any] = {"symbol": symbol, "legs": (leg,), "walk": walk}
    return play.plan_of(
        rig,
        symbol.lower(),
        targets=targets,
        ratchet=(),
        signal_time=rig.clock.market(datetime.now(UTC)),
        signal_max_age_s=D(36_000),
        **changes,
    )


def stops_of(rig: Rig, symbol: str) -> list[str]:
    return [o.id for o in rig.exchange.open_orders if o.symbol == symbol and o.stop_price]


def held_of(rig: Rig, symbol: str) -> Decimal:
    return rig.exchange.state.account.quantity(symbol)


async def enter(rig: Rig, market: Market, symbol: str) -> None:
    """The walk comes to its worst price, the market to meet it; the position is protected."""
    await rig.until(lambda: is_at_worst(rig, symbol), f"the walk in {symbol} is at its end")
    market.quotes[symbol] = ("101.00", str(play.WORST))
    await rig.until(lambda: bool(stops_of(rig, symbol)), f"{symbol} is protected")


def is_at_worst(rig: Rig, symbol: str) -> bool:
    return any(o.symbol == symbol and o.limit_price == play.WORST for o in rig.exchange.open_orders)


def buys(rig: Rig) -> list[str]:
    return [str(row["client_id"]) for row in play.own_orders(rig) if row["side"] == "buy"]


async def half_hour_passes(rig: Rig, market: Market) -> None:
    """A fill of the entry, a target, a halt and a dip; the stop rests at every look."""
    (stop,) = stops_of(rig, HELD)
    began = rig.clock.market(datetime.now(UTC))
    script = {
        5: lambda: rig.exchange.halt(HELD),
        10: lambda: market.quotes.update({TARGETED: ("102.25", "102.50")}),
        15: lambda: rig.exchange.resume(HELD),
        20: lambda: market.quotes.update({WALKING: ("101.00", str(play.WORST))}),
    }
    for minute in range(int(HALF_HOUR / NEXT) + 1):
        while rig.clock.market(datetime.now(UTC)) < began + minute * NEXT:
            await rig.breathe()
        script.get(minute, lambda: None)()
        market.move()
        assert stops_of(rig, HELD) == [stop], f"minute {minute}"
    assert (held_of(rig, TARGETED), held_of(rig, WALKING)) == (D(0), D(10))


@pytest.mark.covers("H2")
@pytest.mark.parametrize(
    "speed",
    [
        pytest.param(D(120), id="in-15-s"),
        pytest.param(D(1), id="in-full", marks=[pytest.mark.nightly, pytest.mark.timeout(3600)]),
    ],
)
async def test_trades_go_on_after_half_an_hour_without_the_server(
    server: TemporalUnderTest, ledger: Ledger, unique: str, speed: Decimal
) -> None:
    """H2: one is held behind its stop, one is taken out by its target, one entry fills unseen."""
    whole = TargetPlan(price=PlanPrice(offset=D(1)), fraction=D(1))
    async with running(server, ledger, f"acct-{unique}", speed) as (rig, market):
        plans = {
            HELD: plan_of(rig, HELD, ()),
            TARGETED: plan_of(rig, TARGETED, (whole,)),
            WALKING: plan_of(rig, WALKING, ()),
        }
        trades = {name: await rig.start_trade(plan) for name, plan in plans.items()}
        await enter(rig, market, HELD)
        await enter(rig, market, TARGETED)
        await rig.until(lambda: is_at_worst(rig, WALKING), "the third walk is at its end")
        sent = buys(rig)
        (stop,) = stops_of(rig, HELD)

        server.kill()
        await half_hour_passes(rig, market)
        await server.kill_and_restart()

        await rig.until(lambda: bool(stops_of(rig, WALKING)), "what filled unseen is protected")
        taken = await trades[TARGETED].result()
        assert (taken.outcome, taken.exit_reason) == ("closed", "target")
        assert stops_of(rig, HELD) == [stop]
        market.quotes |= {HELD: ("98.75", "99.00"), WALKING: ("98.75", "99.00")}
        for name in (HELD, WALKING):
            result = await trades[name].result()
            assert (result.outcome, result.exit_reason) == ("closed", "stop")
        assert buys(rig) == sent
        play.assert_one_order_per_intent(rig)
        assert (rig.exchange.open_orders, rig.exchange.holdings()) == ([], [])
