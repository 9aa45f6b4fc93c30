"""A flatten while the ledger was away: its fills find their trade when the ledger is back (K8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import cast

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.emergency import DirectFlatten, HeldLeg
from activities.executions import book_executions
from activities.flatten import FlattenActivities, FlattenReceipt, FlattenStep
from activities.reconcile import ReconcileInput, ReconcilePass
from brokers.port import Accepted
from cli.flatten import close_positions
from cli.verify import broker_orders, ledger_orders
from domain.control import KillMode, KillScope, KillScopeKind
from domain.facts import FactEnvelope, OrderNotSent
from domain.ids import IntentKey, Purpose, client_id_of_prefix, trade_prefix
from domain.order import OrderIntent, Side
from ledger.repository import Ledger
from report.records import Book
from report.verify import compare
from settings import Settings
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import ACCOUNT, NOW, kill, plan


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    async with order_lane(armed) as opened:
        yield opened


@pytest.mark.covers("K8")
async def test_what_a_flatten_without_the_ledger_sold_is_not_sold_again(lane: Lane) -> None:
    await lane.open_trade()
    installation = await lane.ledger.installation_id()
    lane.services = replace(lane.services, installation=installation)
    prefix = trade_prefix(installation, "trade-1")
    held = (HeldLeg(symbol="AAPL", quantity=Decimal(100), prefix=prefix),)
    direct = DirectFlatten(
        lane.services.broker,
        installation,
        "emergency-1",
        ledger=None,
        collar_fraction=Decimal("0.02"),
        now=lambda: datetime.now(UTC),
    )
    [line] = await direct.run(held)
    assert line.is_flat, line
    await book_executions(lane.services, "trade-1")
    assert await lane.ledger.unattributed_fills(ACCOUNT) == ()
    assert await lane.ledger.positions_by_trade(ACCOUNT) == ()
    exits = [row.fill for row in await lane.ledger.fills_of_trade("trade-1")][1:]
    assert all(fill.client_id is not None for fill in exits)
    # Another trade holds the symbol, so that the broker's list is no empty page.
    await lane.open_trade("trade-2")
    (fact,) = await lane.place(order(purpose=Purpose.EXIT, side=Side.SELL))
    assert isinstance(fact, OrderNotSent)
    assert fact.code == "NOT_REDUCING"


@pytest.mark.covers("K8")
async def test_orders_of_a_flatten_without_the_ledger_are_in_its_books_after_one_pass(
    lane: Lane,
) -> None:
    """I2: `verify` ends equal, the rung that filled nothing and a repeated one included."""
    await lane.open_trade()
    installation = await lane.ledger.installation_id()
    lane.services = replace(lane.services, installation=installation)
    broker = lane.services.broker
    prefix = trade_prefix(installation, "trade-1")
    for price in ("150", "151"):
        body = order(purpose=Purpose.FLATTEN, side=Side.SELL, price=price).body
        client_id = client_id_of_prefix(prefix, 0, Purpose.FLATTEN, 0x8123, body.checksum())
        key = IntentKey(trade_id="x", purpose=Purpose.FLATTEN, sequence=0x8123)
        told = OrderIntent(key=key, client_id=client_id, body=body, increasing=False)
        unfilled = await broker.place(told)
        assert isinstance(unfilled, Accepted)
        await broker.cancel(unfilled.order.broker_order_id)
    held = (HeldLeg(symbol="AAPL", quantity=Decimal(100), prefix=prefix),)
    direct = DirectFlatten(
        broker,
        installation,
        "emergency-1",
        ledger=None,
        collar_fraction=Decimal("0.02"),
        now=lambda: datetime.now(UTC),
    )
    [line] = await direct.run(held)
    assert line.is_flat, line
    since = MARKET_NOW - timedelta(days=1)
    assert await differences(lane, since)
    for _ in range(2):
        one = ReconcilePass(lane.services, never_told)
        await one.run(ReconcileInput(account=ACCOUNT, settle_s=0))
        await one.aclose()
        assert await differences(lane, since) == []
    _, *rows = await lane.ledger.orders_of_trade("trade-1")
    assert [row.filled_quantity for row in rows] == [Decimal(0), Decimal(0), Decimal(100)]
    assert not any(row.is_live for row in rows)


async def never_told(trade_id: str, signal: str, envelope: FactEnvelope) -> bool:
    return True


async def differences(lane: Lane, since: datetime) -> list[str]:
    """What `verify` would name of the orders; the lane's entry has an installation of its own."""
    installation = lane.services.installation
    theirs = await broker_orders(lane.services.broker, installation, since)
    ours = await ledger_orders(lane.ledger, ACCOUNT, since)
    ours = tuple(row for row in ours if row.client_id.startswith(installation))
    return [item.line() for item in compare(Book(orders=ours), Book(orders=theirs)).items]


def settings_of(lane: Lane) -> Settings:
    """As much of the settings as a flatten without Temporal reads."""
    account = SimpleNamespace(name=ACCOUNT, installation=lane.services.installation)
    named = SimpleNamespace(account=account, limits=SimpleNamespace(collar_fraction=Decimal("0.2")))
    return cast(Settings, named)


async def flatten(lane: Lane) -> FlattenReceipt:
    """A flatten of the account with the ledger up and Temporal away."""
    wanted = kill(mode=KillMode.FLATTEN)
    return await close_positions(lane.services.broker, lane.ledger, settings_of(lane), wanted)


@pytest.mark.covers("K2", "D9")
async def test_flatten_without_temporal_closes_what_an_ended_trade_holds(lane: Lane) -> None:
    """Its late fill could not restart it, and the receipt said that the broker is flat."""
    await lane.open_trade()
    await lane.ledger.update_trade("trade-1", stage="not_filled", closed=True)
    receipt = await flatten(lane)
    assert receipt.is_flat, receipt
    assert [(line.trade_id, line.filled) for line in receipt.lines] == [("trade-1", Decimal(100))]
    assert await lane.services.broker.positions() == ()


@pytest.mark.covers("K2")
async def test_flatten_without_temporal_names_what_is_of_no_trade(lane: Lane) -> None:
    """It said "the broker says flat" of an account that held a position of somebody else."""
    await lane.open_trade()
    foreign = OrderIntent.derive(
        "ffff",
        IntentKey(trade_id="somebody", purpose=Purpose.ENTRY, sequence=1),
        order(quantity="7").body,
        increasing=True,
        reason="test",
    )
    assert isinstance(await lane.services.broker.place(foreign), Accepted)
    receipt = await flatten(lane)
    assert not receipt.is_flat
    assert "7 AAPL" in receipt.pending
    (left,) = await lane.services.broker.positions()
    assert left.quantity == 7


class Nowhere:
    """A Temporal server that has no workflow any more."""

    def get_workflow_handle(self, _name: str) -> Nowhere:
        return self

    async def describe(self) -> None:
        raise RPCError("not found", RPCStatusCode.NOT_FOUND, b"")


@pytest.mark.covers("K2", "D9")
@pytest.mark.parametrize(
    "scope",
    [
        KillScope(kind=KillScopeKind.TRADE, value="trade-1"),
        KillScope(kind=KillScopeKind.SYMBOL, value="AAPL"),
    ],
    ids=["trade", "symbol"],
)
async def test_flatten_sees_what_an_ended_trade_holds(lane: Lane, scope: KillScope) -> None:
    """Its late fill had not restarted it yet: of the trade it said flat, of the symbol nobody's."""
    await lane.open_trade()
    await lane.ledger.update_trade("trade-1", stage="not_filled", closed=True)
    step = FlattenStep(
        command_id="f", account=ACCOUNT, scope=scope, by="ann", reason="out", since=NOW
    )
    environment = ActivityEnvironment(client=cast(Client, Nowhere()))
    look = await environment.run(FlattenActivities(lane.services).look_for_flat, step)
    assert not look.is_flat
    assert [(line.trade_id, line.left) for line in look.lines] == [("trade-1", Decimal(100))]
    assert look.wedged == ("trade-1",)


@pytest.mark.covers("K2", "C5")
async def test_flatten_is_not_done_while_an_entry_works_whose_trade_has_ended(lane: Lane) -> None:
    """It was called absent, and what it buys would be held behind the word that all is flat."""
    await lane.ledger.create_trade(plan())
    await lane.place(order(price="90"))
    await lane.ledger.update_trade("trade-1", stage="not_filled", closed=True)
    scope = KillScope(kind=KillScopeKind.ACCOUNT, value=ACCOUNT)
    step = FlattenStep(
        command_id="f", account=ACCOUNT, scope=scope, by="ann", reason="out", since=NOW
    )
    environment = ActivityEnvironment(client=cast(Client, Nowhere()))
    look = await environment.run(FlattenActivities(lane.services).look_for_flat, step)
    assert look.working_entries == (order(price="90").client_id,)
    assert not look.is_flat
