"""What a person sees while the demonstration runs: a live panel, or a line now and then."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from domain.base import Frozen
from domain.control import Control
from domain.money import ZERO, total
from ledger.records import TradeRecord
from report.portfolio import Standing, leaderboard_rows
from report.session import leaderboard_table

PLAIN_LINE_EVERY_S = 10.0
NEWEST_SHOWN = 6


class Progress(Frozen):
    """One look at the running session; `share` is how much of the market day has passed."""

    market_time: datetime
    share: float
    trades: tuple[TradeRecord, ...]
    signals: int
    fills: int
    equity_change: Decimal
    control: Control

    @property
    def stages(self) -> tuple[tuple[str, int], ...]:
        counts = Counter(trade.stage for trade in self.trades)
        return tuple(sorted(counts.items()))

    @property
    def realised(self) -> Decimal:
        """Net of the settled trades."""
        return total(trade.realised or ZERO for trade in self.trades)


class DemoView:
    """Shows progress; `say` adds a line that stays."""

    def __init__(self, console: Console, web_ui: str) -> None:
        self._console = console
        self._web_ui = web_ui
        self._live: Live | None = None
        self._plain_at = 0.0
        self._standings: tuple[Standing, ...] = ()

    def __enter__(self) -> DemoView:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show_standings(self, standings: Sequence[Standing]) -> None:
        """Keeps the leaderboard for the next redraw; without a terminal a line at a new leader."""
        leader = standings[0].account if standings else ""
        before = self._standings[0].account if self._standings else ""
        self._standings = tuple(standings)
        if self._live is None and leader != before:
            first = standings[0]
            self.say(f"contest: {leader} leads with {first.return_fraction:+.4%}")

    def show(self, progress: Progress) -> None:
        """Redraws the panel; without a terminal one line every ten seconds."""
        if self._live is not None:
            panel = _panel(progress, self._web_ui)
            board = leaderboard_table(leaderboard_rows(self._standings), self._console.width)
            self._live.update(Group(panel, board) if self._standings else panel)
            return
        if time.monotonic() - self._plain_at >= PLAIN_LINE_EVERY_S:
            self._plain_at = time.monotonic()
            self.say(plain_line(progress))


def plain_line(progress: Progress) -> str:
    """The whole state in one line."""
    stages = ", ".join(f"{count} {stage}" for stage, count in progress.stages) or "none yet"
    return (
        f"{progress.market_time:%H:%M} UTC  signals {progress.signals}  trades: {stages}  "
        f"fills {progress.fills}  realised {progress.realised:+.2f}  "
        f"equity {progress.equity_change:+.2f}  {control_text(progress.control)}"
    )


def control_text(control: Control) -> str:
    """Armed or not, and every kill in force."""
    kills = ", ".join(f"{kill.mode} {kill.scope.text}" for kill in control.kills)
    return ("armed" if control.armed else "disarmed") + (
        f", KILL {kills}" if kills else ", no kill"
    )


def _panel(progress: Progress, web_ui: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(
        Text(f"{progress.market_time:%Y-%m-%d %H:%M:%S} UTC", style="bold"),
        ProgressBar(total=1.0, completed=progress.share, width=40),
    )
    stages = "  ".join(f"{stage} {count}" for stage, count in progress.stages)
    table.add_row("trades", stages or "none yet")
    table.add_row("signals", f"{progress.signals} taken    fills {progress.fills}")
    table.add_row(
        "P&L", f"realised {progress.realised:+.2f}    equity {progress.equity_change:+.2f}"
    )
    table.add_row("control", control_text(progress.control))
    table.add_row("Web UI", web_ui)
    for trade in _newest(progress.trades):
        money = "" if trade.realised is None else f"{trade.realised:+.2f}"
        told = f"{trade.plan.side} {trade.symbol} {trade.stage} {trade.result} {money}"
        table.add_row(Text(trade.trade_id, style="dim"), f"{told}  {trade.plan.note}")
    return table


def _newest(trades: Sequence[TradeRecord]) -> tuple[TradeRecord, ...]:
    return tuple(trades[-NEWEST_SHOWN:])
