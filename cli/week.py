"""`demo --week`: recorded days back to back on one stack, each ending with equal books.

Three sessions a day: two strategies share an account, the third has one of its own and trades
fractions of a share. Between two days the exchange's clock jumps: its close comes, DAY orders
expire, the account's equity baseline rolls. After each day the ledger is compared with the
exchange's journal of the whole week so far, and with the broker's own lists (`verify`). Exit code
1 for any difference, a trade left open, sessions that do not explain their account's change, a
baseline that is not what the account was worth the evening before, or a day without a trade.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import httpx
from rich.console import Console
from temporalio.client import Client, WorkflowHandle

from activities.risk import last_roll
from cli.contest_files import (
    ContestFiles,
    Portfolio,
    add_to_exchange,
    contest_template,
    entrants,
    fractional,
)
from cli.contest_run import open_account, session_spec, start_session, start_streams
from cli.context import EXIT_BAD_INPUT, Target
from cli.demo import EXIT_INTERRUPTED, SPEED, start_exchange_clock
from cli.demo_stack import (
    BEFORE_OPEN,
    START_CASH,
    DemoFiles,
    demo_stack,
    make_build_current,
)
from cli.feed_report import read_trade_rows
from cli.journal_books import read_books
from cli.verify import compared
from cli.week_report import (
    AccountDay,
    DayOutcome,
    SessionDayResult,
    has_failed,
    last_line,
    write_session_page,
)
from cli.week_tape import WINDOW_MIN, WeekDay, prepare_week
from deploy.local.stack import stack_environment
from deploy.local.supervisor import Supervisor
from domain.clock import ClockMap
from domain.errors import BadInput, HoldfastError
from domain.instrument import Instrument
from domain.money import total
from domain.session import SessionResult, SessionSpec
from domain.session_day import SessionDay
from ledger.repository import Ledger
from observability.build import repository_root
from report.records import Book
from report.verify import Differences, compare
from settings import Settings
from settings_file import load_settings
from workflows.session import SessionWorkflow

OPERATOR = "week-operator"
LOOK_EVERY_S = 0.5
COMPARE_EVERY_S = 2.0
POLL_S = 120  # market time between two looks of a session
# Market time: eight seconds of wall time at speed 150 to be out before the stretch ends.
FLAT_BEFORE_S = 1200
# Wall seconds that a day may take longer than its market, and that its end may take.
DAY_MARGIN_S, CLOSING_TIMEOUT_S = 60.0, 30.0
# Strategies of fifteen-minute ideas in a stretch of an hour: quiet for its last 25 minutes.
_PARAMETERS = {
    "position_fraction": "0.05",
    "quiet_before_close_s": "1500",
    "signal_max_age_s": "900",
}


class Week:
    """One run against a started stack."""

    def __init__(
        self,
        supervisor: Supervisor,
        settings: Mapping[str, Settings],
        portfolios: Sequence[Portfolio],
        days: Sequence[WeekDay],
        files: DemoFiles,
    ) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._portfolios = portfolios
        self._days = days
        self._files = files
        self._accounts = by_account(portfolios)
        self._worth = {each.account: each.cash for each in self._accounts}
        self._before = Book()
        self._alerts_seen: set[int] = set()

    async def run(self, console: Console, speed: Decimal) -> int:
        """Plays the days and prints a line for each; 0 if every one is as it must be."""
        async with AsyncExitStack() as stack:
            first = self._settings[self._portfolios[0].account]
            client: Client = await make_build_current(self._supervisor.info, first)
            ledger = await Ledger.connect(first.ledger.dsn.get_secret_value())
            stack.push_async_callback(ledger.aclose)
            control = httpx.AsyncClient(
                base_url=self._supervisor.info.exchange_control_url, timeout=10
            )
            await stack.enter_async_context(control)
            for each in self._accounts:
                await open_account(ledger, self._settings[each.account], OPERATOR, "the week")
                await start_streams(client, each.account, compare_interval_s=COMPARE_EVERY_S)
            outcomes: list[DayOutcome] = []
            for day in self._days:
                outcome = await self._play(client, ledger, control, day, speed)
                outcomes.append(outcome)
                console.print(outcome.line(), highlight=False, markup=False, soft_wrap=True)
                for problem in outcome.problems:
                    console.print(f"  {problem}", highlight=False, markup=False, soft_wrap=True)
                if outcome.open_trades:
                    break  # its clock ends with the day: nothing after it would mean anything
        console.print(f"reports: {self._files.data_dir / 'reports'}", highlight=False)
        text = last_line(outcomes, len(self._days))
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        return int(has_failed(outcomes, len(self._days)))

    async def _play(
        self,
        client: Client,
        ledger: Ledger,
        control: httpx.AsyncClient,
        day: WeekDay,
        speed: Decimal,
    ) -> DayOutcome:
        clock = await jump(control, day.tape.begin - BEFORE_OPEN, speed)
        results = await self._sessions(client, day, clock)
        await self._wait_until_closed(ledger)
        ours, theirs = await self._equal_books(ledger, control)
        differences = compare(ours, theirs)
        sessions = tuple(
            [
                await self._session_day(ledger, day, clock, portfolio, result, differences)
                for portfolio, result in zip(self._portfolios, results, strict=True)
            ]
        )
        accounts = await self._account_days(ledger, day, ours)
        before, self._before = self._before, theirs
        self._worth = dict(ours.equity)
        return DayOutcome(
            day=day,
            differences=differences,
            orders=len(theirs.orders) - len(before.orders),
            fills=len(theirs.fills) - len(before.fills),
            fees=len(theirs.fees) - len(before.fees),
            sessions=sessions,
            accounts=accounts,
            alerts=await self._new_alerts(ledger),
            open_trades=tuple(t.trade_id for t in await ledger.list_trades(open_only=True)),
            working_orders=await self._working_orders(control),
            verified=await self._verify(),
        )

    async def _session_day(
        self,
        ledger: Ledger,
        day: WeekDay,
        clock: ClockMap,
        portfolio: Portfolio,
        result: SessionResult,
        differences: Differences,
    ) -> SessionDayResult:
        """What the session came to, and its page."""
        rows = await read_trade_rows(ledger, result.name)
        await write_session_page(
            ledger,
            portfolio,
            self._settings[portfolio.account],
            day,
            clock,
            result,
            differences,
            rows,
            self._worth[portfolio.account],
            self._files.data_dir / "reports" / f"{result.name}.html",
        )
        net = total(row.realised - row.fees for row in rows)
        return SessionDayResult(result=result, filled=sum(row.filled for row in rows), net=net)

    async def _sessions(
        self, client: Client, day: WeekDay, clock: ClockMap
    ) -> tuple[SessionResult, ...]:
        """Runs the day's sessions to their end.

        Raises:
            HoldfastError: WEEK_STUCK: one did not end although its day is long over.
        """
        handles: list[WorkflowHandle[SessionWorkflow, SessionResult]] = []
        for portfolio in self._portfolios:
            spec = self._spec(portfolio, day)
            handles.append(await start_session(client, spec, clock))
        ended = asyncio.gather(*(handle.result() for handle in handles))
        market_s = (day.tape.end - day.tape.begin + BEFORE_OPEN).total_seconds()
        deadline = time.monotonic() + clock.wall_duration_s(market_s) + DAY_MARGIN_S
        try:
            while not ended.done():
                self._supervisor.check()
                if time.monotonic() > deadline:
                    text = f"the sessions of {day.session} did not end"
                    raise HoldfastError(text, code="WEEK_STUCK")
                await asyncio.wait({ended}, timeout=LOOK_EVERY_S)
            return tuple(await ended)
        finally:
            ended.cancel()

    def _spec(self, portfolio: Portfolio, day: WeekDay) -> SessionSpec:
        """The portfolio's session on this day; the clock is one per session, so are days."""
        spec = session_spec(portfolio, self._settings[portfolio.account], day.tape)
        hours = SessionDay(
            session_date=day.session, opens_at=day.tape.begin, closes_at=day.tape.end
        )
        return spec.model_copy(
            update={
                "name": f"{portfolio.session}-{day.session:%Y%m%d}",
                "universe": self._universe(portfolio, day),
                "days": (hours,),
                "poll_s": POLL_S,
                "flat_before_close_s": FLAT_BEFORE_S,
                "started_by": OPERATOR,
            }
        )

    def _universe(self, portfolio: Portfolio, day: WeekDay) -> tuple[Instrument, ...]:
        """The pair on one account takes the first and the last symbol: the same one if alone."""
        instruments = day.tape.instruments
        if portfolio is self._portfolios[0]:
            return instruments[:1]
        if portfolio is self._portfolios[1]:
            return instruments[-1:]
        return fractional(instruments)

    async def _wait_until_closed(self, ledger: Ledger) -> None:
        deadline = time.monotonic() + CLOSING_TIMEOUT_S
        while await ledger.list_trades(open_only=True) and time.monotonic() < deadline:
            self._supervisor.check()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _equal_books(self, ledger: Ledger, control: httpx.AsyncClient) -> tuple[Book, Book]:
        """Both sides; late fees are given the time that the broker's lists need."""
        instruments = [item for day in self._days for item in day.tape.instruments]
        deadline = time.monotonic() + CLOSING_TIMEOUT_S
        while True:
            ours, theirs = await read_books(
                ledger, control, self._accounts, self._settings, instruments
            )
            if compare(ours, theirs).equal or time.monotonic() > deadline:
                return ours, theirs
            await asyncio.sleep(LOOK_EVERY_S)

    async def _account_days(
        self, ledger: Ledger, day: WeekDay, ours: Book
    ) -> tuple[AccountDay, ...]:
        """What each account was worth before and after, and the baseline of this day's roll."""
        found = []
        for each in self._accounts:
            stored = await ledger.equity_baseline(each.account, last_roll(day.tape.begin))
            found.append(
                AccountDay(
                    account=each.account,
                    before=self._worth[each.account],
                    after=ours.equity[each.account],
                    baseline=None if stored is None else stored.equity,
                )
            )
        return tuple(found)

    async def _new_alerts(self, ledger: Ledger) -> dict[str, int]:
        """Alerts since the day before by code: they do not fail a day, but somebody should look."""
        told = await ledger.list_alerts(limit=1000)
        new = Counter(alert.code for alert in told if alert.alert_id not in self._alerts_seen)
        self._alerts_seen |= {alert.alert_id for alert in told}
        return dict(sorted(new.items()))

    async def _verify(self) -> tuple[str, ...]:
        """What the operator's own `verify` finds: the ledger against the broker's lists, audit."""
        found: list[str] = []
        for each in self._accounts:
            target = Target(Path(each.settings), self._files.data_dir)
            differences, audit = await compared(target)
            lines = [*(item.line() for item in differences.items), *audit]
            found += [f"verify {each.account}: {line}" for line in lines]
        return tuple(found)

    async def _working_orders(self, control: httpx.AsyncClient) -> tuple[str, ...]:
        """Orders that the exchange still has open; a flat evening has none."""
        found: list[str] = []
        for number, each in enumerate(self._accounts):
            asked = {} if number == 0 else {"account": each.account}
            state = (await control.get("/sim/state", params=asked)).raise_for_status().json()
            found += [str(order["client_id"]) for order in state["open_orders"]]
        return tuple(found)


async def jump(control: httpx.AsyncClient, to: datetime, speed: Decimal) -> ClockMap:
    """Stops the exchange's clock, lets everything until `to` happen at once, and runs on.

    What lies between is played, not left out: a close comes, DAY orders expire, fees are booked.
    """
    (await control.post("/sim/clock", json={"speed": None})).raise_for_status()
    (await control.post("/sim/clock", json={"advance_to": to.isoformat()})).raise_for_status()
    return await start_exchange_clock(control, speed)


def by_account(portfolios: Sequence[Portfolio]) -> tuple[Portfolio, ...]:
    """The first portfolio of each account, in their order."""
    found: dict[str, Portfolio] = {}
    for each in portfolios:
        found.setdefault(each.account, each)
    return tuple(found.values())


def portfolios_of(files: DemoFiles, settings: Settings) -> tuple[Portfolio, ...]:
    """Two strategies on the account of the settings, one on an account of its own with $100."""
    shared = Portfolio(
        account=settings.account.name,
        strategy="every_road",
        session="week-roads",
        cash=START_CASH,
        settings=settings.source,
    )
    beside = shared.model_copy(
        update={
            "strategy": "mean_reversion",
            "session": "week-reversion",
            "parameters": _PARAMETERS,
        }
    )
    contest = ContestFiles(files.data_dir)
    (alone,) = contest.enter(contest_template(), entrants(["opening_breakout"]))
    quiet = {"quiet_before_close_s": _PARAMETERS["quiet_before_close_s"]}
    alone = alone.model_copy(
        update={"session": "week-breakout", "parameters": {**alone.parameters, **quiet}}
    )
    add_to_exchange(files.exchange_config, (alone,))
    return shared, beside, alone


def run_week(
    *,
    config: Path,
    data_dir: Path | None = None,
    tapes: Sequence[Path] = (),
    speed: Decimal = SPEED,
    minutes: int = WINDOW_MIN,
    keep: bool = False,
    console: Console | None = None,
) -> int:
    """Runs the week in this thread (the main one); returns the exit code."""
    console = console or Console()
    # A real account's keys and switches in the caller's shell have no business here.
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        del os.environ[name]
    try:
        files = DemoFiles.fresh(data_dir or repository_root() / ".holdfast" / "week")
        days = prepare_week(files, tapes, minutes)
        portfolios = portfolios_of(files, load_settings(config))
        every = [each.read({}) for each in by_account(portfolios)]
    except BadInput as error:
        console.print(error.text, markup=False, highlight=False, soft_wrap=True)
        return EXIT_BAD_INPUT
    names = ", ".join(f"{day.session} {'+'.join(day.symbols)}" for day in days)
    pace = f"{minutes} market minutes of each day, {speed:f} times as fast"
    console.print(f"{names}: {pace}", highlight=False, soft_wrap=True)
    supervisor = Supervisor(demo_stack(files, every, lambda line: console.print(line)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with supervisor.running() as info:
            environment = stack_environment(info)
            settings = {each.account: each.read(environment) for each in portfolios}
            week = Week(supervisor, settings, portfolios, days, files)
            code = asyncio.run(week.run(console, speed))
            if keep:
                supervisor.run_forever()
    except KeyboardInterrupt:
        console.print("stopped")
        return EXIT_INTERRUPTED
    return code
