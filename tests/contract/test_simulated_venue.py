"""Contract cases that need a market: the adapter against the simulated exchange only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.alpaca.client import AlpacaBroker
from brokers.port import (
    Accepted,
    AuthNeeded,
    CancelRequested,
    OrderUpdate,
    Rejected,
    StreamEvent,
    StreamReady,
)
from domain.errors import Refused, Transient
from domain.ids import Purpose
from domain.instrument import InstrumentKind
from domain.order import (
    BrokerOrderStatus,
    Fill,
    OpenClose,
    OrderClass,
    OrderLeg,
    OrderSnapshot,
    OrderType,
    Side,
    TimeInForce,
)
from simulator.orders import Kind, OrderRequest
from simulator.orders import Side as VenueSide
from tests.contract.broker_faces import (
    MARKET_NOW,
    OPTIONS,
    SimulatedFace,
    bracket,
    combo,
    intent,
    simulated_face,
)

DEADLINE_S = 5.0


@pytest.fixture
async def face() -> AsyncIterator[SimulatedFace]:
    async with simulated_face() as simulated:
        yield simulated


async def placed(face: SimulatedFace, *args: int, **options: object) -> OrderSnapshot:
    outcome = await face.broker.place(intent(*args, **options))  # type: ignore[arg-type]
    assert isinstance(outcome, Accepted)
    return outcome.order


async def seen(face: SimulatedFace, order: OrderSnapshot) -> OrderSnapshot:
    found = await face.broker.order(order.broker_order_id)
    assert found is not None
    return found


async def all_fills(face: SimulatedFace) -> list[Fill]:
    fills: list[Fill] = []
    cursor, has_more = None, True
    while has_more:
        page = await face.broker.executions_since(cursor)
        assert page.problems == ()
        fills += page.fills
        cursor, has_more = page.cursor, page.has_more
    return fills


async def next_events(events: AsyncIterator[StreamEvent], count: int) -> list[StreamEvent]:
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(events) for _ in range(count)]


async def fills_from(events: AsyncIterator[StreamEvent], count: int) -> list[Fill]:
    fills: list[Fill] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(fills) < count:
            event = await anext(events)
            if isinstance(event, OrderUpdate) and event.fill is not None:
                fills.append(event.fill)
    return fills


async def test_bc50_stop_beside_a_working_entry_is_rejected_as_wash_trade(
    face: SimulatedFace,
) -> None:
    await placed(face, 1)
    outcome = await face.broker.place(
        intent(
            2,
            side=Side.SELL,
            limit=None,
            order_type=OrderType.STOP,
            stop_price=Decimal("95.00"),
            purpose=Purpose.STOP,
        )
    )
    assert isinstance(outcome, Rejected)
    assert outcome.code == "40310000"
    assert await face.accepted(intent(2).client_id) == 0


async def test_bc51_exit_beyond_the_free_quantity_is_rejected_with_the_numbers(
    face: SimulatedFace,
) -> None:
    order = await placed(face, 1)
    await face.fill(order.broker_order_id, "10", "100.00")
    await placed(face, 2, side=Side.SELL, limit="110.00", purpose=Purpose.TARGET)
    outcome = await face.broker.place(
        intent(3, side=Side.SELL, limit="111.00", purpose=Purpose.TARGET)
    )
    assert isinstance(outcome, Rejected)
    assert outcome.code == "40310000"
    assert "held_for_orders=10" in outcome.text
    (holding,) = await face.broker.positions()
    assert (holding.quantity, holding.available_quantity) == (Decimal(10), Decimal(0))


async def test_bc52_price_off_the_tick_is_rejected(face: SimulatedFace) -> None:
    outcome = await face.broker.place(intent(1, limit="100.001"))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "42210000"


async def test_bc53_bracket_children_wake_with_the_complete_fill_only(face: SimulatedFace) -> None:
    outcome = await face.broker.place(bracket(1))
    assert isinstance(outcome, Accepted)
    await face.fill(outcome.order.broker_order_id, "4", "100.00")
    part = await seen(face, outcome.order)
    assert part.filled_quantity == 4
    assert {leg.status for leg in part.legs} == {BrokerOrderStatus.HELD}
    await face.fill(outcome.order.broker_order_id, "6", "100.00")
    full = await seen(face, outcome.order)
    assert full.status is BrokerOrderStatus.FILLED
    awake = {leg.status for leg in full.legs}
    assert BrokerOrderStatus.WORKING in awake
    # The filled parent is still listed, because its children work.
    (listed,) = await face.broker.open_orders()
    assert {leg.broker_order_id for leg in listed.legs} == {
        leg.broker_order_id for leg in full.legs
    }


async def test_bc54_stop_of_an_oco_is_moved_by_a_replace_of_the_child(face: SimulatedFace) -> None:
    entry = await placed(face, 1)
    await face.fill(entry.broker_order_id, "10", "100.00")
    group: dict[str, Any] = {
        "order_class": OrderClass.OCO,
        "time_in_force": TimeInForce.GTC,
        "side": Side.SELL,
    }
    oco = await placed(
        face, 2, limit="110.00", purpose=Purpose.OCO, stop_loss_price=Decimal("95.00"), **group
    )
    wish = intent(
        3,
        limit=None,
        order_type=OrderType.STOP,
        stop_price=Decimal("100.00"),
        purpose=Purpose.STOP,
        **group,
    )
    outcome = await face.broker.replace(oco.legs[0].broker_order_id, wish)
    assert isinstance(outcome, Accepted)
    assert (outcome.order.stop_price, outcome.order.quantity) == (Decimal("100.00"), Decimal(10))
    assert outcome.order.replaces_broker_id == oco.legs[0].broker_order_id
    parent = await seen(face, oco)
    live = [leg for leg in parent.legs if not leg.is_terminal]
    assert [leg.stop_price for leg in live] == [Decimal("100.00")]


async def test_bc55_combo_fills_are_leg_executions_alike_in_stream_and_activities(
    face: SimulatedFace,
) -> None:
    events = face.broker.stream()
    assert isinstance((await next_events(events, 1))[0], StreamReady)
    legs = (
        OrderLeg(symbol=OPTIONS[0], side=Side.BUY),
        OrderLeg(symbol=OPTIONS[1], side=Side.SELL),
    )
    wish = combo(1, "3.20", legs)
    outcome = await face.broker.place(wish)
    assert isinstance(outcome, Accepted)
    streamed = await fills_from(events, 2)
    booked = await all_fills(face)
    assert {fill.fill_key for fill in streamed} == {fill.fill_key for fill in booked}
    assert {(fill.symbol, fill.signed_quantity) for fill in booked} == {
        (OPTIONS[0], Decimal(10)),
        (OPTIONS[1], Decimal(-10)),
    }
    leg_ids = {leg.broker_order_id for leg in outcome.order.legs}
    assert {fill.broker_order_id for fill in booked} == leg_ids
    done = await seen(face, outcome.order)
    assert done.status is BrokerOrderStatus.FILLED
    closing = tuple(
        leg.model_copy(update={"side": leg.side.opposite, "effect": OpenClose.CLOSE})
        for leg in legs
    )
    assert isinstance(await face.broker.place(combo(2, "-2.80", closing)), Accepted)
    assert await face.broker.positions() == ()


async def test_bc56_stream_and_activities_name_the_same_executions(face: SimulatedFace) -> None:
    """I7: one key per execution whichever way it comes."""
    events = face.broker.stream()
    await next_events(events, 1)
    order = await placed(face, 1)
    for quantity in ("1", "2", "3", "4"):
        await face.fill(order.broker_order_id, quantity, "100.00")
    streamed = await fills_from(events, 4)
    booked = await all_fills(face)
    assert [fill.fill_key for fill in streamed] == [fill.fill_key for fill in booked]
    assert [fill.price for fill in streamed] == [fill.price for fill in booked]
    assert {fill.client_id for fill in streamed} == {order.client_id}
    executions = [row for row in face.exchange.journal.of("fill") if "execution_id" in row]
    assert [fill.execution_id for fill in streamed] == [row["execution_id"] for row in executions]


@pytest.mark.covers("F1", "F2")
async def test_bc57_lost_and_doubled_frames_are_made_good_by_the_activities(
    face: SimulatedFace,
) -> None:
    """F1, F2."""
    events = face.broker.stream()
    await next_events(events, 1)
    order = await placed(face, 1)
    for kind, nth in (("stream_drop", 1), ("stream_duplicate", 1)):
        rule = {"kind": kind, "match": {"event": "*fill", "nth": nth}}
        await face.control("faults", rule)
        await face.fill(order.broker_order_id, "3", "100.00")
    streamed = await fills_from(events, 2)
    assert {fill.fill_key for fill in streamed} == {f"{order.broker_order_id}:6"}
    booked = [fill.fill_key for fill in await all_fills(face)]
    assert booked == [f"{order.broker_order_id}:3", f"{order.broker_order_id}:6"]


async def test_bc58_cut_stream_raises_and_a_new_one_can_be_opened(face: SimulatedFace) -> None:
    events = face.broker.stream()
    await next_events(events, 1)
    await face.control("faults", {"kind": "stream_disconnect"})
    await placed(face, 1)
    with pytest.raises(Transient) as lost:
        await next_events(events, 5)
    assert lost.value.code == "STREAM_LOST"
    again = face.broker.stream()
    assert isinstance((await next_events(again, 1))[0], StreamReady)


@pytest.mark.covers("C5")
async def test_bc59_order_that_appears_late_is_absent_before_it_is_there(
    face: SimulatedFace,
) -> None:
    """C5: None right after the send proves nothing."""
    await face.control("faults", {"kind": "lookup_lag", "params": {"lag_s": 30}})
    await face.fault("drop_reply", method="POST")
    wish = intent(1)
    await face.broker.place(wish)
    assert await face.broker.order_by_client_id(wish.client_id) is None
    assert await face.accepted(wish.client_id) == 1
    face.server.step_s(31)
    assert await face.broker.order_by_client_id(wish.client_id) is not None


@pytest.mark.covers("C10")
async def test_bc60_reject_after_the_accept_is_seen_by_the_next_look(face: SimulatedFace) -> None:
    """C10."""
    await face.control("faults", {"kind": "late_reject", "params": {"delay_s": 2}})
    order = await placed(face, 1)
    assert not order.is_terminal
    face.server.step_s(3)
    assert (await seen(face, order)).status is BrokerOrderStatus.REJECTED


@pytest.mark.covers("D1")
async def test_bc61_replace_that_doubles_shows_both_orders_alive(face: SimulatedFace) -> None:
    """D1: an accepted replace does not prove that the old order is gone."""
    old = await placed(face, 1)
    await face.control("faults", {"kind": "replace_doubles"})
    outcome = await face.broker.replace(old.broker_order_id, intent(2, limit="100.50"))
    assert isinstance(outcome, Accepted)
    live = {order.broker_order_id for order in await face.broker.open_orders()}
    assert live == {old.broker_order_id, outcome.order.broker_order_id}


@pytest.mark.covers("D4")
async def test_bc62_cancel_that_is_lost_leaves_the_order_working(face: SimulatedFace) -> None:
    """D4: 204 is a request taken, not a death."""
    order = await placed(face, 1)
    await face.control("faults", {"kind": "cancel_lost"})
    assert await face.broker.cancel(order.broker_order_id) == CancelRequested()
    assert (await seen(face, order)).status is BrokerOrderStatus.WORKING


async def test_bc63_wrong_secret_is_auth_needed_everywhere(face: SimulatedFace) -> None:
    config = face.config.model_copy(update={"key_id": "nobody"})
    broker = AlpacaBroker(config)
    assert isinstance(await broker.place(intent(1)), AuthNeeded)
    assert isinstance(await broker.cancel("x"), AuthNeeded)
    for read in (broker.account, broker.open_orders, broker.market_clock, broker.positions):
        with pytest.raises(Refused) as refused:
            await read()
        assert refused.value.code == "AUTH_NEEDED"
    with pytest.raises(Refused):
        await next_events(broker.stream(), 1)
    await broker.aclose()
    assert face.exchange.journal.of("accepted") == []


@pytest.mark.covers("F5")
async def test_bc64_reserved_pool_cancels_while_ordinary_calls_hang(face: SimulatedFace) -> None:
    """F5."""
    order = await placed(face, 1)
    rule = {"kind": "slow", "match": {"method": "GET", "count": 40}, "params": {"delay_s": 2}}
    await face.control("faults", rule)
    reads = [asyncio.create_task(face.broker.account()) for _ in range(40)]
    kill = AlpacaBroker(face.config, reserved=True)
    assert await kill.cancel(order.broker_order_id) == CancelRequested()
    await kill.aclose()
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(outcome, Transient) for outcome in outcomes)


async def test_bc65_market_account_and_asset_are_read(face: SimulatedFace) -> None:
    clock = await face.broker.market_clock()
    assert (clock.market_now, clock.is_open) == (MARKET_NOW, True)
    account = await face.broker.account()
    assert (account.equity, account.cash) == (Decimal(10_000_000), Decimal(10_000_000))
    assert account.account_id == face.broker.account_id
    quotes = await face.broker.quotes(["ESX", OPTIONS[0], "NONE"])
    assert set(quotes) == {"ESX", OPTIONS[0]}
    assert (quotes["ESX"].bid, quotes["ESX"].ask) == (Decimal("104.00"), Decimal("104.10"))
    stock = (await face.broker.asset("ESX")).instrument
    assert (stock.kind, stock.tick_size) == (InstrumentKind.EQUITY, Decimal("0.01"))
    option = (await face.broker.asset(OPTIONS[0])).instrument
    assert (option.kind, option.multiplier) == (InstrumentKind.OPTION, Decimal(100))
    with pytest.raises(Refused) as unknown:
        await face.broker.asset("NONE")
    assert unknown.value.code == "SYMBOL_UNKNOWN"


async def test_bc66_more_orders_than_a_page_are_listed_completely(face: SimulatedFace) -> None:
    for number in range(620):
        if number % 50 == 0:
            face.server.step_s(1)
        face.exchange.submit(
            OrderRequest(
                symbol="ESX",
                side=VenueSide.BUY,
                quantity=Decimal(1),
                kind=Kind.LIMIT,
                client_id=f"n{number}",
                limit_price=Decimal("90.00"),
            )
        )
    orders = await face.broker.open_orders()
    assert {order.client_id for order in orders} == {f"n{number}" for number in range(620)}
    since = MARKET_NOW + timedelta(seconds=13)
    assert len(await face.broker.orders_since(since - timedelta(microseconds=1))) == 20
