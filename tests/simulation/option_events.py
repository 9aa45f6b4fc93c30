"""What happens to options without an order of ours: they are assigned, exercised, expire, or a leg
of a combo trades alone (R4, GT7).

As in a night nothing trades in the contract and its underlying from before an option ends until a
pass has looked.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from domain.instrument import Instrument
from simulator.orders import SimOrder
from tests.simulation.scenario import Mishap

if TYPE_CHECKING:
    from tests.simulation.world import World

NIGHT_S = 20.0
D = Decimal


def end_option(world: World, what: str, mishap: Mishap) -> tuple[str, ...]:
    """Ends a held contract by its verb; the symbols that stand still for the night, or none."""
    instrument = _held_option(world, is_short=what == "assign", expires_now=what == "expire")
    if instrument is None:
        return ()
    exchange = world.exchange
    symbols = (instrument.symbol, instrument.underlying or "")
    for symbol in symbols:
        exchange.halt(symbol)
    if what == "expire":
        exchange.events.expire(instrument.symbol)
    else:
        count = D(1) if mishap.get("one") else None
        getattr(exchange.events, what)(instrument.symbol, count)
    return symbols


def _held_option(world: World, *, is_short: bool, expires_now: bool) -> Instrument | None:
    """A contract that can end so; `expires_now`: either side, on its last day."""
    account, today = world.exchange.state.account, world.exchange.now.date()
    for symbol in sorted(account.holdings):
        instrument = world.exchange.state.listings[symbol].instrument
        held = account.quantity(symbol)
        if instrument.expiry is None or held == 0:
            continue
        if expires_now and instrument.expiry == today:
            return instrument
        if not expires_now and (held < 0) is is_short:
            return instrument
    return None


def trade_leg_alone(world: World, mishap: Mishap) -> bool:
    """One leg of a working combo trades, the others follow after a while (GT7)."""
    legs = [leg for order in world.exchange.open_orders for leg in order.legs if not leg.is_done]
    fresh = [leg for leg in legs if _is_untouched(leg)]
    if not fresh:
        return False
    first = fresh[int(mishap.get("leg")) % len(fresh)]
    if not _fill(world, first):
        return False
    for leg in first.combo.legs if first.combo is not None else ():
        if leg is not first:
            world.loop.call_later(mishap.get("for_s"), _follow, world, leg)
    return True


def _is_untouched(leg: SimOrder) -> bool:
    combo = leg.combo
    return combo is not None and combo.is_working and not any(each.filled for each in combo.legs)


def _follow(world: World, leg: SimOrder) -> None:
    world.catch_up()
    if not leg.is_done:
        _fill(world, leg)


def _fill(world: World, leg: SimOrder) -> bool:
    """At the market's price; nothing where there is none, or in a halt."""
    state = world.exchange.state
    price = state.books[leg.symbol].touch(leg.side)
    if price is None or leg.remaining == 0 or not state.can_trade(leg.symbol):
        return False
    world.exchange.lifecycle.fill_leg(leg, leg.remaining, price)
    return True
