"""The unmodified community client works against Tradier's wire face over real sockets (§9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from typing import Any

import lumiwealth_tradier.base as client_base
import pytest
import pytest_asyncio
from lumiwealth_tradier import Tradier
from lumiwealth_tradier.base import TradierApiError
from lumiwealth_tradier.orders import OrderLeg

from simulator.config import FeeSchedule, Listing, WireFace
from simulator.server import SimulatorServer
from tests.unit.simulator_rig import (
    CALL_600,
    CALL_610,
    PUT_500,
    SYMBOL,
    equity,
    exchange,
    quote,
)

ACCOUNT, TOKEN = "SIM-PAPER-KEY", "sim-paper-secret"
CLASS_SHARE = "BRK.B"


class Rig:
    """The client on one running exchange; its calls go to a thread, they block."""

    def __init__(self, server: SimulatorServer) -> None:
        self.server = server
        self.venue = server.exchange
        self.client = Tradier(ACCOUNT, TOKEN)

    async def orders(self, name: str, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client.orders, name), *args, **named)

    async def account(self, name: str, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client.account, name), *args, **named)

    async def market(self, name: str, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client.market, name), *args, **named)

    async def buy(self, quantity: int, limit: float | None = None, **named: Any) -> int:
        kind = "market" if limit is None else "limit"
        placed = await self.orders(
            "order", SYMBOL, "buy", quantity, kind, limit_price=limit, **named
        )
        assert placed["status"] == "ok"
        return int(placed["id"])

    async def row(self, order_id: int) -> Any:
        """The order as one row of a table; columns are the venue's field names."""
        return (await self.orders("get_order", order_id)).iloc[0]

    def close(self) -> None:
        for each in (self.client.orders, self.client.account, self.client.market):
            each._session.close()


@pytest_asyncio.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    fees = FeeSchedule(per_unit=Decimal("0.01"))
    listings: tuple[Listing, ...] = (
        equity(fees=fees),
        equity(CLASS_SHARE),
        CALL_600,
        CALL_610,
        PUT_500,
    )
    venue = exchange(listings=listings, face=WireFace.TRADIER)
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    quote(venue, "3.00", "3.10", symbol=PUT_500.symbol)
    quote(venue, "400.00", "400.25", symbol=CLASS_SHARE)
    async with SimulatorServer(venue) as server:
        monkeypatch.setattr(client_base, "TRADIER_SANDBOX_URL", server.url)
        # An empty answer is asked for again after seconds; the exchange does not change its mind.
        monkeypatch.setattr(client_base, "DEFAULT_RETRY_WAIT_SECONDS", 0)
        made = Rig(server)
        try:
            yield made
        finally:
            made.close()


async def test_market_order_is_filled_and_shows_in_account_and_positions(rig: Rig) -> None:
    bought = await rig.buy(10)
    row = await rig.row(bought)
    assert (row["status"], row["exec_quantity"], row["avg_fill_price"]) == ("filled", 10, 100.25)
    (position,) = (await rig.account("get_positions")).to_dict("records")
    assert (position["symbol"], position["quantity"], position["cost_basis"]) == (
        SYMBOL,
        10,
        1002.5,
    )
    balance = (await rig.account("get_account_balance")).iloc[0]
    assert Decimal(str(balance["total_cash"])) == Decimal(100_000) - Decimal("1002.60")
    assert balance["account_number"] == ACCOUNT
    profile = (await rig.account("get_user_profile")).iloc[0]
    assert (profile["account.account_number"], profile["account.status"]) == (ACCOUNT, "active")


async def test_flat_account_has_no_positions_orders_or_gains(rig: Rig) -> None:
    assert (await rig.account("get_positions")).empty
    assert (await rig.orders("get_orders")).empty
    assert await rig.account("get_gainloss") is None


async def test_limit_order_is_listed_with_its_tag_changed_in_place_and_cancelled(rig: Rig) -> None:
    placed = await rig.buy(10, 99.0, tag="wf-1-entry")
    changed = await rig.orders("modify", placed, limit_price=99.25, duration="gtc")
    assert changed == {"id": placed, "status": "ok", "partner_id": "sim"}
    (row,) = (await rig.orders("get_orders")).to_dict("records")
    assert (row["id"], row["tag"], row["price"], row["duration"]) == (
        placed,
        "wf-1-entry",
        99.25,
        "gtc",
    )
    assert (row["status"], row["quantity"], row["class"]) == ("open", 10, "equity")
    assert (await rig.orders("cancel", placed))["status"] == "ok"
    assert (await rig.row(placed))["status"] == "canceled"


async def test_cancel_of_a_finished_order_has_the_text_that_clients_look_for(rig: Rig) -> None:
    """The client takes exactly "order already in finalized state" for success."""
    filled = await rig.buy(1)
    assert await rig.orders("cancel", filled) == {"id": filled, "status": "ok"}
    with pytest.raises(TradierApiError, match=f"401 - Unauthorized Account: {ACCOUNT}"):
        await rig.orders("cancel", 77)


async def test_stop_order_keeps_its_price_until_it_is_moved(rig: Rig) -> None:
    await rig.buy(10)
    placed = await rig.orders(
        "order", SYMBOL, "sell", 10, "stop", stop_price=95.0, duration="gtc", tag="stop-1"
    )
    assert (await rig.row(placed["id"]))["stop_price"] == 95
    await rig.orders("modify", placed["id"], stop_price=97.5)
    row = await rig.row(placed["id"])
    assert (row["type"], row["side"], row["stop_price"]) == ("stop", "sell", 97.5)
    quote(rig.venue, "97.00", "97.25")
    assert (await rig.row(placed["id"]))["status"] == "filled"


async def test_option_order_names_the_contract_and_its_underlying(rig: Rig) -> None:
    placed = await rig.orders(
        "order_option", "SPY", CALL_600.symbol, "buy_to_open", 2, "limit", limit_price=12.2
    )
    row = await rig.row(placed["id"])
    assert (row["symbol"], row["option_symbol"], row["side"], row["status"]) == (
        "SPY",
        CALL_600.symbol,
        "buy_to_open",
        "filled",
    )
    held = await rig.account("get_positions", options=True)
    assert held["symbol"].tolist() == [CALL_600.symbol]


async def test_multileg_debit_fills_as_one_order_with_two_legs(rig: Rig) -> None:
    legs = [
        OrderLeg(option_symbol=CALL_600.symbol, side="buy_to_open", quantity=2),
        OrderLeg(option_symbol=CALL_610.symbol, side="sell_to_open", quantity=2),
    ]
    placed = await rig.orders("multileg_order", "SPY", "debit", "day", legs, 4.2, "spread")
    row = await rig.row(placed["id"])
    assert (row["class"], row["status"], row["num_legs"], row["tag"]) == (
        "multileg",
        "filled",
        2,
        "spread",
    )
    assert [leg["avg_fill_price"] for leg in row["leg"]] == [12.2, 8]
    held = await rig.account("get_positions")
    assert dict(zip(held["symbol"], held["quantity"], strict=True)) == {
        CALL_600.symbol: 2,
        CALL_610.symbol: -2,
    }


def _leg(side: str, **named: Any) -> OrderLeg:
    return OrderLeg(stock_symbol=SYMBOL, side=side, quantity=10, **named)


async def test_oco_rests_both_exits_and_the_first_to_fill_ends_the_other(rig: Rig) -> None:
    await rig.buy(10)
    legs = [_leg("sell", price=105.0, type="limit"), _leg("sell", stop=95.0, type="stop")]
    placed = await rig.orders("advanced_order", "gtc", legs, "oco", "exits")
    row = await rig.row(placed["id"])
    assert (row["class"], row["num_legs"], row["tag"]) == ("oco", 2, "exits")
    assert [(leg["type"], leg["status"]) for leg in row["leg"]] == [
        ("limit", "open"),
        ("stop", "open"),
    ]
    quote(rig.venue, "94.75", "95.00")
    row = await rig.row(placed["id"])
    assert [leg["status"] for leg in row["leg"]] == ["canceled", "filled"]
    assert (await rig.account("get_positions")).empty


async def test_oto_holds_its_exit_until_the_entry_is_filled(rig: Rig) -> None:
    legs = [_leg("buy", price=99.0, type="limit"), _leg("sell", stop=95.0, type="stop")]
    placed = await rig.orders("advanced_order", "gtc", legs, "oto")
    row = await rig.row(placed["id"])
    assert [leg["status"] for leg in row["leg"]] == ["open", "held"]
    quote(rig.venue, "98.75", "99.00")
    row = await rig.row(placed["id"])
    assert [leg["status"] for leg in row["leg"]] == ["filled", "open"]


async def test_otoco_is_a_bracket_and_cancels_as_one(rig: Rig) -> None:
    legs = [
        _leg("buy", price=99.0, type="limit"),
        _leg("sell", price=105.0, type="limit"),
        _leg("sell", stop=95.0, type="stop"),
    ]
    placed = await rig.orders("advanced_order", "gtc", legs, "otoco", "bracket-1")
    row = await rig.row(placed["id"])
    assert (row["class"], row["tag"]) == ("otoco", "bracket-1")
    assert [leg["status"] for leg in row["leg"]] == ["open", "held", "held"]
    assert (await rig.orders("cancel", placed["id"]))["status"] == "ok"
    row = await rig.row(placed["id"])
    assert {leg["status"] for leg in row["leg"]} == {"canceled"}


async def test_refusal_of_the_risk_desk_is_ok_first_and_rejected_when_read(rig: Rig) -> None:
    placed = await rig.orders("order", SYMBOL, "sell", 10, "limit", limit_price=105.0)
    row = await rig.row(placed["id"])
    assert row["status"] == "rejected"
    assert "LongPositionCrossZero" in row["reason_description"]


async def test_bad_parameter_is_400_in_plain_text(rig: Rig) -> None:
    with pytest.raises(TradierApiError, match="400 - Invalid parameter, duration"):
        await rig.buy(1, 99.0, duration="pre")


async def test_quotes_of_one_and_many_symbols_know_class_shares(rig: Rig) -> None:
    one = await rig.market("get_quotes", SYMBOL)
    assert (one.loc[SYMBOL]["bid"], one.loc[SYMBOL]["ask"]) == (100, 100.25)
    many = await rig.market("get_quotes", [SYMBOL, CLASS_SHARE, CALL_600.symbol])
    assert many.index.tolist() == [SYMBOL, CLASS_SHARE, CALL_600.symbol]
    assert many.loc[CLASS_SHARE]["ask"] == 400.25
    with pytest.raises(ValueError, match="Invalid symbol"):
        await rig.market("get_quotes", "NOBODY")


async def test_option_chain_strikes_expirations_and_symbol(rig: Rig) -> None:
    expiry = date(2026, 12, 18)
    days = await rig.market("get_option_expirations", "SPY")
    assert days.index.tolist() == [expiry]
    row = days.iloc[0]
    assert (row["strikes"], row["contract_size"], row["expiration_type"]) == (
        [500, 600, 610],
        100,
        "standard",
    )
    assert await rig.market("get_option_strikes", "SPY", expiry) == [500, 600, 610]
    chain = await rig.market("get_option_chains", "SPY", expiry, greeks=True)
    assert chain["symbol"].tolist() == [CALL_600.symbol, CALL_610.symbol, PUT_500.symbol]
    assert set(chain["expiration_date"]) == {expiry}
    found = await rig.market("get_option_symbol", "SPY", expiry, 610.0, "call")
    assert found == CALL_610.symbol
    with pytest.raises(LookupError):
        await rig.market("get_option_chains", "SPY", date(2026, 12, 24))


async def test_clock_calendar_and_symbol_search(rig: Rig) -> None:
    clock = await rig.market("get_clock")
    assert (clock["state"], clock["date"]) == ("open", "2026-03-04")
    days = await rig.market("get_calendar", 3, 2026)
    assert len(days) == 31
    assert days.loc[date(2026, 3, 4)]["status"] == "open"
    found = await rig.market("lookup_symbol", "ESX", types="stock")
    assert found["symbol"].tolist() == [SYMBOL]
    with pytest.raises(LookupError):
        await rig.market("lookup_symbol", "NOBODY")


async def test_prices_of_the_past_are_not_invented(rig: Rig) -> None:
    for name in ("get_historical_quotes", "get_timesales"):
        with pytest.raises(LookupError):
            await rig.market(name, SYMBOL)


async def test_statement_tells_a_trade_on_the_day_after(rig: Rig) -> None:
    await rig.buy(10)
    await rig.buy(2)
    rig.server.step_s(24 * 3600)
    events = await rig.account("get_history", start_date=date(2026, 3, 4), symbol=SYMBOL)
    assert events["amount"].tolist() == [-200.5, -1002.5]
    assert events["trade.quantity"].tolist() == [2, 10]
    one = await rig.account("get_history", limit=1, activity_type="trade")
    assert one["trade.price"].tolist() == [100.25]


async def test_order_of_yesterday_is_not_listed_but_answers_to_its_id(rig: Rig) -> None:
    placed = await rig.buy(10, 99.0, duration="gtc")
    rig.server.step_s(24 * 3600)
    assert (await rig.orders("get_orders")).empty
    assert (await rig.row(placed))["status"] == "open"
