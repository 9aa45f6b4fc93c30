"""Fees that name no order reach the executions that caused them, to the last cent."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.fee_shares import DayFee, fee_day, shares_of, shares_of_all
from domain.order import Fill, Side

D = Decimal
DAY = date(2026, 9, 8)
NOON = datetime(2026, 9, 8, 16, tzinfo=UTC)


def fill(
    key: str,
    side: Side,
    quantity: str,
    price: str = "10",
    symbol: str = "AAPL",
    at: datetime = NOON,
) -> Fill:
    return Fill(
        fill_key=key,
        broker_order_id=key,
        symbol=symbol,
        side=side,
        quantity=D(quantity),
        price=D(price),
        venue_time=at,
    )


BOUGHT = fill("b", Side.BUY, "100")
SMALL = fill("s", Side.SELL, "30", "20")
LARGE = fill("l", Side.SELL, "90", "10")
CONTRACT = fill("o", Side.SELL, "2", "1.5", "AAPL261218C00200000")
ALL = (BOUGHT, SMALL, LARGE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TAF fee for proceed of 120 shares (2 trades)", {"s": "0.3", "l": "0.9"}),
        ("REG fee for proceed of $1500", {"s": "0.48", "l": "0.72"}),
        ("CAT fee for proceed of 3 trades", {"b": "0.4", "s": "0.4", "l": "0.4"}),
        ("something new", {"b": "0.48", "s": "0.288", "l": "0.432"}),
    ],
)
def test_a_row_is_shared_by_what_it_was_counted_by(text: str, expected: dict[str, str]) -> None:
    shares = shares_of(DayFee(day=DAY, amount=D("1.20"), text=text), ALL)
    assert shares == {key: D(share) for key, share in expected.items()}


def test_option_fees_go_to_contracts_alone() -> None:
    fee = DayFee(day=DAY, amount=D("0.06"), text="ORF fee for 2 contracts")
    assert shares_of(fee, (*ALL, CONTRACT)) == {"o": D("0.06")}


def test_row_that_nothing_of_its_day_can_have_caused_stays_with_the_account() -> None:
    """A sales fee on a day of purchases, a day without executions, another symbol."""
    taf = DayFee(day=DAY, amount=D(1), text="TAF fee for proceed of 5 shares")
    assert shares_of(taf, (BOUGHT,)) == {}
    assert shares_of_all([taf], {date(2026, 9, 9): ALL}) == {}
    assert shares_of(taf.model_copy(update={"symbol": "MSFT"}), ALL) == {}


def test_day_in_the_words_wins_over_the_booking_date() -> None:
    late = NOON.replace(hour=23, minute=30)
    assert fee_day("TAF fee for proceed of 1 shares (1 trades) on 2026-09-08", late) == DAY
    assert fee_day("TAF fee", datetime(2026, 9, 9, tzinfo=UTC)) == date(2026, 9, 9)


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=12),
    st.integers(1, 100_000),
    st.sampled_from(["TAF fee", "REG fee", "CAT fee", "other"]),
)
def test_shares_add_up_to_the_fee_whatever_the_weights(
    quantities: list[int], cents: int, text: str
) -> None:
    """I5: nothing is lost and nothing is made."""
    fills = [
        fill(str(n), Side.SELL, str(q), "3.33", at=NOON + timedelta(seconds=n))
        for n, q in enumerate(quantities)
    ]
    fee = DayFee(day=DAY, amount=D(cents) / 100, text=text)
    assert sum(shares_of_all([fee, fee], {DAY: fills}).values()) == 2 * fee.amount
