"""A trade that comes back after its end: what the books say of it, whatever breaks off (D9, C5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.api.common.v1 import Payloads
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode

from activities.doorbell import Doorbell
from activities.health_watch import REOPEN_MAX, HealthWatch
from activities.restore import Restorer
from activities.services import StreamInput, note_stage
from activities.stream_events import StreamBooker
from activities.streams import FillStream
from domain import trade_state as ts
from domain.control import KillMode
from domain.errors import Transient
from domain.facts import FillReported
from domain.fold import apply_all
from domain.fold_orders import PROVEN_ABSENT
from domain.ids import Purpose, trade_workflow_id
from domain.messages import TradeInput
from domain.order import BrokerOrderStatus, OrderIntent, Side
from ledger.errors import LedgerDown
from ledger.records import IntentState, OrderOwner
from ledger.repository import Ledger
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import (
    ACCOUNT,
    NOW,
    decide,
    fill,
    intent,
    kill,
    owner,
    plan,
    request,
    snapshot,
)

TRADE = "trade-1"


class Server:
    """A Temporal server that starts every workflow and knows no earlier run."""

    namespace = "default"

    def __init__(self) -> None:
        self.started: list[TradeInput] = []

    def get_workflow_handle(self, name: str) -> Any:
        return Untold(name)

    async def start_workflow(self, _name: str, input: TradeInput, **_: Any) -> None:
        self.started.append(input)


class Untold:
    """The handle of a run whose history is gone."""

    def __init__(self, name: str) -> None:
        self.id = name

    async def fetch_history_events(self, **_: Any) -> AsyncIterator[Any]:
        none: list[Any] = []
        for each in none:
            yield each


def restorer_of(lane: Lane, server: Server) -> Restorer:
    return Restorer(lane.services, cast(Client, server))


@pytest.mark.covers("D9")
async def test_step_of_a_reopened_trade_opens_the_row_that_its_restart_could_not(
    armed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row stayed closed: flatten, hours and reconcile passed the trade by, and its working
    exits counted as done.
    """
    async with order_lane(armed) as lane:
        await lane.open_trade(TRADE)
        await armed.update_trade(TRADE, stage="not_filled", result="time", closed=True)
        server = Server()

        async def cut(*_: Any, **__: Any) -> Any:
            raise LedgerDown("cut")

        with monkeypatch.context() as broken:
            broken.setattr(Ledger, "update_trade", cut)
            with pytest.raises(LedgerDown):
                await restorer_of(lane, server).reopen(TRADE, "a fill came late")
        state = server.started[0].state
        assert state is not None
        assert not state.settled

        update = {"stage": "open", "reopened_at": state.closed_at}
        await note_stage(lane.services, lane.reference(TRADE).model_copy(update=update))
        exit_ = order(TRADE, purpose=Purpose.EXIT, side=Side.SELL, price="110", sequence=2)
        await lane.place(exit_)
        (row,) = await armed.list_trades(account=ACCOUNT, open_only=True)
        assert row.trade_id == TRADE
        working = (await armed.risk_book(ACCOUNT, NOW)).working_orders
        assert exit_.client_id in {each.client_id for each in working}


async def test_restart_opens_no_row_whose_trade_has_ended_again_meanwhile(
    armed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that reads and ends is quicker than a ledger that is slow: nobody would end the row."""
    async with order_lane(armed) as lane:
        await lane.open_trade(TRADE)
        first = await armed.update_trade(TRADE, stage="not_filled", closed=True)
        server = Server()
        started = server.start_workflow

        async def runs_to_its_end(name: str, input: TradeInput, **more: Any) -> None:
            await started(name, input, **more)
            await armed.update_trade(TRADE, stage="open", reopened_at=first.closed_at)
            await armed.update_trade(TRADE, stage="not_filled", closed=True)

        monkeypatch.setattr(server, "start_workflow", runs_to_its_end)
        assert await restorer_of(lane, server).reopen(TRADE, "a fill came late")
        assert await armed.list_trades(account=ACCOUNT, open_only=True) == ()


# --- orders that work after the end --------------------------------------------------------------


@asynccontextmanager
async def nobody_at_home(lane: Lane) -> AsyncIterator[tuple[StreamBooker, Doorbell, list[Any]]]:
    """A booker whose rings reach no open workflow; what was rung is listed as (trade, facts)."""
    rung: list[Any] = []

    async def send(*_: object) -> bool:
        return False

    async def closed(trade_id: str, facts: tuple[Any, ...]) -> None:
        rung.append((trade_id, facts))

    later = datetime.now(UTC) + timedelta(minutes=1)  # nothing is in flight any more
    services = replace(lane.services, now=lambda: later)
    doorbell = Doorbell(send, sender="test", now=services.now, on_closed=closed)
    booker = StreamBooker(services, doorbell)
    try:
        yield booker, doorbell, rung
    finally:
        await booker.aclose()
        await doorbell.aclose()


async def ended_without(lane: Lane, intent: OrderIntent) -> None:
    """The trade has ended; the broker has its order, which was called absent before (C5)."""
    ledger, trade = lane.ledger, lane.reference(TRADE)
    await ledger.create_trade(plan())
    owner = OrderOwner(
        account=ACCOUNT, strategy=trade.strategy, symbols=trade.symbols, trade_id=TRADE
    )
    await ledger.open_gate(intent, owner, "attempt", NOW)
    await ledger.record_answer(
        intent.client_id, None, IntentState.NOT_SENT, code=PROVEN_ABSENT, at=NOW
    )
    await lane.services.broker.place(intent)
    await ledger.update_trade(TRADE, stage="not_filled", result="time", closed=True)


@pytest.mark.covers("C5")
async def test_entry_that_works_after_the_end_is_told_until_somebody_takes_it(
    armed: Ledger,
) -> None:
    """Nobody owned it: the trade was gone, and reconcile knows every id that has a row."""
    async with order_lane(armed) as lane, nobody_at_home(lane) as (booker, doorbell, rung):
        entry = order(price="90")
        await ended_without(lane, entry)
        assert await booker.compare() == 0
        await doorbell.drain()
        assert rung == []
        for heard in (1, 2):
            assert await booker.compare() == 0, "an order told again is no news of a mute stream"
            await doorbell.drain()
            assert len(rung) == heard
            trade_id, facts = rung[-1]
            assert trade_id == TRADE
            assert [fact.order.client_id for fact in facts] == [entry.client_id]
            assert await booker.works_after_the_end(trade_id, facts)


async def test_late_frame_of_an_order_that_has_ended_reopens_nothing(armed: Ledger) -> None:
    """F3: a frame from before the end says `held`; the ledger knows that the order is done."""
    async with order_lane(armed) as lane, nobody_at_home(lane) as (booker, doorbell, rung):
        entry = order(price="90")
        await ended_without(lane, entry)
        await booker.compare()
        (resting,) = await armed.open_orders(ACCOUNT)
        assert resting.broker_order_id is not None
        await lane.services.broker.cancel(resting.broker_order_id)
        await booker.compare()
        shown = await lane.services.broker.order(resting.broker_order_id)
        assert shown is not None
        await booker.book_order(shown.model_copy(update={"status": BrokerOrderStatus.HELD}))
        await doorbell.drain()
        told = [(each, facts) for each, facts in rung if not facts[-1].order.is_terminal]
        assert told, "the frame was rung"
        assert [await booker.works_after_the_end(*each) for each in told] == [""]


# --- what the gate counts of a trade that came back ----------------------------------------------


async def ended_unfilled(ledger: Ledger) -> None:
    """A trade whose end was booked, its risk given back, its entry called absent."""
    await ledger.create_trade(plan())
    await ledger.reserve(request(), decide, NOW)
    await ledger.open_gate(intent(), owner(), "t1", NOW)
    await ledger.record_answer(
        intent().client_id, None, IntentState.NOT_SENT, code=PROVEN_ABSENT, at=NOW
    )
    await ledger.release_reservation(TRADE, "not_filled")
    await ledger.update_trade(TRADE, stage="not_filled", closed=True)
    assert (await ledger.risk_book(ACCOUNT, NOW)).reservations == ()


@pytest.mark.covers("D9")
@pytest.mark.parametrize("reopened", [False, True], ids=["not yet restarted", "restarted"])
async def test_late_fill_takes_its_place_in_the_limits_again(armed: Ledger, reopened: bool) -> None:
    """I6: its risk was given back at its end, so one trade more than allowed was let in."""
    await ended_unfilled(armed)
    await armed.record_snapshot(ACCOUNT, snapshot(client_id=intent().client_id))
    await armed.record_fill(ACCOUNT, fill(quantity="100"))
    await armed.record_snapshot(
        ACCOUNT, snapshot(client_id=intent().client_id, status=BrokerOrderStatus.FILLED)
    )
    if reopened:
        await armed.update_trade(TRADE, stage="open", closed=False)
    (held,) = (await armed.risk_book(ACCOUNT, NOW)).reservations
    assert (held.trade_id, held.notional) == (TRADE, Decimal("10025.50"))
    assert [(leg.symbol, leg.side) for leg in held.legs] == [("AAPL", Side.BUY)]
    one_place = partial(decide, capacity=1)
    refused = await armed.reserve(request("trade-2"), one_place, NOW)
    assert refused.decision.code == "POSITIONS_MAX"
    sold = fill("out", quantity="100", side=Side.SELL)
    await armed.record_fill(ACCOUNT, sold)
    assert (await armed.risk_book(ACCOUNT, NOW)).reservations == ()


@pytest.mark.covers("C5")
async def test_entry_that_shows_up_after_the_end_takes_its_place_in_the_limits_again(
    armed: Ledger,
) -> None:
    """I6: until its cancel is proven it may buy all that it was allowed to."""
    await ended_unfilled(armed)
    await armed.record_snapshot(ACCOUNT, snapshot(client_id=intent().client_id))
    (held,) = (await armed.risk_book(ACCOUNT, NOW)).reservations
    assert (held.trade_id, held.quantity) == (TRADE, Decimal(100))
    cancelled = snapshot(client_id=intent().client_id, status=BrokerOrderStatus.CANCELED)
    await armed.record_snapshot(ACCOUNT, cancelled)
    assert (await armed.risk_book(ACCOUNT, NOW)).reservations == ()


# --- kills that stand while a trade comes back ---------------------------------------------------


@pytest.mark.covers("K9", "D9")
@pytest.mark.parametrize(
    ("engaged_s", "mode", "gets_out"),
    [(60, KillMode.FLATTEN, True), (60, KillMode.BLOCK, False), (-60, KillMode.FLATTEN, False)],
    ids=["flatten", "block", "flatten from before the trade began"],
)
async def test_trade_that_comes_back_hears_of_the_kill_that_stands(
    armed: Ledger, engaged_s: float, mode: KillMode, gets_out: bool
) -> None:
    """The flatten had said "flat" and ended: the late fill was held behind a stop instead."""
    async with order_lane(armed) as lane:
        await lane.open_trade(TRADE)
        await armed.update_trade(TRADE, stage="not_filled", closed=True)
        row = await armed.trade(TRADE)
        assert row is not None
        at = row.created_at + timedelta(seconds=engaged_s)
        engaged = kill(mode=mode).model_copy(update={"engaged_at": at})
        await armed.engage_kill(ACCOUNT, engaged)
        server = Server()
        assert await restorer_of(lane, server).reopen(TRADE, "a fill came late")
        (begun,) = server.started
        assert begun.state is not None
        state = apply_all(begun.state, begun.carried.facts, NOW)
        assert ts.wants_exit(state) is gets_out


# --- restarts that fail --------------------------------------------------------------------------


class OfAnotherBuild(Server):
    """A server that keeps a history which this build cannot read."""

    data_converter = pydantic_data_converter

    def get_workflow_handle(self, name: str) -> Any:
        return Unreadable(name)


class Unreadable(Untold):
    async def fetch_history_events(self, **_: Any) -> AsyncIterator[Any]:
        (payload,) = await pydantic_data_converter.encode([{"plan": "of another build"}])
        begun = WorkflowExecutionStartedEventAttributes(input=Payloads(payloads=[payload]))
        yield HistoryEvent(workflow_execution_started_event_attributes=begun)


@pytest.mark.covers("D9")
async def test_trade_whose_history_this_build_cannot_read_is_rebuilt_from_the_ledger(
    armed: Ledger,
) -> None:
    """It was never restarted, however often the late fill was rung, and nobody was told."""
    async with order_lane(armed) as lane:
        await lane.open_trade(TRADE)
        await armed.update_trade(TRADE, stage="not_filled", closed=True)
        server = OfAnotherBuild()
        assert await restorer_of(lane, server).reopen(TRADE, "a fill came late")
        assert server.started[0].state is not None


class Refusing(Server):
    """A server that takes no new workflow while `is_refusing`."""

    is_refusing = True

    async def start_workflow(self, _name: str, input: TradeInput, **more: Any) -> None:
        if self.is_refusing:
            raise RPCError("blob size exceeds limit", RPCStatusCode.INVALID_ARGUMENT, b"")
        await super().start_workflow(_name, input, **more)


@pytest.mark.covers("D9")
async def test_restart_that_keeps_failing_is_told_once(armed: Ledger) -> None:
    """I4: what the late fill bought is bare, and only the log of a worker said so."""
    now_s, server = [0.0], Refusing()
    async with order_lane(armed) as lane:
        await lane.open_trade(TRADE)
        await armed.update_trade(TRADE, stage="not_filled", closed=True)
        services = replace(lane.services, monotonic=lambda: now_s[0])
        given = StreamInput(account=ACCOUNT)
        stream = FillStream(services, cast(Client, server), given)
        late = FillReported(at=NOW, fill=fill("late", quantity="10"))

        async def told_at(at_s: float) -> int:
            now_s[0] = at_s
            with suppress(Transient):
                await stream._closed(TRADE, (late,))
            alerts = await armed.list_alerts(trade_id=TRADE)
            return sum(each.occurrences for each in alerts if each.code == "RESTORE_FAILED")

        assert [await told_at(each) for each in (0, 5, 10, 11, 700)] == [0, 0, 1, 1, 1]
        server.is_refusing = False
        assert await told_at(701) == 1
        assert len(server.started) == 1
        server.is_refusing = True
        assert [await told_at(each) for each in (702, 711, 712)] == [1, 1, 2]


class Ending(Server):
    """A server on which every run of the trade ends at once, as failed."""

    status = WorkflowExecutionStatus.FAILED

    def list_workflows(self, query: str, **_: Any) -> AsyncIterator[Any]:
        return self._ended() if "CloseTime" in query else no_runs()

    def get_workflow_handle(self, name: str) -> Any:
        return Described(name, self.status)

    async def _ended(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(id=trade_workflow_id(TRADE), status=WorkflowExecutionStatus.FAILED)


class Described(Untold):
    def __init__(self, name: str, status: WorkflowExecutionStatus) -> None:
        super().__init__(name)
        self._status = status

    async def describe(self, **_: Any) -> Any:
        return SimpleNamespace(status=self._status)


async def no_runs() -> AsyncIterator[Any]:
    none: list[Any] = []
    for each in none:
        yield each


class EndedAt(Ending):
    """A server that lists the run only in looks that reach back to its end."""

    def __init__(self, ended_at: datetime) -> None:
        super().__init__()
        self.ended_at = ended_at

    def list_workflows(self, query: str, **_: Any) -> AsyncIterator[Any]:
        since = query.partition("CloseTime > ")[2]
        is_listed = bool(since) and self.ended_at > datetime.fromisoformat(since.strip("'"))
        return self._ended() if is_listed else no_runs()


@pytest.mark.covers("K7")
async def test_trade_that_was_ended_while_nobody_looked_is_restored(armed: Ledger) -> None:
    """I11: terminated in an hour without a streams worker, it stayed open for ever."""
    now = datetime.now(UTC)
    clock = [now]
    async with order_lane(armed) as lane:
        await lane.open_trade(TRADE)
        services = replace(lane.services, now=lambda: clock[0])
        server = EndedAt(now - timedelta(hours=1))
        watch = HealthWatch(services, cast(Client, server))
        await watch.look()
        assert len(server.started) == 1
        await watch.look()
        assert len(server.started) == 1
        clock[0] = now + timedelta(hours=2)
        server.ended_at = now + timedelta(minutes=30)
        await watch.look()
        assert len(server.started) == 2, "no look came through for two hours"


@pytest.mark.covers("K7")
async def test_trade_that_ends_after_each_restart_is_left_to_a_person_who_is_told(
    armed: Ledger,
) -> None:
    """I18: the last word was that it had been restored; its workflow was gone for good."""
    server = Ending()
    async with order_lane(armed) as lane:
        await lane.open_trade(TRADE)
        watch = HealthWatch(lane.services, cast(Client, server))
        for _ in range(REOPEN_MAX):
            await watch.look()
        failed = {"RESTORE_FAILED", "TRADE_RESTORED"}
        told = await armed.list_alerts(trade_id=TRADE)
        assert {each.code for each in told} & failed == {"TRADE_RESTORED"}
        server.status = WorkflowExecutionStatus.RUNNING
        await watch.look()
        told = await armed.list_alerts(trade_id=TRADE)
        assert "RESTORE_FAILED" not in {each.code for each in told}
        server.status = WorkflowExecutionStatus.FAILED
        for _ in range(3):
            await watch.look()
        assert len(server.started) == REOPEN_MAX
        told = await armed.list_alerts(trade_id=TRADE)
        assert [each.occurrences for each in told if each.code == "RESTORE_FAILED"] == [1]
