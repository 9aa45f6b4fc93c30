"""Trades whose payloads are sealed: to their end, without their key, and with another's (H14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.history.v1 import History
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    SignalWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from activities.reconcile import ReconcileInput
from cli.history import replay_history
from deploy.temporal.attributes import STRATEGY, SYMBOL
from deploy.temporal.payload_needs import is_readable, keys_needed
from deploy.temporal.schedules import (
    ensure_schedule,
    reconcile_schedule,
    reconcile_schedule_id,
)
from domain.facts import FactEnvelope
from domain.ids import reconcile_workflow_id, trade_workflow_id
from domain.messages import OperatorSignal, TradeInput, TradeResult
from domain.plan import TradePlan
from ledger.repository import Ledger
from observability.payload_codec import (
    ENCODING,
    KEY_CHECK,
    KEY_ID,
    SCOPE,
    HoldfastCodec,
    KeyRegister,
    KeyRing,
    PayloadKey,
    key_named,
    new_key,
    payloads_in,
)
from observability.plugin import holdfast_plugin
from payload_keys import LedgerKeyRegister
from payload_watch import PayloadWatch, missing_keys
from tests import trade_scenarios as play
from tests.conftest import TEST_MODULES, TemporalServer
from tests.rig import Rig, running_rig, running_streams, serve
from workflows import _lifecycle as life
from workflows.trade import TradeWorkflow

Handle = WorkflowHandle[TradeWorkflow, TradeResult]
OLD, NEW = new_key("2026-01"), new_key("2026-07")
# What stands in every payload of the trade in plain text: symbol, worst price, stop, strategy.
NOTHING = FactEnvelope.of()
CANARIES = (b"ESX", b"101.25", b"99.25", b"scripted")


async def client_with(
    server: TemporalServer,
    *keys: PayloadKey,
    watch: PayloadWatch | None = None,
    register: KeyRegister | None = None,
) -> Client:
    codec = HoldfastCodec(
        KeyRing(keys), on_refusal=None if watch is None else watch.note, register=register
    )
    return await Client.connect(
        server.address,
        namespace=server.namespace,
        plugins=[holdfast_plugin(sandboxed_for=TEST_MODULES, codec=codec)],
    )


@pytest.fixture
async def rig(temporal_server: TemporalServer, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    """Account and exchange; the workers come and go with their keys."""
    client = await client_with(temporal_server, OLD)
    async with running_rig(client, ledger, f"acct-{unique}", workers=False) as made:
        play.calm_market(made)
        yield made


@asynccontextmanager
async def workers_of(rig: Rig, client: Client) -> AsyncIterator[Rig]:
    """All workers of the account, with the keys of this client."""
    async with AsyncExitStack() as stack:
        await serve(stack, client, rig.services, rig.queue)
        await stack.enter_async_context(running_streams(client, rig.services, rig.queue))
        yield replace(rig, client=client)


async def raw_history(client: Client, workflow_id: str) -> History:
    """The events as the server keeps them."""
    whole, token = History(), b""
    while True:
        page = await client.workflow_service.get_workflow_execution_history(
            GetWorkflowExecutionHistoryRequest(
                namespace=client.namespace,
                execution=WorkflowExecution(workflow_id=workflow_id),
                next_page_token=token,
            )
        )
        whole.events.extend(page.history.events)
        token = page.next_page_token
        if not token:
            return whole


def keys_of(history: History) -> set[str]:
    return {key_named(payload)[0] for payload in payloads_in(history)}


async def start_as_a_person(rig: Rig, plan: TradePlan) -> Handle:
    """With summary and search attributes, as `trade submit` starts it."""
    pairs = (SearchAttributePair(SYMBOL, plan.symbol), SearchAttributePair(STRATEGY, "s"))
    return await rig.client.start_workflow(
        TradeWorkflow.run,
        TradeInput(plan=plan, installation=rig.services.installation, clock=rig.clock),
        id=trade_workflow_id(plan.trade_id),
        task_queue=rig.queue,
        task_timeout=life.TASK_TIMEOUT,
        search_attributes=TypedSearchAttributes(list(pairs)),
        static_summary=f"{plan.side} {plan.symbol} walk",
    )


async def failed_tasks(rig: Rig, workflow_id: str) -> int:
    described = await rig.client.get_workflow_handle(workflow_id).describe()
    task = described.raw_description.pending_workflow_task
    return task.attempt - 1 if described.raw_description.HasField("pending_workflow_task") else 0


async def until_stuck(rig: Rig, workflow_id: str) -> None:
    async def is_stuck() -> bool:
        return await failed_tasks(rig, workflow_id) >= 1

    await rig.until_async(is_stuck, f"the task of {workflow_id} fails")


@pytest.mark.covers("H14")
async def test_encrypted_trade_waits_for_its_key_while_others_go_on_and_its_history_shows_nothing(
    rig: Rig, temporal_server: TemporalServer, ledger: Ledger
) -> None:
    """S14, S15, I19: rotated too early, the old key is missed, told, put back; the trade ends."""
    async with workers_of(rig, rig.client):
        handle = await start_as_a_person(rig, play.plan_of(rig, "1"))
        await play.enter_protected(rig)

    watch = PayloadWatch()
    without = await client_with(temporal_server, NEW, watch=watch)
    async with workers_of(rig, without) as second:
        before = len((await raw_history(without, handle.id)).events)
        await second.client.get_workflow_handle(handle.id).signal(TradeWorkflow.facts, NOTHING)
        await until_stuck(second, handle.id)
        other = await second.start_trade(play.plan_of(second, "2", walk=play.walk_of("0.1")))
        await other.signal(TradeWorkflow.flatten, OperatorSignal(command_id="f", by="test"))
        async with asyncio.timeout(second.deadline_s):
            assert (await other.result()).outcome == "not_filled"
        assert await failed_tasks(second, handle.id) >= 1
        assert play.stops_at(rig, play.STOP) == 3, "its stops rest at the broker"
        await watch.look(second.services)
        told = [a for a in await ledger.list_alerts() if a.code == "PAYLOAD_KEY"]
        assert [OLD.key_id in alert.text for alert in told] == [True]

    codec = HoldfastCodec(KeyRing((NEW, OLD)))
    async with workers_of(rig, await client_with(temporal_server, NEW, OLD)) as third:
        await play.take_first_target(third)
        play.fall(third)
        async with asyncio.timeout(third.deadline_s):
            result = await play.newest_run(third, handle).result()
        assert result.outcome == "closed"
        play.assert_one_order_per_intent(third)
        play.assert_nothing_left(third)
        history = await raw_history(third.client, handle.id)
        assert await missing_keys(ledger, "n", codec, lambda: client_with(temporal_server)) == {}

    assert len(history.events) > before
    assert keys_of(history) == {OLD.key_id, NEW.key_id}
    assert {payload.metadata["encoding"] for payload in payloads_in(history)} == {ENCODING}
    whole = history.SerializeToString()
    assert [canary for canary in CANARIES if canary in whole] == []


def flipped(given: Payloads, scope: str) -> Payloads:
    """The ciphertext of one workflow under the name of another, one bit of it changed."""
    changed = Payloads()
    changed.CopyFrom(given)
    for payload in changed.payloads:
        payload.metadata[SCOPE] = scope.encode()
        payload.data = payload.data[:-1] + bytes([payload.data[-1] ^ 1])
    return changed


def made_up(scope: str) -> Payloads:
    """What anybody can write who has read this code and no key: it has the shape of a seal."""
    words = {"encoding": ENCODING, KEY_ID: b"2026-09", KEY_CHECK: b"01234567"}
    metadata = words | {SCOPE: scope.encode()}
    return Payloads(payloads=[Payload(metadata=metadata, data=bytes(64))])


def shapeless(scope: str) -> Payloads:
    metadata = {"encoding": ENCODING, SCOPE: scope.encode()}
    return Payloads(payloads=[Payload(metadata=metadata, data=b"x")])


async def codes_told(ledger: Ledger, rig: Rig, watch: PayloadWatch, workflow_id: str) -> set[str]:
    await watch.look(rig.services)
    return {
        alert.code
        for alert in await ledger.list_alerts()
        if alert.code.startswith("PAYLOAD_") and workflow_id in alert.text
    }


@pytest.mark.covers("H14")
async def test_forged_signals_of_an_encrypted_trade_are_dropped_and_told_and_it_goes_on(
    rig: Rig, temporal_server: TemporalServer, ledger: Ledger, ledger_dsn: str
) -> None:
    """S16, I19: moved, changed, shapeless, of a key that never was; nobody is talked into it."""
    watch = PayloadWatch()
    register = LedgerKeyRegister(ledger_dsn, temporal_server.namespace)
    made = await client_with(temporal_server, OLD, watch=watch, register=register)
    async with workers_of(rig, made) as sealed:
        victim = await sealed.start_trade(play.plan_of(rig, "1"))
        await play.enter_protected(sealed)
        play.calm_market(rig)
        source = await sealed.start_trade(play.plan_of(rig, "2", walk=play.walk_of("20")))
        await source.signal(TradeWorkflow.facts, NOTHING)
        genuine = await signal_of(sealed, source.id)
        for forged in (genuine, flipped(genuine, victim.id), made_up(victim.id)):
            await send_raw(sealed.client, victim.id, "flatten", forged)
        await victim.signal(TradeWorkflow.facts, NOTHING)

        # The way out from the Web UI, without a key: an empty signal holds nothing to open.
        await send_raw(sealed.client, source.id, "flatten", Payloads())
        async with asyncio.timeout(sealed.deadline_s):
            assert (await source.result()).outcome == "not_filled"
        expected = {"PAYLOAD_SWAPPED", "PAYLOAD_CHANGED", "PAYLOAD_FORGED"}

        async def is_told() -> bool:
            return await codes_told(ledger, sealed, watch, victim.id) == expected

        await sealed.until_async(is_told, "every kind of forgery is told")
        assert await failed_tasks(sealed, victim.id) == 0
        assert play.stops_at(rig, play.STOP) == 3, "nobody was talked into closing it"
        await play.take_first_target(sealed)
        play.fall(sealed)
        async with asyncio.timeout(sealed.deadline_s):
            assert (await play.newest_run(sealed, victim).result()).outcome == "closed"
        play.assert_one_order_per_intent(sealed)
        play.assert_nothing_left(sealed)


@pytest.mark.covers("H14")
async def test_forged_signals_stop_no_trade_where_encryption_was_never_on(
    rig: Rig, temporal_server: TemporalServer, ledger: Ledger, ledger_dsn: str
) -> None:
    """I19: the register in the ledger knows that nobody here ever sealed with that key."""
    watch = PayloadWatch()
    register = LedgerKeyRegister(ledger_dsn, temporal_server.namespace)
    made = await client_with(temporal_server, watch=watch, register=register)
    async with workers_of(rig, made) as plain:
        handle = await plain.start_trade(play.plan_of(rig, "1"))
        for forged in (shapeless(handle.id), made_up(handle.id), made_up("trade/nobody")):
            await send_raw(plain.client, handle.id, "facts", forged)
        await play.enter_protected(plain)
        play.fall(plain)
        async with asyncio.timeout(plain.deadline_s):
            assert (await play.newest_run(plain, handle).result()).outcome == "closed"
        assert await codes_told(ledger, plain, watch, handle.id) == {
            "PAYLOAD_SWAPPED",
            "PAYLOAD_CHANGED",
            "PAYLOAD_FORGED",
        }
        history = await plain.client.get_workflow_handle(handle.id).fetch_history()
        codec = HoldfastCodec(register=register)
        verdict = await replay_history(history, codec=codec, namespace=temporal_server.namespace)
        assert verdict["verdict"] == "ok", verdict


async def signal_of(rig: Rig, workflow_id: str) -> Payloads:
    """The sealed input of the first signal; in the history when no task is under way."""
    found: list[Payloads] = []

    async def is_written() -> bool:
        found.extend(
            event.workflow_execution_signaled_event_attributes.input
            for event in (await raw_history(rig.client, workflow_id)).events
            if event.HasField("workflow_execution_signaled_event_attributes")
        )
        return bool(found)

    await rig.until_async(is_written, "the signal is in the history")
    return found[0]


@pytest.mark.covers("H14")
async def test_schedule_is_sealed_anew_without_its_old_key_and_its_runs_open_it(
    rig: Rig, temporal_server: TemporalServer
) -> None:
    """A run's id is the schedule's with the time behind it; the next `up` replaces the seal."""
    account = rig.services.account
    given = reconcile_schedule(
        account, [ReconcileInput(account=account)], task_queue=rig.queue, every=timedelta(hours=9)
    )
    name = reconcile_schedule_id(account)
    only = await client_with(temporal_server, NEW)
    try:
        await ensure_schedule(rig.client, name, given)
        await ensure_schedule(only, name, given)
        async with workers_of(rig, only):
            await only.get_schedule_handle(name).trigger()
            query = f"WorkflowId STARTS_WITH '{reconcile_workflow_id(account)}-'"

            async def has_ended() -> bool:
                found = [each async for each in only.list_workflows(query)]
                return [each.status for each in found] == [WorkflowExecutionStatus.COMPLETED]

            await rig.until_async(has_ended, "the run has read its input")
    finally:
        await only.get_schedule_handle(name).delete()


async def send_raw(client: Client, workflow_id: str, name: str, input: Payloads) -> None:
    """A signal by somebody who can write to the server and has no key."""
    await client.workflow_service.signal_workflow_execution(
        SignalWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            signal_name=name,
            input=input,
        )
    )


@pytest.mark.covers("H14")
async def test_worker_without_encryption_neither_drops_nor_reads_a_sealed_signal(
    rig: Rig, temporal_server: TemporalServer, ledger: Ledger, ledger_dsn: str
) -> None:
    """The SDK drops a signal that it cannot convert; ours is kept until a key is there."""
    register = LedgerKeyRegister(ledger_dsn, temporal_server.namespace)
    sealing = await client_with(temporal_server, OLD, register=register)
    # Another process: it knows only what the ledger says.
    unaware = LedgerKeyRegister(ledger_dsn, temporal_server.namespace)
    plain = await client_with(temporal_server, register=unaware)
    async with workers_of(rig, plain) as started:
        handle = await started.start_trade(play.plan_of(rig, "1", walk=play.walk_of("20")))
        await started.until(lambda: len(rig.exchange.open_orders) == 1, "it walks")
        same = sealing.get_workflow_handle(handle.id)
        await same.signal(TradeWorkflow.flatten, OperatorSignal(command_id="f", by="test"))
        await until_stuck(started, handle.id)
        assert (await keys_needed(plain))[f"{OLD.key_id}:{OLD.check}"] >= 1

        async def open_with_its_key() -> Client:
            return plain

        known = HoldfastCodec(KeyRing((OLD,)))
        await missing_keys(ledger, "default", known, open_with_its_key)
        missing = await missing_keys(ledger, "default", HoldfastCodec(), open_with_its_key)
        assert missing.keys() == {OLD.key_id}
        assert not await is_readable(plain, HoldfastCodec(), handle.id)
        assert not await is_readable(plain, known, handle.id), "its start was plain"
        assert await is_readable(plain, replace(known, accept_plain=True), handle.id)
        assert await is_readable(plain, HoldfastCodec(), "trade/nobody")
        await PayloadWatch().tell_missing(started.services, plain, HoldfastCodec())
        [told] = [a for a in await ledger.list_alerts() if a.code == "PAYLOAD_KEY"]
        assert OLD.key_id in told.text

    both = HoldfastCodec(KeyRing((OLD,)), accept_plain=True)
    mixed = await Client.connect(
        temporal_server.address,
        namespace=temporal_server.namespace,
        plugins=[holdfast_plugin(sandboxed_for=TEST_MODULES, codec=both)],
    )
    async with workers_of(rig, mixed) as last, asyncio.timeout(rig.deadline_s):
        assert (await play.newest_run(last, handle).result()).outcome == "not_filled"
