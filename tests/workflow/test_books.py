"""Ledger against exchange journal after real trades: equal, and every planted lie gives exit 1."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from temporalio.client import Client

from activities.executions import book_executions
from cli.demo import conclude
from cli.feed_report import journal_book, read_ledger_book, read_trade_rows
from domain.instrument import Instrument
from domain.order import Fill, Side
from ledger.repository import Ledger
from report.records import SessionFacts
from report.verify import DifferenceKind, Differences, compare
from simulator.config import ExchangeConfig, FeeSchedule, Listing
from tests.rig import Rig, running_rig
from tests.workflow.test_trade_thread import plan_of

D = Decimal
CASH = D(100_000)
CONFIG = ExchangeConfig(
    listings=(Listing(Instrument(symbol="ESX"), fees=FeeSchedule(per_unit=D("0.01"))),),
    requests_per_minute=None,
)


@pytest.fixture
async def rig(temporal_client: Client, ledger: Ledger, unique: str) -> AsyncIterator[Rig]:
    """A rig on which one trade entered, reached its target and settled."""
    account = f"acct-{unique}"
    async with running_rig(temporal_client, ledger, account, config=CONFIG) as made:
        made.quote("ESX", "99.75", "100.25")
        handle = await made.start_trade(plan_of(made))
        await made.until(
            lambda: any(o.stop_price is not None for o in made.exchange.open_orders), "protected"
        )
        made.quote("ESX", "103.50", "103.75")
        await handle.result()
        await book_executions(made.services)
        yield made


async def differences(rig: Rig, rows: Sequence[dict[str, Any]] | None = None) -> Differences:
    ours = await read_ledger_book(rig.ledger, rig.services.account, CASH)
    return compare(ours, journal_book(rig.journal() if rows is None else rows))


async def exit_code(
    rig: Rig, found: Differences, page: Path, *, whole_day: bool = False
) -> tuple[int, str]:
    """What `make run` would answer, and its last line."""
    now = datetime(2013, 9, 3, 13, 30, tzinfo=UTC)
    facts = SessionFacts(
        session="s",
        account=rig.services.account,
        market_begin=now,
        market_end=now + timedelta(hours=1),
        signals=1,
        trades=await read_trade_rows(rig.ledger, "s"),
    )
    stream = io.StringIO()
    console = Console(file=stream, width=120)
    code = conclude(console, facts, found, page, whole_day=whole_day)
    return code, stream.getvalue().rstrip().splitlines()[-1]


async def test_books_are_equal_and_a_row_missing_in_the_journal_is_seen(
    rig: Rig, tmp_path: Path
) -> None:
    found = await differences(rig)
    assert found.items == ()
    # Equal books of a day that does not show every outcome fail `make run`, not a user's tape.
    assert (await exit_code(rig, found, tmp_path / "tape.html"))[0] == 0
    assert (await exit_code(rig, found, tmp_path / "day.html", whole_day=True))[0] == 1
    assert (found.fills, found.fees, found.positions) == (2, 2, 0)
    assert found.orders >= 2

    rows = rig.journal()
    missed = [("accepted", "order"), ("fill", "fill"), ("fee", "fee")]
    for kind, seen in missed:
        gone = next(row for row in rows if row["kind"] == kind and not row.get("parent_id"))
        found = await differences(rig, [row for row in rows if row is not gone])
        assert [item.kind for item in found.items] == [DifferenceKind(seen)]

    # The broker books fees on rows of their own; the report gives them to their trade.
    (row,) = await read_trade_rows(rig.ledger, "s")
    assert (row.fees, row.exit_reason, row.targets_filled) == (D("0.20"), "target", 1)
    assert row.realised == ((row.exit_average or D(0)) - (row.entry_average or D(0))) * 10


async def test_planted_fill_in_the_ledger_is_seen_and_ends_in_exit_1(
    rig: Rig, tmp_path: Path
) -> None:
    lie = Fill(
        fill_key="lie:1",
        broker_order_id="lie",
        symbol="ESX",
        side=Side.BUY,
        quantity=D(1),
        price=D(100),
        venue_time=datetime(2013, 9, 3, 13, 31, tzinfo=UTC),
    )
    await rig.ledger.record_fill(rig.services.account, lie)
    found = await differences(rig)
    kinds = {item.kind for item in found.items}
    assert kinds == {DifferenceKind.FILL, DifferenceKind.CASH, DifferenceKind.POSITION}
    code, last = await exit_code(rig, found, tmp_path / "report.html")
    assert code == 1
    assert last.startswith("ledger DIFFERS from exchange journal in 3 places")
