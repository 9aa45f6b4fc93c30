"""Bars that grow from a stream are whole or are not told; what is told is final."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bar import Bar
from domain.order import Quote
from domain.tick import TradePrint
from marketdata.feed import TapeFeed
from marketdata.live_bars import GRACE, LiveBars
from marketdata.recording import tape_event_of

OPEN = datetime(2026, 3, 4, 14, 30, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return OPEN + timedelta(seconds=seconds)


def trade(seconds: float, price: str, size: int = 1, symbol: str = "AAA") -> TradePrint:
    return TradePrint(
        symbol=symbol, price=Decimal(price), size=Decimal(size), venue_time=at(seconds)
    )


def quote(seconds: float, bid: str, ask: str, symbol: str = "AAA") -> Quote:
    return Quote(symbol=symbol, bid=Decimal(bid), ask=Decimal(ask), venue_time=at(seconds))


def begun(*symbols: str) -> LiveBars:
    bars = LiveBars(60)
    for symbol in symbols:
        bars.began(symbol, OPEN)
    return bars


def sealed(bars: LiveBars, seconds: float) -> tuple[Bar, ...]:
    found = bars.seal(at(seconds) + GRACE)
    return () if found is None else found[0]


def test_a_bar_is_told_once_when_its_interval_is_over_for_all_symbols_at_once() -> None:
    bars = begun("AAA", "BBB")
    for tick in (
        trade(1, "10.00", 2),
        quote(2, "9.75", "10.25", "BBB"),
        trade(30, "10.50"),
        quote(31, "10.25", "10.75"),
        trade(59, "9.50"),
        trade(61, "11.00"),
    ):
        bars.take(tick)
    first = bars.seal(at(59))
    assert first is not None
    assert first[0] == ()
    one, other = sealed(bars, 60)
    prices = [Decimal(text) for text in ("10.00", "10.50", "9.50", "9.50")]
    assert [one.open, one.high, one.low, one.close] == prices
    assert (one.volume, one.bid, one.ask) == (Decimal(4), Decimal("10.25"), Decimal("10.75"))
    assert (one.symbol, other.symbol) == ("AAA", "BBB")
    assert (other.close, other.volume) == (Decimal("10.00"), Decimal(0))
    assert bars.seal(at(60) + GRACE) is None


def test_ticks_of_a_told_bar_are_counted_and_change_nothing() -> None:
    bars = begun("AAA")
    bars.take(trade(1, "10.00"))
    assert len(sealed(bars, 60)) == 1
    bars.take(trade(30, "99.00"))
    bars.take(trade(70, "10.25"))
    (bar,) = sealed(bars, 120)
    assert (bars.late, bar.high) == (1, Decimal("10.25"))


def test_a_bar_that_was_not_seen_whole_is_not_told() -> None:
    bars = LiveBars(60)
    bars.began("AAA", at(30))
    bars.take(trade(31, "10.00"))
    assert sealed(bars, 60) == ()
    bars.take(trade(61, "10.00"))
    bars.ended("AAA")
    bars.take(trade(62, "10.00"))
    bars.began("AAA", at(90))
    bars.take(trade(91, "10.00"))
    bars.take(trade(121, "10.00"))
    assert sealed(bars, 120) == ()
    assert [bar.start for bar in sealed(bars, 180)] == [at(120)]


def test_unknown_symbols_and_crossed_or_one_sided_quotes_make_no_bar() -> None:
    bars = begun("AAA")
    bars.take(trade(1, "10.00", symbol="ZZZ"))
    bars.take(quote(1, "10.25", "10.00"))
    bars.take(Quote(symbol="AAA", ask=Decimal(10), venue_time=at(2)))
    assert sealed(bars, 60) == ()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 400), st.integers(1, 50), st.sampled_from(["AAA", "BBB"]), st.booleans()
        ),
        max_size=40,
    )
)
def test_a_stream_and_the_tape_of_it_make_the_same_bars(
    rows: list[tuple[int, int, str, bool]],
) -> None:
    traded = {symbol for _, _, symbol, is_trade in rows if is_trade}
    ticks: list[TradePrint | Quote] = []
    for seconds, price, symbol, _ in sorted(rows, key=lambda row: row[0]):
        # A symbol trades or is only quoted: the tape knows that in advance, a stream cannot.
        if symbol in traded:
            ticks.append(trade(seconds, str(price), symbol=symbol))
        else:
            ticks.append(quote(seconds, str(price), str(price + 1), symbol))
    bars = begun("AAA", "BBB")
    told: list[Bar] = []
    for tick in ticks:
        bars.take(tick)
        told.extend((bars.seal(tick.venue_time) or ((), None))[0])
    told.extend(sealed(bars, 900))
    tape = TapeFeed([tape_event_of(tick) for tick in ticks])
    wanted = tape.completed(["AAA", "BBB"], None, at(900)).bars
    assert sorted(told, key=lambda bar: (bar.end, bar.symbol)) == list(wanted)
