"""A small exchange for the simulator's unit tests: always open, one equity, options beside it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from domain.instrument import Instrument, InstrumentKind, OptionRight
from simulator.config import CalendarConfig, ExchangeConfig, Listing, MatchingConfig
from simulator.exchange import Exchange
from simulator.orders import Kind, LegRequest, OrderClass, OrderRequest, Side, TimeInForce

START = datetime(2026, 3, 4, 15, 0, tzinfo=UTC)
SYMBOL = "ESX"
ALWAYS = CalendarConfig(always_open=True)


def option(strike: int, right: OptionRight = OptionRight.CALL) -> Listing:
    letter = "C" if right is OptionRight.CALL else "P"
    contract = Instrument(
        symbol=f"SPY261218{letter}{strike * 1000:08d}",
        kind=InstrumentKind.OPTION,
        multiplier=Decimal(100),
        underlying="SPY",
        expiry=date(2026, 12, 18),
        strike=Decimal(strike),
        right=right,
    )
    return Listing(contract)


CALL_600, CALL_610 = option(600), option(610)
PUT_500, PUT_490 = option(500, OptionRight.PUT), option(490, OptionRight.PUT)


def equity(symbol: str = SYMBOL, tick: str = "0.25", **listing: Any) -> Listing:
    return Listing(Instrument(symbol=symbol, tick_size=Decimal(tick)), **listing)


def exchange(**config: Any) -> Exchange:
    """An exchange with ESX quoted 100.00/100.25, 1000 on each side, unless told otherwise."""
    matching = config.pop("matching", MatchingConfig())
    listings = config.pop("listings", (equity(), CALL_600, CALL_610, PUT_500, PUT_490))
    quoted = config.pop("quoted", True)
    made = Exchange(
        ExchangeConfig(
            listings=listings,
            calendar=config.pop("calendar", ALWAYS),
            matching=matching,
            start=config.pop("start", START),
            **config,
        )
    )
    if quoted:
        quote(made, "100.00", "100.25")
    return made


def quote(
    venue: Exchange, bid: str, ask: str, size: int = 1000, symbol: str = SYMBOL, **more: Any
) -> None:
    venue.set_quote(symbol, Decimal(bid), Decimal(ask), Decimal(size), Decimal(size), **more)


def order(
    side: str,
    quantity: str | int,
    limit: str | None = None,
    stop: str | None = None,
    *,
    target: str | None = None,
    stop_loss: str | None = None,
    stop_loss_limit: str | None = None,
    order_class: str = "simple",
    tif: str = "day",
    client_id: str | None = None,
    symbol: str = SYMBOL,
) -> OrderRequest:
    """A request whose kind follows from the prices that are given."""
    kinds = {
        (False, False): Kind.MARKET,
        (True, False): Kind.LIMIT,
        (False, True): Kind.STOP,
        (True, True): Kind.STOP_LIMIT,
    }
    return OrderRequest(
        symbol=symbol,
        side=Side(side),
        quantity=Decimal(quantity),
        kind=kinds[limit is not None, stop is not None],
        time_in_force=TimeInForce(tif),
        client_id=client_id,
        limit_price=_price(limit),
        stop_price=_price(stop),
        order_class=OrderClass(order_class),
        take_profit_price=_price(target),
        stop_loss_price=_price(stop_loss),
        stop_loss_limit_price=_price(stop_loss_limit),
    )


def oco(
    quantity: int, target: str, stop_loss: str, side: str = "sell", **more: Any
) -> OrderRequest:
    return order(
        side, quantity, target, target=target, stop_loss=stop_loss, order_class="oco", **more
    )


def bracket(quantity: int, limit: str, target: str, stop_loss: str, **more: Any) -> OrderRequest:
    return order(
        "buy", quantity, limit, target=target, stop_loss=stop_loss, order_class="bracket", **more
    )


def combo(units: int, net: str | None, *legs: tuple[Listing, str, int, str]) -> OrderRequest:
    return OrderRequest(
        symbol="",
        side=Side.BUY,
        quantity=Decimal(units),
        kind=Kind.MARKET if net is None else Kind.LIMIT,
        limit_price=_price(net),
        order_class=OrderClass.COMBO,
        legs=tuple(
            LegRequest(leg.symbol, Side(s), ratio, intent) for leg, s, ratio, intent in legs
        ),
    )


def hold(venue: Exchange, quantity: int) -> None:
    """Buys at the market, so that there is something to protect."""
    venue.submit(order("buy", quantity))
    assert venue.state.account.quantity(SYMBOL) == quantity


def advance_s(venue: Exchange, seconds: float) -> None:
    venue.advance_to(venue.now + timedelta(seconds=seconds))


def _price(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
