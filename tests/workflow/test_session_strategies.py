"""Strategies in a session: exit signals, stored configurations, and neighbours that break."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from domain.order import Side
from domain.signal import Signal, SignalKind, StrategyContext
from ledger.records import SignalRecord, StrategyRecord
from tests.rig import Rig
from tests.workflow.test_session import ESX, Started
from tests.workflow.test_session_days import Plan, protected
from workflows.session import SessionWorkflow

D = Decimal
# A long entry of ten on every bar; says which parameters it was given.
EVERY_BAR = """
from decimal import Decimal as D
from domain.order import Side
from domain.plan import FixedSize, PlanPrice, StopPlan, WalkPlan, WalkStart
from domain.signal import Decision, PlanDraft, Signal

PARAMETERS = {"quantity": 10}

def generate_signal(bars, context):
    draft = PlanDraft(
        size=FixedSize(quantity=D(context.parameters["quantity"])),
        walk=WalkPlan(start=WalkStart.FAR, step=D("0.25"), interval_s=D(120), steps_max=2,
                      worst_offset=D(1), max_time_s=D(3600)),
        stop=StopPlan(price=PlanPrice(offset=D(-2))),
        signal_max_age_s=D(3600),
    )
    return Decision.take(Signal.derive(context, Side.BUY, draft=draft))
"""
BROKEN = {
    "dying": "import os\ndef generate_signal(b, c):\n    os._exit(3)\n",
    "empty": "x = 1\n",
    "raising": "def generate_signal(b, c):\n    raise ValueError(len(b))\n",
}


def exit_signal(session: Started, kind: SignalKind, name: str) -> Signal:
    now = session.clock.market(datetime.now(UTC))
    context = StrategyContext(
        session=session.spec.name, strategy="outside", instrument=ESX, now=now, session_open=now
    )
    signal = Signal.derive(context, Side.SELL, draft=None, kind=kind, reason="said so")
    return signal.model_copy(update={"signal_id": f"{session.spec.name}-{name}"})


async def said(session: Started, kind: SignalKind, name: str, *words: str) -> SignalRecord:
    """Sends the signal and waits for what became of it."""
    signal = exit_signal(session, kind, name)
    await session.send(signal)
    return await session.decided(signal.signal_id, *words)


def held(rig: Rig) -> Decimal:
    return sum((holding.quantity for holding in rig.exchange.holdings()), D(0))


async def rows_until(session: Started, code: str, strategy: str = "") -> tuple[SignalRecord, ...]:
    """Rows of the session once one of them has the code."""
    async with asyncio.timeout(60):
        while True:
            rows = [r for r in await session.signals() if strategy in ("", r.strategy)]
            if any(row.code == code for row in rows):
                return tuple(rows)
            await session.rig.breathe()


async def test_partial_exit_closes_half_once_and_full_exit_the_rest(
    rig: Rig, tmp_path: Path
) -> None:
    """Requirement 58, A1: ZE1 50 %, E1 all; O1 and Z1 are recorded and do nothing."""
    session = await Plan(rig, tmp_path).start()
    early = await said(session, SignalKind.EXIT_FULL, "early", "exit", "not_taken")
    assert (early.decision, early.code) == ("not_taken", "NO_OPEN_TRADE")
    entry = session.outside("entry")
    await session.send(entry)
    await rig.until(lambda: held(rig) == 10 and protected(rig), "ten are held and protected")

    watched = await said(session, SignalKind.WATCH_CLOSE, "watch", "watched")
    assert (watched.code, watched.trade_id) == ("MONITOR_ONLY", None)
    half = exit_signal(session, SignalKind.EXIT_PARTIAL, "half")
    await session.send(half)
    row = await session.decided(half.signal_id, "exit")
    assert row.trade_id == entry.signal_id
    await rig.until(lambda: held(rig) == 5, "half is closed")
    await session.send(half)
    await session.send(half)
    await rig.until(lambda: protected(rig), "the rest is protected again")
    assert held(rig) == 5

    await said(session, SignalKind.EXIT_FULL, "all", "exit")
    await rig.until(lambda: held(rig) == 0 and not rig.exchange.open_orders, "all is closed")
    await rig.until_async(lambda: _is_settled(rig, entry.signal_id), "settled")
    late = await said(session, SignalKind.EXIT_PARTIAL, "late", "exit", "not_taken")
    assert late.code == "NO_OPEN_TRADE"
    await session.handle.signal(SessionWorkflow.stop)
    counts = (await session.handle.result()).counts
    assert (counts.signals, counts.taken, counts.exits, counts.watched) == (6, 1, 2, 1)
    assert counts.not_taken == 2
    trade = await rig.ledger.trade(entry.signal_id)
    assert trade is not None
    assert trade.result == "exit_signal"
    repeats = [r for r in await rig.ledger.list_audit(limit=10_000) if r.subject == half.signal_id]
    assert [r.action for r in repeats] == ["signal.SIGNAL_REPEATED"] * 2


async def _is_settled(rig: Rig, trade_id: str) -> bool:
    row = await rig.ledger.trade(trade_id)
    return row is not None and row.closed_at is not None


async def test_stored_configuration_has_capital_and_is_switched_while_it_runs(
    rig: Rig, tmp_path: Path, unique: str
) -> None:
    """Named parameters, STRATEGY_CAPITAL, STRATEGY_DISABLED, enabled again at the next bar."""
    file, name = tmp_path / "every_bar.py", f"c-{unique}"
    file.write_text(EVERY_BAR)
    await rig.ledger.add_strategy(
        StrategyRecord(name=name, strategy=str(file), parameters={"quantity": "4"}, capital=D(600)),
        "ann",
        "test",
    )
    bars = tuple(range(1, 120))
    session = await Plan(rig, tmp_path, bar_ends_min=bars, changes={"strategies": (name,)}).start()
    await rig.until(lambda: held(rig) == 4 and protected(rig), "four are held")
    await rig.until_async(lambda: _is_refused(session, "STRATEGY_CAPITAL"), "capital")
    changed = await rig.ledger.change_strategy(name, {"enabled": False}, "ann", "enough")
    rows = await rows_until(session, "STRATEGY_DISABLED")
    assert {row.strategy for row in rows} == {name}
    disabled = next(row for row in rows if row.code == "STRATEGY_DISABLED")
    assert (disabled.decision, disabled.text) == ("not_taken", "enough"), "asked: it holds"

    first = next(row for row in rows if row.decision == "taken")
    await session.handle.signal("flatten")
    await rig.until_async(lambda: _is_settled(rig, first.trade_id or ""), "flat")
    async with asyncio.timeout(60):
        while not [r for r in await session.signals() if r.decision == "none"]:
            await rig.breathe()
    quiet = [r for r in await session.signals() if r.decision == "none"]
    assert {row.code for row in quiet} == {"STRATEGY_DISABLED"}, "not asked: it holds nothing"
    await rig.ledger.change_strategy(
        name, {"enabled": True}, "ann", "again", version=changed.version
    )
    await rows_until(session, "SESSION_PAUSED")  # the kill paused it; the strategy is asked again
    await session.handle.signal(SessionWorkflow.stop)
    await session.handle.result()


async def _has_taken(session: Started, count: int) -> bool:
    return [row.decision for row in await session.signals()].count("taken") == count


async def _is_refused(session: Started, code: str) -> bool:
    """By this check, whichever check of the gate is named first: the stop may rest already."""
    ledger = session.rig.ledger
    for trade in await ledger.list_trades(session=session.spec.name):
        if any(verdict.code == code for verdict in await ledger.verdicts(trade.trade_id)):
            return True
    return False


async def test_losing_trade_disables_the_strategy_with_its_reason_and_an_alert(
    rig: Rig, tmp_path: Path, unique: str
) -> None:
    file, name = tmp_path / "every_bar.py", f"l-{unique}"
    file.write_text(EVERY_BAR)
    row = StrategyRecord(name=name, strategy=str(file), losses_max=1, capital=D(1200))
    await rig.ledger.add_strategy(row, "ann", "test")
    session = await Plan(
        rig, tmp_path, bar_ends_min=tuple(range(1, 120)), changes={"strategies": (name,)}
    ).start()
    await rig.until(lambda: held(rig) == 10 and protected(rig), "ten are held")
    rig.quote("ESX", "97.75", "98.25")  # through the stop
    await rows_until(session, "STRATEGY_DISABLED")
    await session.handle.signal(SessionWorkflow.stop)
    await session.handle.result()

    stored = await rig.ledger.strategy(name)
    assert stored is not None
    assert (stored.enabled, stored.updated_by) == (False, "rule")
    assert stored.reason.startswith("LOSSES_IN_A_ROW: the last 1 trades lost ")
    alerts = await rig.ledger.list_alerts(account=rig.services.account)
    told = [alert for alert in alerts if alert.code == "STRATEGY_DISABLED"]
    assert [alert.text for alert in told] == [f"{name}: {stored.reason}"]


async def test_broken_neighbours_are_refused_by_name_and_the_good_one_trades(
    rig: Rig, tmp_path: Path
) -> None:
    """Faults.md §3: one strategy never stops another, nor the session."""
    names = []
    for name, text in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(text)
        names.append(str(tmp_path / f"{name}.py"))
    good = tmp_path / "every_bar.py"
    good.write_text(EVERY_BAR)
    names += [str(tmp_path / "not_there.py"), str(good)]
    changes = {"strategies": tuple(names)}
    session = await Plan(rig, tmp_path, bar_ends_min=(1, 2), changes=changes).start()
    # The second may be refused for the stop of the first, if that rests by then.
    await rig.until_async(lambda: _has_taken(session, 2), "the good one has taken both bars")
    await rig.until(lambda: held(rig) >= 10, "and has traded")
    await session.handle.signal(SessionWorkflow.stop)
    result = await session.handle.result()

    codes = {(row.strategy, row.decision, row.code) for row in await session.signals()}
    assert codes >= {
        ("dying", "fault", "STRATEGY_DIED"),
        ("empty", "fault", "STRATEGY_BROKEN"),
        ("raising", "fault", "STRATEGY_RAISED"),
        ("not_there", "fault", "STRATEGY_BROKEN"),
        ("every_bar", "taken", ""),
    }
    assert result.counts.strategy_faults == 8
    assert result.counts.taken == 2
