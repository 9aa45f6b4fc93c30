"""Stops that rest overnight at a venue whose list shows today's orders only (faults.md G4, F8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.doorbell import Doorbell
from activities.emergency import DirectFlatten, held_by_trades
from activities.reads import ReadActivities
from activities.services import ReadInput, TradeRef
from activities.stream_events import UNLISTED_READ_EVERY_S, StreamBooker
from domain.commands import ReadBroker
from domain.facts import BrokerSnapshot
from domain.plan import TradePlan
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, WireFace
from tests.rig import Rig, running_rig
from tests.workflow.test_trade_thread import plan_of

D = Decimal
ONE_DAY = timedelta(hours=24, minutes=1)


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    config = ExchangeConfig(requests_per_minute=None, face=WireFace.TRADIER)
    async with running_rig(
        temporal_client, ledger, f"acct-{unique}", config=config, streams=False
    ) as made:
        made.quote("ESX", "99.75", "100.25")
        yield made


def stop_only(rig: Rig) -> TradePlan:
    return plan_of(rig).model_copy(update={"targets": ()})


async def wedged_overnight(rig: Rig) -> str:
    """A protected trade whose workflow is gone; a day later its stop is in no list."""
    handle = await rig.start_trade(stop_only(rig))

    async def is_booked() -> bool:
        rows = await rig.ledger.open_orders(rig.services.account)
        return any(row.intent.body.stop_price and row.broker_order_id for row in rows)

    await rig.until_async(is_booked, "protected")
    await handle.terminate("wedged")
    venue = rig.server.venue
    venue.advance_to(rig.exchange.now + ONE_DAY)
    rig.quote("ESX", "99.75", "100.25")
    assert await rig.broker.open_orders() == ()
    return handle.id.removeprefix("trade/")


@pytest.mark.covers("G4")
async def test_direct_flatten_takes_yesterdays_stop_back_before_it_sells(rig: Rig) -> None:
    """K-rows, I4: a stop and an exit for the same shares would sell them twice."""
    trade_id = await wedged_overnight(rig)
    services = rig.services
    held = await held_by_trades(rig.ledger, services.account, services.installation, [trade_id])
    direct = DirectFlatten(
        rig.broker,
        services.installation,
        "emergency-overnight",
        ledger=rig.ledger,
        collar_fraction=D("0.02"),
        now=lambda: datetime.now(UTC),
    )
    [line] = await direct.run(held)
    assert (line.is_flat, line.filled) == (True, D(10)), line
    assert rig.exchange.open_orders == []
    assert rig.exchange.state.account.quantity("ESX") == 0


async def test_compare_finds_the_end_of_yesterdays_stop_but_does_not_ask_in_every_pass(
    rig: Rig,
) -> None:
    await wedged_overnight(rig)
    now_s = [1000.0]
    services = replace(
        rig.services,
        monotonic=lambda: now_s[0],
        now=lambda: datetime.now(UTC) + timedelta(minutes=1),  # nothing is in flight any more
    )

    async def gone(*_: object) -> bool:
        """The trade's workflow is gone: nobody hears what is rung."""
        return False

    doorbell = Doorbell(gone, sender="test", now=services.now)
    booker = StreamBooker(services, doorbell)
    try:
        assert await booker.compare() == 0
        (stop,) = rig.exchange.open_orders
        rig.exchange.cancel(stop.id)
        now_s[0] += 1
        assert await booker.compare() == 0
        now_s[0] += UNLISTED_READ_EVERY_S
        assert await booker.compare() == 1
    finally:
        await booker.aclose()
        await doorbell.aclose()


@pytest.mark.covers("G4", "D1")
async def test_stop_that_filled_before_any_look_at_executions_is_booked_by_a_read(
    rig: Rig,
) -> None:
    """I5, I11: sent, then a night without us; the list of the new day has never shown it.

    Found by the event-kill driver: the worker died right before the stop was sent, and the trade
    asked for its executions until it was ended by hand.
    """
    trade_id = await wedged_overnight(rig)
    (stop,) = rig.exchange.open_orders
    rig.quote("ESX", "96.00", "96.25")
    account = rig.services.account
    booked = await rig.ledger.fills_of_trade(trade_id)
    assert [row.fill.side.value for row in booked] == ["buy"]
    orders = await rig.ledger.orders_of_account(account)
    command = ReadBroker(
        broker_order_ids=tuple(o.broker_order_id for o in orders if o.broker_order_id),
        client_ids=(),
        symbols=("ESX",),
        reason="executions are missing",
    )
    trade = TradeRef(
        trade_id=trade_id,
        account=account,
        strategy="scripted",
        symbols=("ESX",),
        clock=rig.clock,
    )
    read = ReadActivities(rig.services).read_broker
    for _ in range(2):  # read again, it is booked once (I7)
        answer = await ActivityEnvironment().run(read, ReadInput(trade=trade, command=command))
        (snapshot,) = answer.facts
        assert isinstance(snapshot, BrokerSnapshot)
        sold = [fill for fill in snapshot.fills if fill.side.value == "sell"]
        assert [(fill.quantity, fill.price) for fill in sold] == [(D(10), D(96))]
    assert rig.exchange.state.account.quantity("ESX") == 0, stop
