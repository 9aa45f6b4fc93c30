"""A flatten past the workflow in a market that takes nothing: once more, and never bare (I2, I4).

The Flatten workflow takes a wedged trade over again every few seconds under one command.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from activities import emergency
from activities.emergency import DirectFlatten, FlattenLine, HeldLeg, held_by_trades
from domain.ids import Purpose, trade_prefix
from domain.order import OrderIntent, OrderSnapshot, OrderType, Side, TimeInForce
from ledger.repository import Ledger
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import ACCOUNT

D = Decimal
STOP = D(95)
HELD = D(100)


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    """A trade that holds 100 behind its stop, in a market without a buyer."""
    async with order_lane(armed) as opened:
        installation = await armed.installation_id()
        opened.services = replace(opened.services, installation=installation)
        await opened.open_trade()
        wish = order(purpose=Purpose.STOP, side=Side.SELL)
        body = wish.body.model_copy(
            update={
                "order_type": OrderType.STOP,
                "limit_price": None,
                "stop_price": STOP,
                "time_in_force": TimeInForce.GTC,
            }
        )
        stop = OrderIntent.derive(installation, wish.key, body, increasing=False, reason="protect")
        await opened.place(stop)
        show_bids(opened, 0)
        yield opened


def show_bids(lane: Lane, size: int) -> None:
    lane.exchange.set_quote("AAPL", D("99.99"), D("100.01"), bid_size=D(size))


async def flatten(
    lane: Lane,
    *,
    with_ledger: bool = True,
    allow_market: bool = True,
    rung_wait_s: float = 0.0,
    time_limit_s: float = math.inf,
) -> FlattenLine:
    services = lane.services
    direct = DirectFlatten(
        services.broker,
        services.installation,
        "emergency-1",
        ledger=lane.ledger if with_ledger else None,
        collar_fraction=D("0.02"),
        now=lambda: datetime.now(UTC),
        allow_market=allow_market,
        rung_wait_s=rung_wait_s,
    )
    held: tuple[HeldLeg, ...]
    if with_ledger:
        held = await held_by_trades(lane.ledger, ACCOUNT, services.installation, ["trade-1"])
    else:
        prefix = trade_prefix(services.installation, "trade-1")
        held = (HeldLeg(symbol="AAPL", quantity=HELD, prefix=prefix),)
    [line] = await direct.run(held, time_limit_s)
    return line


async def resting(lane: Lane) -> list[tuple[OrderType | None, Decimal | None, Decimal]]:
    """What works at the broker: kind, stop price, quantity."""
    return [_seen(each) for each in await lane.services.broker.open_orders()]


def _seen(order: OrderSnapshot) -> tuple[OrderType | None, Decimal | None, Decimal]:
    return order.order_type, order.stop_price, order.quantity


def sold(lane: Lane) -> Decimal:
    rows = lane.exchange.journal.of("fill")
    return sum((D(str(row["quantity"])) for row in rows if row["side"] == "sell"), D(0))


ITS_STOP = [(OrderType.STOP, STOP, HELD)]


@pytest.mark.covers("K8")
@pytest.mark.parametrize("with_ledger", [True, False], ids=["ledger", "no ledger"])
async def test_a_flatten_that_is_carried_out_again_sells_again_and_keeps_the_stop(
    lane: Lane, with_ledger: bool
) -> None:
    """Its numbers were used up by the first ladder: the stop went down and nothing went out."""
    for _ in range(5):
        line = await flatten(lane, with_ledger=with_ledger)
        assert (line.why, line.left) == ("PENDING not filled", HELD)
        assert line.sent == 4 * HELD
        assert await resting(lane) == ITS_STOP
    show_bids(lane, 1000)
    line = await flatten(lane, with_ledger=with_ledger)
    assert line.is_flat, line
    assert sold(lane) == HELD
    assert await resting(lane) == []


@pytest.mark.covers("K8")
async def test_a_flatten_that_began_without_the_ledger_goes_on_with_it(lane: Lane) -> None:
    """The same numbers and bodies: the venue called each order a duplicate, the stop as well."""
    assert (await flatten(lane, with_ledger=False)).sent == 4 * HELD
    line = await flatten(lane)
    assert (line.why, line.sent) == ("PENDING not filled", 4 * HELD)
    assert await resting(lane) == ITS_STOP
    show_bids(lane, 1000)
    assert (await flatten(lane)).is_flat
    assert sold(lane) == HELD


@pytest.mark.covers("K8")
async def test_where_no_market_order_may_go_the_ladder_ends_before_it(lane: Lane) -> None:
    line = await flatten(lane, allow_market=False)
    assert (line.why, line.sent) == ("PENDING not filled", 3 * HELD)
    assert await resting(lane) == ITS_STOP


@pytest.mark.covers("K8", "C2")
async def test_an_exit_whose_answer_was_lost_is_found_and_not_sent_twice(lane: Lane) -> None:
    show_bids(lane, 1000)
    lane.exchange.state.faults.add({"kind": "drop_reply", "match": {"method": "POST"}})
    line = await flatten(lane)
    assert line.is_flat, line
    assert (line.sent, line.filled, sold(lane)) == (HELD, HELD, HELD)


@pytest.mark.covers("K8", "C2")
async def test_no_exit_follows_one_that_is_in_doubt(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may arrive yet, and both would sell (I2). The position has its stop meanwhile (I4)."""
    monkeypatch.setattr(emergency, "PROOF_S", 0.0)
    lane.exchange.state.faults.add({"kind": "error_before", "match": {"method": "POST"}})
    line = await flatten(lane)
    assert (line.why, line.sent) == ("PENDING an exit order is not proven dead", HELD)
    assert await resting(lane) == ITS_STOP


@pytest.mark.covers("K8")
async def test_a_stop_that_a_dead_flatten_took_down_comes_back(lane: Lane) -> None:
    """It died between release and exit: nothing at the broker tells that there was a stop."""
    [stop] = await lane.services.broker.open_orders()
    await lane.services.broker.cancel(stop.broker_order_id)
    line = await flatten(lane)
    assert line.why == "PENDING not filled"
    assert await resting(lane) == ITS_STOP


@pytest.mark.covers("K3", "G2")
async def test_nothing_is_released_while_there_is_no_price(lane: Lane) -> None:
    [before] = await lane.services.broker.open_orders()
    lane.exchange.set_quote("AAPL", None, D("100.01"))
    line = await flatten(lane)
    assert (line.why, line.left) == ("PENDING NO_QUOTE", HELD)
    [after] = await lane.services.broker.open_orders()
    assert after.broker_order_id == before.broker_order_id


@pytest.mark.covers("K8")
async def test_no_leg_is_begun_whose_ladder_the_step_could_not_end(lane: Lane) -> None:
    """Cut off behind the release, the leg stood bare until its turn came anew."""
    show_bids(lane, 1000)
    line = await flatten(lane, time_limit_s=emergency.LEG_MAX_S - 1)
    assert (line.why, line.left) == ("PENDING its turn has not come", HELD)
    assert await resting(lane) == ITS_STOP
    assert (await flatten(lane, time_limit_s=emergency.LEG_MAX_S + 60)).is_flat


@pytest.mark.covers("K8", "F8")
async def test_a_market_without_buyers_takes_few_requests_of_the_account(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127 looks at one leg's orders: two such legs, and no other exit of the minute went out."""
    looks: list[str] = []
    order = lane.services.broker.order

    async def counted(broker_order_id: str) -> OrderSnapshot | None:
        looks.append(broker_order_id)
        return await order(broker_order_id)

    monkeypatch.setattr(lane.services.broker, "order", counted)
    line = await flatten(lane, rung_wait_s=emergency.RUNG_WAIT_S)
    assert line.why == "PENDING not filled"
    assert len(looks) <= 40


@pytest.mark.covers("K8", "F8")
async def test_a_look_that_the_venue_refuses_ends_no_ladder(lane: Lane) -> None:
    """The proof that the stop is dead, and then the end of the exit, cannot be read at first."""
    show_bids(lane, 1000)
    match = {"method": "GET", "path": "/v2/orders/*"}
    for nth in (2, 3):  # the second rule does not see what the first one takes
        rule = {"kind": "rate_limited", "match": match | {"nth": nth}}
        lane.exchange.state.faults.add(rule)
    line = await flatten(lane, rung_wait_s=emergency.RUNG_WAIT_S)
    assert lane.exchange.state.faults.fired["rate_limited"] == 2
    assert line.is_flat, line
    assert sold(lane) == HELD
