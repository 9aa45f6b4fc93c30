"""The session report as one HTML file that works offline: facts in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from pathlib import Path

from domain.money import round_to_cent
from report import figures
from report.portfolio import LEADERBOARD_COLUMNS
from report.records import SessionFacts, TradeRow
from report.session import Report, build, signed
from report.verify import Differences

TRADE_COLUMNS = (
    "time (UTC)",
    "trade",
    "strategy",
    "symbol",
    "side",
    "quantity",
    "entry",
    "exit",
    "exit reason",
    "gross",
    "fees",
    "net",
    "slippage",
    "naked s",
    "unconfirmed s",
    "protection",
    "note",
)
_TEXTS = frozenset(
    ("time (UTC)", "trade", "strategy", "symbol", "side", "exit reason", "protection", "note")
) | {"portfolio", "verdict", "reason"}
_STYLE = """
:root { --ink: #1f2933; --soft: #616e7c; --line: #e4e7eb; --good: #15803d; --bad: #c81e1e; }
* { box-sizing: border-box; }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: #f5f7fa; margin: 0; }
main { max-width: 1280px; margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 0 0 8px; }
section, .tile { background: #fff; border: 1px solid var(--line); border-radius: 8px; }
section { padding: 16px; margin-top: 16px; }
.sub, .hint { color: var(--soft); margin: 0; } .hint { font-size: 12px; margin-top: 8px; }
.verdict { border-radius: 8px; padding: 10px 16px; margin-top: 16px; font-weight: 600; }
.equal { background: #e7f6ec; color: var(--good); }
.differs { background: #fdeaea; color: var(--bad); }
.unknown { background: #fff4e0; color: #8a4b08; }
.label { background: #fff4e0; color: #8a4b08; border-radius: 4px; padding: 2px 8px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(122px, 1fr)); gap: 10px;
  margin-top: 16px; }
.tile { padding: 10px 14px; } .tile b { display: block; font-size: 20px; }
.tile span { color: var(--soft); font-size: 12px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 16px; }
.pair > section { min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px; }
th { text-align: left; color: var(--soft); font-weight: 600; white-space: nowrap; }
th, td { padding: 4px 8px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.refused td { color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content auto; gap: 2px 16px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

# Charts measure their box while the page is still being read; once it is there they fit into it.
_SETTLE = "addEventListener('load', () => dispatchEvent(new Event('resize')));"


def write_page(facts: SessionFacts, differences: Differences | None, path: Path) -> None:
    """Writes the page, and beside it what it was made of (`.json`), from which it can be redone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page_of(facts, differences), encoding="utf-8")
    books = "null" if differences is None else differences.model_dump_json()
    data = f'{{"facts": {facts.model_dump_json()},\n"books": {books}}}\n'
    path.with_suffix(".json").write_text(data, encoding="utf-8")


def page_of(facts: SessionFacts, differences: Differences | None) -> str:
    """The whole page; every text from outside is escaped. Equal facts give an equal page.

    plotly.js stands in it once and whole (4.8 MB of the file): a report must open years later, on
    a machine without a network, from one file that can be mailed.
    """
    report = build(facts, differences)
    verdict = {True: "equal", False: "differs", None: "unknown"}[report.equal]
    label = facts.quotes_label
    shown = f' <span class="label">{escape(label)}</span>' if label else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.title)}</title>
<style>{_STYLE}</style>
<script>{figures.script()}</script>
</head><body><main>
<h1>{escape(report.title)}</h1>
<p class="sub">{escape(facts.account)} · {escape(facts.mode)} · {escape(facts.tape)} ·
{facts.market_begin:%A %Y-%m-%d %H:%M} to {_until(facts)} UTC{shown}</p>
<p class="verdict {verdict}">{escape(report.verdict)}</p>
{_differences(report)}
{_tiles(report, facts)}
{_equity(facts)}
{_prices(facts)}
{_leaderboard(report)}
{_reasons(report)}
{_verdicts(facts)}
{_trades(facts)}
{_section("About this run", _pairs(report.facts))}
</main><script>{_SETTLE}</script></body></html>
"""


def _until(facts: SessionFacts) -> str:
    same_day = facts.market_begin.date() == facts.market_end.date()
    return f"{facts.market_end:{'%H:%M' if same_day else '%A %Y-%m-%d %H:%M'}}"


def _section(title: str, body: str, hint: str = "") -> str:
    below = f'<p class="hint">{escape(hint)}</p>' if hint else ""
    return f"<section><h2>{escape(title)}</h2>{body}{below}</section>" if body else ""


def _differences(report: Report) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in report.differences)
    return _section("Ledger and exchange differ", f"<ul>{items}</ul>" if items else "")


def _tiles(report: Report, facts: SessionFacts) -> str:
    sums = report.totals
    slippage = "-" if sums.average_slippage is None else signed(sums.average_slippage, 4)
    waits = [row.unconfirmed_s for row in facts.trades if row.filled]
    known = [wait for wait in waits if wait is not None]
    # One that was never confirmed may have waited longer than all others.
    longest = f"{max(known, default=Decimal(0)):.2f} s" if len(known) == len(waits) else "unknown"
    tiles = (
        (signed(sums.net), f"net {facts.currency}", _tone(sums.net)),
        (signed(sums.gross), "gross", _tone(sums.gross)),
        (f"{round_to_cent(sums.fees)}", "fees", ""),
        (f"{sums.filled} of {sums.signals}", "signals filled", ""),
        (f"{sums.winners} / {sums.losers}", "winners / losers", ""),
        (str(sums.refused), "refused by gate", ""),
        (slippage, "slippage per unit", ""),
        (f"{sums.naked_s_max:.2f} s", "longest naked", ""),
        (longest, "unconfirmed", ""),
    )
    return '<div class="tiles">{}</div>'.format(
        "".join(
            f'<div class="tile"><b class="{tone}">{escape(value)}</b>'
            f"<span>{escape(name)}</span></div>"
            for value, name, tone in tiles
        )
    )


def _equity(facts: SessionFacts) -> str:
    if not any(line.points for line in facts.equity):
        return ""
    figure = figures.equity_figure(facts.equity, facts.currency)
    hint = "Marked at the last trade of each minute; fees are taken off when they are booked."
    if facts.equity_from:
        hint = f"{facts.equity_from} Fees are taken off when they are booked."
    return _section("Equity", figures.fragment(figure, "equity"), hint)


def _prices(facts: SessionFacts) -> str:
    hint = (
        f"Trades of {facts.account}. The dotted steps are the stops that worked at the broker. "
        "Drag to zoom, double-click to go back."
    )
    if facts.prices_from:
        hint = f"{facts.prices_from} {hint}"
        if not any(chart.prices or chart.fills for chart in facts.charts):
            return _section("Price", f"<p>{escape(facts.prices_from)}</p>")
    return "\n".join(
        _section(
            chart.symbol,
            figures.fragment(figures.price_figure(chart), f"price-{number}"),
            hint,
        )
        for number, chart in enumerate(facts.charts)
        if chart.prices or chart.fills
    )


def _reasons(report: Report) -> str:
    kinds = (
        ("Refused by the gate, by reason", report.refusals, figures.RED, "refusals"),
        ("Exits, by reason", report.exits, figures.BLUE, "exits"),
    )
    found = "".join(
        _section(title, figures.fragment(figures.bar_figure(counts, colour), name))
        for title, counts, colour, name in kinds
        if counts
    )
    return f'<div class="pair">{found}</div>' if found else ""


def _leaderboard(report: Report) -> str:
    if not report.leaderboard:
        return ""
    hint = "Best return first; each portfolio has an account of its own."
    return _section("Strategy contest", _table(LEADERBOARD_COLUMNS, report.leaderboard), hint)


def _verdicts(facts: SessionFacts) -> str:
    if not facts.verdicts:
        return ""
    rows = [(each.word, each.code, str(each.count)) for each in facts.verdicts]
    hint = "Every decision of the strategies is one signal here, also the decision for none."
    return _section("Signals by verdict", _table(("verdict", "reason", "count"), rows), hint)


def _trades(facts: SessionFacts) -> str:
    rows = sorted(facts.trades, key=lambda trade: (trade.signal_time, trade.trade_id))
    classes = ["refused" if trade.refusal_code else "" for trade in rows]
    hint = (
        "Slippage: entry against the mid at sizing, per unit, cost > 0. Naked: seconds with a "
        "position and nothing that protects it. Unconfirmed: seconds in which stops and targets "
        "had been sent and the broker had not answered. Seconds are wall time."
    )
    columns, cells = _without_same([_trade(trade) for trade in rows])
    return _section(f"Trades ({len(rows)})", _table(columns, cells, classes), hint)


def _without_same(
    rows: Sequence[Sequence[str]],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table without strategy and symbol where all trades have the same one: it gets wide."""
    same = [
        number
        for number, name in enumerate(TRADE_COLUMNS)
        if name in ("strategy", "symbol") and len({row[number] for row in rows}) == 1
    ]
    kept = [number for number in range(len(TRADE_COLUMNS)) if number not in same]
    return tuple(TRADE_COLUMNS[n] for n in kept), [tuple(row[n] for n in kept) for row in rows]


def _trade(trade: TradeRow) -> tuple[str, ...]:
    reason = trade.exit_reason or trade.stage
    if trade.refusal_code:
        reason = f"refused {trade.refusal_code}"
    notes = [trade.note] if trade.note else []
    notes += ["partial fill"] if trade.partial else []
    notes += [f"{trade.targets_filled} targets"] if trade.targets_filled else []
    known = (trade.entry_average, trade.exit_average)
    entry, exit_price = ("" if price is None else f"{price:.4f}" for price in known)
    unconfirmed = "unknown" if trade.unconfirmed_s is None else f"{trade.unconfirmed_s:.2f}"
    money = (
        signed(trade.realised),
        f"{round_to_cent(trade.fees)}",
        signed(trade.realised - trade.fees),
        "-" if trade.slippage is None else signed(trade.slippage, 4),
        f"{trade.naked_s:.2f}",
        unconfirmed,
    )
    return (
        f"{trade.signal_time:%H:%M:%S}",
        trade.trade_id,
        trade.strategy,
        trade.symbol,
        trade.side,
        f"{trade.quantity:f}" if trade.filled else "",
        entry,
        exit_price,
        reason,
        *(money if trade.filled else ("",) * len(money)),
        trade.protection,
        ", ".join(notes),
    )


def _table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()
) -> str:
    header = "".join(f"<th{_kind(column)}>{escape(column)}</th>" for column in columns)
    body = "\n".join(
        f'<tr class="{classes[number] if classes else ""}">'
        + "".join(
            f"<td{_kind(name, cell)}>{escape(cell)}</td>"
            for name, cell in zip(columns, row, strict=True)
        )
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _kind(column: str, cell: str = "") -> str:
    if column in _TEXTS:
        return ""
    tone = ""
    if column in ("net", "gross", "return %", "realised", "unrealised") and cell:
        tone = f" {_tone(Decimal(cell))}"
    return f' class="number{tone.rstrip()}"'


def _pairs(facts: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    return f"<dl>{items}</dl>"


def _tone(amount: Decimal) -> str:
    return "good" if amount > 0 else "bad" if amount < 0 else ""
