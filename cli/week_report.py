"""What a day of the week came to: its line, its problems, and a page for each of its sessions."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from pydantic import Field

from cli.contest_files import Portfolio
from cli.session_facts import SessionMarket, read_session_book, session_facts
from cli.week_tape import WeekDay
from domain.base import Frozen
from domain.clock import ClockMap
from domain.money import ZERO, Amount, Calculated, round_to_cent, total
from domain.session import SessionResult
from ledger.repository import Ledger
from marketdata.feed import TapeFeed
from observability.build import commit
from report.page import write_page
from report.records import TradeRow
from report.verify import Differences
from settings import Settings
from wiring import config_hash

DIFFERENCES_SHOWN_MAX = 20


class SessionDayResult(Frozen):
    """One session on one day. `filled` of its trades held something; `net` is what they made."""

    result: SessionResult
    filled: int = 0
    net: Calculated = ZERO

    def text(self) -> str:
        counts = self.result.counts
        name = f"{', '.join(self.result.strategies)} on {'+'.join(self.result.symbols)}"
        if not counts.signals:
            return f"{name}: no signal"
        late = f", {counts.late} late" if counts.late else ""
        made = f", {round_to_cent(self.net):+}" if self.filled else ""
        return f"{name}: {counts.signals} signals{late}, {self.filled} filled{made}"


class AccountDay(Frozen):
    """An account's day: its worth by the ledger before and after, and its stored baseline."""

    account: str
    before: Amount
    after: Amount
    baseline: Amount | None = None

    def problems(self, sessions: Sequence[SessionDayResult]) -> tuple[str, ...]:
        """The day began at the worth of the evening before; its sessions explain all of it."""
        found = []
        if self.baseline != self.before:
            found.append(
                f"baseline of {self.account}: {self.baseline}, the evening before {self.before}"
            )
        made = total(each.net for each in sessions if each.result.account == self.account)
        change = self.after - self.before
        if round_to_cent(made) != round_to_cent(change):
            found.append(f"sessions of {self.account} made {made}, the account {change}")
        return tuple(found)


class DayOutcome(Frozen):
    """A day after its comparison. The books are the whole week so far: no day changes another."""

    day: WeekDay
    differences: Differences
    orders: int
    fills: int
    fees: int
    sessions: tuple[SessionDayResult, ...]
    accounts: tuple[AccountDay, ...]
    alerts: dict[str, int] = Field(default_factory=dict)
    open_trades: tuple[str, ...] = ()
    working_orders: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that makes this day fail; empty = as it must be."""
        found = [item.line() for item in self.differences.items[:DIFFERENCES_SHOWN_MAX]]
        hidden = len(self.differences.items) - len(found)
        found += [f"and {hidden} more differences"] if hidden > 0 else []
        found += [f"still open: {trade}" for trade in self.open_trades]
        found += [f"order still works: {order}" for order in self.working_orders]
        found += self.verified
        for account in self.accounts:
            found += account.problems(self.sessions)
        if not any(session.filled for session in self.sessions):
            found.append("no trade was filled on this day")
        return tuple(found)

    def line(self) -> str:
        """The day in one line."""
        tape = self.day.tape
        when = f"{self.day.session:%a %Y-%m-%d} {tape.begin:%H:%M}-{tape.end:%H:%M} UTC"
        word = "equals" if self.differences.equal else "DIFFERS from"
        counts = f"{self.orders} accepted orders, {self.fills} fills, {self.fees} fees"
        sessions = "; ".join(session.text() for session in self.sessions)
        baselines = ", ".join(f"{each.account} {each.baseline}" for each in self.accounts)
        alerts = ", ".join(f"{code} {count}" for code, count in self.alerts.items())
        told = f" | alerts {alerts}" if alerts else ""
        return (
            f"{when}: ledger {word} exchange journal: {counts} | {sessions} | "
            f"baseline {baselines}{told}"
        )


def has_failed(outcomes: Sequence[DayOutcome], days: int) -> bool:
    """True if a day is missing or has a problem: exit code 1."""
    return len(outcomes) < days or any(each.problems for each in outcomes)


def last_line(outcomes: Sequence[DayOutcome], days: int) -> str:
    """The last line of the week."""
    if has_failed(outcomes, days):
        bad = [f"{each.day.session}" for each in outcomes if each.problems]
        names = ", ".join(bad) or "none"
        return f"week FAILED: {len(outcomes)} of {days} days played, days with problems: {names}"
    return (
        f"{days} days, 3 sessions: ledger equals exchange journal each day: "
        f"{outcomes[-1].differences.line().partition(': ')[2]}"
    )


async def write_session_page(
    ledger: Ledger,
    portfolio: Portfolio,
    settings: Settings,
    day: WeekDay,
    clock: ClockMap,
    result: SessionResult,
    differences: Differences,
    rows: tuple[TradeRow, ...],
    start: Decimal,
    path: Path,
) -> None:
    """The report of one session of one day as HTML: its own trades, marked on its own symbols."""
    tape = day.tape
    own = portfolio.model_copy(update={"cash": start, "session": result.name})
    book = await read_session_book(ledger, own, tape.instruments, signals_taken=result.counts.taken)
    market = SessionMarket(
        begin=tape.begin,
        end=tape.end,
        clock=clock,
        symbols=result.symbols,
        bars=TapeFeed.open(Path(tape.path)).completed(result.symbols, None, tape.end).bars,
        quotes_label=tape.label,
    )
    facts = session_facts(book, market, rows, currency=settings.account.currency)
    code = {"commit": commit(), "config_hash": config_hash(settings)}
    write_page(facts.model_copy(update={"cash_before": start, **code}), differences, path)
