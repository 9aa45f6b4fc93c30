"""The kill over sixty trades, a tenth of them wedged, with every listing stale (K4, I9).

Sixty is what an hour of test machine carries; the figures of a thousand are `make bench`. What is
asserted here holds for any number: the kill asks the ledger and single orders, never a listing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from temporalio.client import Client

import worker
from activities.gateway import GatewaySweeper
from activities.kill import OrderFate, engage
from brokers.port import Broker
from domain.control import KillMode
from domain.instrument import Instrument
from domain.order import OrderSnapshot
from domain.plan import TradePlan
from ledger.errors import LedgerDown
from ledger.repository import Ledger
from simulator.config import ExchangeConfig, Listing
from tests.bench.plans import (
    FAR_QUOTE,
    SYMBOL,
    WALK_SYMBOL,
    TradeBook,
    parked_entry_plan,
    small_plan,
)
from tests.rig import Rig, roomy_limits, running_rig
from tests.workflow.test_deploy import NEXT_BUILD, OLD_BUILD, build, make_current, stops
from tests.workflow.test_kill import kill_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WEDGED, PARKED, HELD = 6, 30, 24
AT_ONCE = 4
DEADLINE_S = 240.0
TRIES = 5


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    """With the gateway; trade workers come and go with their builds."""
    listings = tuple(Listing(Instrument(symbol=name)) for name in (SYMBOL, WALK_SYMBOL))
    config = ExchangeConfig(listings=listings, requests_per_minute=None)
    limits = roomy_limits(max_open_positions=WEDGED + PARKED + HELD)
    async with running_rig(
        temporal_client, ledger, f"acct-{unique}", config=config, limits=limits, workers=False
    ) as made:
        made.deadline_s = DEADLINE_S
        made.quote(SYMBOL, "99.90", "100.10")
        made.quote(WALK_SYMBOL, *FAR_QUOTE)
        async with worker.gateway_worker(made.client, made.services):
            yield made


class StaleBroker:
    """The broker of the rig whose order list stands still at an earlier moment (C9)."""

    def __init__(self, broker: Broker, listed: tuple[OrderSnapshot, ...]) -> None:
        self._broker = broker
        self._listed = listed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def open_orders(self) -> tuple[OrderSnapshot, ...]:
        return self._listed


class BlindClient:
    """The Temporal client whose Visibility knows nobody yet; signals go through."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        assert name not in ("list_workflows", "count_workflows"), "a kill asks no listing"
        return getattr(self._client, name)


def entries(rig: Rig) -> list[Any]:
    return [order for order in rig.exchange.open_orders if order.symbol == WALK_SYMBOL]


async def open_all(rig: Rig, plans: list[TradePlan]) -> None:
    """A few at a time; one that a stalled machine kept from its entry is started anew."""
    free = asyncio.Semaphore(AT_ONCE)

    async def has_order(trade_id: str) -> bool:
        orders = await rig.ledger.orders_of_trade(trade_id)
        return any(order.broker_order_id is not None for order in orders)

    async def is_known(trade_id: str) -> bool:
        try:
            trade = await rig.ledger.trade(trade_id)
            return await has_order(trade_id) or (trade is not None and trade.closed_at is not None)
        except LedgerDown:  # The machine stalls: asked again.
            return False

    async def one(plan: TradePlan) -> None:
        async with free:
            for number in range(TRIES):
                trade_id = f"{plan.trade_id}-{number}"
                await rig.start_trade(plan.model_copy(update={"trade_id": trade_id}))
                await rig.until_async(partial(is_known, trade_id), trade_id)
                if await has_order(trade_id):
                    return
        raise AssertionError(f"{plan.trade_id} was never entered")

    await asyncio.gather(*(one(plan) for plan in plans))


@pytest.mark.covers("K4")
async def test_kill_takes_every_entry_and_no_protection_with_wedged_trades_and_stale_listings(
    rig: Rig,
) -> None:
    book = TradeBook(rig.services.account, rig.clock)
    async with build(rig, OLD_BUILD):
        await make_current(rig, OLD_BUILD)
        await open_all(rig, [parked_entry_plan(book, f"wedged-{n}") for n in range(WEDGED)])
        await rig.until(lambda: len(entries(rig)) == WEDGED, "the entries of the wedged work")
    # Nobody serves their build any more. The list that the kill will see is of this moment.
    listed = await rig.broker.open_orders()
    gone = listed[0].broker_order_id
    await rig.broker.cancel(gone)
    await rig.until(lambda: len(entries(rig)) == WEDGED - 1, "one of the listed is dead already")
    async with build(rig, NEXT_BUILD):
        await make_current(rig, NEXT_BUILD)
        plans = [parked_entry_plan(book, f"parked-{n}") for n in range(PARKED)]
        await open_all(rig, plans + [small_plan(book, f"held-{n}") for n in range(HELD)])
        working = WEDGED - 1 + PARKED
        await rig.until(lambda: len(entries(rig)) == working, "all entries work")
        await rig.until(lambda: stops(rig) == HELD, "all positions are protected")
        at_work = {order.id for order in entries(rig)}
        protective = {o.id for o in rig.exchange.open_orders if o.symbol == SYMBOL}
        sweeper = GatewaySweeper(
            rig.services,
            StaleBroker(rig.broker, listed),
            client=BlindClient(rig.client),  # type: ignore[arg-type]
            trade_queue=rig.queue,
        )
        sweeping = asyncio.create_task(sweeper.run())
        try:
            account = rig.services.account
            before = len(rig.journal("accepted"))
            await engage(rig.ledger, account, kill_of(rig, KillMode.CANCEL_ENTRIES))
            await rig.until(lambda: not entries(rig), "no entry works")
            await rig.until(lambda: "kill-1" in sweeper.receipts, "the receipt is final")
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
        receipt = sweeper.receipts["kill-1"]
        swept = {order.broker_order_id: order.fate for order in receipt.orders}
        assert swept.pop(gone) is OrderFate.ALREADY_DEAD
        assert {swept.pop(order) for order in at_work} == {OrderFate.CANCELLED}
        # The entries of the held, where no stream has told the ledger of their fill yet.
        assert set(swept.values()) <= {OrderFate.FILLED}
        assert (receipt.open_ends, receipt.faults) == ((), ())
        # I4, I9: not one of them was touched, nothing came behind the kill.
        assert protective <= {order.id for order in rig.exchange.open_orders}
        assert stops(rig) == HELD
        assert len(rig.journal("accepted")) == before
    for trade in await rig.ledger.list_trades(account=account, open_only=True):
        handle = rig.client.get_workflow_handle(f"trade/{trade.trade_id}")
        await handle.terminate("shown")
