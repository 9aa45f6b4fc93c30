"""Sessions on the real server and ledger: every decision recorded, every signal taken once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from domain.clock import ClockMap
from domain.control import KillMode
from domain.ids import session_workflow_id, trade_workflow_id
from domain.instrument import Instrument
from domain.messages import OperatorSignal
from domain.order import Side
from domain.plan import FixedSize, PlanPrice, StopPlan, WalkPlan, WalkStart
from domain.session import SessionInput, SessionResult, SessionSpec, SignalEnvelope
from domain.signal import PlanDraft, Signal, StrategyContext
from ledger.records import SignalRecord
from marketdata.events import EventKind, TapeEvent, write_tape
from tests.rig import DEADLINE_S, Rig
from workflows import _lifecycle as life
from workflows.session import SessionWorkflow

D = Decimal
SPEED = D(120)
ESX = Instrument(symbol="ESX", tick_size=D("0.01"))
# Signals on bar 2, raises on bar 3, says nothing otherwise.
STRATEGY = """
from decimal import Decimal as D
from domain.order import Side
from domain.plan import FixedSize, PlanPrice, StopPlan, WalkPlan, WalkStart
from domain.signal import Decision, PlanDraft, Signal

def generate_signal(bars, context):
    if len(bars) == 3:
        raise RuntimeError("bar 3")
    if len(bars) != 2:
        return Decision.none(context, f"bar {len(bars)}")
    draft = PlanDraft(
        size=FixedSize(quantity=D(10)),
        walk=WalkPlan(start=WalkStart.FAR, step=D("0.25"), interval_s=D(120), steps_max=2,
                      worst_offset=D(1), max_time_s=D(3600)),
        stop=StopPlan(price=PlanPrice(offset=D(-2))),
        signal_max_age_s=D(3600),
    )
    return Decision.take(Signal.derive(context, Side.BUY, draft=draft))
"""


@pytest.fixture
def strategy(tmp_path: Path) -> Path:
    path = tmp_path / "on_second_bar.py"
    path.write_text(STRATEGY)
    return path


class Started:
    """A running session and what tests ask of it."""

    def __init__(self, rig: Rig, spec: SessionSpec, clock: ClockMap, handle: Any) -> None:
        self.rig, self.spec, self.clock = rig, spec, clock
        self.handle: WorkflowHandle[SessionWorkflow, SessionResult] = handle

    async def signals(self) -> tuple[SignalRecord, ...]:
        return await self.rig.ledger.list_signals(session=self.spec.name)

    async def decided(self, signal_id: str, *words: str) -> SignalRecord:
        """The signal's row once its decision is one of the words."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                row = await self.rig.ledger.signal(signal_id)
                if row is not None and row.decision in words:
                    return row
                await asyncio.sleep(0.05)

    def outside(self, name: str, side: Side = Side.BUY) -> Signal:
        """A signal made by somebody else than the session's strategies."""
        now = self.clock.market(datetime.now(UTC))
        context = StrategyContext(
            session=self.spec.name, strategy="outside", instrument=ESX, now=now, session_open=now
        )
        draft = PlanDraft(
            size=FixedSize(quantity=D(10)),
            walk=WalkPlan(
                start=WalkStart.FAR,
                step=D("0.25"),
                interval_s=D(120),
                steps_max=2,
                worst_offset=D(1),
                max_time_s=D(3600),
            ),
            stop=StopPlan(price=PlanPrice(offset=D(-2 * side.sign))),
            signal_max_age_s=D(3600),
        )
        signal = Signal.derive(context, side, draft=draft)
        return signal.model_copy(update={"signal_id": f"{self.spec.name}-{name}"})

    async def send(self, signal: Signal) -> None:
        envelope = SignalEnvelope(body=signal.model_dump(mode="json"))
        await self.handle.signal(SessionWorkflow.signal_generated, envelope)


async def start(
    rig: Rig,
    strategy: Path,
    folder: Path,
    *,
    bars: int = 4,
    open_end: bool = False,
    close_after_min: int = 1,
) -> Started:
    """A session on a tape of one-minute bars; market time runs 120 times as fast as the wall.

    A trade of it needs `close_after_min` from the last bar on a busy machine: entries die with
    the session.
    """
    begin = rig.exchange.now
    clock = ClockMap(wall0=datetime.now(UTC), market0=begin, speed=SPEED)
    tape = folder / "tape.csv"
    write_tape(tape, [bar_at(begin + timedelta(minutes=n + 1)) for n in range(bars)])
    spec = SessionSpec(
        name=f"s-{rig.services.account[-8:]}",
        account=rig.services.account,
        strategies=(str(strategy),),
        universe=(ESX,),
        opens_at=begin,
        closes_at=None if open_end else begin + timedelta(minutes=bars + close_after_min),
        tape=str(tape),
        installation=rig.services.installation,
    )
    handle = await rig.client.start_workflow(
        SessionWorkflow.run,
        SessionInput(spec=spec, clock=clock),
        id=session_workflow_id(spec.name),
        task_queue=rig.queue,
        task_timeout=life.TASK_TIMEOUT,
    )
    return Started(rig, spec, clock, handle)


def bar_at(end: datetime) -> TapeEvent:
    price = D(100)
    return TapeEvent(
        time=end,
        symbol="ESX",
        kind=EventKind.BAR,
        open=price,
        high=price,
        low=price,
        close=price,
        volume=D(1),
    )


async def test_decisions_are_recorded_and_the_signals_trade_outlives_the_session(
    rig: Rig, strategy: Path, tmp_path: Path
) -> None:
    """A1, requirement 19: no signal, a signal and a broken answer each have their row."""
    session = await start(rig, strategy, tmp_path, close_after_min=16)
    await rig.until(
        lambda: any(order.stop_price is not None for order in rig.exchange.open_orders), "protected"
    )
    result = await session.handle.result()

    rows = await session.signals()
    assert [row.decision for row in rows] == ["none", "taken", "fault", "none"]
    assert [row.code for row in rows] == ["NO_SIGNAL", "", "STRATEGY_RAISED", "NO_SIGNAL"]
    taken = rows[1]
    assert taken.trade_id == taken.signal_id
    counts = result.counts
    assert (counts.bars, counts.signals, counts.taken, counts.strategy_faults) == (4, 1, 1, 1)
    assert result.reason == "session closed"
    (trade,) = await rig.ledger.list_trades(session=session.spec.name)
    assert trade.trade_id == taken.trade_id
    assert result.open_trades == (trade.trade_id,)
    child = rig.client.get_workflow_handle(trade_workflow_id(trade.trade_id))
    await child.signal("flatten", OperatorSignal(by="test"))
    await child.result()
    assert rig.exchange.open_orders == []


@pytest.mark.covers("A1")
async def test_same_signal_from_outside_twice_is_one_trade(
    rig: Rig, strategy: Path, tmp_path: Path
) -> None:
    """A1: at least once on the wire, once in the market."""
    session = await start(rig, strategy, tmp_path, bars=1, open_end=True)
    signal = session.outside("twice")
    await session.send(signal)
    await session.decided(signal.signal_id, "taken")
    await session.send(signal)
    last = session.outside("after")
    await session.send(last)
    await session.decided(last.signal_id, "taken")
    await session.handle.signal(SessionWorkflow.stop, OperatorSignal(by="test"))
    result = await session.handle.result()

    assert (result.counts.taken, result.counts.signals) == (2, 2)
    started = [t.trade_id for t in await rig.ledger.list_trades(session=session.spec.name)]
    assert sorted(started) == sorted([signal.signal_id, last.signal_id])


@pytest.mark.covers("A6")
async def test_unreadable_signals_are_audited_and_the_session_goes_on(
    rig: Rig, strategy: Path, tmp_path: Path
) -> None:
    """A6, faults.md §3 row 64: nothing from outside fails or suspends a session."""
    session = await start(rig, strategy, tmp_path, bars=1, open_end=True)
    bodies: list[Any] = [None, "buy", {"side": "buy"}, {"signal_id": "x", "side": 7}, ["a"] * 3]
    for body in bodies:
        await session.handle.signal("signal_generated", {"kind": "signal", "body": body})
    signal = session.outside("good")
    await session.send(signal)
    await session.decided(signal.signal_id, "taken")
    await session.handle.signal(SessionWorkflow.stop, OperatorSignal(by="test"))
    assert (await session.handle.result()).counts.refused == len(bodies)
    audited = await rig.ledger.list_audit(limit=10_000)
    refused = [row.action for row in audited if row.subject == session.spec.name]
    assert refused.count("signal.SIGNAL_UNREADABLE") == len(bodies)


async def test_paused_session_records_and_takes_nothing_until_resumed(
    rig: Rig, strategy: Path, tmp_path: Path
) -> None:
    session = await start(rig, strategy, tmp_path, bars=1, open_end=True)
    await session.handle.signal("pause")
    left = session.outside("left")
    await session.send(left)
    row = await session.decided(left.signal_id, "taken", "not_taken")
    assert (row.decision, row.code) == ("not_taken", "SESSION_PAUSED")
    await session.handle.signal("resume", OperatorSignal(by="test"))
    wanted = session.outside("wanted")
    await session.send(wanted)
    await session.decided(wanted.signal_id, "taken")
    await session.handle.signal("stop")
    await session.handle.result()


@pytest.mark.parametrize("mode", ["Cancel-Entries", "nonsense"])
async def test_kill_writes_the_control_row_first_and_ends_the_working_entry(
    rig: Rig, strategy: Path, tmp_path: Path, mode: str
) -> None:
    """I9, I17: a hand-typed mode that does not exist still blocks, and a person is told."""
    session = await start(rig, strategy, tmp_path, bars=1, open_end=True)
    rig.quote("ESX", "99.75", "100.25", size="0")
    signal = session.outside("victim")
    await session.send(signal)
    await rig.until(lambda: bool(rig.exchange.open_orders), "the entry works")
    await session.handle.signal("kill", OperatorSignal(by="test", mode=mode))
    after = session.outside("after")
    await session.send(after)
    row = await session.decided(after.signal_id, "taken", "not_taken")

    assert row.decision == "not_taken"

    # The session takes nothing from the signal on; its row is a step beside that.
    async def is_killed() -> bool:
        return bool((await rig.ledger.read_control(session.spec.account)).kills)

    await rig.until_async(is_killed, "the control row is written")
    (kill,) = (await rig.ledger.read_control(session.spec.account)).kills
    expected = KillMode.CANCEL_ENTRIES if mode == "Cancel-Entries" else KillMode.BLOCK
    assert (kill.mode, kill.by) == (expected, "test")

    async def told() -> list[str]:
        alerts = await rig.ledger.list_alerts(account=session.spec.account)
        return [alert.text for alert in alerts if alert.code == "KILL_MODE_UNKNOWN"]

    if expected is KillMode.BLOCK:

        async def is_told() -> bool:
            return bool(await told())

        await rig.until_async(is_told, "a person is told of the mode")
        (text,) = await told()
        assert "mode was 'nonsense', allowed block|cancel-entries|flatten" in text
    else:
        assert await told() == []
    await session.handle.signal("stop")
    await session.handle.result()
    await rig.until(lambda: not rig.exchange.open_orders, "no entry works any more")


async def test_flatten_signal_takes_open_trades_out(
    rig: Rig, strategy: Path, tmp_path: Path
) -> None:
    session = await start(rig, strategy, tmp_path, bars=1, open_end=True)
    signal = session.outside("held")
    await session.send(signal)
    child = rig.client.get_workflow_handle(trade_workflow_id(signal.signal_id))
    await rig.until(
        lambda: any(order.stop_price is not None for order in rig.exchange.open_orders), "protected"
    )
    await session.handle.signal("flatten", OperatorSignal(by="test"))
    await child.result()
    await session.handle.signal("stop")
    await session.handle.result()

    (kill,) = (await rig.ledger.read_control(session.spec.account)).kills
    assert kill.mode is KillMode.FLATTEN
    assert rig.exchange.holdings() == []


async def test_new_runs_carry_the_bar_cursor(
    rig: Rig, strategy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continue-as-new at a quiet point: every bar is evaluated once, none is left out."""
    monkeypatch.setattr(life, "EVENTS_WISH_MAX", 25)
    session = await start(rig, strategy, tmp_path, bars=8)
    result = await session.handle.result()

    first_run = session.handle.first_execution_run_id
    first = rig.client.get_workflow_handle(session.handle.id, run_id=first_run)
    history = await first.fetch_history()
    assert history.events[-1].HasField("workflow_execution_continued_as_new_event_attributes")
    assert (result.counts.bars, result.counts.decisions, result.counts.taken) == (8, 8, 1)
    assert len(await session.signals()) == 8
