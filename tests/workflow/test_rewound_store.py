"""A Temporal store that comes back from a backup: the ledger's intents win (faults.md H3, I1)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError

import worker
from activities import health_watch, rewound
from activities.health_watch import HealthWatch
from activities.services import StreamInput
from deploy.local.processes import Child, free_port
from deploy.local.temporal import NAMESPACE, server_spec
from deploy.temporal.prepare import connect_when_ready
from deploy.temporal.versions import set_current_version
from domain.ids import streams_workflow_id
from domain.messages import OperatorRequest, TradeResult, TradeStatus
from ledger.repository import Ledger
from observability.build import build_id
from simulator.config import ExchangeConfig, WireFace
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig
from tests.workflow.test_operator import command
from tests.workflow.test_trade_thread import plan_of
from workflows.streams import StreamsWorkflow
from workflows.trade import TradeWorkflow

READY_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.3
Handle = WorkflowHandle[TradeWorkflow, TradeResult]
When = Callable[[Rig, Handle], Awaitable[bool]]


class Server:
    """A Temporal server of this test alone, whose store can be put back."""

    def __init__(self, folder: Path) -> None:
        self.store, self.backup = folder / "temporal.db", folder / "backup.db"
        self.port = free_port()
        self._log = folder / "temporal.log"
        self._child: Child | None = None

    def start(self) -> None:
        spec = server_spec(port=self.port, ui_port=None, database=self.store)
        self._child = Child(spec, self._log)
        self._child.wait_until_ready()

    def stop(self) -> None:
        if self._child is not None:
            self._child.send_stop()
            self._child.wait_stopped()
            self._child = None

    def back_up(self) -> None:
        """A consistent copy of the store while the server works."""
        store, backup = sqlite3.connect(self.store), sqlite3.connect(self.backup)
        with closing(store), closing(backup):
            store.backup(backup)

    def rewind(self) -> None:
        self.stop()
        for path in self.store.parent.glob(f"{self.store.name}*"):
            path.unlink()
        shutil.copy(self.backup, self.store)
        self.start()

    async def client(self) -> Client:
        address = f"127.0.0.1:{self.port}"
        return await connect_when_ready(address, NAMESPACE, timeout_s=READY_TIMEOUT_S)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    often = health_watch.LOOK_EVERY_S / LOOK_EVERY_S
    monkeypatch.setattr(health_watch, "LOOK_EVERY_S", LOOK_EVERY_S)
    # In seconds as many as there: a step that was under way at the copy runs into its time limit.
    monkeypatch.setattr(rewound, "LOOKS_MAX", int(rewound.LOOKS_MAX * often))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@asynccontextmanager
async def serving(rig: Rig, client: Client) -> AsyncIterator[None]:
    """Every worker of the account and the health watch, as the processes have them."""
    services = rig.services
    async with AsyncExitStack() as stack:
        name = services.account
        trades = worker.trade_worker(client, services, task_queue=rig.queue, deployment_name=name)
        await stack.enter_async_context(trades)
        await set_current_version(client, build_id(), deployment=name)
        await stack.enter_async_context(worker.gateway_worker(client, services))
        await stack.enter_async_context(worker.streams_worker(client, services))
        watch = HealthWatch(services, client, task_queue=rig.queue)
        watching = asyncio.create_task(watch.run())
        stack.callback(watching.cancel)
        yield


async def entry_works(rig: Rig, handle: Handle) -> bool:
    return any(order.side == "buy" for order in rig.exchange.open_orders)


async def is_protected(rig: Rig, handle: Handle) -> bool:
    return any(order.stop_price is not None for order in rig.exchange.open_orders)


async def knows_its_stop(rig: Rig, handle: Handle) -> bool:
    """Nothing is on its way: a trade that is set back to here waits for news of its orders."""
    known = await handle.query(TradeWorkflow.known)
    return await is_protected(rig, handle) and bool(known.fills) and not known.busy


async def start_streams(rig: Rig, client: Client) -> None:
    """As `up` does: the copy may be older than they are."""
    account = rig.services.account
    with contextlib.suppress(WorkflowAlreadyStartedError):
        await client.start_workflow(
            StreamsWorkflow.run,
            StreamInput(account=account, compare_interval_s=2.0, quote_interval_s=0.2),
            id=streams_workflow_id(account),
            task_queue=rig.queue,
        )


@pytest.mark.covers("H3")
@pytest.mark.parametrize(
    "copied_when", [entry_works, is_protected, knows_its_stop], ids=lambda when: when.__name__
)
async def test_rewound_store_sends_no_second_order_and_the_trade_ends_as_it_had(
    server: Server,
    ledger: Ledger,
    unique: str,
    copied_when: When,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trade lives on to its end; then Temporal knows only the first half of it."""
    monkeypatch.setattr(rewound, "LOOKS_TO_GIVE_UP", rewound.LOOKS_MAX)  # it ends by its own read
    client = await server.client()
    async with running_rig(client, ledger, f"acct-{unique}", workers=False) as rig:
        play.calm_market(rig)
        async with serving(rig, client):
            await start_streams(rig, client)
            handle = await rig.start_trade(plan_of(rig))
            await rig.until_async(lambda: entry_works(rig, handle), "the entry works")
            if copied_when is not entry_works:
                rig.quote("ESX", "99.75", "100.25")
            await rig.until_async(lambda: copied_when(rig, handle), "the moment of the backup")
            server.back_up()
            rig.quote("ESX", "99.75", "100.25")
            await rig.until_async(lambda: is_protected(rig, handle), "protected")
            rig.quote("ESX", "103.50", "103.75")
            first = await handle.result()
        accepted = len(rig.journal("accepted"))

        server.rewind()
        again = await server.client()
        async with serving(rig, again):
            newest = again.get_workflow_handle(handle.id, result_type=TradeResult)
            async with asyncio.timeout(READY_TIMEOUT_S):
                second = await newest.result()
            await again.get_workflow_handle(streams_workflow_id(rig.services.account)).signal(
                "stop"
            )
        assert len(rig.journal("accepted")) == accepted, "nothing was sent twice"
        assert (second.outcome, second.quantity) == (first.outcome, first.quantity)
        assert second.realised == first.realised
        play.assert_one_order_per_intent(rig)
        assert rig.exchange.holdings() == []


@pytest.mark.covers("H3")
async def test_trade_set_back_behind_a_moved_stop_is_built_again_and_the_stop_stays(
    server: Server, ledger: Ledger, unique: str
) -> None:
    """Its first target was taken and two stops have moved since the copy (I2, I4, I6)."""
    client = await server.client()
    async with running_rig(client, ledger, f"acct-{unique}", workers=False) as rig:
        play.calm_market(rig)
        async with serving(rig, client):
            await start_streams(rig, client)
            handle = await rig.start_trade(play.plan_of(rig, "1"))
            await play.enter_protected(rig)
            await rig.until_async(lambda: knows_its_stop(rig, handle), "it knows its stops")
            server.back_up()
            await play.take_first_target(rig)
        sent = len(play.own_orders(rig))

        server.rewind()
        again = await server.client()
        async with serving(rig, again):
            rebuilt = again.get_workflow_handle(handle.id, result_type=TradeResult)

            async def knows() -> bool:
                return (await rebuilt.query(TradeWorkflow.status)).held == 7

            await rig.until_async(knows, "it knows what the first target left")
            assert play.stops_at(rig, play.BREAK_EVEN) == 2
            assert len(play.own_orders(rig)) == sent
            play.fall(rig)
            async with asyncio.timeout(READY_TIMEOUT_S):
                result = await play.newest_run(rig, handle).result()
            await again.get_workflow_handle(streams_workflow_id(rig.services.account)).signal(
                "stop"
            )
        assert (result.outcome, result.quantity) == ("closed", Decimal(10))
        codes = {alert.code for alert in await ledger.list_alerts(trade_id=result.trade_id)}
        assert codes >= {"HISTORY_REWOUND", "TRADE_RESTORED"}
        play.assert_one_order_per_intent(rig)
        play.assert_nothing_left(rig)


@pytest.mark.covers("H3")
async def test_trade_that_was_sold_by_an_exit_since_the_copy_holds_nothing_for_ever(
    server: Server, ledger: Ledger, unique: str
) -> None:
    """Its end is booked, and it does not know the order that sold: no read explains the fill."""
    client = await server.client()
    async with running_rig(client, ledger, f"acct-{unique}", workers=False) as rig:
        play.calm_market(rig)
        async with serving(rig, client):
            await start_streams(rig, client)
            handle = await rig.start_trade(play.plan_of(rig, "1"))
            await play.enter_protected(rig)
            await rig.until_async(lambda: knows_its_stop(rig, handle), "it knows its stops")
            server.back_up()
            request = OperatorRequest(command_id="f-1", by="test")
            await handle.execute_update(TradeWorkflow.request_flatten, request)
            await handle.result()
        sent = len(play.own_orders(rig))

        server.rewind()
        again = await server.client()
        async with serving(rig, again):
            newest = again.get_workflow_handle(handle.id)

            async def has_ended() -> bool:
                return (await newest.describe()).status is not WorkflowExecutionStatus.RUNNING

            await rig.until_async(has_ended, "it ended")
            await again.get_workflow_handle(streams_workflow_id(rig.services.account)).signal(
                "stop"
            )
        assert len(play.own_orders(rig)) == sent
        play.assert_nothing_left(rig)


@pytest.mark.covers("H3")
async def test_trade_set_back_behind_a_take_over_leaves_the_position_to_the_person(
    server: Server, ledger: Ledger, unique: str
) -> None:
    """The person had its orders withdrawn; it put them back beside what they trade by hand."""
    client = await server.client()
    async with running_rig(client, ledger, f"acct-{unique}", workers=False) as rig:
        play.calm_market(rig)
        async with serving(rig, client):
            await start_streams(rig, client)
            handle = await rig.start_trade(play.plan_of(rig, "1"))
            await play.enter_protected(rig)
            await rig.until_async(lambda: knows_its_stop(rig, handle), "it knows its stops")
            server.back_up()
            await command(rig, handle, "take_over", "t1", release_orders=True)
            await rig.until(lambda: not rig.exchange.open_orders, "its orders are withdrawn")

        server.rewind()
        again = await server.client()
        async with serving(rig, again):
            newest = again.get_workflow_handle(handle.id)

            async def is_in_their_hand() -> bool:
                status: TradeStatus = await newest.query("status", result_type=TradeStatus)
                return status.hand == "taken_over" and not rig.exchange.open_orders

            await rig.until_async(is_in_their_hand, "it is in a person's hand again")
            await again.get_workflow_handle(streams_workflow_id(rig.services.account)).signal(
                "stop"
            )
        assert play.position(rig) == 10
        play.assert_one_order_per_intent(rig)


# --- any moment: make test-nightly ----------------------------------------------------------------

Step = Callable[[Rig], Awaitable[None]]
SCRIPT: tuple[Step, ...] = (
    play.fill_entry,
    play.enter_protected,
    play.take_first_target,
    play.take_second_target,
)
EVENTS_MAX = 120
"""About what the script takes; a copy that is not made by then is made at its end."""


async def copy_at(server: Server, rig: Rig, handle: Handle, event: int) -> None:
    async def has_grown() -> bool:
        return (await handle.describe()).history_length >= event

    await rig.until_async(has_grown, f"event {event}")
    server.back_up()


def is_guarded(rig: Rig) -> bool:
    """I4: stops for all that is held, and for no more (I2)."""
    stops = [order.remaining for order in rig.exchange.open_orders if order.stop_price is not None]
    return sum(stops, Decimal(0)) == play.position(rig)


@pytest.mark.nightly
@pytest.mark.covers("H3")
@pytest.mark.parametrize("seed", range(20))
async def test_store_put_back_at_any_moment_doubles_nothing_and_leaves_nothing_bare(
    server: Server, ledger: Ledger, unique: str, seed: int
) -> None:
    """Which event is copied and how far the trade had come is drawn; at both venues in turn."""
    rng = random.Random(seed)
    face = (WireFace.ALPACA, WireFace.TRADIER)[seed % 2]
    venue = ExchangeConfig(requests_per_minute=None, face=face)
    event, done = rng.randint(1, EVENTS_MAX), rng.randint(1, len(SCRIPT))
    client = await server.client()
    account = f"acct-{unique}"
    async with running_rig(client, ledger, account, config=venue, workers=False) as rig:
        play.calm_market(rig)
        async with serving(rig, client):
            await start_streams(rig, client)
            handle = await rig.start_trade(play.plan_of(rig, "1"))
            copying = asyncio.create_task(copy_at(server, rig, handle, event))
            for step in SCRIPT[:done]:
                await step(rig)
            copied = copying.done()
            copying.cancel()
            if not copied:
                server.back_up()

        server.rewind()
        again = await server.client()
        async with serving(rig, again):
            await start_streams(rig, again)
            for step in SCRIPT[done:]:
                await step(rig)
            await rig.until(lambda: is_guarded(rig), f"guarded; copied at {event}, {done} steps")
            play.fall(rig)
            newest = again.get_workflow_handle(handle.id, result_type=TradeResult)

            async def has_ended() -> bool:
                # A run that gave up fails; the one that was built from the ledger comes to an end.
                status = (await newest.describe()).status
                return status is WorkflowExecutionStatus.COMPLETED

            await rig.until_async(has_ended, f"it ended; copied at {event}, {done} steps")
            result = await newest.result()
            await again.get_workflow_handle(streams_workflow_id(rig.services.account)).signal(
                "stop"
            )
        assert (result.outcome, result.quantity) == ("closed", Decimal(10))
        play.assert_one_order_per_intent(rig)
        play.assert_nothing_left(rig)
