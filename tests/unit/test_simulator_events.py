"""What the venue and other people do to an account: journal, statement rows and cash agree."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from domain.instrument import Instrument
from domain.occ import option_instrument
from simulator.config import ExchangeConfig, Listing, PerpetualTerms
from simulator.events import OrdersOnSplit
from simulator.exchange import Exchange
from simulator.happening import happen
from simulator.orders import Kind, OrderRequest, Side, SimOrder, Status, TimeInForce
from simulator.refusals import Reason, Refusal

D = Decimal
PUT, CALL = "ESX130906P00100000", "ESX130906C00110000"


def venue(**changes: Any) -> Exchange:
    shares = Listing(Instrument(symbol="ESX"))
    options = [Listing(option_instrument(symbol)) for symbol in (PUT, CALL)]
    made = Exchange(ExchangeConfig(**({"listings": (shares, *options)} | changes)))
    made.set_quote("ESX", D("99.75"), D("100.25"))
    for symbol in (PUT, CALL):
        if symbol in made.state.books:
            made.set_quote(symbol, D("1.90"), D("2.00"))
    return made


def order(side: Side, quantity: int, symbol: str = "ESX", **changes: Any) -> OrderRequest:
    values: dict[str, Any] = {
        "symbol": symbol,
        "side": side,
        "quantity": D(quantity),
        "kind": Kind.MARKET,
    }
    return OrderRequest(**(values | changes))


def rows(made: Exchange, *kinds: str) -> list[tuple[str, str, Decimal | None, Decimal | None]]:
    found = made.state.account.activities
    return [(r.kind, r.symbol, r.quantity, r.net_amount) for r in found if r.kind in kinds]


def stop(made: Exchange) -> SimOrder:
    made.submit(order(Side.BUY, 10))
    wish = order(Side.SELL, 10, kind=Kind.STOP, stop_price=D(95), time_in_force=TimeInForce.GTC)
    return made.submit(wish)


def test_put_needs_the_cash_of_its_strike_and_a_call_the_shares() -> None:
    """Option level 1: cash-secured and covered, nothing uncovered."""
    poor, rich = venue(cash=D(5_000)), venue()
    for made, symbol in ((poor, PUT), (rich, CALL)):
        with pytest.raises(Refusal) as refused:
            made.submit(order(Side.SELL, 1, symbol))
        assert refused.value.reason is Reason.OPTION_LEVEL
    assert rich.submit(order(Side.SELL, 1, PUT)).status is Status.FILLED
    rich.submit(order(Side.BUY, 100))
    assert rich.submit(order(Side.SELL, 1, CALL)).status is Status.FILLED
    with pytest.raises(Refusal):
        rich.submit(order(Side.SELL, 1, CALL))


def test_expiry_day_ends_every_option_the_next_morning() -> None:
    """R4: in the money is delivered at the strike, the rest is gone; nothing before the morning."""
    made = venue()
    made.submit(order(Side.SELL, 1, PUT))
    made.submit(order(Side.BUY, 2, CALL))
    cash = made.state.account.cash
    made.advance_to(made.now + timedelta(days=3))
    made.set_quote("ESX", D("97.00"), D("97.50"))
    made.advance_to(made.now + timedelta(hours=7))
    assert rows(made, "OPASN", "OPEXP", "OPTRD") == []
    made.advance_to(made.now + timedelta(days=3))
    assert sorted(rows(made, "OPASN", "OPEXP", "OPTRD")) == [
        ("OPASN", PUT, D(1), D(0)),
        ("OPEXP", CALL, D(-2), D(0)),
        ("OPTRD", "ESX", D(100), D(-10_000)),
    ]
    assert made.state.account.cash == cash - 10_000
    assert [(h.symbol, h.quantity) for h in made.holdings()] == [("ESX", D(100))]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OrdersOnSplit.RESCALE, (Status.NEW, D(20), D("47.5"))),
        (OrdersOnSplit.CANCEL, (Status.CANCELED, D(10), D(95))),
        (OrdersOnSplit.KEEP, (Status.NEW, D(10), D(95))),
    ],
)
def test_split_moves_shares_prices_and_orders(
    policy: OrdersOnSplit, expected: tuple[Status, Decimal, Decimal]
) -> None:
    """R5."""
    made = venue()
    working = stop(made)
    equity = made.margin.equity()
    made.events.split("ESX", 2, orders=policy)
    assert (working.status, working.quantity, working.stop_price) == expected
    (held,) = made.holdings()
    assert (held.quantity, held.average_price) == (D(20), D("50.125"))
    assert rows(made, "SPLIT") == [("SPLIT", "ESX", D(10), D(0))]
    assert abs(made.margin.equity() - equity) <= D("0.20")


def test_fraction_of_a_reverse_split_is_paid_out() -> None:
    made = venue()
    made.submit(order(Side.BUY, 15))
    made.events.split("ESX", 1, 10)
    (held,) = made.holdings()
    assert held.quantity == 1
    ((kind, _, _, paid),) = rows(made, "CIL")
    assert kind == "CIL"
    assert paid == D("0.5") * (made.book("ESX").mark or D(0))


def test_symbol_change_moves_the_position_and_ends_its_orders() -> None:
    made = venue()
    working = stop(made)
    made.events.change_symbol("ESX", "ESY")
    assert working.status is Status.CANCELED
    assert [(h.symbol, h.quantity) for h in made.holdings()] == [("ESY", D(10))]
    assert rows(made, "NC") == [("NC", "ESX", D(-10), D(0)), ("NC", "ESY", D(10), D(0))]


def test_perpetual_is_liquidated_at_its_maintenance_margin_and_not_before() -> None:
    """10 times leverage, half a per cent maintenance: nine and a half per cent of room."""
    listing = Listing(Instrument(symbol="ESX"), perpetual=PerpetualTerms(leverage=D(10)))
    made = venue(listings=(listing,))
    made.submit(order(Side.BUY, 10))
    average = made.holdings()[0].average_price
    assert made.perpetuals.liquidation_price("ESX") == average * D("0.905")
    made.set_quote("ESX", D("90.70"), D("90.80"))
    assert len(made.holdings()) == 1
    made.set_quote("ESX", D("90.60"), D("90.70"))
    assert made.holdings() == []
    assert len(rows(made, "LIQ")) == 1


def test_restricted_short_sale_waits_above_the_bid() -> None:
    """Rule 201: it neither takes the bid nor rests at it; a lifted offer fills."""
    made = venue()
    made.restrict_short_sales("ESX")
    at_bid = made.submit(order(Side.SELL, 5, kind=Kind.LIMIT, limit_price=D("99.75")))
    offer = made.submit(order(Side.SELL, 5, kind=Kind.LIMIT, limit_price=D("100.00")))
    made.set_quote("ESX", D("99.80"), D("100.25"))
    assert (at_bid.filled, offer.filled) == (D(0), D(0))
    made.set_quote("ESX", D("100.00"), D("100.25"))
    assert (at_bid.filled, offer.filled) == (D(0), D(5))
    made.restrict_short_sales("ESX", on=False)
    assert at_bid.filled == 5


@pytest.mark.parametrize(
    ("can_borrow", "status"), [(True, Status.FILLED), (False, Status.REJECTED)]
)
def test_short_sale_waits_for_its_locate(can_borrow: bool, status: Status) -> None:
    listing = Listing(Instrument(symbol="ESX"), locate_s=D(30), can_borrow=can_borrow)
    made = venue(listings=(listing,))
    short = made.submit(order(Side.SELL, 5))
    made.advance_to(made.now + timedelta(seconds=29))
    assert short.status is Status.ACCEPTED
    made.advance_to(made.now + timedelta(seconds=1))
    assert short.status is status


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "hand", "symbol": "ESX", "side": "buy", "quantity": "5", "price": "100"},
        {"kind": "cash", "amount": "-12.50"},
        {"kind": "cash", "amount": "3", "row": "DIV", "symbol": "ESX"},
        {"kind": "split", "symbol": "ESX", "new": 3, "old": 2},
        {"kind": "liquidate", "symbol": "ESX", "price": "90"},
        {"kind": "funding", "symbol": "ESX", "rate": "0.001"},
        {"kind": "symbol", "symbol": "ESX", "new": "ESY"},
    ],
)
def test_cash_in_the_journal_is_the_accounts_cash_after_every_event(
    body: Mapping[str, Any],
) -> None:
    """I5 at the oracle itself."""
    made = venue()
    made.submit(order(Side.BUY, 10))
    happen(made, body)
    changes = sum(D(row["change"]) for row in made.journal.of("cash"))
    assert made.config.cash + changes == made.state.account.cash
    assert D(made.journal.of("cash")[-1]["cash"]) == made.state.account.cash


def test_unknown_event_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="kind was rain, allowed: assign"):
        happen(venue(), {"kind": "rain"})
