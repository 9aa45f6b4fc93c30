"""A ledger that comes back older than the trades: a backup put back, a standby without its last
commits (the mirror image of faults.md H3; I1, I4, I6, I9, I11).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from activities import health_watch, older_ledger, rewound
from activities.older_ledger import LEDGER_BEHIND
from activities.restore import Restorer
from activities.rewound import RewoundWatch
from activities.self_halt import OLDER_LEDGER
from domain.control import KillMode, KillScope, KillScopeKind, KillSwitch
from domain.errors import Transient
from domain.facts import FactEnvelope, KillEngaged
from domain.ids import streams_workflow_id, trade_workflow_id
from domain.messages import TradeResult
from domain.plan import ExitRule, RuleKind
from ledger.errors import LedgerDown
from ledger.repository import Ledger
from ledger.tables import metadata
from simulator.config import ExchangeConfig, WireFace
from tests import trade_scenarios as play
from tests.fixtures_postgres import run_as_superuser
from tests.rig import Rig, running_rig
from tests.workflow.test_rewound_store import Handle, is_guarded, knows_its_stop, serving
from tests.workflow.test_rewound_store import start_streams as start_the_streams
from workflows.trade import TradeWorkflow

LOOK_EVERY_S = 0.3
ENDED_WITHIN_S = 60.0
BOTH = pytest.mark.parametrize("face", [WireFace.ALPACA, WireFace.TRADIER])
OTHERS_OUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
STOPPED_OUT = Decimal("-25.00")
"""Ten bought at 101.25 and sold at 98.75."""
RATCHETED_OUT = Decimal("-1.00")
"""Sold at 102.25, 103.25 and 98.75, three, three and four of them."""


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    often = health_watch.LOOK_EVERY_S / LOOK_EVERY_S
    monkeypatch.setattr(health_watch, "LOOK_EVERY_S", LOOK_EVERY_S)
    # In seconds as many as there.
    for module, name in ((rewound, "LOOKS_MAX"), (older_ledger, "LOOKS_FOR_AN_END")):
        monkeypatch.setattr(module, name, int(getattr(module, name) * often))


class Copy:
    """All rows of the test's ledger at one instant, kept beside them in the same database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._tables = [table.name for table in metadata.sorted_tables]
        self.is_made = False

    async def make(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            async with connection.transaction(isolation="repeatable_read"):
                await connection.execute("DROP SCHEMA IF EXISTS copy CASCADE; CREATE SCHEMA copy")
                for name in self._tables:
                    await connection.execute(f"CREATE TABLE copy.{name} AS TABLE public.{name}")
        finally:
            await connection.close()
        self.is_made = True

    async def put_back(self) -> None:
        """In one transaction, as others see it; their connections are cut, as by a failover."""
        lines = ["SET LOCAL session_replication_role = replica"]
        lines += ["LOCK " + ", ".join(f"public.{name}" for name in self._tables)]
        for name in self._tables:
            lines += [
                f"DELETE FROM public.{name}",
                f"INSERT INTO public.{name} OVERRIDING SYSTEM VALUE SELECT * FROM copy.{name}",
            ]
        inside = "; ".join(lines)
        await run_as_superuser(self._dsn, OTHERS_OUT, f"BEGIN; {inside}; COMMIT", OTHERS_OUT)

    async def is_listened_to(self) -> bool:
        """True once a line is there whose loss is noticed."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast-listen'"
        connection = await asyncpg.connect(self._dsn)
        try:
            return bool(await connection.fetchval(query))
        finally:
            await connection.close()

    async def drop(self) -> None:
        await run_as_superuser(self._dsn, "DROP SCHEMA IF EXISTS copy CASCADE")


def trade_id_of(handle: Handle) -> str:
    return handle.id.removeprefix(trade_workflow_id(""))


@dataclass
class Desk:
    """An account with everything that serves it, and a copy of its ledger."""

    rig: Rig
    copy: Copy
    client: Client
    serving: AsyncExitStack

    async def serve(self) -> None:
        await self.serving.enter_async_context(serving(self.rig, self.client))
        await start_the_streams(self.rig, self.client)

    async def put_back(self, *, live: bool) -> None:
        """The copy is the ledger again: while all goes on, or between `down` and `up`."""
        if live:
            await self.rig.until_async(self.copy.is_listened_to, "somebody listens")
            await self.copy.put_back()
            return
        await self.serving.aclose()
        await self.copy.put_back()
        await self.serve()

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Waits for what the ledger shows: it was cut off from us like from everybody."""

        async def is_shown() -> bool:
            try:
                return await condition()
            except LedgerDown:
                return False

        await self.rig.until_async(is_shown, what)

    async def result(self, handle: Handle) -> TradeResult:
        newest: WorkflowHandle[Any, TradeResult] = play.newest_run(self.rig, handle)

        async def has_ended() -> bool:
            return (await newest.describe()).status is WorkflowExecutionStatus.COMPLETED

        await self.rig.until_async(has_ended, "it ended")
        return await newest.result()

    async def alerts(self) -> set[str]:
        rows = await self.rig.ledger.list_alerts(account=self.rig.services.account)
        return {row.code for row in rows}

    async def is_stopped(self) -> bool:
        control = await self.rig.ledger.read_control(self.rig.services.account)
        return any(kill.by == OLDER_LEDGER for kill in control.kills)

    async def settled(self, handle: Handle) -> None:
        """Waits until the ledger has the end, and compares it with the venue's cash (I5)."""
        trade_id = trade_id_of(handle)

        async def is_booked() -> bool:
            row = await self.rig.ledger.trade(trade_id)
            return row is not None and row.closed_at is not None

        await self.until(is_booked, "its end is booked")
        row = await self.rig.ledger.trade(trade_id)
        assert row is not None
        moved = self.rig.exchange.state.account.cash - self.rig.exchange.config.cash
        assert row.realised == moved
        assert await self.rig.ledger.open_reservations(row.account) == ()
        assert await self.rig.ledger.positions_by_trade(row.account) == ()


@asynccontextmanager
async def desk_at(
    face: WireFace, client: Client, ledger: Ledger, dsn: str, unique: str
) -> AsyncIterator[Desk]:
    venue = ExchangeConfig(requests_per_minute=None, face=face)
    account = f"acct-{unique}"
    copy = Copy(dsn)
    async with running_rig(client, ledger, account, config=venue, workers=False) as rig:
        play.calm_market(rig)
        async with AsyncExitStack() as stack:
            desk = Desk(rig, copy, client, stack)
            await desk.serve()
            try:
                yield desk
            finally:
                await client.get_workflow_handle(streams_workflow_id(account)).signal("stop")
                await copy.drop()


@BOTH
@pytest.mark.parametrize("live", [True, False], ids=["failover", "backup"])
async def test_exits_whose_rows_are_lost_are_the_trades_again_and_it_settles(
    face: WireFace,
    live: bool,
    temporal_client: Client,
    ledger: Ledger,
    ledger_dsn: str,
    unique: str,
) -> None:
    """Its stops sold as nobody's: it believed for ever that they rested (I2, I11)."""
    async with desk_at(face, temporal_client, ledger, ledger_dsn, unique) as desk:
        rig = desk.rig
        handle = await rig.start_trade(play.plan_of(rig, "1"))
        await rig.until(lambda: bool(play.accepted(rig, side="buy")), "its entry works")
        await desk.copy.make()
        await play.enter_protected(rig)
        await rig.until_async(lambda: knows_its_stop(rig, handle), "it knows its stops")
        await desk.put_back(live=live)
        await desk.until(lambda: _has(desk, LEDGER_BEHIND), "a person is told")
        play.fall(rig)
        result = await desk.result(handle)
        await desk.settled(handle)
        assert (result.outcome, result.realised) == ("closed", STOPPED_OUT)
        play.assert_one_order_per_intent(rig)
        play.assert_nothing_left(rig)


@BOTH
async def test_trade_that_the_ledger_has_lost_is_written_back_with_its_risk(
    face: WireFace, temporal_client: Client, ledger: Ledger, ledger_dsn: str, unique: str
) -> None:
    """Its row is gone: entries stop, for kills may be gone too, and it lives on to its end (I6)."""
    async with desk_at(face, temporal_client, ledger, ledger_dsn, unique) as desk:
        rig, account = desk.rig, desk.rig.services.account
        await desk.copy.make()
        handle = await rig.start_trade(play.plan_of(rig, "1"))
        await play.enter_protected(rig)
        await rig.until_async(lambda: knows_its_stop(rig, handle), "it knows its stops")
        held = await ledger.open_reservations(account)
        await desk.serving.aclose()
        await desk.copy.put_back()
        kill = kill_of(account, "k-1")
        await desk.until(lambda: _engaged(ledger, kill), "the kill stands")
        await desk.serve()

        async def is_reserved() -> bool:
            return await ledger.open_reservations(account) == held

        await desk.until(is_reserved, "its risk counts")
        await desk.until(desk.is_stopped, "entries stop")
        await rig.until_async(lambda: _has_heard(handle, "k-1"), "it hears of a kill meanwhile")
        await play.take_first_target(rig)
        await play.take_second_target(rig)
        play.fall(rig)
        result = await desk.result(handle)
        await desk.settled(handle)
        assert (result.outcome, result.realised) == ("closed", RATCHETED_OUT)
        play.assert_one_order_per_intent(rig)
        play.assert_nothing_left(rig)


@BOTH
@pytest.mark.parametrize("live", [True, False], ids=["failover", "backup"])
async def test_trade_that_ended_since_the_copy_is_booked_as_it_ended_and_sells_nothing(
    face: WireFace,
    live: bool,
    temporal_client: Client,
    ledger: Ledger,
    ledger_dsn: str,
    unique: str,
) -> None:
    """Built again it held what its lost exits had sold, and sent exits for it (I4, I13)."""
    async with desk_at(face, temporal_client, ledger, ledger_dsn, unique) as desk:
        rig = desk.rig
        handle = await rig.start_trade(play.plan_of(rig, "1"))
        await rig.until(lambda: bool(play.accepted(rig, side="buy")), "its entry works")
        await desk.copy.make()
        await play.enter_protected(rig)
        play.fall(rig)
        await handle.result()
        sent = len(rig.journal("accepted", "rejected"))
        await desk.put_back(live=live)
        await desk.settled(handle)
        await desk.until(desk.is_stopped, "entries stop")
        assert (await desk.alerts()).isdisjoint({"TRADE_RESTORED", "EXTERNAL_TRADE"})
        assert len(rig.journal("accepted", "rejected")) == sent
        play.assert_nothing_left(rig)


async def test_trade_that_has_ended_is_not_built_again_while_the_ledger_has_it_open(
    temporal_client: Client, ledger: Ledger, ledger_dsn: str, unique: str
) -> None:
    """`restore` behind an older copy: the end comes first, from the trade that knows it."""
    async with desk_at(WireFace.ALPACA, temporal_client, ledger, ledger_dsn, unique) as desk:
        rig = desk.rig
        handle = await rig.start_trade(play.plan_of(rig, "1"))
        await play.enter_protected(rig)
        await desk.copy.make()
        play.fall(rig)
        await handle.result()
        await desk.serving.aclose()
        await desk.copy.put_back()
        restorer, trade_id = Restorer(rig.services, temporal_client, rig.queue), trade_id_of(handle)

        async def is_open() -> bool:
            row = await ledger.trade(trade_id)
            return row is not None and row.closed_at is None

        await desk.until(is_open, "the ledger has it open")
        with pytest.raises(Transient, match="has ended"):
            await restorer.reopen(trade_id, "the store was lost")
        await desk.serve()
        await desk.settled(handle)


@pytest.mark.parametrize("live", [True, False], ids=["failover", "backup"])
async def test_kill_that_the_ledger_has_lost_is_missed_and_entries_stop(
    live: bool,
    temporal_client: Client,
    ledger: Ledger,
    ledger_dsn: str,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I9: without its row entries went again. Behind a restart a trade that heard it tells."""
    looks: list[RewoundWatch] = []
    look = RewoundWatch.look

    async def counted(watch: RewoundWatch) -> None:
        await look(watch)
        looks.append(watch)

    monkeypatch.setattr(RewoundWatch, "look", counted)
    async with desk_at(WireFace.ALPACA, temporal_client, ledger, ledger_dsn, unique) as desk:
        rig, account = desk.rig, desk.rig.services.account
        handle = None if live else await rig.start_trade(play.plan_of(rig, "1"))
        if handle is not None:
            await play.enter_protected(rig)
        await desk.copy.make()
        kill = kill_of(account, "k-1")
        await ledger.engage_kill(account, kill)
        if handle is not None:
            heard = KillEngaged(
                at=kill.engaged_at,
                command_id=kill.command_id,
                mode=kill.mode,
                by=kill.by,
                reason=kill.reason,
            )
            await handle.signal("facts", FactEnvelope.of(heard, sender="gateway"))
        else:
            looked = len(looks)
            await rig.until(lambda: len(looks) > looked + 1, "it has looked since")
        await desk.put_back(live=live)
        await desk.until(desk.is_stopped, "entries stop again")
        refused = await (await rig.start_trade(play.plan_of(rig, "2"))).result()
        assert (refused.outcome, refused.code) == ("refused", "KILLED")
        assert LEDGER_BEHIND in await desk.alerts()


async def test_rule_whose_watch_is_lost_is_watched_again(
    temporal_client: Client, ledger: Ledger, ledger_dsn: str, unique: str
) -> None:
    """I4: its row is all that keeps an exit that no broker holds."""
    async with desk_at(WireFace.ALPACA, temporal_client, ledger, ledger_dsn, unique) as desk:
        rig, account = desk.rig, desk.rig.services.account
        rule = ExitRule(rule_id="far", kind=RuleKind.PROFIT_AMOUNT, threshold=Decimal(1_000_000))
        handle = await rig.start_trade(play.plan_of(rig, "1", rules=(rule,)))
        await play.enter_protected(rig)
        await desk.until(lambda: _is_watched(ledger, account), "its rule is watched")
        before = [row.rule_id for row in await ledger.list_watches(account)]
        await desk.serving.aclose()
        await run_as_superuser(ledger_dsn, "DELETE FROM watches")
        await desk.serve()
        await desk.until(lambda: _is_watched(ledger, account), "it is watched again")
        assert [row.rule_id for row in await ledger.list_watches(account)] == before
        assert not await desk.is_stopped(), "that proves no older copy"
        play.fall(rig)
        await desk.result(handle)


def kill_of(account: str, command_id: str) -> KillSwitch:
    return KillSwitch(
        scope=KillScope(kind=KillScopeKind.ACCOUNT, value=account),
        mode=KillMode.CANCEL_ENTRIES,
        reason="enough",
        by="alice",
        command_id=command_id,
        engaged_at=datetime.now(UTC),
    )


async def _engaged(ledger: Ledger, kill: KillSwitch) -> bool:
    return bool(await ledger.engage_kill(kill.scope.value, kill))


async def _has_heard(handle: Handle, command_id: str) -> bool:
    known = await handle.query(TradeWorkflow.known)
    return any(word.endswith(command_id) for word in known.commands or ())


async def _has(desk: Desk, code: str) -> bool:
    return code in await desk.alerts()


async def _is_watched(ledger: Ledger, account: str) -> bool:
    return bool(await ledger.list_watches(account))


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


async def copy_at(desk: Desk, handle: Handle, event: int) -> None:
    async def has_grown() -> bool:
        return (await handle.describe()).history_length >= event

    await desk.rig.until_async(has_grown, f"event {event}")
    await desk.copy.make()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
async def test_ledger_put_back_at_any_moment_doubles_nothing_and_leaves_nothing_bare(
    temporal_client: Client, ledger: Ledger, ledger_dsn: str, unique: str, seed: int
) -> None:
    """Which event is copied, how far the trade had come and how it is put back is drawn."""
    rng = random.Random(seed)
    face = (WireFace.ALPACA, WireFace.TRADIER)[seed % 2]
    event, done = rng.randint(0, EVENTS_MAX), rng.randint(1, len(SCRIPT))
    live, has_ended = rng.random() < 0.5, rng.random() < 0.2
    told = f"copied at {event}, {done} steps, live {live}, ended {has_ended}"
    async with desk_at(face, temporal_client, ledger, ledger_dsn, unique) as desk:
        rig = desk.rig
        if event == 0:
            await desk.copy.make()
        handle = await rig.start_trade(play.plan_of(rig, "1"))
        copying = asyncio.create_task(copy_at(desk, handle, event)) if event else None
        for step in SCRIPT[:done]:
            await step(rig)
        if copying is not None and not copying.done():
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
        if not desk.copy.is_made:
            await desk.copy.make()
        if has_ended:
            play.fall(rig)
            await handle.result()
        await desk.put_back(live=live)
        if not has_ended:
            for step in SCRIPT[done:]:
                await step(rig)
            await rig.until(lambda: is_guarded(rig), f"guarded; {told}")
            play.fall(rig)
        result = await desk.result(handle)
        await desk.settled(handle)
        assert (result.outcome, result.quantity) == ("closed", Decimal(10)), told
        play.assert_one_order_per_intent(rig)
        play.assert_nothing_left(rig)
