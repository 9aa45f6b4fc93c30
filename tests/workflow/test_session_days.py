"""Sessions over days, asked by people, side by side, drained and handed over (faults.md G3, G4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError

import worker
from activities.session import DecideInput, SessionActivities
from deploy.temporal.versions import set_current_version
from domain.clock import ClockMap
from domain.ids import session_workflow_id, trade_workflow_id
from domain.instrument import Instrument
from domain.messages import OperatorSignal, VersionSignal
from domain.session import (
    SessionInput,
    SessionRequest,
    SessionResult,
    SessionSpec,
)
from domain.session_day import SessionDay
from ledger.repository import Ledger
from marketdata.events import write_tape
from simulator.config import ExchangeConfig, Listing
from strategies.registry import StrategyProcess
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig
from tests.workflow.test_session import ESX, SPEED, STRATEGY, Started, bar_at
from workflows import _lifecycle as life
from workflows.session import SessionWorkflow

Handle = WorkflowHandle[SessionWorkflow, SessionResult]
SYMBOLS = ("ESX", "AAA", "BBB", "CCC", "DDD")


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    listings = tuple(Listing(Instrument(symbol=symbol)) for symbol in SYMBOLS)
    config = ExchangeConfig(requests_per_minute=None, listings=listings)
    account = f"acct-{unique}"
    async with running_rig(temporal_client, ledger, account, config=config) as made:
        for symbol in SYMBOLS:
            made.quote(symbol, "99.75", "100.25")
        yield made


@dataclass
class Plan:
    """How a session of these tests is started."""

    rig: Rig
    folder: Path
    symbol: str = "ESX"
    bar_ends_min: tuple[float, ...] = (1,)
    name: str = ""
    changes: dict[str, Any] = field(default_factory=dict)

    def write(self) -> SessionSpec:
        """The strategy and the tape as files, and the session that plays them."""
        begin = self.rig.exchange.now
        strategy = self.folder / "on_second_bar.py"
        strategy.write_text(STRATEGY)
        tape = self.folder / f"{self.symbol}.csv"
        bars = [bar_at(begin + timedelta(minutes=end)) for end in self.bar_ends_min]
        write_tape(tape, [replace(bar, symbol=self.symbol) for bar in bars])
        instrument = ESX.model_copy(update={"symbol": self.symbol})
        values: dict[str, Any] = {
            "name": f"{self.name or 's'}-{self.rig.services.account[-8:]}",
            "account": self.rig.services.account,
            "strategies": (str(strategy),),
            "universe": (instrument,),
            "opens_at": begin,
            "tape": str(tape),
            "installation": self.rig.services.installation,
        }
        return SessionSpec.model_validate(values | self.changes)

    def clock(self) -> ClockMap:
        return ClockMap(wall0=datetime.now(UTC), market0=self.rig.exchange.now, speed=SPEED)

    async def start(self) -> Started:
        spec, clock = self.write(), self.clock()
        handle = await self.rig.client.start_workflow(
            SessionWorkflow.run,
            SessionInput(spec=spec, clock=clock),
            id=session_workflow_id(spec.name),
            task_queue=self.rig.queue,
            task_timeout=life.TASK_TIMEOUT,
        )
        newest: Handle = self.rig.client.get_workflow_handle_for(SessionWorkflow.run, handle.id)
        return Started(self.rig, spec, clock, newest)


def protected(rig: Rig, symbol: str = "ESX") -> bool:
    orders = rig.exchange.open_orders
    return any(o.stop_price is not None and o.symbol == symbol for o in orders)


def request(command_id: str, **changes: Any) -> SessionRequest:
    return SessionRequest.model_validate({"command_id": command_id, "by": "ann"} | changes)


async def audited(rig: Rig, session: Started) -> list[str]:
    rows = await rig.ledger.list_audit(limit=10_000)
    return [row.action for row in rows if row.subject == session.spec.name]


async def test_two_days_each_with_its_baseline_fresh_strategies_and_an_idle_night(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G4: what the strategy sees begins anew, nobody polls overnight, the equity is taken twice."""
    monkeypatch.setattr(life, "PREPARE_DAY", timedelta(seconds=0.5))
    begin, night = rig.exchange.now, timedelta(minutes=16)
    first = SessionDay(opens_at=begin, closes_at=begin + timedelta(minutes=3))
    opens_at = begin + timedelta(minutes=3) + night
    second = SessionDay(opens_at=opens_at, closes_at=opens_at + timedelta(minutes=3))
    ends = (1, 2, 3, 6, 20, 21, 22)  # one bar of the night: nobody asks a strategy about it
    session = await Plan(
        rig, tmp_path, bar_ends_min=ends, changes={"days": (first, second)}
    ).start()
    async with asyncio.timeout(60):
        while (await session.handle.query(SessionWorkflow.status)).days_done < 1:
            await rig.breathe()
    rig.exchange.advance_to(begin + timedelta(days=1))
    rig.quote("ESX", "99.75", "100.25")
    result = await session.handle.result()

    assert [day.counts.bars for day in result.days] == [3, 3]
    assert [day.counts.taken for day in result.days] == [1, 1], "the second bar of each day"
    assert all(day.baseline == 100_000 or day.baseline is not None for day in result.days)
    roll = {row.signal_time.isoformat() for row in await session.signals()}
    assert len(roll) == 6
    history = await session.handle.fetch_history()
    nights_s = [
        event.timer_started_event_attributes.start_to_fire_timeout.ToSeconds()
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED
    ]
    longest = max(nights_s)
    assert longest >= 2, "one timer over the night: 16 minutes at speed 120, less the preparation"
    assert "session.day" in await audited(rig, session)


async def test_stop_keeps_the_exits_and_the_receipt_names_what_is_open(
    rig: Rig, tmp_path: Path
) -> None:
    session = await Plan(rig, tmp_path).start()
    signal = session.outside("held")
    await session.send(signal)
    await rig.until(lambda: protected(rig), "protected")
    receipt = await session.handle.execute_update(
        SessionWorkflow.request_stop, request("s1", reason="enough"), id="s1"
    )
    assert (receipt.changed, receipt.version) == (True, 1)
    result = await session.handle.result()

    (trade,) = result.trades
    assert (trade.trade_id, trade.stage, trade.entry_works) == (signal.signal_id, "open", False)
    assert trade.protection == "resting"
    assert (result.reason, result.flatten) == ("enough", False)
    assert protected(rig), "the stop stays at the broker"
    actions = await audited(rig, session)
    assert actions.count("session.stop") == actions.count("session.end") == 1
    child = rig.client.get_workflow_handle(trade_workflow_id(signal.signal_id))
    await child.signal("flatten", OperatorSignal(by="test"))
    await child.result()


async def test_stop_with_flatten_ends_flat_with_an_empty_receipt(rig: Rig, tmp_path: Path) -> None:
    session = await Plan(rig, tmp_path).start()
    signal = session.outside("held")
    await session.send(signal)
    await rig.until(lambda: protected(rig), "protected")
    await session.handle.execute_update(
        SessionWorkflow.request_stop, request("s1", flatten=True), id="s1"
    )
    result = await session.handle.result()
    assert (result.trades, result.flatten) == ((), True)
    assert rig.exchange.holdings() == []
    assert not (await rig.ledger.read_control(session.spec.account)).kills, "no kill of the account"


async def test_stop_with_flatten_reaches_a_trade_of_an_earlier_run(
    rig: Rig, tmp_path: Path
) -> None:
    """It is the session's by the ledger, though this run did not start it."""
    session = await Plan(rig, tmp_path).start()
    earlier = await rig.start_trade(play.plan_of(rig, "earlier", session=session.spec.name))
    await rig.until(lambda: protected(rig), "protected")
    await session.handle.execute_update(
        SessionWorkflow.request_stop, request("s1", flatten=True), id="s1"
    )
    result = await session.handle.result()
    assert result.trades == ()
    assert rig.exchange.holdings() == []
    assert (await earlier.result()).exit_reason == "flatten"


async def test_requests_are_obeyed_once_and_refused_on_a_stale_version(
    rig: Rig, tmp_path: Path
) -> None:
    session = await Plan(rig, tmp_path).start()
    ask = session.handle.execute_update
    first = await ask(SessionWorkflow.request_pause, request("p1", version=0), id="p1")
    again = await ask(SessionWorkflow.request_pause, request("p1", version=0), id="p1b")
    assert (first.changed, first.version, again.changed) == (True, 1, False)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await ask(SessionWorkflow.request_resume, request("r1", version=0), id="r1")
    assert "VERSION_CONFLICT" in str(refused.value.cause)
    status = await session.handle.query(SessionWorkflow.status)
    assert (status.stage, status.version) == ("paused", 1)
    await ask(SessionWorkflow.request_resume, request("r2", version=1), id="r2")
    await session.handle.signal("stop")
    await session.handle.result()
    actions = await audited(rig, session)
    assert (actions.count("session.pause"), actions.count("session.resume")) == (1, 1)


@pytest.mark.covers("G3")
async def test_entry_windows_and_halts_refuse_by_name(rig: Rig, tmp_path: Path) -> None:
    """Row 27 and G3: outside the window ENTRY_WINDOW, in a halt HALTED; the session lives on."""
    changes = {"entry_blocked_first_s": 7_200}  # a minute of wall time
    early = await Plan(rig, tmp_path, name="w", changes=changes).start()
    signal = early.outside("early")
    await early.send(signal)
    row = await early.decided(signal.signal_id, "refused", "taken")
    assert (row.decision, row.code) == ("refused", "ENTRY_WINDOW")
    await early.handle.signal("stop")
    assert (await early.handle.result()).counts.refused == 1

    session = await Plan(rig, tmp_path, name="h").start()
    rig.exchange.halt("ESX")
    halted = session.outside("halted")
    await session.send(halted)
    row = await session.decided(halted.signal_id, "refused", "taken")
    assert (row.decision, row.code) == ("refused", "HALTED")
    rig.exchange.resume("ESX")
    rig.quote("ESX", "99.75", "100.25")
    later = session.outside("later")
    await session.send(later)
    assert (await session.decided(later.signal_id, "refused", "taken")).decision == "taken"
    await session.handle.signal("stop", OperatorSignal(by="test", mode="flatten"))
    assert (await session.handle.result()).trades == ()


async def test_five_sessions_at_once_do_not_disturb_each_other(rig: Rig, tmp_path: Path) -> None:
    """One is stopped with flatten and one paused; the others take every signal of their own."""
    ends = (1, 2, 4, 5, 6)
    sessions = [
        await Plan(rig, tmp_path, symbol=symbol, name=symbol.lower(), bar_ends_min=ends).start()
        for symbol in SYMBOLS
    ]
    stopped, paused, *others = sessions
    await paused.handle.execute_update(SessionWorkflow.request_pause, request("p"), id="p")
    await rig.until(lambda: all(protected(rig, s) for s in ("ESX", *SYMBOLS[2:])), "four hold")
    await stopped.handle.execute_update(
        SessionWorkflow.request_stop, request("s", flatten=True), id="s"
    )
    assert (await stopped.handle.result()).trades == ()
    assert all(protected(rig, symbol) for symbol in SYMBOLS[2:]), "stops of the others stand"
    for session in (*others, paused):
        async with asyncio.timeout(60):
            while (await session.handle.query(SessionWorkflow.status)).counts.bars < len(ends):
                await rig.breathe()
        await session.handle.signal("stop", OperatorSignal(by="test", mode="flatten"))
    results = [await session.handle.result() for session in (*others, paused)]
    assert [result.counts.taken for result in results] == [1, 1, 1, 0]
    assert all(result.counts.bars == len(ends) for result in results)
    rows = [await session.signals() for session in (*others, paused)]
    assert [len(row) for row in rows] == [len(ends)] * 4
    assert rig.exchange.holdings() == []


async def test_burst_of_signals_over_several_runs_loses_none(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continue-as-new under load carries the queue; each signal is judged once."""
    monkeypatch.setattr(life, "EVENTS_WISH_MAX", 60)
    session = await Plan(rig, tmp_path).start()
    first = (await session.handle.describe()).run_id
    await session.handle.execute_update(SessionWorkflow.request_pause, request("p"), id="p")
    signals = [session.outside(f"n{number}") for number in range(40)]
    await asyncio.gather(*(session.send(signal) for signal in signals))
    for signal in signals:
        row = await session.decided(signal.signal_id, "not_taken", "taken")
        assert row.code == "SESSION_PAUSED"
    assert (await session.handle.describe()).run_id != first
    status = await session.handle.query(SessionWorkflow.status)
    assert (status.stage, status.version) == ("paused", 1), "what people asked travels too"
    await session.handle.signal("stop")
    result = await session.handle.result()
    assert (result.counts.not_taken, result.counts.dropped) == (40, 0)


async def test_session_moves_to_the_new_build_and_starts_trades_there(
    rig: Rig, tmp_path: Path
) -> None:
    """H12, architecture §4: the hand-over is continue-as-new; nothing is asked twice."""
    session = await Plan(rig, tmp_path).start()
    account, build = rig.services.account, "next-build"
    async with worker.trade_worker(
        rig.client, rig.services, task_queue=rig.queue, deployment_name=account, build=build
    ):
        await set_current_version(rig.client, build, deployment=account)
        await session.handle.signal(SessionWorkflow.version_changed, VersionSignal(build_id=build))
        async with asyncio.timeout(60):
            while await _build_of(session.handle) != build:
                await rig.breathe()
        signal = session.outside("after")
        await session.send(signal)
        await session.decided(signal.signal_id, "taken")
        await rig.until(lambda: protected(rig), "protected")
        row = await rig.ledger.trade(signal.signal_id)
        assert row is not None
        assert row.build_id == build
        await session.handle.signal("stop", OperatorSignal(by="test", mode="flatten"))
        assert (await session.handle.result()).trades == ()


async def _build_of(handle: Handle) -> str:
    info = (await handle.describe()).raw_description.workflow_execution_info.versioning_info
    return info.deployment_version.build_id


async def test_late_session_asks_no_strategy_about_bars_after_the_close(
    rig: Rig, tmp_path: Path
) -> None:
    """A worker that stalled over the close found the night's bar in the same look (G4)."""
    begin = rig.exchange.now
    day = SessionDay(opens_at=begin, closes_at=begin + timedelta(minutes=3))
    plan = Plan(rig, tmp_path, bar_ends_min=(1, 2, 3, 6), changes={"days": (day,)})
    spec, clock = plan.write(), plan.clock()
    hosts = []

    def opened(name: str) -> StrategyProcess:
        hosts.append(worker.open_strategy(name))
        return hosts[-1]

    sessions = SessionActivities(rig.services, worker.feed_opener(rig.services), opened)
    late = begin + timedelta(minutes=8)
    try:
        found = await sessions.next_decisions(
            DecideInput(spec=spec, clock=clock, cursor=None, market_now=late, day=day)
        )
    finally:
        for host in hosts:
            host.close()
    assert (found.counts.bars, found.cursor) == (3, begin + timedelta(minutes=3))
