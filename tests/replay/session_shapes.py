"""What the recorder plays of other workflows than one trade: sessions, flatten, the evening."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from activities.day_report import DayReportInput
from activities.flatten import FlattenInput, flatten_id
from activities.reconcile import ReconcileInput
from domain.control import KillScope, KillScopeKind
from domain.ids import day_report_workflow_id, reconcile_workflow_id, trade_workflow_id
from domain.messages import OperatorSignal, VersionSignal
from domain.session_day import SessionDay
from domain.signal import SignalKind
from tests import trade_scenarios as play
from tests.rig import Rig
from tests.workflow.test_session import Started
from tests.workflow.test_session_days import Plan, protected, request
from tests.workflow.test_session_strategies import exit_signal, held
from workflows import _lifecycle as life
from workflows.day_report import DayReportWorkflow
from workflows.flatten import FlattenWorkflow
from workflows.reconcile import ReconcileWorkflow
from workflows.session import SessionWorkflow

Played = list[tuple[str, str]]
"""The workflows to write, by kind and id."""


async def flattened_account(rig: Rig) -> Played:
    await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    account = rig.services.account
    scope = KillScope(kind=KillScopeKind.ACCOUNT, value=account)
    given = FlattenInput(
        command_id="flat-1", account=account, scope=scope, by="record", reason="record"
    )
    handle = await rig.client.start_workflow(
        FlattenWorkflow.run,
        given,
        id=flatten_id("flat-1", scope, account),
        task_queue=rig.queue,
    )
    await handle.result()
    return [("Flatten", handle.id)]


async def reconciled(rig: Rig) -> Played:
    await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    handle = await rig.client.start_workflow(
        ReconcileWorkflow.run,
        ReconcileInput(account=rig.services.account, settle_s=0.3),
        id=reconcile_workflow_id(rig.services.account),
        task_queue=rig.queue,
    )
    await handle.result()
    return [("Reconcile", handle.id)]


async def evening(rig: Rig) -> Played:
    """The page goes to a folder that is thrown away; the rig's own worker would write it here."""
    account = rig.services.account
    with TemporaryDirectory(prefix="holdfast-record-") as text, contextlib.chdir(text):
        handle = await rig.client.start_workflow(
            DayReportWorkflow.run,
            DayReportInput(account=account),
            id=day_report_workflow_id(account),
            task_queue=rig.queue,
        )
        await handle.result()
    return [("DayReport", handle.id)]


# --- sessions -------------------------------------------------------------------------------------


async def one_signal(rig: Rig, folder: Path) -> Played:
    """Four bars: none, a signal, a broken answer, none; the close comes after the entry."""
    close = rig.exchange.now + timedelta(minutes=20)
    session = await Plan(
        rig, folder, bar_ends_min=(1, 2, 3, 4), changes={"closes_at": close, "poll_s": 120}
    ).start()
    return await _ended(session)


async def two_days(rig: Rig, folder: Path) -> Played:
    """A trade on each day; the night is longer than the preparation of the second day."""
    begin, long, night = rig.exchange.now, timedelta(minutes=10), timedelta(minutes=24)
    first = SessionDay(opens_at=begin, closes_at=begin + long)
    opens_at = begin + long + night
    second = SessionDay(opens_at=opens_at, closes_at=opens_at + long)
    # Looks are rare, so that the preparation of the second day does not fill the file.
    changes = {"days": (first, second), "poll_s": 300}
    session = await Plan(rig, folder, bar_ends_min=(1, 2, 35, 36), changes=changes).start()

    async def first_is_done() -> bool:
        return (await session.handle.query(SessionWorkflow.status)).days_done == 1

    await rig.until_async(first_is_done, "the first day is done")
    assert night > float(session.clock.speed) * life.PREPARE_DAY, "or the second day begins at once"
    rig.exchange.advance_to(begin + timedelta(days=1))
    rig.quote(play.SYMBOL, "99.75", "100.25")
    return await _ended(session)


async def stopped_with_a_trade(rig: Rig, folder: Path) -> Played:
    """The stop of an operator: the trade's exits stay."""
    session = await _holding(rig, folder)
    await session.handle.execute_update(SessionWorkflow.request_stop, request("s1"), id="s1")
    return await _ended(session)


async def stopped_flat(rig: Rig, folder: Path) -> Played:
    """The stop of an operator with flatten."""
    session = await _holding(rig, folder)
    stop = request("s1", flatten=True)
    await session.handle.execute_update(SessionWorkflow.request_stop, stop, id="s1")
    return await _ended(session)


async def paused_session(rig: Rig, folder: Path) -> Played:
    """A signal comes while the session pauses; by signal and by update."""
    session = await Plan(rig, folder).start()
    await session.handle.signal(SessionWorkflow.pause, OperatorSignal(by="record"))
    left = session.outside("left")
    await session.send(left)
    await session.decided(left.signal_id, "not_taken")
    await session.handle.execute_update(SessionWorkflow.request_resume, request("r1"), id="r1")
    return await _stopped(session)


async def flatten_signal(rig: Rig, folder: Path) -> Played:
    """Flatten from the Web UI: the control row, the trades, a Flatten workflow beside."""
    session = await _holding(rig, folder)
    await session.handle.signal(SessionWorkflow.flatten, OperatorSignal(by="record"))
    await rig.until(lambda: not held(rig), "flat")
    return await _stopped(session)


async def exit_signals(rig: Rig, folder: Path) -> Played:
    """A part and then all is closed by signals; the trade that hears them is written, too."""
    session = await _holding(rig, folder)
    await session.send(exit_signal(session, SignalKind.EXIT_PARTIAL, "half"))
    await rig.until(lambda: held(rig) == 5 and protected(rig), "half is closed, the rest protected")
    await session.send(exit_signal(session, SignalKind.EXIT_FULL, "all"))
    trade = trade_workflow_id(session.outside("held").signal_id)
    await rig.client.get_workflow_handle(trade).result()
    return [*await _stopped(session), ("Trade", trade)]


async def new_build(rig: Rig, folder: Path) -> Played:
    """Handed over to a new build between two bars; a trade starts in each run."""
    session = await _holding(rig, folder)
    first = (await session.handle.describe()).run_id
    await session.handle.signal(SessionWorkflow.version_changed, VersionSignal(build_id="same"))

    async def moved() -> bool:
        return (await session.handle.describe()).run_id != first

    await rig.until_async(moved, "a new run goes on")
    later = session.outside("later")
    await session.send(later)
    await session.decided(later.signal_id, "taken")
    return await _stopped(session)


async def _holding(rig: Rig, folder: Path) -> Started:
    """A session whose trade is protected."""
    session = await Plan(rig, folder).start()
    await session.send(session.outside("held"))
    await rig.until(lambda: held(rig) == 10 and protected(rig), "ten are held and protected")
    return session


async def _stopped(session: Started) -> Played:
    await session.handle.signal(SessionWorkflow.stop, OperatorSignal(by="record"))
    return await _ended(session)


async def _ended(session: Started) -> Played:
    await session.handle.result()
    return [("Session", session.handle.id)]


def _in_folder(
    shape: Callable[[Rig, Path], Awaitable[Played]],
) -> Callable[[Rig], Awaitable[Played]]:
    """The shape with a folder for its strategy and tape, in a market where entries fill."""

    async def played(rig: Rig) -> Played:
        rig.quote(play.SYMBOL, "99.75", "100.25")
        with TemporaryDirectory(prefix="holdfast-record-") as folder:
            return await shape(rig, Path(folder))

    return played


OTHERS: dict[str, Callable[[Rig], Awaitable[Played]]] = {
    "closed_an_account": flattened_account,
    "one_open_trade": reconciled,
    "evening": evening,
    "one_signal": _in_folder(one_signal),
    "two_days": _in_folder(two_days),
    "stopped_with_a_trade": _in_folder(stopped_with_a_trade),
    "stopped_flat": _in_folder(stopped_flat),
    "paused_session": _in_folder(paused_session),
    "flatten_signal": _in_folder(flatten_signal),
    "exit_signals": _in_folder(exit_signals),
    "new_build": _in_folder(new_build),
}
