"""Runs a contest on a started stack: opens its accounts, starts and stops its sessions, looks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from activities.services import StreamInput
from cli.contest_books import PortfolioBook, StreamWriter, marks_of, read_book, read_signals
from cli.contest_files import Contest, ContestFiles, Portfolio, fractional
from domain.bar import Bar
from domain.clock import ClockMap
from domain.control import ApiBreakerState
from domain.errors import HoldfastError
from domain.ids import TRADE_QUEUE, session_workflow_id, streams_workflow_id
from domain.messages import OperatorSignal
from domain.session import SessionInput, SessionResult, SessionSpec
from ledger.repository import Ledger
from marketdata.feed import TapeFeed
from marketdata.session_tape import SessionTape
from observability.build import build_id
from report.portfolio import Mark, Standing, ranked
from settings import Settings
from workflows import _lifecycle as life
from workflows.session import SessionWorkflow

REASON = "contest"
POLL_S = 240  # market time; four bars a look are a quarter of the work


async def open_account(ledger: Ledger, settings: Settings, by: str, reason: str = REASON) -> None:
    """What an operator does before the open: breakers reset by name, account armed."""
    account, venue = settings.account, settings.broker.venue.value
    await ledger.ensure_account(account.name, venue, account.currency)
    await ledger.reset_breaker(account.name, by, reason)
    await ledger.set_api_breaker(venue, ApiBreakerState.CLOSED)
    await ledger.arm(account.name, by, reason)


async def start_streams(client: Client, account: str, *, compare_interval_s: float) -> None:
    """The fill stream and exit watch of one account; one that runs already is left alone."""
    await client.start_workflow(
        "Streams",
        StreamInput(account=account, compare_interval_s=compare_interval_s),
        id=streams_workflow_id(account),
        task_queue=TRADE_QUEUE,
        task_timeout=life.TASK_TIMEOUT,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"fill stream and exit watch of {account}",
    )


def session_spec(
    portfolio: Portfolio, settings: Settings, tape: SessionTape, *, number: int = 1
) -> SessionSpec:
    """The portfolio's session on the tape; shares are traded in fractions."""
    return SessionSpec(
        name=portfolio.session_of(number),
        account=portfolio.account,
        strategies=(portfolio.strategy,),
        universe=fractional(tape.instruments),
        opens_at=tape.begin,
        closes_at=tape.end,
        tape=tape.path,
        poll_s=POLL_S,
        parameters=portfolio.parameters,
        installation=settings.account.installation,
        build_id=build_id(),
    )


async def start_session(
    client: Client, spec: SessionSpec, clock: ClockMap
) -> WorkflowHandle[SessionWorkflow, SessionResult]:
    """Starts the portfolio's session; one that runs already goes on."""
    return await client.start_workflow(
        SessionWorkflow.run,
        SessionInput(spec=spec, clock=clock),
        id=session_workflow_id(spec.name),
        task_queue=TRADE_QUEUE,
        task_timeout=life.TASK_TIMEOUT,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"{', '.join(spec.strategies)} at speed {clock.speed:f}",
    )


async def stop_sessions(client: Client, contest: Contest, by: str, reason: str) -> tuple[str, ...]:
    """Tells the sessions of every round to end; returns the names of those that heard it."""
    told = []
    for portfolio in contest.portfolios:
        for number in range(1, contest.rounds + 1):
            name = portfolio.session_of(number)
            handle = client.get_workflow_handle(session_workflow_id(name))
            try:
                await handle.signal("stop", OperatorSignal(by=by, reason=reason))
            except RPCError:
                continue  # it has ended already
            told.append(name)
    return tuple(told)


class ContestView:
    """Reads the standings of all portfolios and keeps their JSON Lines files up to date."""

    def __init__(self, files: ContestFiles, contest: Contest) -> None:
        self._contest = contest
        self._writer = StreamWriter(files, contest)
        self._bars: Sequence[Bar] | None = None
        self.books: dict[str, PortfolioBook] = {}

    async def look(self, ledger: Ledger, market_now: datetime) -> tuple[Standing, ...]:
        """The leaderboard as of this market time, best first.

        Raises:
            LedgerDown.
        """
        marks = await self.marks(market_now)
        await self._read(ledger)
        return ranked([book.standing(marks) for book in self.books.values()])

    async def write(self, ledger: Ledger, market_now: datetime) -> None:
        """Brings the JSON Lines files up to this market time.

        Raises:
            LedgerDown: the files stay as they are; the next time brings them up to date.
        """
        marks, rounds = await self.marks(market_now), self._contest.rounds
        await self._read(ledger)
        for book in self.books.values():
            signals = await read_signals(ledger, book.portfolio, rounds)
            await asyncio.to_thread(self._writer.write, book, signals, marks)
        await asyncio.to_thread(self._writer.write_ticks, market_now)

    async def _read(self, ledger: Ledger) -> None:
        instruments, rounds = self._contest.tape.instruments, self._contest.rounds
        for each in self._contest.portfolios:
            self.books[each.account] = await read_book(ledger, each, instruments, rounds)

    async def bars(self) -> Sequence[Bar]:
        """Every minute of the tape, read once."""
        if self._bars is None:
            self._bars = await asyncio.to_thread(_bars_of, self._contest.tape)
        return self._bars

    async def marks(self, market_now: datetime) -> tuple[Mark, ...]:
        """The last price of every complete minute of the tape."""
        return marks_of(await self.bars(), market_now)


def _bars_of(tape: SessionTape) -> Sequence[Bar]:
    symbols = [item.symbol for item in tape.instruments]
    feed = TapeFeed.open(Path(tape.path))
    return feed.completed(symbols, None, tape.end).bars


async def open_round(
    client: Client,
    ledger: Ledger,
    contest: Contest,
    settings: dict[str, Settings],
    clock: ClockMap,
    by: str,
    *,
    compare_interval_s: float = 10.0,
) -> Contest:
    """Opens every account and starts its streams and session; returns the contest with the round.

    One portfolio that cannot be opened does not stop the others; the first error is raised when
    all have been tried.
    """
    number, errors = contest.rounds + 1, []
    for portfolio in contest.portfolios:
        mine = settings[portfolio.account]
        try:
            await open_account(ledger, mine, by)
            await start_streams(client, portfolio.account, compare_interval_s=compare_interval_s)
            spec = session_spec(portfolio, mine, contest.tape, number=number)
            await start_session(client, spec, clock)
        except (HoldfastError, RPCError) as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return contest.model_copy(update={"rounds": number})
