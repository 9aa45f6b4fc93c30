"""The evening on a real stack: what is open, what it may cost, and one alert (schedule 16:15)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, ScheduleOverlapPolicy

from activities.day_reading import DayWanted, read_day
from activities.day_report import DayReportInput
from deploy.temporal.schedules import day_report_schedule
from domain.ids import day_report_workflow_id
from ledger.repository import Ledger
from report.day import parts
from simulator.config import CalendarConfig, ExchangeConfig
from tests import trade_scenarios as play
from tests.rig import Rig, running_rig
from workflows.day_report import DayReportWorkflow


@pytest.fixture
async def rig(
    temporal_client: Client,
    ledger: Ledger,
    unique: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Rig]:
    """Its streams worker writes reports under the working directory."""
    monkeypatch.chdir(tmp_path)
    async with running_rig(temporal_client, ledger, f"acct-{unique}") as made:
        play.calm_market(made)
        yield made


async def test_evening_names_the_position_its_stop_and_its_risk_once(
    rig: Rig, tmp_path: Path
) -> None:
    await rig.start_trade(play.plan_of(rig, "1"))
    await play.enter_protected(rig)
    account = rig.services.account
    for _ in range(2):
        written = await rig.client.execute_workflow(
            DayReportWorkflow.run,
            DayReportInput(account=account),
            id=day_report_workflow_id(account),
            task_queue=rig.queue,
        )
    page, told = _read(tmp_path / written.path)
    (held,) = told["held"]
    assert held["protection"] == "resting"
    assert told["unread"] == []
    quantity, price = abs(Decimal(held["quantity"])), Decimal(held["price"])
    assert Decimal(held["risk"]["value"]) == quantity * price
    assert Decimal(held["risk"]["at_gap"]) == quantity * price * Decimal("0.05")
    stops = held["stops"]
    assert sum(Decimal(stop["quantity"]) for stop in stops) == quantity
    assert {Decimal(stop["price"]) for stop in stops} == {play.STOP}
    assert Decimal(held["risk"]["at_stop"]) == (price - play.STOP) * quantity
    assert all(stop["is_dormant"] and not stop["expires_tonight"] for stop in stops)
    assert len(told["working"]) == len(stops)
    assert held["symbol"] in page

    alerts = [a for a in await rig.ledger.list_alerts(account=account) if a.code == "DAY_REPORT"]
    assert [alert.severity.value for alert in alerts] == ["info"], "a repeat tells nothing twice"


async def test_no_stop_sleeps_tonight_where_the_venue_stays_open(
    temporal_client: Client, ledger: Ledger, unique: str
) -> None:
    """It called stops `asleep until the next open` that trigger at any hour."""
    config = ExchangeConfig(calendar=CalendarConfig(always_open=True))
    async with running_rig(temporal_client, ledger, f"acct-{unique}", config=config) as rig:
        play.calm_market(rig)
        await rig.start_trade(play.plan_of(rig, "1"))
        await play.enter_protected(rig)
        now = datetime.now(UTC)
        wanted = DayWanted(
            account=rig.services.account,
            installation=rig.services.installation,
            venue=rig.services.broker_name,
            day=rig.exchange.now.date(),
            begin=rig.exchange.now - timedelta(days=1),
            end=rig.exchange.now,
            clock=rig.clock,
            now=now,
            max_daily_loss_fraction=Decimal("0.05"),
        )
        made = await read_day(rig.ledger, rig.broker, wanted)
        (held,) = made.held
        assert held.stops
        assert made.dormant_stops == ()
        (sleeping,) = (part for part in parts(made) if part.title == "Dormant stops")
        assert "regular hours" not in sleeping.hint
        assert "stays open" in sleeping.hint


def _read(page: Path) -> tuple[str, dict[str, Any]]:
    """The page, and the data beside it."""
    return page.read_text(), json.loads(page.with_suffix(".json").read_text())


def test_schedule_is_a_quarter_past_four_in_new_york_on_weekdays() -> None:
    schedule = day_report_schedule("paper", [DayReportInput(account="paper")])
    (evening,) = schedule.spec.calendars
    assert schedule.spec.time_zone_name == "America/New_York"
    assert [(each[0].start, each[0].end) for each in (evening.hour, evening.minute)] == [
        (16, 16),
        (15, 15),
    ]
    assert (evening.day_of_week[0].start, evening.day_of_week[0].end) == (1, 5)
    assert schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert schedule.policy.catchup_window == timedelta(hours=6)
