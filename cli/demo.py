"""`make run`: a recorded day as a paper session, from an empty directory to the last line.

Starts the whole stack, arms the accounts, runs the example session and beside it the strategy
contest: every strategy with $100 of its own. Flattens one trade as an operator would, prints
report and leaderboard, and compares the ledger with the exchange's journal, account by account.
Exit code 1: a difference, or an outcome that the run had to show is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path

import httpx
from rich.console import Console
from temporalio.client import Client, WorkflowHandle

from activities.flatten import FlattenReceipt
from brokers.alpaca.client import AlpacaBroker
from brokers.port import Broker
from cli.contest_files import Contest, Portfolio
from cli.contest_run import ContestView, open_account, session_spec, start_session, start_streams
from cli.context import EXIT_BAD_INPUT, Target
from cli.demo_stack import (
    START_CASH,
    DemoFiles,
    default_data_dir,
    demo_stack,
    make_build_current,
    prepare_contest,
    prepare_tape,
)
from cli.demo_view import DemoView, Progress
from cli.feed_report import TAKEN, read_trade_rows
from cli.flatten import flatten_scope
from cli.journal_books import read_books
from cli.session_facts import SessionMarket, session_facts
from deploy.local.runfile import RunInfo
from deploy.local.stack import stack_environment
from deploy.local.supervisor import Supervisor
from domain.clock import ClockMap
from domain.control import KillScope, KillScopeKind
from domain.errors import BadInput, HoldfastError
from domain.session import SessionResult
from ledger.records import TradeRecord
from ledger.repository import Ledger
from marketdata.session_tape import SessionTape
from observability.build import commit, repository_root
from report.page import write_page
from report.portfolio import Standing
from report.records import Book, SessionFacts
from report.session import build, missing_outcomes, print_report
from report.verify import Differences, compare
from settings import Settings
from settings_file import load_settings
from wiring import config_hash
from workflows.session import SessionWorkflow

SPEED = Decimal(150)
STRATEGY = "every_road"
OPERATOR = "demo-operator"
LOOK_EVERY_S = 0.5
# The operator's flatten comes after this share of the day; then trades have had time to open.
FLATTEN_AFTER_SHARE = 0.25
FLATTEN_TRIES_MAX = 6
FLATTEN_WAIT_S = 20.0
# After the tape's end: trades settle, the last fees and fills are booked.
CLOSING_TIMEOUT_S = 30.0
COMPARE_EVERY_S = 2.0
CONTEST_COMPARE_EVERY_S = 10.0
SCORE_EVERY_S = 8.0
WRITE_EVERY_LOOKS = 4
NOT_SHOWN = "not shown by this tape"
SLOWER_RUN = ".venv/bin/python starter.py demo --speed 60"
EXIT_INTERRUPTED = 130


class Demo:
    """One run against a started stack."""

    def __init__(
        self,
        supervisor: Supervisor,
        settings: dict[str, Settings],
        contest: Contest,
        files: DemoFiles,
        *,
        whole_day: bool,
    ) -> None:
        first, tape = contest.portfolios[0], contest.tape
        self._supervisor = supervisor
        self._info: RunInfo = supervisor.info
        self._settings = settings[first.account]
        self._all_settings = settings
        self._contest = contest
        self._tape = tape
        self._files = files
        self._whole_day = whole_day
        self._account = first.account
        self._session = first.session
        self._standings: tuple[Standing, ...] = ()
        self._flattened: list[str] = []
        self._flattening: asyncio.Task[FlattenReceipt] | None = None
        self._began = time.monotonic()

    async def run(self, console: Console, speed: Decimal) -> int:
        """Plays the session and prints the report; 0 if all is equal and nothing is missing."""
        async with AsyncExitStack() as stack:
            client: Client = await make_build_current(self._info, self._settings)
            dsn = self._settings.ledger.dsn.get_secret_value()
            ledger = await Ledger.connect(dsn)
            stack.push_async_callback(ledger.aclose)
            broker = AlpacaBroker(self._settings.alpaca())
            stack.push_async_callback(broker.aclose)
            control = httpx.AsyncClient(base_url=self._info.exchange_control_url, timeout=10)
            await stack.enter_async_context(control)
            cash_before = await _cash(broker)
            for account, settings in self._all_settings.items():
                await open_account(ledger, settings, OPERATOR, "demonstration")
                often = COMPARE_EVERY_S if account == self._account else CONTEST_COMPARE_EVERY_S
                await start_streams(client, account, compare_interval_s=often)
            clock = await start_exchange_clock(control, speed)
            handles = await self._start_sessions(client, clock)
            view = stack.enter_context(DemoView(console, self._info.web_ui_url))
            view.say(f"Web UI: {self._info.web_ui_url}")
            board = ContestView(self._files.contest, self._contest)
            await self._watch(ledger, control, handles, clock, view, board)
            await self._wait_until_closed(ledger, clock, view)
            differences = await self._compare_until_equal(ledger, control, board, clock)
            facts = await self._facts(ledger, broker, clock, cash_before, board)
            late = await self._late_signals(ledger)
        return conclude(
            console, facts, differences, self._files.report, whole_day=self._whole_day, late=late
        )

    async def _late_signals(self, ledger: Ledger) -> int:
        """Signals that were too old when they were judged, or when their entry could be sent."""
        found = 0
        for portfolio in self._contest.portfolios:
            signals = await ledger.list_signals(session=portfolio.session)
            trades = await ledger.list_trades(session=portfolio.session)
            found += sum(signal.code == "SIGNAL_LATE" for signal in signals)
            found += sum("signal_expired" in trade.story for trade in trades)
        return found

    async def _start_sessions(
        self, client: Client, clock: ClockMap
    ) -> list[WorkflowHandle[SessionWorkflow, SessionResult]]:
        """One session per portfolio; the first one trades whole lots."""
        handles = []
        for portfolio in self._contest.portfolios:
            spec = session_spec(portfolio, self._all_settings[portfolio.account], self._tape)
            if portfolio.account == self._account:
                whole = {"universe": self._tape.instruments, "poll_s": spec.bar_interval_s}
                spec = spec.model_copy(update=whole)
            handles.append(await start_session(client, spec, clock))
        return handles

    async def _watch(
        self,
        ledger: Ledger,
        control: httpx.AsyncClient,
        handles: Sequence[WorkflowHandle[SessionWorkflow, SessionResult]],
        clock: ClockMap,
        view: DemoView,
        board: ContestView,
    ) -> None:
        """Shows progress and lets the operator flatten one trade, until the sessions end."""
        ended = asyncio.gather(*(handle.result() for handle in handles))
        looking = asyncio.create_task(self._keep_score(ledger, clock, view, board))
        try:
            while not ended.done():
                self._supervisor.check()
                progress = await self._progress(ledger, control, clock)
                view.show(progress)
                if progress.share >= FLATTEN_AFTER_SHARE:
                    self._flatten_one(progress.trades, view)
                await asyncio.wait({ended}, timeout=LOOK_EVERY_S)
            await ended
        finally:
            ended.cancel()
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            if self._flattening is not None:
                self._flattening.cancel()

    async def _keep_score(
        self, ledger: Ledger, clock: ClockMap, view: DemoView, board: ContestView
    ) -> None:
        """The leaderboard and the JSON Lines now and then; a failure is told, the run goes on."""
        for number in count(1):
            try:
                self._standings = await board.look(ledger, self._market_now(clock))
                view.show_standings(self._standings)
                if number % WRITE_EVERY_LOOKS == 0:
                    await board.write(ledger, self._market_now(clock))
            except HoldfastError as error:
                view.say(f"leaderboard: {error.text}")
            await asyncio.sleep(SCORE_EVERY_S)

    def _market_now(self, clock: ClockMap) -> datetime:
        return min(clock.market(datetime.now(UTC)), self._tape.end)

    async def _progress(
        self, ledger: Ledger, control: httpx.AsyncClient, clock: ClockMap
    ) -> Progress:
        state = (await control.get("/sim/state")).raise_for_status().json()
        now = self._market_now(clock)
        return Progress(
            market_time=now,
            share=max(0.0, (now - self._tape.begin) / (self._tape.end - self._tape.begin)),
            trades=await ledger.list_trades(session=self._session),
            signals=await ledger.count_signals(self._session, TAKEN),
            fills=len(await ledger.fills_of_account(self._account)),
            equity_change=Decimal(state["equity"]) - Decimal(state["start_cash"]),
            control=await ledger.read_control(self._account),
        )

    def _flatten_one(self, trades: Sequence[TradeRecord], view: DemoView) -> None:
        """The operator's hand: flattens one open trade; another if that one was faster.

        The same path as `trade flatten`: a Flatten workflow with a receipt.
        """
        if self._flattening is not None:
            if not self._flattening.done():
                return
            view.say(_receipt_line(self._flattened[-1], self._flattening))
            self._flattening = None
        by_id = {trade.trade_id: trade for trade in trades}
        for trade_id in self._flattened:
            if by_id[trade_id].closed_at is None or by_id[trade_id].result == "flatten":
                return
        wanted = next(
            (t for t in trades if t.stage == "open" and t.trade_id not in self._flattened), None
        )
        if wanted is None or len(self._flattened) >= FLATTEN_TRIES_MAX:
            return
        self._flattened.append(wanted.trade_id)
        view.say(f"operator flattens {wanted.trade_id}")
        self._flattening = asyncio.create_task(
            flatten_scope(
                Target(Path(self._settings.source), self._files.data_dir),
                KillScope(kind=KillScopeKind.TRADE, value=wanted.trade_id),
                f"demo-flatten-{len(self._flattened)}",
                by=OPERATOR,
                reason="demonstration",
                wait_s=FLATTEN_WAIT_S,
            )
        )

    async def _wait_until_closed(self, ledger: Ledger, clock: ClockMap, view: DemoView) -> None:
        """All trades settle by the end of the tape; those that did not in time are named."""
        deadline = time.monotonic() + CLOSING_TIMEOUT_S
        while True:
            left = await ledger.list_trades(open_only=True)
            if not left:
                return
            if time.monotonic() > deadline:
                view.say(f"still open: {', '.join(trade.trade_id for trade in left)}")
                return
            self._supervisor.check()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _compare_until_equal(
        self, ledger: Ledger, control: httpx.AsyncClient, board: ContestView, clock: ClockMap
    ) -> Differences:
        """Ledger against journal; late fees are given the time that the broker's lists need."""
        deadline = time.monotonic() + CLOSING_TIMEOUT_S
        while True:
            self._standings = await board.look(ledger, self._market_now(clock))
            differences = compare(*await self._books(ledger, control))
            if differences.equal or time.monotonic() > deadline:
                await board.write(ledger, self._market_now(clock))
                return differences
            await asyncio.sleep(LOOK_EVERY_S)

    async def _books(self, ledger: Ledger, control: httpx.AsyncClient) -> tuple[Book, Book]:
        worth = {standing.account: standing.equity for standing in self._standings}
        return await read_books(
            ledger,
            control,
            self._contest.portfolios,
            self._all_settings,
            self._tape.instruments,
            worth,
        )

    async def _facts(
        self,
        ledger: Ledger,
        broker: Broker,
        clock: ClockMap,
        cash_before: Decimal,
        board: ContestView,
    ) -> SessionFacts:
        market = SessionMarket(
            begin=self._tape.begin,
            end=self._tape.end,
            clock=clock,
            symbols=tuple(item.symbol for item in self._tape.instruments),
            bars=await board.bars(),
            quotes_label=self._tape.label,
        )
        facts = session_facts(
            board.books[self._account],
            market,
            await read_trade_rows(ledger, self._session),
            currency=self._settings.account.currency,
            beside=board.books.values(),
        )
        return facts.model_copy(
            update={
                "wall_s": Decimal(str(round(time.monotonic() - self._began, 1))),
                "standings": self._standings,
                "cash_before": cash_before,
                "cash_after": await _cash(broker),
                "web_ui": self._info.web_ui_url,
                "commit": commit(),
                "config_hash": config_hash(self._settings),
            }
        )


def conclude(
    console: Console,
    facts: SessionFacts,
    differences: Differences,
    page: Path,
    *,
    whole_day: bool,
    late: int = 0,
) -> int:
    """Prints and writes the report; 1 on any difference or where an outcome is missing.

    The recorded day (`whole_day`) must show every outcome; a tape of the user shows what it has.
    Where `late` signals found no entry, a slower run of the same machine may show what is missing.
    """
    report = build(facts, differences)
    write_page(facts, differences, page)
    missing = missing_outcomes(facts)
    said = []
    if missing and late:
        said.append(
            f"{late} signals were too late for an entry: this machine was too slow, or too busy, "
            f"for speed {facts.speed.normalize():f}; try: {SLOWER_RUN}"
        )
    if missing:
        said.append(f"{'MISSING' if whole_day else NOT_SHOWN}: {', '.join(missing)}")
    if not whole_day:
        _print_lines(console, said)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    print_report(report, console)
    if whole_day:
        # Last of all: the exit code must stand beside its reason.
        _print_lines(console, said)
    return 1 if not differences.equal or (missing and whole_day) else 0


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _receipt_line(trade_id: str, flattening: asyncio.Task[FlattenReceipt]) -> str:
    """What became of a flatten; a refused one is told, the run goes on."""
    error = flattening.exception()
    if error is not None:
        return f"flatten of {trade_id}: {error}"
    receipt = flattening.result()
    return f"flatten of {trade_id}: {'flat at the broker' if receipt.done else 'not flat yet'}"


async def start_exchange_clock(control: httpx.AsyncClient, speed: Decimal) -> ClockMap:
    """Lets market time run from here on; the answer is the map that everybody uses."""
    answer = await control.post("/sim/clock", json={"speed": str(speed)})
    shown = answer.raise_for_status().json()
    return ClockMap(wall0=shown["wall0"], market0=shown["market0"], speed=shown["speed"])


def first_portfolio(settings: Settings, tape: SessionTape) -> Portfolio:
    """The demonstration's own account: whole lots, every road a trade can take."""
    return Portfolio(
        account=settings.account.name,
        strategy=STRATEGY,
        session=f"demo-{tape.begin:%Y%m%d}",
        cash=START_CASH,
        settings=settings.source,
    )


async def _cash(broker: Broker) -> Decimal:
    account = await broker.account()
    if account.cash is None:
        raise ValueError("the broker told no cash")
    return account.cash


def run_demo(
    *,
    config: Path,
    data_dir: Path | None = None,
    tapes: Sequence[Path] = (),
    speed: Decimal = SPEED,
    keep: bool = False,
    console: Console | None = None,
) -> int:
    """Runs the demonstration in this thread (the main one); returns the exit code."""
    console = console or Console()
    # A real account's keys and switches in the caller's shell have no business here.
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        del os.environ[name]
    try:
        files = DemoFiles.fresh(data_dir or default_data_dir())
        console.print("preparing the tape", highlight=False)
        tape = prepare_tape(files, tapes)
        contest = prepare_contest(files, tape, first_portfolio(load_settings(config), tape))
        every = [portfolio.read({}) for portfolio in contest.portfolios]
    except BadInput as error:
        console.print(error.text, markup=False, highlight=False, soft_wrap=True)
        return EXIT_BAD_INPUT
    supervisor = Supervisor(demo_stack(files, every, lambda line: console.print(line)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console.print("starting PostgreSQL, Temporal, the simulated exchange and a worker")
    try:
        with supervisor.running() as info:
            settings = {p.account: p.read(stack_environment(info)) for p in contest.portfolios}
            demo = Demo(supervisor, settings, contest, files, whole_day=not tapes)
            code = asyncio.run(demo.run(console, speed))
            if keep:
                supervisor.run_forever()
    except KeyboardInterrupt:
        console.print("stopped")
        return EXIT_INTERRUPTED
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m cli.demo`: the same as `starter.py demo`."""
    parser = argparse.ArgumentParser(prog="demo")
    parser.add_argument("--keep", action="store_true", help="leave the stack up until Ctrl-C")
    parser.add_argument("--tape", type=Path, nargs="+", default=[])
    parser.add_argument("--speed", type=Decimal, default=SPEED)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--config", type=Path, default=repository_root() / "config" / "demo.toml")
    options = parser.parse_args(argv)
    return run_demo(
        config=options.config,
        data_dir=options.data,
        tapes=options.tape,
        speed=options.speed,
        keep=options.keep,
    )


if __name__ == "__main__":
    sys.exit(main())
