"""The report at the end of a session: one table of trades, refusals, totals, and what is missing.

`build` decides everything; `print_report` and `report.page` only show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from domain.base import Frozen
from domain.money import ZERO, divide, round_to_cent, total
from report.portfolio import LEADERBOARD_COLUMNS, leaderboard_rows
from report.records import SessionFacts, TradeRow
from report.verify import Differences

DEMO_SIGNALS_MIN = 20
DEMO_FILLED_MIN = 12
DEMO_PORTFOLIOS_MIN = 3
DIFFERENCES_SHOWN_MAX = 20
COLUMNS = (
    "time (UTC)",
    "trade",
    "side",
    "quantity",
    "entry",
    "exit",
    "P&L",
    "fees",
    "exit reason",
    "slippage",
    "naked s",
    "protection",
    "note",
)
# A terminal of usual width shows these in the HTML page only.
WIDE = 160
_WIDE_ONLY = frozenset({"trade", "slippage", "naked s", "protection", "note"})
_LEAST = {"UTC": 8, "P&L": 6, "side": 4, "quantity": 8, "entry": 9, "exit": 9, "fees": 4}
LEADERBOARD_WIDE = 130
_NOT_NARROW = frozenset({"portfolio", "signals"})
_NARROW = {"rank": "#", "return %": "ret %", "unrealised": "open", "max drawdown %": "dd %"}
_SHORT = {"time (UTC)": "UTC"}
_TEXT_COLUMNS = frozenset({"time (UTC)", "trade", "side", "exit reason", "protection", "note"})


class Totals(Frozen):
    """Sums over the session in account currency. `net` = realised - fees."""

    signals: int
    trades: int
    filled: int
    not_filled: int
    refused: int
    winners: int
    losers: int
    gross: Decimal
    fees: Decimal
    net: Decimal
    average_slippage: Decimal | None
    naked_s_max: Decimal


class Report(Frozen):
    """All texts of the report, ready to be shown anywhere."""

    title: str
    facts: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    refusals: tuple[tuple[str, int], ...]
    exits: tuple[tuple[str, int], ...]
    totals: Totals
    leaderboard: tuple[tuple[str, ...], ...] = ()
    differences: tuple[str, ...]
    verdict: str
    equal: bool | None


def build(facts: SessionFacts, differences: Differences | None) -> Report:
    """The report of a session. Trades stand in the order of their signals.

    Without `differences` nothing was compared: `equal` is None, and `facts` say why.
    """
    trades = sorted(facts.trades, key=lambda trade: (trade.signal_time, trade.trade_id))
    items = () if differences is None else differences.items
    shown = [item.line() for item in items[:DIFFERENCES_SHOWN_MAX]]
    hidden = len(items) - len(shown)
    if hidden > 0:
        shown.append(f"and {hidden} more")
    return Report(
        title=f"Holdfast session {facts.session}",
        facts=_facts(facts),
        rows=tuple(_row(trade) for trade in trades),
        refusals=_counted(trade.refusal_code for trade in trades if trade.refusal_code),
        exits=_counted(_end_of(trade) for trade in trades if trade.filled),
        totals=totals_of(facts.signals, trades),
        leaderboard=leaderboard_rows(facts.standings),
        differences=tuple(shown),
        verdict=_verdict(facts, differences),
        equal=None if differences is None else differences.equal,
    )


def _end_of(trade: TradeRow) -> str:
    """Why it left its position; the stage of one that has not yet."""
    return trade.exit_reason or ("none" if trade.stage == "closed" else trade.stage)


def _verdict(facts: SessionFacts, differences: Differences | None) -> str:
    if differences is not None:
        return differences.line()
    return f"ledger equals broker: unknown, {facts.not_compared or 'nothing was compared'}"


def totals_of(signals: int, trades: Sequence[TradeRow]) -> Totals:
    """Counts and sums; average slippage is weighted by quantity, per unit, cost > 0."""
    filled = [trade for trade in trades if trade.filled]
    slipped = [(trade.slippage, trade.quantity) for trade in filled]
    weight = total(quantity for slippage, quantity in slipped if slippage is not None)
    cost = total(slippage * quantity for slippage, quantity in slipped if slippage is not None)
    ended = [trade for trade in filled if trade.exit_reason or trade.stage == "closed"]
    gross, fees = total(t.realised for t in trades), total(t.fees for t in trades)
    refused = sum(1 for trade in trades if trade.refusal_code)
    return Totals(
        signals=signals,
        trades=len(trades),
        filled=len(filled),
        not_filled=len(trades) - len(filled) - refused,
        refused=refused,
        winners=sum(1 for trade in ended if trade.realised - trade.fees > 0),
        losers=sum(1 for trade in ended if trade.realised - trade.fees < 0),
        gross=gross,
        fees=fees,
        net=gross - fees,
        average_slippage=divide(cost, weight) if weight else None,
        naked_s_max=max((trade.naked_s for trade in filled), default=ZERO),
    )


def missing_outcomes(facts: SessionFacts) -> tuple[str, ...]:
    """What the demo must show and did not; empty = the run may exit 0 (issue 2)."""
    trades = facts.trades
    filled = [trade for trade in trades if trade.filled]
    seen = {
        f">= {DEMO_SIGNALS_MIN} signals": facts.signals >= DEMO_SIGNALS_MIN,
        f">= {DEMO_FILLED_MIN} filled trades": len(filled) >= DEMO_FILLED_MIN,
        "partial fill": any(trade.partial for trade in filled),
        "not filled": any(not trade.filled and not trade.refusal_code for trade in trades),
        "refused by risk": any(trade.refusal_code for trade in trades),
        "three-tranche ratchet": any(
            trade.targets_filled >= 1 and trade.exit_reason in ("ratcheted_stop", "target")
            for trade in filled
        ),
        "stopped out": any(trade.exit_reason == "stop" for trade in filled),
        "time stop": any(trade.exit_reason == "time_stop" for trade in filled),
        "operator flatten": any(trade.exit_reason == "flatten" for trade in filled),
        f">= {DEMO_PORTFOLIOS_MIN} strategies with signals in the contest": (
            len({each.strategy for each in facts.standings if each.signals}) >= DEMO_PORTFOLIOS_MIN
        ),
    }
    return tuple(name for name, happened in seen.items() if not happened)


def print_report(report: Report, console: Console) -> None:
    """Shows the report in a terminal; its last line is the verdict."""
    console.print(f"\n[bold]{report.title}[/bold]")
    for name, text in report.facts:
        console.print(f"{name}: {text}", highlight=False, markup=False)
    shown = [i for i, name in enumerate(COLUMNS) if console.width >= WIDE or name not in _WIDE_ONLY]
    table = Table(box=None, pad_edge=False)
    for column in (COLUMNS[i] for i in shown):
        justify: Literal["left", "right"] = "left" if column in _TEXT_COLUMNS else "right"
        name = _SHORT.get(column, column)
        table.add_column(name, justify=justify, no_wrap=True, min_width=_LEAST.get(name))
    for row in report.rows:
        table.add_row(*(Text(row[i]) for i in shown))
    console.print(table)
    if report.leaderboard:
        console.print(leaderboard_table(report.leaderboard, console.width))
    for line in summary_lines(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in report.differences:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(report.verdict, highlight=False, markup=False, soft_wrap=True)


def leaderboard_table(rows: Iterable[Sequence[str]], width: int) -> Table:
    """The strategy contest for a terminal, best first; a usual one has no room for all columns."""
    wide = width >= LEADERBOARD_WIDE
    title = "strategy contest (by return; portfolios of their own)"
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left")
    shown = [i for i, name in enumerate(LEADERBOARD_COLUMNS) if wide or name not in _NOT_NARROW]
    for column in (LEADERBOARD_COLUMNS[i] for i in shown):
        is_text = column in ("portfolio", "strategy")
        header = column if wide else _NARROW.get(column, column)
        table.add_column(header, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[i]) for i in shown))
    return table


def summary_lines(report: Report) -> tuple[str, ...]:
    """Totals, refusals by reason and exits by reason, a line each."""
    sums = report.totals
    slippage = "-" if sums.average_slippage is None else signed(sums.average_slippage, 4)
    return (
        f"{sums.signals} signals, {sums.filled} filled, {sums.not_filled} not filled, "
        f"{sums.refused} refused by risk; {sums.winners} winners, {sums.losers} losers",
        f"gross {signed(sums.gross)}, fees {round_to_cent(sums.fees)}, net {signed(sums.net)}; "
        f"slippage {slippage} per unit against arrival mid (cost > 0); "
        f"longest naked {sums.naked_s_max:.2f} s",
        "refused: " + (_joined(report.refusals) or "none"),
        "exits: " + (_joined(report.exits) or "none"),
    )


def _facts(facts: SessionFacts) -> tuple[tuple[str, str], ...]:
    begin, end = facts.market_begin, facts.market_end
    day = "" if begin.date() == end.date() else f"{end:%Y-%m-%d} "
    hours = f"{begin:%Y-%m-%d %H:%M:%S} to {day}{end:%H:%M:%S} UTC"
    lines = [
        ("account", f"{facts.account} ({facts.mode}, {facts.currency})"),
        ("market", f"{facts.tape} {hours}".strip()),
        ("clock", f"speed {facts.speed:f}, {facts.wall_s:.0f} s of wall time"),
    ]
    if facts.quotes_label:
        lines.append(("quotes", facts.quotes_label.removeprefix("quotes ")))
    if facts.cash_before is not None and facts.cash_after is not None:
        before, after = round_to_cent(facts.cash_before), round_to_cent(facts.cash_after)
        lines.append(("cash", f"{before} to {after} ({signed(after - before)})"))
    if facts.commit or facts.config_hash:
        lines.append(("commit", facts.commit or "unknown"))
        lines.append(("settings", facts.config_hash or "unknown"))
    if facts.web_ui:
        lines.append(("web ui", facts.web_ui))
    return (*lines, *facts.notes)


def _row(trade: TradeRow) -> tuple[str, ...]:
    reason = trade.exit_reason or trade.stage
    if trade.refusal_code:
        reason = f"refused {trade.refusal_code}"
    notes = [trade.note] if trade.note else []
    if trade.partial:
        notes.append("partial fill")
    if trade.targets_filled:
        notes.append(f"{trade.targets_filled} targets")
    return (
        f"{trade.signal_time:%H:%M:%S}",
        trade.trade_id,
        trade.side,
        f"{trade.quantity:f}" if trade.filled else "",
        _price(trade.entry_average),
        _price(trade.exit_average),
        signed(trade.realised - trade.fees) if trade.filled else "",
        f"{round_to_cent(trade.fees)}" if trade.filled else "",
        reason,
        "" if trade.slippage is None else signed(trade.slippage, 4),
        f"{trade.naked_s:.2f}" if trade.filled else "",
        trade.protection,
        ", ".join(notes),
    )


def _price(price: Decimal | None) -> str:
    return "" if price is None else f"{price:.4f}"


def signed(amount: Decimal, places: int = 2) -> str:
    """Money with its sign, as all reports show it."""
    return f"{amount:+.{places}f}"


def _counted(words: Iterable[str]) -> tuple[tuple[str, int], ...]:
    counts = Counter(words)
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _joined(counts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts)
