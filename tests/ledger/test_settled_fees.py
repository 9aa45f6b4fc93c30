"""Fees of a trade that has just closed: what the broker has told by then counts at once (I5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment
from typer.testing import CliRunner

from activities.executions import book_executions
from activities.services import SettleInput, TradeRef
from activities.trades import TradeActivities
from domain.clock import ClockMap
from domain.commands import Settle
from domain.ids import Purpose
from domain.order import Side
from ledger.records import FeeRecord, TradeRecord
from ledger.repository import Ledger
from starter import app
from tests.contract.broker_faces import MARKET_NOW
from tests.ledger.order_lane import Lane, order, order_lane
from tests.ledger.samples import ACCOUNT, plan


@pytest.fixture
async def lane(armed: Ledger) -> AsyncIterator[Lane]:
    async with order_lane(armed) as opened:
        yield opened


async def tell_fee(lane: Lane, number: int, text: str) -> None:
    fee = FeeRecord(
        activity_id=f"fee-{number}",
        account=ACCOUNT,
        amount=Decimal("0.35"),
        text=text,
        venue_time=MARKET_NOW + timedelta(seconds=number),
    )
    await lane.ledger.record_fee(fee)


async def closed(lane: Lane) -> TradeRecord:
    """A trade that bought and sold at one price and is settled."""
    await lane.open_trade()
    await lane.place(order(purpose=Purpose.EXIT, side=Side.SELL))
    await book_executions(lane.services, "trade-1")
    for number, row in enumerate(await lane.ledger.fills_of_trade("trade-1")):
        await tell_fee(lane, number, f"fee for order {row.fill.broker_order_id}")
    await tell_fee(lane, 8, "fee for order of-another-trade")
    await tell_fee(lane, 9, "TAF fee for proceed of 100 shares")
    given = SettleInput(
        trade=TradeRef.of(plan(), ClockMap(wall0=MARKET_NOW, market0=MARKET_NOW)),
        plan=plan(),
        command=Settle(outcome="closed", exit_reason="target", entry_quantity=Decimal(100)),
        stage="closed",
    )
    await ActivityEnvironment().run(TradeActivities(lane.services).settle_trade, given)
    trade = await lane.ledger.trade("trade-1")
    assert trade is not None
    return trade


async def test_fee_rows_that_name_an_order_count_when_the_trade_settles(lane: Lane) -> None:
    trade = await closed(lane)
    gross = Decimal("-2.00")  # bought at 100.01, sold at 99.99
    assert (trade.realised, trade.fees) == (gross - Decimal("0.70"), Decimal("0.70"))
    assert trade.fees_estimated, "the rows of the day come next morning"
    assert trade.settled_at is None


async def test_trade_show_says_that_fees_are_not_whole_yet(
    lane: Lane, ledger_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await closed(lane)
    monkeypatch.setenv("HOLDFAST_LEDGER_DSN", ledger_dsn)
    asked = ["--data", str(tmp_path), "trade", "show", "trade-1"]
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert result.exit_code == 0, result.output
    assert "0.70 (told so far)" in result.output
    assert "(when its fees are whole" in result.output
    await lane.ledger.settle_trade(
        "trade-1", Decimal("-2.75"), Decimal("0.75"), fees_estimated=False
    )
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert "0.75 (" not in result.output
    assert "whole" not in result.output
