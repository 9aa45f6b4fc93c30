"""Scripts of the golden trades in options; they expire on the day on which they are traded."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from domain.instrument import Instrument, InstrumentKind, OptionRight
from domain.order import Side
from domain.plan import FixedSize, PlanLeg, PlanPrice, StopPlan, TargetPlan, TradePlan, WalkPlan
from simulator.config import ExchangeConfig, Listing
from simulator.orders import SimOrder
from tests.golden.playing import Play
from tests.rig import Rig

D = Decimal
DAY = date(2013, 9, 3)
CUTOFF_AFTER_S = 14


def _call(strike: int) -> Instrument:
    return Instrument(
        symbol=f"SPY130903C{strike * 1000:08d}",
        kind=InstrumentKind.OPTION,
        multiplier=D(100),
        underlying="SPY",
        expiry=DAY,
        strike=D(strike),
        right=OptionRight.CALL,
    )


LONG, SHORT = _call(600), _call(610)
TODAY = ExchangeConfig(
    listings=(Listing(Instrument(symbol="SPY")), Listing(LONG), Listing(SHORT)),
)


def open_market(rig: Rig) -> None:
    rig.quote("SPY", "601.00", "601.02")
    rig.quote(LONG.symbol, "12.00", "12.20")
    rig.quote(SHORT.symbol, "8.00", "8.10")


def _plan(play: Play, legs: tuple[PlanLeg, ...], **changes: Any) -> TradePlan:
    account = play.rig.services.account
    values: dict[str, Any] = {
        "trade_id": f"{account}-1",
        "session": "golden",
        "account": account,
        "strategy": "scripted",
        "symbol": "SPY" if len(legs) > 1 else legs[0].instrument.symbol,
        "legs": legs,
        "side": Side.BUY,
        "size": FixedSize(quantity=D(2)),
        "walk": WalkPlan(
            step=D("0.05"),
            interval_s=D(120),
            steps_max=3,
            worst_offset=D("0.15"),
            max_time_s=D(600),
        ),
        "signal_id": "signal-1",
        "signal_time": play.rig.clock.market0,
        "signal_max_age_s": D(600),
        # They expire today: without a time to be flat the gate refuses them (G6).
        "flat_by": play.rig.clock.market0 + timedelta(hours=5),
    }
    return TradePlan.model_validate(values | changes)


async def closed_before_cutoff(play: Play) -> None:
    """GT6: where no stop may rest on an option the exit watch holds it; the clock ends it."""
    cutoff = play.rig.clock.market0 + timedelta(seconds=CUTOFF_AFTER_S)
    walk = WalkPlan(
        step=D("0.05"),
        interval_s=D(120),
        steps_max=3,
        worst_offset=D("0.15"),
        max_time_s=D(6),
    )
    plan = await play.start(
        _plan(
            play,
            (PlanLeg(instrument=LONG, side=Side.BUY),),
            walk=walk,
            stop=StopPlan(price=PlanPrice(offset=D(-6))),
            targets=(TargetPlan(price=PlanPrice(offset=D(5)), fraction=D(1)),),
            flat_by=cutoff,
        )
    )
    await play.when_works(plan)
    play.quote(LONG.symbol, "12.00", "12.10")


async def one_leg_late(play: Play) -> None:
    """GT7: the long leg trades alone, the short one a moment later."""
    legs = (PlanLeg(instrument=LONG, side=Side.BUY), PlanLeg(instrument=SHORT, side=Side.SELL))
    plan = await play.start(_plan(play, legs, max_loss=D(2000)))
    await play.when_works(plan)
    _trade_leg(play, LONG, "12.12")
    await play.when_it_says(plan, lambda now: now.protection == "naked", "one leg is known")
    _trade_leg(play, SHORT, "8.07")
    await play.when_it_says(plan, lambda now: now.held == 2, "both legs are known")
    play.quote(SHORT.symbol, "8.05", "8.15")
    await play.command(plan, "request_flatten")


def _trade_leg(play: Play, contract: Instrument, price: str) -> None:
    """One leg of the working combo fills whole; nothing if the combo was cancelled meanwhile."""
    leg = _working_leg(play, contract)
    if leg is not None:
        play.rig.exchange.lifecycle.fill_leg(leg, leg.remaining, D(price))


def _working_leg(play: Play, contract: Instrument) -> SimOrder | None:
    legs = (leg for order in play.rig.exchange.open_orders for leg in order.legs)
    return next((leg for leg in legs if leg.symbol == contract.symbol and not leg.is_done), None)
