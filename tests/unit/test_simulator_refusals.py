"""The exchange refuses what the real venue refuses, and a refusal changes nothing (§9)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from simulator.exchange import Exchange
from simulator.orders import OrderRequest
from simulator.refusals import Reason, Refusal
from tests.unit.simulator_rig import (
    CALL_600,
    CALL_610,
    bracket,
    combo,
    equity,
    exchange,
    hold,
    oco,
    order,
    quote,
)

D = Decimal


def reason_of(venue: Exchange, request: OrderRequest) -> Reason:
    orders, cash = len(venue.state.orders), venue.state.account.cash
    with pytest.raises(Refusal) as refused:
        venue.submit(request)
    assert (len(venue.state.orders), venue.state.account.cash) == (orders, cash)
    assert venue.journal.rows[-1]["kind"] == "refused"
    return refused.value.reason


@pytest.mark.parametrize(
    ("resting", "new", "is_refused"),
    [
        (order("buy", 10, "99.00"), order("sell", 10, stop="98.00"), True),
        (order("buy", 10, "99.00"), order("sell", 10), True),
        (order("buy", 10, "99.00"), order("sell", 10, "99.00"), True),
        (order("buy", 10, "99.00"), order("sell", 10, "101.00"), False),
        (order("buy", 10, "99.00"), oco(10, "105.00", "95.00"), False),
        (bracket(10, "99.00", "105.00", "95.00"), order("sell", 10, stop="98.00"), False),
    ],
)
def test_opposite_order_beside_a_working_entry_is_a_wash_trade(
    resting: OrderRequest, new: OrderRequest, is_refused: bool
) -> None:
    venue = exchange()
    hold(venue, 10)
    venue.submit(resting)
    if is_refused:
        assert reason_of(venue, new) is Reason.WASH_TRADE
    else:
        venue.submit(new)


def test_limit_buy_beside_a_resting_stop_sell_is_a_wash_trade_too() -> None:
    venue = exchange()
    hold(venue, 10)
    venue.submit(order("sell", 10, stop="98.00"))
    assert reason_of(venue, order("buy", 5, "99.00")) is Reason.WASH_TRADE


@pytest.mark.parametrize(
    ("tick", "price", "is_refused"),
    [
        ("0.25", "100.10", True),
        ("0.25", "100.25", False),
        ("0.01", "100.001", True),
        ("0.01", "100.01", False),
    ],
)
def test_price_off_the_tick_is_refused(tick: str, price: str, is_refused: bool) -> None:
    venue = exchange(listings=(equity(tick=tick),))
    request = order("buy", 1, price)
    if is_refused:
        assert reason_of(venue, request) is Reason.TICK
    else:
        venue.submit(request)


@pytest.mark.parametrize(
    ("fractional", "request_", "reason"),
    [
        (False, order("buy", "1.5", "100.00"), Reason.LOT),
        (True, order("buy", "1.5", "100.00", tif="gtc"), Reason.INVALID),
        (True, order("buy", "1.0000000001", "100.00"), Reason.LOT),
        (True, order("buy", "0"), Reason.INVALID),
        (True, order("buy", 1, "0"), Reason.INVALID),
        (True, order("buy", 1, "-5"), Reason.INVALID),
        (True, order("buy", 1, symbol="NOPE"), Reason.UNKNOWN_SYMBOL),
        (True, order("buy", 1, client_id="x" * 129), Reason.INVALID),
        (True, bracket(1, "100.00", "105.00", "99.995"), Reason.TICK),
        (True, bracket(1, "100.00", "105.00", "100.00"), Reason.STOP_TOO_CLOSE),
        (True, bracket(1, "100.00", "99.00", "95.00"), Reason.STOP_TOO_CLOSE),
        (True, bracket(1, "100.00", "105.00", "95.00", tif="ioc"), Reason.INVALID),
        (
            True,
            order("buy", 1, "100.00", target="105.00", order_class="bracket"),
            Reason.INVALID,
        ),
    ],
)
def test_bad_order_is_refused_at_the_door(
    fractional: bool, request_: OrderRequest, reason: Reason
) -> None:
    venue = exchange(listings=(equity(tick="0.01", fractional=fractional),))
    assert reason_of(venue, request_) is reason


def test_fractional_day_order_is_accepted_where_the_listing_allows_it() -> None:
    venue = exchange(listings=(equity(tick="0.01", fractional=True),))
    assert venue.submit(order("buy", "1.5")).filled == D("1.5")


def test_client_id_is_taken_for_ever_also_after_the_cancel() -> None:
    venue = exchange()
    first = venue.submit(order("buy", 1, "99.00", client_id="once"))
    venue.cancel(first.id)
    assert reason_of(venue, order("buy", 1, client_id="once")) is Reason.DUPLICATE_CLIENT_ID


def test_working_orders_use_up_buying_power() -> None:
    venue = exchange(cash=D(10_000), multiplier=D(1))
    venue.submit(order("buy", 60, "99.00"))
    assert venue.margin.buying_power() == D(10_000) - 60 * 99
    assert reason_of(venue, order("buy", 60, "99.00")) is Reason.BUYING_POWER
    venue.submit(order("buy", 41, "99.00"))


def test_selling_more_than_is_held_is_refused_and_never_flips() -> None:
    venue = exchange()
    hold(venue, 10)
    assert reason_of(venue, order("sell", 11)) is Reason.QUANTITY_HELD


@pytest.mark.parametrize("config", [{"shorting_enabled": False}, {"shortable": False}])
def test_short_sale_is_refused_where_it_is_not_allowed(config: dict[str, Any]) -> None:
    shortable = config.pop("shortable", True)
    venue = exchange(listings=(equity(shortable=shortable),), **config)
    assert reason_of(venue, order("sell", 10)) is Reason.NOT_SHORTABLE


def test_short_sale_and_its_cover_work_where_they_are_allowed() -> None:
    venue = exchange()
    venue.submit(order("sell", 10))
    assert venue.holdings()[0].quantity == -10
    venue.submit(order("buy", 10))
    assert venue.holdings() == []
    assert venue.state.account.cash == D("99997.5")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (combo(1, "5.00", (CALL_600, "buy", 1, "buy_to_open")), Reason.INVALID),
        (combo(0, "5.00", (CALL_600, "buy", 1, ""), (CALL_610, "sell", 1, "")), Reason.LOT),
        (
            combo(1, "5.001", (CALL_600, "buy", 1, ""), (CALL_610, "sell", 1, "")),
            Reason.TICK,
        ),
        (
            combo(1, "5.00", (CALL_600, "buy", 1, ""), (CALL_610, "sell", 2, "")),
            Reason.OPTION_LEVEL,
        ),
        (
            combo(
                1,
                "-5.00",
                (CALL_600, "sell", 1, "sell_to_close"),
                (CALL_610, "buy", 1, "buy_to_close"),
            ),
            Reason.QUANTITY_HELD,
        ),
        (
            combo(
                500,
                "5.00",
                (CALL_600, "buy", 1, "buy_to_open"),
                (CALL_610, "sell", 1, "sell_to_open"),
            ),
            Reason.BUYING_POWER,
        ),
    ],
)
def test_bad_combo_is_refused(request_: OrderRequest, reason: Reason) -> None:
    venue = exchange()
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    assert reason_of(venue, request_) is reason


def test_uncovered_option_sale_is_refused() -> None:
    venue = exchange()
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    request = order("sell", 1, "12.00", symbol=CALL_600.symbol)
    assert reason_of(venue, request) is Reason.OPTION_LEVEL


def test_cancel_of_a_finished_or_unknown_order_is_refused() -> None:
    venue = exchange()
    done = venue.submit(order("buy", 1))
    with pytest.raises(Refusal, match="filled"):
        venue.cancel(done.id)
    with pytest.raises(Refusal) as refused:
        venue.cancel("nobody")
    assert refused.value.reason is Reason.NOT_FOUND


def test_long_option_under_a_short_one_cannot_be_sold_but_the_short_bought_back() -> None:
    """Combos unwind short legs first (architecture §6)."""
    venue = exchange()
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    opening = ((CALL_600, "buy", 1, "buy_to_open"), (CALL_610, "sell", 1, "sell_to_open"))
    venue.submit(combo(2, None, *opening))
    sale = order("sell", 2, "12.00", symbol=CALL_600.symbol)
    assert reason_of(venue, sale) is Reason.OPTION_LEVEL
    venue.submit(order("buy", 2, "8.10", symbol=CALL_610.symbol))
    venue.submit(sale)
    assert venue.holdings() == []
