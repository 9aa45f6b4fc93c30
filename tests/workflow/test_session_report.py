"""`report session` on the real parts: tape and clock from Temporal, books against the broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from temporalio.client import Client

from activities.executions import book_executions
from cli.context import Target
from cli.session_report import read_session
from domain.clock import ClockMap
from domain.ids import session_workflow_id
from domain.instrument import Instrument
from domain.session import SessionInput, SessionSpec
from ledger.repository import Ledger
from marketdata.events import EventKind, TapeEvent, write_tape
from report.page import page_of
from simulator.config import ExchangeConfig, FeeSchedule, Listing
from tests.rig import Rig, running_rig
from tests.workflow.test_preflight import target
from tests.workflow.test_trade_thread import plan_of
from workflows.session import SessionWorkflow

__all__ = ["target"]  # a fixture
D = Decimal
ESX = Instrument(symbol="ESX")
CONFIG = ExchangeConfig(
    listings=(Listing(ESX, fees=FeeSchedule(per_unit=D("0.01"))),), requests_per_minute=None
)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    """One trade of session `s` entered, reached its target and settled."""
    async with running_rig(temporal_client, ledger, f"acct-{unique}", config=CONFIG) as made:
        made.quote("ESX", "99.75", "100.25")
        handle = await made.start_trade(plan_of(made))
        await made.until(
            lambda: any(o.stop_price is not None for o in made.exchange.open_orders), "protected"
        )
        made.quote("ESX", "103.50", "103.75")
        await handle.result()
        await book_executions(made.services)
        yield made


def bar(end: datetime, price: str) -> TapeEvent:
    close = D(price)
    return TapeEvent(
        time=end,
        symbol="ESX",
        kind=EventKind.BAR,
        open=close,
        high=close,
        low=close,
        close=close,
        volume=D(1),
    )


async def test_tape_clock_and_books_of_a_session_are_found_and_equal(
    rig: Rig, target: Target, tmp_path: Path
) -> None:
    fills = await rig.ledger.fills_of_account(rig.services.account)
    begin = fills[0].fill.venue_time - 2 * MINUTE
    end = max(record.fill.venue_time for record in fills)
    tape = tmp_path / "day.csv"
    write_tape(tape, [bar(begin + MINUTE, "100"), bar(end, "103"), bar(end + MINUTE, "1")])
    clock = ClockMap(wall0=datetime.now(UTC), market0=begin, speed=D(60))
    spec = SessionSpec(
        name="s",
        account=rig.services.account,
        strategies=("test",),
        universe=(ESX,),
        opens_at=begin - 300 * MINUTE,
        tape=str(tape),
        installation=rig.services.installation,
        mode="simulator",
    )
    # Nobody serves this queue: only what the session was started with is asked for.
    handle = await rig.client.start_workflow(
        SessionWorkflow.run,
        SessionInput(spec=spec, clock=clock),
        id=session_workflow_id("s"),
        task_queue=f"nobody-{rig.services.account}",
    )
    try:
        running, _ = await read_session(target, "s")
    finally:
        await handle.terminate("test")
    facts, differences = await read_session(target, "s")

    assert facts.market_begin >= begin - MINUTE, "not when the market opened, hours before"
    assert (facts.mode, facts.speed) == ("simulator", D(60))
    assert [dict(each.notes)["state"] for each in (running, facts)] == [
        "the session runs: this is the report so far",
        "the session is over",
    ]
    assert facts.prices_from == "Prices: the tape of the session, day.csv."
    (chart,) = facts.charts
    assert [level.value for level in chart.prices] == [100, 103], "nothing after the session"
    (line,) = facts.equity
    (row,) = facts.trades
    assert line.points[-1].value - line.start == row.realised - row.fees == D("29.80")

    assert differences is not None
    assert differences.items == ()
    page = page_of(facts, differences)
    assert '<p class="verdict equal">ledger equals broker: ' in page
    assert differences.line().startswith("ledger equals broker: ")
