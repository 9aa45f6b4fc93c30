"""Scripts of the golden trades in which the venue acts by itself: locate, funding, liquidation,
assignment, split. What a venue tells by statement rows is found by reconcile passes."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from activities.adoption import adopt, prepare
from activities.restore import Restorer
from domain.adoption import AdoptionRequest
from domain.instrument import Instrument, InstrumentKind
from domain.messages import TradeStatus
from domain.occ import option_instrument
from domain.order import Side
from domain.plan import FixedSize, PlanLeg, PlanPrice, StopPlan, TargetPlan, TradePlan, WalkPlan
from simulator.config import CalendarConfig, ExchangeConfig, Listing, PerpetualTerms
from simulator.events import OrdersOnSplit
from tests.golden.playing import Play
from tests.rig import Rig

D = Decimal
SHARE = Instrument(symbol="ESX")
PUT = option_instrument("ESX130906P00100000")
PERPETUAL = Instrument(symbol="ESX", kind=InstrumentKind.PERPETUAL)
LOCATED_AFTER = timedelta(seconds=46)
FUNDED_AFTER = timedelta(hours=8, minutes=1)
EXPIRY = date(2013, 9, 6)

TO_LOCATE = ExchangeConfig(listings=(Listing(SHARE, locate_s=D(45)),))
LEVERAGED = ExchangeConfig(
    listings=(
        Listing(
            PERPETUAL,
            perpetual=PerpetualTerms(leverage=D(10), funding_rate=D("0.001")),
        ),
    ),
    calendar=CalendarConfig(always_open=True),
)
WITH_PUT = ExchangeConfig(listings=(Listing(SHARE), Listing(PUT)))


def _plan(play: Play, instrument: Instrument, side: Side, **changes: Any) -> TradePlan:
    """A walk from the mid to at most one point away."""
    account = play.rig.services.account
    values: dict[str, Any] = {
        "trade_id": f"{account}-{instrument.symbol.lower()}",
        "session": "golden",
        "account": account,
        "strategy": "scripted",
        "symbol": instrument.symbol,
        "legs": (PlanLeg(instrument=instrument, side=side),),
        "side": side,
        "size": FixedSize(quantity=D(10)),
        "walk": WalkPlan(
            step=D("0.25"),
            interval_s=D(play.interval_s),
            steps_max=3,
            worst_offset=D(1),
            max_time_s=D(60),
        ),
        "signal_id": "signal-1",
        "signal_time": play.rig.clock.market0,
        "signal_max_age_s": D(600),
    }
    if instrument.expiry is not None:
        # The gate takes no plan without it (G6); the trade's own clock does not get there.
        values["flat_by"] = datetime.combine(instrument.expiry, time(19), UTC)
    return TradePlan.model_validate(values | changes)


def _on(play: Play, day: int, hour: int, minute: int = 0) -> datetime:
    """An instant of the exchange's September, UTC."""
    return play.rig.exchange.now.replace(day=day, hour=hour, minute=minute, second=0, microsecond=0)


def _stops(play: Play) -> list[tuple[Decimal, Decimal | None]]:
    """Quantity and price of every stop that rests."""
    return [(o.quantity, o.stop_price) for o in play.rig.exchange.open_orders if o.stop_price]


# --- GT15 -----------------------------------------------------------------------------------------


def restricted_market(rig: Rig) -> None:
    """No short sale may take the bid."""
    rig.quote("ESX", "100.00", "100.50")
    rig.exchange.restrict_short_sales("ESX")


async def located_short(play: Play) -> None:
    """GT15: pending until shares are found; restricted, it fills only when its offer is lifted."""
    waits = WalkPlan(
        step=D("0.25"), interval_s=D(5), steps_max=0, worst_offset=D(1), max_time_s=D(600)
    )
    plan = await play.start(
        _plan(
            play,
            SHARE,
            Side.SELL,
            walk=waits,
            stop=StopPlan(price=PlanPrice(offset=D(2))),
            targets=(TargetPlan(price=PlanPrice(offset=D(-3)), fraction=D(1)),),
        )
    )
    await play.when(plan, lambda: bool(play.rig.journal("locate")), "shares are asked for")
    play.quote("ESX", "101.00", "101.50")
    play.quote("ESX", "100.00", "100.50")
    play.advance_to(play.rig.exchange.now + LOCATED_AFTER)
    play.quote("ESX", "100.25", "100.75")
    await play.when_protected(plan)
    play.quote("ESX", "97.00", "97.20")


def found_and_lifted(play: Play) -> list[str]:
    """Nothing traded before the shares were there, though the market had been through it."""
    rows = play.rig.journal("located", "fill")
    kinds = [row["kind"] for row in rows]
    return [] if kinds[:2] == ["located", "fill"] else [f"what came first was {kinds[:2]}"]


# --- GT16 -----------------------------------------------------------------------------------------


def leveraged_market(rig: Rig) -> None:
    rig.quote("ESX", "99.90", "100.10")


async def liquidated(play: Play) -> None:
    """GT16: funding is paid, then the venue takes the position before its stop is reached."""
    await play.reconcile()
    plan = await play.start(
        _plan(play, PERPETUAL, Side.BUY, stop=StopPlan(price=PlanPrice(absolute=D(85))))
    )
    await play.when_protected(plan)
    await play.when_settled(plan)
    play.advance_to(play.rig.exchange.now + FUNDED_AFTER)
    await play.reconcile()
    play.quote("ESX", "90.00", "90.20")
    await play.reconciled(plan, lambda: play.is_over(plan), "it knows of its liquidation")


def funding_was_paid(play: Play) -> list[str]:
    paid = [row["change"] for row in play.rig.journal("cash") if row.get("reason") == "FUND"]
    return [] if paid == ["-1"] else [f"funding was {paid}"]


# --- GT17 -----------------------------------------------------------------------------------------


def market_with_put(rig: Rig) -> None:
    rig.quote("ESX", "100.75", "101.25")
    rig.quote(PUT.symbol, "1.99", "2.01")


async def assigned(play: Play) -> None:
    """GT17: the put becomes shares, nobody's until a person takes them, then they are protected."""
    await play.reconcile()
    put = await play.start(
        _plan(play, PUT, Side.SELL, size=FixedSize(quantity=D(1)), max_loss=D(9_800))
    )
    await play.when_it_says(put, _stands_alone, "the put is sold")
    play.advance_to(_on(play, EXPIRY.day, 19))
    play.quote("ESX", "95.00", "95.10")
    play.advance_to(_on(play, EXPIRY.day, 21))
    play.advance_to(_on(play, 9, 12))
    await play.reconciled(put, lambda: play.is_over(put), "it knows of its assignment")
    play.advance_to(_on(play, 9, 14))
    play.quote("ESX", "95.00", "95.10")
    if play.seen.position("ESX"):
        shares = await _take_over(play)
        await play.when_protected(shares)
        play.quote("ESX", "104.50", "104.60")


def _stands_alone(now: TradeStatus) -> bool:
    return now.held == 1 and not now.working


async def _take_over(play: Play) -> TradePlan:
    """A person gives the shares to a trade, with a stop and a target (R2)."""
    services, account = play.rig.services, play.rig.services.account
    request = AdoptionRequest(
        symbol="ESX",
        account=account,
        trade_id=f"{account}-shares",
        command_id="take-over-1",
        stop=D(90),
        targets=(D(104),),
    )
    adoption = await prepare(services, request, play.rig.clock)
    play.take_over(adoption.plan, play.seen.position("ESX"))
    restorer = Restorer(services, play.rig.client, play.rig.queue)
    await adopt(services, restorer, adoption, play.rig.clock)
    return await play.start(adoption.plan)


# --- GT19 -----------------------------------------------------------------------------------------


def before_split(rig: Rig) -> None:
    rig.quote("ESX", "99.75", "100.25")


async def split_overnight(play: Play) -> None:
    """GT19: 10 at 100 become 20 at 50 and the orders are gone; protected again before the open."""
    plan = await play.start(
        _plan(
            play,
            SHARE,
            Side.BUY,
            stop=StopPlan(price=PlanPrice(absolute=D(95))),
            targets=(TargetPlan(price=PlanPrice(absolute=D(110)), fraction=D(1)),),
        )
    )
    await play.when_protected(plan)
    await play.when_settled(plan)
    await play.reconcile()
    play.advance_to(_on(play, 4, 8))
    if play.seen.position("ESX"):
        play.rig.exchange.events.split("ESX", 2, orders=OrdersOnSplit.CANCEL)
    await play.reconciled(
        plan, lambda: _stops(play) == [(D(20), D("47.5"))], "protected in new shares"
    )
    play.advance_to(_on(play, 4, 13, 31))
    play.quote("ESX", "50.10", "50.20")
    play.quote("ESX", "55.10", "55.20")
