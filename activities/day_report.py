"""The evening's report by schedule: read, written to a file, told in one alert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, tzinfo

from temporalio import activity

from activities.day_reading import DayWanted, read_day
from activities.reporting import report_draft
from activities.risk import ROLL_ZONE
from activities.services import Services
from domain.alerts import TEXT_MAX, AlertDraft
from domain.base import Frozen
from domain.clock import real_time
from domain.commands import AlertSeverity
from domain.day_report import GAP_FRACTION, DayReport
from domain.money import Number


class DayReportInput(Frozen):
    """`day` None: the day that it is in New York."""

    account: str
    day: date | None = None
    gap_fraction: Number = GAP_FRACTION


class DayReportWritten(Frozen):
    path: str
    line: str


def day_bounds(
    day: date | None, now: datetime, zone: tzinfo = ROLL_ZONE
) -> tuple[date, datetime, datetime]:
    """The day (None: that of the instant `now`) and its two midnights in the zone."""
    found = now.astimezone(zone).date() if day is None else day
    begin = datetime.combine(found, time.min, zone)
    return found, begin, datetime.combine(found + timedelta(days=1), time.min, zone)


class DayReportActivities:
    """The scheduled report: read, written to a file, told in one alert.

    Args:
        services: of one account.
        write: writes the report's files and answers the path of the page.
    """

    def __init__(self, services: Services, write: Callable[[DayReport], str]) -> None:
        self._services = services
        self._write = write

    @activity.defn(name="report_day")
    async def report_day(self, input: DayReportInput) -> DayReportWritten:
        """Writes the evening's report; a repeat writes the same file and tells nothing twice."""
        services, now = self._services, self._services.now()
        day, begin, end = day_bounds(input.day, now)
        wanted = DayWanted(
            account=services.account,
            installation=services.installation,
            venue=services.broker_name,
            day=day,
            begin=begin,
            end=end,
            clock=real_time(now),
            now=now,
            max_daily_loss_fraction=services.limits.max_daily_loss_fraction,
            gap_fraction=input.gap_fraction,
        )
        made = await read_day(services.ledger, services.broker, wanted)
        path = await asyncio.to_thread(self._write, made)
        draft = AlertDraft(
            key=f"day-report/{services.account}/{day.isoformat()}",
            account=services.account,
            code="DAY_REPORT",
            severity=AlertSeverity.INFO,
            text=f"{made.line} ({path})"[:TEXT_MAX],
            once=True,
        )
        await report_draft(services, draft)
        return DayReportWritten(path=path, line=made.line)
