"""The exchange matches by price and time against what the market shows (architecture §9)."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from simulator.config import MatchingConfig
from simulator.exchange import Exchange
from simulator.orders import Status
from simulator.tape import TapeEvent, TapeKind
from tests.unit.simulator_rig import SYMBOL, advance_s, equity, exchange, hold, order, quote

D = Decimal


def prices(venue: Exchange) -> list[tuple[str, str]]:
    return [(row["quantity"], row["price"]) for row in venue.journal.of("fill")]


def test_market_order_takes_the_touch_and_waits_for_more_size() -> None:
    venue = exchange()
    quote(venue, "100.00", "100.25", size=30)
    placed = venue.submit(order("buy", 50))
    assert (placed.status, placed.filled) == (Status.PARTIALLY_FILLED, D(30))
    quote(venue, "100.25", "100.50", size=100)
    assert placed.status is Status.FILLED
    assert prices(venue) == [("30", "100.25"), ("20", "100.5")]
    assert placed.average_price == D("100.35")


def test_resting_limit_fills_at_its_own_price_when_the_ask_reaches_it() -> None:
    venue = exchange()
    placed = venue.submit(order("buy", 10, "99.50"))
    assert placed.status is Status.NEW
    quote(venue, "99.00", "99.25")
    assert prices(venue) == [("10", "99.5")]


def test_marketable_limit_is_improved_to_the_touch() -> None:
    venue = exchange()
    venue.submit(order("buy", 10, "101.00"))
    assert prices(venue) == [("10", "100.25")]


def test_better_price_goes_first_then_the_older_order() -> None:
    venue = exchange()
    old = venue.submit(order("buy", 10, "99.00"))
    young = venue.submit(order("buy", 10, "99.00"))
    best = venue.submit(order("buy", 10, "99.25"))
    quote(venue, "98.75", "99.00", size=15)
    assert (best.filled, old.filled, young.filled) == (D(10), D(5), D(0))


def test_trade_through_a_resting_limit_fills_it_and_a_touch_does_not() -> None:
    venue = exchange()
    placed = venue.submit(order("buy", 10, "99.50"))
    venue.trade(SYMBOL, D("99.50"), D(100))
    assert placed.filled == 0
    venue.trade(SYMBOL, D("99.25"), D(4))
    assert placed.filled == 4
    assert prices(venue) == [("4", "99.5")]


def test_stop_triggers_on_the_last_trade_and_sells_at_the_bid() -> None:
    venue = exchange()
    hold(venue, 10)
    stop = venue.submit(order("sell", 10, stop="98.00"))
    quote(venue, "97.50", "97.75", last=D("98.25"))
    assert not stop.is_triggered
    venue.trade(SYMBOL, D("98.00"), D(1))
    assert stop.status is Status.FILLED
    assert prices(venue)[-1] == ("10", "97.5")


def test_stop_limit_stays_unfilled_when_the_market_gaps_beyond_its_limit() -> None:
    venue = exchange()
    hold(venue, 10)
    stop = venue.submit(order("sell", 10, "97.75", "98.00"))
    quote(venue, "97.00", "97.25")
    assert stop.is_triggered
    assert stop.status is Status.NEW
    assert stop.filled == 0


def test_immediate_or_cancel_keeps_what_it_took() -> None:
    venue = exchange()
    quote(venue, "100.00", "100.25", size=4)
    placed = venue.submit(order("buy", 10, "100.25", tif="ioc"))
    assert (placed.status, placed.filled) == (Status.CANCELED, D(4))


def test_fill_or_kill_takes_all_or_nothing() -> None:
    venue = exchange()
    quote(venue, "100.00", "100.25", size=4)
    killed = venue.submit(order("buy", 10, "100.25", tif="fok"))
    filled = venue.submit(order("buy", 4, "100.25", tif="fok"))
    assert (killed.status, killed.filled) == (Status.CANCELED, D(0))
    assert filled.status is Status.FILLED


def test_participation_and_smallest_partial_limit_what_one_event_gives() -> None:
    venue = exchange(matching=MatchingConfig(participation=D("0.1"), min_partial=D(5)))
    quote(venue, "100.00", "100.25", size=200)
    placed = venue.submit(order("buy", 30))
    assert placed.filled == 20
    quote(venue, "100.00", "100.25", size=40)
    assert placed.filled == 20
    quote(venue, "100.00", "100.25", size=200)
    assert placed.status is Status.FILLED


def test_bar_walk_triggers_the_stop_at_its_price_not_at_the_low() -> None:
    venue = exchange(quoted=False)
    bars = [
        TapeEvent(
            venue.now + timedelta(minutes=n),
            SYMBOL,
            TapeKind.BAR,
            open=D(a),
            high=D(b),
            low=D(c),
            close=D(d),
            volume=D(4000),
        )
        for n, (a, b, c, d) in enumerate(
            [("100", "100", "100", "100"), ("100", "101", "95", "96")], start=1
        )
    ]
    venue = Exchange(venue.config, bars)
    advance_s(venue, 60)
    hold(venue, 10)
    venue.submit(order("sell", 10, stop="98.00"))
    advance_s(venue, 60)
    assert prices(venue)[-1] == ("10", "97.75")
    assert venue.tape_ended


def test_trades_make_the_quote_where_the_listing_says_so() -> None:
    venue = exchange(listings=(equity(synthetic_quote_ticks=1),), quoted=False)
    venue.trade(SYMBOL, D("100.00"), D(5))
    book = venue.book(SYMBOL)
    assert (book.bid, book.ask) == (D("99.75"), D("100.25"))


def test_accept_latency_keeps_the_order_out_of_the_market() -> None:
    venue = exchange(matching=MatchingConfig(accept_latency_s=D("0.5")))
    placed = venue.submit(order("buy", 10))
    assert placed.status.value == "pending_new"
    advance_s(venue, 0.4)
    assert placed.filled == 0
    advance_s(venue, 0.2)
    assert placed.status is Status.FILLED


def test_halted_symbol_accepts_orders_and_fills_them_after_resuming() -> None:
    venue = exchange()
    venue.halt(SYMBOL)
    placed = venue.submit(order("buy", 10))
    quote(venue, "101.00", "101.25")
    assert placed.status is Status.NEW
    assert placed.filled == 0
    venue.resume(SYMBOL)
    assert prices(venue) == [("10", "101.25")]


def test_tape_quote_without_sizes_shows_the_size_of_the_listing() -> None:
    made = exchange(quoted=False)
    event = TapeEvent(made.now, SYMBOL, TapeKind.QUOTE, bid=D("99.75"), ask=D("100.00"))
    venue = Exchange(made.config, [event])
    advance_s(venue, 1)
    assert venue.submit(order("buy", 10)).status is Status.FILLED


def test_one_sided_quote_fills_only_that_side() -> None:
    """G2: a missing side is no price."""
    venue = exchange()
    hold(venue, 10)
    venue.set_quote(SYMBOL, D("100.00"), None)
    waiting = venue.submit(order("buy", 1))
    assert waiting.filled == 0
    venue.cancel(waiting.id)
    assert venue.submit(order("sell", 10)).status is Status.FILLED
