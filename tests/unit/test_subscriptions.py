"""A symbol is subscribed exactly while a session, position or recording holds it (req. 175)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadInput
from marketdata.subscriptions import SubscriptionBook

SYMBOLS = ("AAA", "BBB", "CCC")
SOURCES = ("session:a", "session:b", "position:t1", "recording:r")


def test_symbol_stays_while_a_position_holds_it_after_its_session_ended() -> None:
    book = SubscriptionBook()
    assert book.subscribe("AAA", "session:a")
    assert not book.subscribe("AAA", "position:t1")
    assert not book.release("AAA", "session:a")
    assert book.by_symbol() == {"AAA": ("position:t1",)}
    assert book.release("AAA", "position:t1")
    assert book.symbols() == ()


def test_positions_come_before_sessions_and_sessions_before_recordings() -> None:
    held = [("AAA", "recording:r"), ("BBB", "session:a"), ("CCC", "position:t1")]
    assert SubscriptionBook(held).symbols() == ("CCC", "BBB", "AAA")
    assert SubscriptionBook([*held, ("AAA", "position:t2")]).symbols() == ("AAA", "CCC", "BBB")


def test_subscribing_twice_from_one_source_is_released_once() -> None:
    book = SubscriptionBook([("AAA", "session:a"), ("AAA", "session:a")])
    assert book.release("AAA", "session:a")
    assert not book.release("AAA", "session:a")


@pytest.mark.parametrize("source", ["", "session", "session:", "stranger:a"])
def test_unknown_source_is_refused(source: str) -> None:
    with pytest.raises(BadInput) as caught:
        SubscriptionBook().subscribe("AAA", source)
    assert caught.value.code == "SUBSCRIPTION_SOURCE"


def test_bad_symbol_is_refused_and_not_kept() -> None:
    book = SubscriptionBook()
    with pytest.raises(BadInput) as caught:
        book.subscribe("=CMD()", "session:a")
    assert caught.value.code == "SYMBOL_FORMAT"
    assert book.symbols() == ()


def test_bad_row_of_the_ledger_does_not_take_the_market_from_the_others() -> None:
    book = SubscriptionBook([("=CMD()", "session:a"), ("AAA", "stranger"), ("BBB", "session:a")])
    assert book.by_symbol() == {"BBB": ("session:a",)}
    assert [each.code for each in book.refused] == ["SYMBOL_FORMAT", "SUBSCRIPTION_SOURCE"]


steps = st.lists(
    st.tuples(st.sampled_from(("subscribe", "release")), st.sampled_from(SYMBOLS),
              st.sampled_from(SOURCES)),
    max_size=40,
)  # fmt: skip


@given(steps)
def test_book_is_the_set_of_pairs_that_are_held(steps: list[tuple[str, str, str]]) -> None:
    book, held = SubscriptionBook(), set[tuple[str, str]]()
    for verb, symbol, source in steps:
        before = {name for name, _ in held}
        if verb == "subscribe":
            held.add((symbol, source))
            assert book.subscribe(symbol, source) is (symbol not in before)
        else:
            was_held = (symbol, source) in held
            held.discard((symbol, source))
            gone = was_held and symbol not in {name for name, _ in held}
            assert book.release(symbol, source) is gone
        assert set(book.symbols()) == {name for name, _ in held}
        for name in SYMBOLS:
            assert set(book.sources_of(name)) == {who for what, who in held if what == name}
