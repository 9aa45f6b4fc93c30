"""The quote of a structure: what one unit costs and brings, and what is not invented."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from activities.quotes import QuoteMemory, exit_quote, net_quote
from domain.instrument import Instrument, InstrumentKind
from domain.order import Quote, Side
from domain.plan import PlanLeg

D = Decimal
NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
SHORT, LONG = "SPY261218P00500000", "SPY261218P00490000"


def leg(symbol: str, side: Side) -> PlanLeg:
    kind = InstrumentKind.OPTION
    return PlanLeg(instrument=Instrument(symbol=symbol, kind=kind, multiplier=D(100)), side=side)


LEGS = (leg(SHORT, Side.SELL), leg(LONG, Side.BUY))


def quote(symbol: str, bid: str | None, ask: str | None) -> Quote:
    return Quote(
        symbol=symbol,
        bid=None if bid is None else D(bid),
        ask=None if ask is None else D(ask),
        venue_time=NOW,
    )


def test_credit_spread_costs_less_than_nothing_to_buy() -> None:
    quotes = {SHORT: quote(SHORT, "1.00", "1.10"), LONG: quote(LONG, "0.40", "0.50")}
    net = net_quote(LEGS, quotes, "SPY")
    assert net is not None
    assert (net.bid, net.ask) == (D("-0.70"), D("-0.50"))


def test_entry_has_no_price_while_a_wing_has_no_bid() -> None:
    quotes = {SHORT: quote(SHORT, "1.00", "1.10"), LONG: quote(LONG, None, "0.05")}
    net = net_quote(LEGS, quotes, "SPY")
    assert net is not None
    assert net.mid is None


def test_exit_takes_a_long_wing_without_a_bid_as_worthless() -> None:
    quotes = {SHORT: quote(SHORT, "1.00", "1.10"), LONG: quote(LONG, None, "0.05")}
    net = exit_quote(LEGS, quotes, "SPY")
    assert net is not None
    assert net.bid == D("-1.10"), "buying back the short at its ask, the wing brings nothing"


def test_exit_never_invents_the_offer_of_a_short_leg() -> None:
    quotes = {SHORT: quote(SHORT, "1.00", None), LONG: quote(LONG, "0.40", "0.50")}
    net = exit_quote(LEGS, quotes, "SPY")
    assert net is not None
    assert net.bid is None


def test_missing_leg_means_no_quote_at_all() -> None:
    assert exit_quote(LEGS, {SHORT: quote(SHORT, "1.00", "1.10")}, "SPY") is None


@pytest.mark.parametrize(
    ("price", "after_s", "held"),
    [
        ("10000", 1, True),
        ("1", 1, True),
        ("1000", 1, False),
        ("1001", 600, True),
        ("1001", 601, False),
        ("9.99", -1, True),
    ],
)
def test_slipped_decimal_point_is_held_until_the_next_quote_confirms_it(
    price: str, after_s: int, held: bool
) -> None:
    """faults.md §3 row 34: more than ten times, within ten minutes of the venue."""
    seen = QuoteMemory()
    assert seen.jumped({"ESX": quote("ESX", "100", "100")}) == ()
    later = {"venue_time": NOW + timedelta(seconds=after_s)}
    slipped = {"ESX": quote("ESX", price, price).model_copy(update=later)}
    assert seen.jumped(slipped) == (("ESX",) if held else ())
    assert seen.jumped(slipped) == ()


def test_quote_without_a_side_jumps_neither_to_nor_from_anything() -> None:
    seen = QuoteMemory()
    assert seen.jumped({"ESX": quote("ESX", "100", "100")}) == ()
    assert seen.jumped({"ESX": quote("ESX", None, "1")}) == ()
    assert seen.jumped({"ESX": quote("ESX", "100", "100")}) == ()
