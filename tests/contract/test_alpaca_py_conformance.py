"""The unmodified official SDK works against the simulated exchange over real sockets (§9)."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

with warnings.catch_warnings():
    # The SDK itself still imports the legacy client of websockets.
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import (
        OrderClass,
        OrderSide,
        OrderStatus,
        OrderType,
        PositionIntent,
        QueryOrderStatus,
        TimeInForce,
    )
    from alpaca.trading.models import Order, TradeUpdate
    from alpaca.trading.requests import (
        GetCalendarRequest,
        GetOptionContractsRequest,
        GetOrdersRequest,
        LimitOrderRequest,
        MarketOrderRequest,
        OptionLegRequest,
        ReplaceOrderRequest,
        StopLossRequest,
        StopOrderRequest,
        TakeProfitRequest,
    )
    from alpaca.trading.stream import TradingStream

from simulator.config import FeeSchedule
from simulator.server import SimulatorServer
from tests.unit.simulator_rig import (
    CALL_600,
    CALL_610,
    SYMBOL,
    equity,
    exchange,
    quote,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
KEY, SECRET = "SIM-PAPER-KEY", "sim-paper-secret"
DEADLINE_S = 10.0


class Rig:
    """The SDK's clients on one running exchange; SDK calls go to a thread, they block."""

    def __init__(self, server: SimulatorServer) -> None:
        self.server = server
        self.venue = server.exchange
        self.client = TradingClient(KEY, SECRET, url_override=server.url)

    async def call(self, name: str, *args: Any, **named: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, name), *args, **named)

    async def submit(self, request: Any) -> Any:
        return await self.call("submit_order", request)

    async def refused(self, name: str, *args: Any) -> APIError:
        with pytest.raises(APIError) as refused:
            await self.call(name, *args)
        error: APIError = refused.value
        return error


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    venue = exchange(
        listings=(
            equity(fees=FeeSchedule(per_unit=Decimal("0.01"))),
            CALL_600,
            CALL_610,
        )
    )
    quote(venue, "12.00", "12.20", symbol=CALL_600.symbol)
    quote(venue, "8.00", "8.10", symbol=CALL_610.symbol)
    async with SimulatorServer(venue) as server:
        made = Rig(server)
        yield made
        made.client._session.close()


def limit(quantity: float, price: float, **more: Any) -> LimitOrderRequest:
    more = {"side": OrderSide.BUY, "time_in_force": TimeInForce.DAY, **more}
    return LimitOrderRequest(symbol=SYMBOL, qty=quantity, limit_price=price, **more)


def market(quantity: float, side: OrderSide = OrderSide.BUY) -> MarketOrderRequest:
    return MarketOrderRequest(symbol=SYMBOL, qty=quantity, side=side, time_in_force=TimeInForce.DAY)


async def test_market_order_is_accepted_then_filled_and_shows_everywhere(rig: Rig) -> None:
    placed = await rig.submit(market(10))
    assert (placed.status, placed.filled_qty) == (OrderStatus.NEW, "0")
    read = await rig.call("get_order_by_id", placed.id)
    assert (read.status, read.filled_qty, read.filled_avg_price) == (
        OrderStatus.FILLED,
        "10",
        "100.25",
    )
    (position,) = await rig.call("get_all_positions")
    assert (position.qty, position.qty_available, position.avg_entry_price) == (
        "10",
        "10",
        "100.25",
    )
    account = await rig.call("get_account")
    assert Decimal(account.cash) == Decimal(100_000) - Decimal("1002.50") - Decimal("0.10")
    assert Decimal(account.equity) == Decimal(account.cash) + 10 * Decimal("100.125")


async def test_limit_order_is_found_by_its_client_id_replaced_and_cancelled(rig: Rig) -> None:
    placed = await rig.submit(limit(10, 99.0, client_order_id="entry-1"))
    found = await rig.call("get_order_by_client_id", "entry-1")
    assert found.id == placed.id
    new = await rig.call(
        "replace_order_by_id",
        placed.id,
        ReplaceOrderRequest(qty=12, limit_price=99.25, client_order_id="entry-2"),
    )
    assert (new.replaces, new.qty, new.limit_price) == (placed.id, "12", "99.25")
    old = await rig.call("get_order_by_id", placed.id)
    assert (old.status, old.replaced_by) == (OrderStatus.REPLACED, new.id)
    await rig.call("cancel_order_by_id", new.id)
    assert (await rig.call("get_order_by_id", new.id)).status is OrderStatus.CANCELED
    everything = await rig.call("get_orders", GetOrdersRequest(status=QueryOrderStatus.ALL))
    assert [order.client_order_id for order in everything] == ["entry-2", "entry-1"]
    assert await rig.call("get_orders") == []


async def test_bracket_shows_its_held_children_nested(rig: Rig) -> None:
    placed = await rig.submit(
        limit(
            10,
            100.25,
            order_class=OrderClass.BRACKET,
            take_profit=TakeProfitRequest(limit_price=105.0),
            stop_loss=StopLossRequest(stop_price=95.0),
        )
    )
    assert [leg.status for leg in placed.legs] == [OrderStatus.HELD, OrderStatus.HELD]
    wanted = GetOrdersRequest(status=QueryOrderStatus.ALL, nested=True)
    (parent,) = await rig.call("get_orders", wanted)
    states = {leg.type: leg.status for leg in parent.legs}
    assert parent.status is OrderStatus.FILLED
    assert states == {OrderType.LIMIT: OrderStatus.NEW, OrderType.STOP: OrderStatus.HELD}


async def test_oco_protects_a_position_and_its_stop_leg_is_ratcheted(rig: Rig) -> None:
    await rig.submit(market(10))
    placed = await rig.submit(
        LimitOrderRequest(
            symbol=SYMBOL,
            qty=10,
            side=OrderSide.SELL,
            time_in_force=TimeInForce.GTC,
            order_class=OrderClass.OCO,
            take_profit=TakeProfitRequest(limit_price=105.0),
            stop_loss=StopLossRequest(stop_price=95.0, limit_price=94.5),
        )
    )
    (stop,) = placed.legs
    assert (placed.limit_price, stop.status, stop.stop_price) == ("105", OrderStatus.HELD, "95")
    moved = await rig.call("replace_order_by_id", stop.id, ReplaceOrderRequest(stop_price=99.0))
    assert (moved.status, moved.stop_price, moved.order_class) == (
        OrderStatus.HELD,
        "99",
        OrderClass.OCO,
    )
    (position,) = await rig.call("get_all_positions")
    assert position.qty_available == "0"
    quote(rig.venue, "98.75", "99.00")
    assert (await rig.call("get_order_by_id", placed.id)).status is OrderStatus.CANCELED


async def test_two_leg_combo_fills_with_its_own_leg_orders(rig: Rig) -> None:
    request = LimitOrderRequest(
        qty=2,
        limit_price=4.2,
        time_in_force=TimeInForce.DAY,
        order_class=OrderClass.MLEG,
        client_order_id="spread",
        legs=[
            OptionLegRequest(
                symbol=CALL_600.symbol,
                ratio_qty=1,
                position_intent=PositionIntent.BUY_TO_OPEN,
            ),
            OptionLegRequest(
                symbol=CALL_610.symbol,
                ratio_qty=1,
                position_intent=PositionIntent.SELL_TO_OPEN,
            ),
        ],
    )
    placed = await rig.submit(request)
    assert (placed.symbol, placed.order_class) == (None, OrderClass.MLEG)
    read = await rig.call("get_order_by_client_id", "spread")
    assert (read.status, read.filled_avg_price) == (OrderStatus.FILLED, "4.2")
    assert [leg.filled_avg_price for leg in read.legs] == ["12.2", "8"]
    assert len({leg.id for leg in read.legs} | {read.id}) == 3
    held = {p.symbol: p.qty for p in await rig.call("get_all_positions")}
    assert held == {CALL_600.symbol: "2", CALL_610.symbol: "-2"}


async def test_close_position_sells_what_is_held(rig: Rig) -> None:
    await rig.submit(market(10))
    await rig.call("close_position", SYMBOL)
    assert await rig.call("get_all_positions") == []
    error = await rig.refused("get_open_position", SYMBOL)
    assert error.status_code == 404


async def test_close_all_positions_cancels_orders_first(rig: Rig) -> None:
    await rig.submit(market(10))
    await rig.submit(
        StopOrderRequest(
            symbol=SYMBOL, qty=10, side=OrderSide.SELL, time_in_force=TimeInForce.GTC, stop_price=90
        )
    )
    answers = await rig.call("close_all_positions", True)
    assert [answer.status for answer in answers] == [200]
    assert await rig.call("get_all_positions") == []


@pytest.mark.parametrize(
    ("request_of", "status", "code", "words"),
    [
        (lambda: limit(10, 100.1), 422, 42210000, "sub-penny"),
        (lambda: limit(1.5, 100.25), 422, 42210000, "qty"),
        (lambda: limit(1e6, 100.25), 403, 40310000, "insufficient buying power"),
        (lambda: limit(1, 100.25, client_order_id="taken"), 422, 40010001, "must be unique"),
        (lambda: market(999, OrderSide.SELL), 403, 40310000, "insufficient qty available"),
        (lambda: market(1, OrderSide.SELL), 403, 40310000, "potential wash trade detected"),
    ],
)
async def test_refusal_has_the_code_and_text_of_the_real_venue(
    rig: Rig, request_of: Callable[[], Any], status: int, code: int, words: str
) -> None:
    await rig.submit(market(10))
    await rig.submit(limit(1, 99.0, client_order_id="taken"))
    error = await rig.refused("submit_order", request_of())
    assert (error.status_code, error.code) == (status, code)
    assert words in error.message


async def test_cancel_of_a_filled_order_is_422_and_of_an_unknown_one_404(rig: Rig) -> None:
    placed = await rig.submit(market(1))
    assert (await rig.refused("cancel_order_by_id", placed.id)).status_code == 422
    unknown = "00000000-0000-0000-0000-000000000000"
    assert (await rig.refused("cancel_order_by_id", unknown)).status_code == 404
    assert (await rig.refused("get_order_by_client_id", "nobody")).status_code == 404


async def test_wrong_key_is_401(rig: Rig) -> None:
    rig.client = TradingClient("WRONG", SECRET, url_override=rig.server.url)
    assert (await rig.refused("get_account")).status_code == 401


async def test_cancel_all_answers_every_order(rig: Rig) -> None:
    first = await rig.submit(limit(1, 99.0))
    second = await rig.submit(limit(1, 98.0))
    answers = await rig.call("cancel_orders")
    assert [(answer.id, answer.status) for answer in answers] == [
        (first.id, 200),
        (second.id, 200),
    ]


async def test_activities_page_through_by_token_and_equal_the_journal(rig: Rig) -> None:
    for _ in range(5):
        await rig.submit(market(2))
    rows: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        query = {"direction": "asc", "page_size": 3}
        if token is not None:
            query["page_token"] = token
        page: Any = await asyncio.to_thread(rig.client.get, "/account/activities/FILL", query)
        if not page:
            break
        rows += page
        token = page[-1]["id"]
    journal = rig.venue.journal.of("fill")
    assert [row["id"].partition("::")[2] for row in rows] == [
        row["execution_id"] for row in journal
    ]
    assert [(row["qty"], row["cum_qty"], row["leaves_qty"]) for row in rows] == [
        ("2", "2", "0")
    ] * 5
    fees: Any = await asyncio.to_thread(rig.client.get, "/account/activities/FEE")
    assert [row["net_amount"] for row in fees] == ["-0.02"] * 5


async def test_clock_calendar_assets_and_contracts_can_be_read(rig: Rig) -> None:
    clock = await rig.call("get_clock")
    assert (clock.is_open, clock.timestamp) == (True, rig.venue.now)
    days = await rig.call("get_calendar", GetCalendarRequest(start=rig.venue.now.date()))
    assert days[0].date == rig.venue.now.date()
    asset = await rig.call("get_asset", SYMBOL)
    assert (asset.symbol, asset.price_increment, asset.min_trade_increment) == (SYMBOL, 0.25, 1)
    assert len(await rig.call("get_all_assets")) == 3
    contracts = await rig.call(
        "get_option_contracts",
        GetOptionContractsRequest(underlying_symbols=["SPY"], strike_price_gte="605"),
    )
    assert [c.symbol for c in contracts.option_contracts] == [CALL_610.symbol]


async def test_stream_tells_new_partial_fill_fill_and_cancel(rig: Rig) -> None:
    quote(rig.venue, "100.00", "100.25", size=4)
    updates: list[TradeUpdate] = []
    stream = TradingStream(KEY, SECRET, url_override=rig.server.stream_url)

    async def keep(update: Any) -> None:
        updates.append(update)

    stream.subscribe_trade_updates(keep)
    running = asyncio.create_task(stream._run_forever())  # type: ignore[no-untyped-call]
    hub = rig.server.alpaca.hub
    await wait_for(lambda: any(session.streams for session in hub._sessions))
    await rig.submit(limit(10, 100.25, client_order_id="streamed"))
    quote(rig.venue, "100.00", "100.25", size=4)
    await rig.call("cancel_orders")
    await wait_for(lambda: len(updates) == 4)
    assert [update.event for update in updates] == [
        "new",
        "partial_fill",
        "partial_fill",
        "canceled",
    ]
    assert [update.qty for update in updates] == [None, 4, 4, None]
    assert [update.position_qty for update in updates] == [None, 4, 8, None]
    assert all(isinstance(update.order, Order) for update in updates)
    executions = [str(u.execution_id) for u in updates if u.execution_id is not None]
    assert executions == [row["execution_id"] for row in rig.venue.journal.of("fill")]
    await stream.stop_ws()
    stream._should_run = False
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await stream.close()


async def test_body_may_carry_texts_numbers_and_unknown_fields(rig: Rig) -> None:
    for number, quantity in enumerate((1, 1.0, "1")):
        body = {
            "symbol": SYMBOL,
            "qty": quantity,
            "side": "buy",
            "type": "limit",
            "time_in_force": "day",
            "limit_price": "99.00",
            "client_order_id": f"form-{number}",
            "surprise": {"deep": [1]},
        }
        placed: Any = await asyncio.to_thread(rig.client.post, "/orders", body)
        assert (placed["qty"], placed["limit_price"], placed["order_class"]) == ("1", "99", "")
    assert json.dumps(placed["legs"]) == "null"


async def wait_for(condition: Callable[[], bool]) -> None:
    """Polls with a deadline."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < end_s, "the condition did not come true in time"
        await asyncio.sleep(0.01)
