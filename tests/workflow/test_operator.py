"""The operator's hand on running trades, through the command line's own steps (I17, I20, K6)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from activities import stream_events
from activities.adoption import adopt, carry_on, prepare
from activities.as_flat import what_is_left
from activities.by_hand import ByHandActivities, ByHandInput
from activities.doorbell import temporal_sender
from activities.reconcile import ReconcileInput, ReconcilePass
from activities.restore import Restorer
from activities.services import TradeRef
from brokers.port import Broker
from cli.context import Target
from cli.hand import Hand, command_trade
from domain.adoption import AdoptionRequest
from domain.commands import AnsweredOrder, BookByHand
from domain.errors import BadInput, Refused
from domain.facts import AdjustmentKind, BookedByHand, PositionAdjusted
from domain.ids import IntentKey, Purpose, trade_workflow_id
from domain.messages import OperatorRequest, TradeResult, TradeStatus
from domain.order import OrderBody, OrderIntent, OrderType, Side
from ledger.records import EXTERNAL, TradePosition
from ledger.repository import Ledger
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig
from workflows.trade import TradeWorkflow

D = Decimal
Handle = WorkflowHandle[TradeWorkflow, TradeResult]


@dataclass(frozen=True)
class RigTarget(Target):
    """The rig's parts as the command line finds them in a stack."""

    rig: Rig

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        yield self.rig.ledger

    @asynccontextmanager
    async def broker(self, *, reserved: bool = False) -> AsyncIterator[Broker]:
        yield self.rig.broker

    async def temporal(self, timeout_s: float = 2.0) -> Client:
        return self.rig.client


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    async with running_rig(temporal_client, ledger, f"acct-{unique}") as made:
        play.calm_market(made)
        yield made


async def command(
    rig: Rig, handle: Handle, verb: str, command_id: str, **values: Any
) -> dict[str, Any]:
    """The command with its answer, as `starter.py trade …` gives it."""
    trade_id = handle.id.removeprefix("trade/")
    request = OperatorRequest(
        command_id=f"{trade_id}-{command_id}"[-40:], by="ann", reason="test", **values
    )
    target = RigTarget(Path(), Path(), rig)
    return await command_trade(target, Hand(trade_id, verb, request))


async def version_of(handle: Handle) -> int:
    status: TradeStatus = await handle.query("status", result_type=TradeStatus)
    return status.version


def resting(rig: Rig) -> list[tuple[str, str]]:
    """Quantity and price of the stops at the venue."""
    stops = [o for o in rig.exchange.open_orders if o.stop_price is not None]
    return sorted((str(o.quantity), str(o.stop_price)) for o in stops)


async def test_a_part_is_closed_the_stop_moved_and_a_stale_or_other_command_refused(
    rig: Rig,
) -> None:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    seen = await version_of(handle)

    closed = await command(rig, handle, "close", "c1", fraction=D("0.5"), version=seen)
    assert (closed["progress"], play.position(rig)) == ("done", D(5))
    assert resting(rig) == [("2", "99.25"), ("3", "99.25")]

    with pytest.raises(Refused) as stale:
        await command(rig, handle, "pause", "p1", version=seen)
    assert stale.value.code == "STALE_VERSION"
    again = await command(rig, handle, "close", "c1", fraction=D("0.5"), version=seen)
    assert (again["progress"], play.position(rig)) == ("done", D(5))
    with pytest.raises(Refused) as other:
        await command(rig, handle, "close", "c1", fraction=D("0.25"))
    assert other.value.code == "IDEMPOTENCY_MISMATCH"

    with pytest.raises(Refused) as beyond:
        await command(rig, handle, "move_stop", "m1", price=D("101.10"))
    assert beyond.value.code == "STOP_BEYOND_MARKET"
    moved = await command(rig, handle, "move_stop", "m2", price=D("100"))
    assert moved["text"].startswith("stop rests at 100")
    assert {D(price) for _, price in resting(rig)} == {D(100)}
    aimed = await command(rig, handle, "move_target", "g1", target=1, price=D("102.50"))
    assert "target sell 3 @ 102.5" in aimed["text"]
    assert {D(price) for _, price in resting(rig)} == {D(100)}

    audit = [row for row in await rig.ledger.list_audit() if row.action.startswith("trade.")]
    assert [(row.action, json.loads(row.details)["what"]) for row in audit[:4]] == [
        ("trade.close", "asked"),
        ("trade.close", "answered"),
        ("trade.pause", "asked"),
        ("trade.pause", "refused"),
    ]
    assert {row.actor for row in audit} == {"ann"}
    play.fall(rig)
    await handle.result()
    play.assert_one_order_per_intent(rig)


async def test_taken_over_trade_leaves_its_stops_and_comes_back_then_is_released(rig: Rig) -> None:
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)

    taken = await command(rig, handle, "take_over", "t1")
    assert taken["progress"] == "done"
    assert taken["text"].count("stop sell") == 3, taken["text"]
    back = await command(rig, handle, "resume", "r1")
    assert back["text"].startswith("automation goes on")
    assert len(resting(rig)) == 3

    gone = await command(rig, handle, "release", "x1")
    result = await handle.result()
    assert (gone["progress"], result.outcome) == ("done", "released")
    assert not rig.exchange.open_orders
    owned = await rig.ledger.positions_by_trade(rig.services.account)
    assert owned == (TradePosition(trade_id=EXTERNAL, symbol="ESX", quantity=D(10)),)
    row = await rig.ledger.trade(handle.id.removeprefix("trade/"))
    assert row is not None
    assert (row.result, row.realised) == ("released", D(0))
    with pytest.raises(Refused) as ended:
        await command(rig, handle, "pause", "p9")
    assert ended.value.code == "ALREADY_CLOSED"


@pytest.mark.covers("R2")
async def test_foreign_position_is_adopted_protected_and_ends_with_its_own_result(
    rig: Rig,
) -> None:
    """R2: after the adoption nothing belongs to EXTERNAL any more (I20)."""
    await buy_by_hand(rig)
    rig.quote("ESX", "101.00", "101.25")
    services, account = rig.services, rig.services.account
    request = AdoptionRequest(
        symbol="ESX",
        account=account,
        trade_id=f"adopted-{account}",
        command_id="a-1",
        stop=D("99.25"),
        targets=(D("103"), D("104")),
    )
    with pytest.raises(BadInput, match="STOP_WRONG_SIDE"):
        await prepare(services, request.model_copy(update={"stop": D("101.10")}), rig.clock)
    adoption = await prepare(services, request, rig.clock)
    restorer = Restorer(services, rig.client, rig.queue)
    assert await adopt(services, restorer, adoption, rig.clock)

    await rig.until(lambda: len(resting(rig)) == 2, "both tranches are protected")
    assert resting(rig) == [("2", "99.25"), ("3", "99.25")]
    owned = await rig.ledger.positions_by_trade(account)
    assert owned == (TradePosition(trade_id=request.trade_id, symbol="ESX", quantity=D(5)),)
    with pytest.raises(BadInput, match="NOTHING_EXTERNAL"):
        await prepare(services, request.model_copy(update={"trade_id": "second"}), rig.clock)

    play.fall(rig)
    handle: Handle = rig.client.get_workflow_handle_for(
        TradeWorkflow.run, trade_workflow_id(request.trade_id)
    )
    result = await handle.result()
    assert (result.outcome, result.exit_reason, result.quantity) == ("closed", "stop", D(5))
    assert result.realised == (D("98.75") - D("102.00")) * 5
    play.assert_nothing_left(rig)


async def test_adoption_that_broke_off_is_carried_on_and_never_buys(rig: Rig) -> None:
    """B2, I1: a plan without its position must not be started as a trade that enters."""
    await buy_by_hand(rig)
    rig.quote("ESX", "101.00", "101.25")
    services, account = rig.services, rig.services.account
    values = {"symbol": "ESX", "account": account, "trade_id": f"adopted-{account}"}
    request = AdoptionRequest.model_validate(values | {"command_id": "a-2", "stop": D("99.25")})
    adoption = await prepare(services, request, rig.clock)
    # The process dies after its first write.
    known = await services.ledger.create_trade(adoption.plan, stage="adopted")
    restorer = Restorer(services, rig.client, rig.queue)
    with pytest.raises(Refused) as refused:
        await restorer.reopen(known.trade_id, "restore")
    assert refused.value.code == "ADOPTION_INCOMPLETE"
    assert await carry_on(services, restorer, known, rig.clock)
    assert not await carry_on(services, restorer, known, rig.clock)
    await rig.until(lambda: resting(rig) == [("5", "99.25")], "it is protected, once")
    assert play.position(rig) == 5
    owned = await rig.ledger.positions_by_trade(account)
    assert owned == (TradePosition(trade_id=request.trade_id, symbol="ESX", quantity=D(5)),)
    play.fall(rig)
    handle = rig.client.get_workflow_handle(
        trade_workflow_id(request.trade_id), result_type=TradeResult
    )
    assert (await handle.result()).outcome == "closed"


async def buy_by_hand(rig: Rig) -> None:
    """Five shares at the broker's own screen, noticed by reconcile."""
    body = OrderBody(
        symbol="ESX",
        side=Side.BUY,
        quantity=D(5),
        order_type=OrderType.MARKET,
        intent_date=date(2026, 3, 2),
    )
    key = IntentKey(trade_id="x", purpose=Purpose.ENTRY, sequence=1)
    intent = OrderIntent.derive(rig.services.installation, key, body, increasing=True)
    await rig.broker.place(intent.model_copy(update={"client_id": "by-hand"}))
    await rig.until(lambda: play.position(rig) == 5, "bought by hand")
    passes = ReconcilePass(rig.services, temporal_sender(rig.client))
    await passes.run(ReconcileInput(account=rig.services.account, settle_s=0.1))
    await passes.aclose()


@pytest.mark.covers("R8")
async def test_what_a_person_books_is_booked_once_with_its_counterpart(rig: Rig) -> None:
    """R8: a repeated activity changes nothing; the answered order is open no more."""
    plan = play.plan_of(rig, "1")
    await rig.ledger.create_trade(plan)
    trade = TradeRef.of(plan, rig.clock)
    fact = PositionAdjusted(
        at=rig.services.now(),
        adjustment_id="release/x",
        symbol="ESX",
        quantity=D(-4),
        adjustment=AdjustmentKind.RELEASED,
    )
    command = BookByHand(adjustments=(fact,))
    book = ByHandActivities(rig.services).book_by_hand
    await book(ByHandInput(trade=trade, command=command))
    await book(ByHandInput(trade=trade, command=command))
    owned = await rig.ledger.positions_by_trade(rig.services.account)
    assert sorted((row.trade_id, row.quantity) for row in owned) == [
        (EXTERNAL, D(4)),
        (plan.trade_id, D(-4)),
    ]
    answer = AnsweredOrder(client_id="nobody", resolution="dead", evidence="screen")
    # I11: an exit sent while the ledger was away has no row; the trade must not wait for it.
    booked = await book(ByHandInput(trade=trade, command=BookByHand(answers=(answer,))))
    assert isinstance(booked.facts[0], BookedByHand)
    assert booked.facts[0].client_ids == ("nobody",)


async def test_trade_that_the_exchange_forgot_is_closed_by_evidence_and_its_rows_with_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: orders and position are gone at the venue; nobody but a person can end the trade."""
    # A person is slower than the frames of the newest orders: none may wait behind the word.
    monkeypatch.setattr(stream_events, "GRACE_S", 0.0)
    handle = await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    book = await rig.ledger.trade_book(handle.id.removeprefix("trade/"))
    assert book is not None
    look = partial(what_is_left, rig.broker, rig.ledger, rig.services.installation, book)
    assert any(text.startswith("position 10") for text in await look())

    rig.exchange.state.orders.clear()
    rig.exchange.state.open_orders.clear()
    rig.exchange.state.by_client.clear()
    rig.exchange.state.account.set_quantity(play.SYMBOL, D(0), D(100))
    assert await look() == ()
    closed = await command(rig, handle, "close_as_flat", "x", evidence="the venue began anew")
    assert closed["progress"] == "done", closed
    result = await handle.result()
    assert result.exit_reason == "as-flat"
    account = rig.services.account
    assert await rig.ledger.open_orders(account) == ()
    assert await rig.ledger.open_children(account) == ()
    assert await rig.ledger.positions_by_trade(account) == ()
    assert await rig.ledger.open_reservations(account) == ()
