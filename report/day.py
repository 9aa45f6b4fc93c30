"""The evening's report for a terminal and as one HTML page; what is unknown is called unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from pathlib import Path

from domain.base import Frozen
from domain.day_report import DayReport, HeldPosition, NightStop, WorkingLine
from domain.risk.daily_loss import used_fraction

UNKNOWN = "unknown"
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1f2933; margin: 24px auto; max-width: 1200px;
  padding: 0 16px; }
h1 { font-size: 22px; } h2 { font-size: 16px; margin: 24px 0 6px; }
table { border-collapse: collapse; } .scroll { overflow-x: auto; }
th, td { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid #e4e7eb; }
th { color: #616e7c; } p.hint { color: #616e7c; font-size: 12px; margin: 4px 0; }
.bad { background: #fdeaea; color: #c81e1e; padding: 8px 12px; border-radius: 6px; }
"""


_HOURS = {
    False: "A DAY stop is gone after the close; no stop triggers outside of regular hours.",
    True: "The venue stays open: no stop sleeps, a DAY stop is gone at the end of the venue's day.",
}


class Part(Frozen):
    """One part of the report: a table, or lines where it has no columns."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    hint: str = ""


def parts(made: DayReport) -> tuple[Part, ...]:
    """Every part in the order in which a person asks; empty ones say so."""
    gap = f"{(made.gap_fraction * 100).normalize():f} %"
    return (
        Part(
            title="Open tonight",
            columns=(
                "trade",
                "symbol",
                "quantity",
                "protection",
                "stage",
                "price",
                "value",
                "loss at stop",
                f"loss at gap {gap}",
                "bounded by",
            ),
            rows=tuple(_held(each) for each in made.held),
            hint="value = |quantity| x price x multiplier; loss at stop = sum over its stops of "
            "side x (price - stop) x quantity x multiplier, unknown where they do not cover all "
            f"of it; loss at gap = value x {gap}: a stop fills at the open, not at its price. "
            f"All together at the gap: {_amount(made.gap_loss)} {made.currency}.",
        ),
        Part(
            title="Dormant stops",
            columns=("order", "symbol", "stop", "quantity", "in force", "tonight"),
            rows=tuple(_stop(each) for each in made.dormant_stops),
            hint=_HOURS[made.stays_open],
        ),
        Part(
            title="Working orders",
            columns=("order", "trade", "purpose", "side", "quantity", "symbol", "price", "state"),
            rows=tuple(_working(each) for each in made.working),
        ),
        Part(title="The day", columns=("what", "is"), rows=_money(made)),
        Part(title="Switches", columns=("what", "is"), rows=_switches(made)),
        Part(title="Kills, breakers, conditions of the day", rows=_lines(made.events)),
        Part(title="Differences to the broker", rows=_lines(made.differences), hint=_passes(made)),
        Part(
            title="Signals by verdict",
            columns=("verdict", "reason", "count"),
            rows=tuple((each.word, each.code, str(each.count)) for each in made.signals),
        ),
    )


def title_of(made: DayReport) -> str:
    return f"Evening of {made.day:%A %Y-%m-%d}, account {made.account}"


def write_day(made: DayReport, folder: Path) -> str:
    """Writes page and data to `folder` and answers the page's path. A repeat replaces them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{made.account}-{made.day.isoformat()}.html"
    path.write_text(html_of(made), encoding="utf-8")
    path.with_suffix(".json").write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return str(path)


def html_of(made: DayReport) -> str:
    """The page; it loads nothing, and every text from outside is escaped."""
    unread = f'<p class="bad">Not read: {escape(", ".join(made.unread))}</p>' if made.unread else ""
    body = "\n".join(_section(part) for part in parts(made))
    title = escape(title_of(made))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<p class="hint">read at {made.read_at:%Y-%m-%d %H:%M:%S} UTC; amounts in {escape(made.currency)}</p>
{unread}
{body}
</body></html>
"""


def _section(part: Part) -> str:
    hint = f'<p class="hint">{escape(part.hint)}</p>' if part.hint else ""
    header = "".join(f"<th>{escape(column)}</th>" for column in part.columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in part.rows
    )
    table = f'<div class="scroll"><table><tr>{header}</tr>{body}</table></div>'
    return f"<h2>{escape(part.title)}</h2>{table if part.rows else '<p>none</p>'}{hint}"


def _held(held: HeldPosition) -> tuple[str, ...]:
    risk = held.risk
    return (
        held.trade_id,
        held.symbol,
        f"{held.quantity:f}",
        held.protection,
        held.stage,
        _plain(held.price),
        _amount(risk.value),
        _amount(risk.at_stop),
        _amount(risk.at_gap),
        "-" if held.max_loss is None else f"{held.max_loss:f}",
    )


def _stop(stop: NightStop) -> tuple[str, ...]:
    tonight = "expires at the close" if stop.expires_tonight else "asleep until the next open"
    return (
        stop.client_id,
        stop.symbol,
        _plain(stop.price),
        f"{stop.quantity:f}",
        stop.time_in_force.value,
        tonight,
    )


def _working(order: WorkingLine) -> tuple[str, ...]:
    limit = "" if order.limit_price is None else f"limit {order.limit_price:f}"
    stop = "" if order.stop_price is None else f"stop {order.stop_price:f}"
    return (
        order.order_id,
        order.trade_id,
        order.purpose or "not ours",
        order.side,
        f"{order.quantity:f}",
        order.symbol,
        " ".join((limit, stop, order.time_in_force)).strip(),
        order.state,
    )


def _money(made: DayReport) -> tuple[tuple[str, str], ...]:
    money, daily, used = made.money, made.daily, used_fraction(made.daily)
    unknown = f" and {money.realised_unknown} lots unknown" if money.realised_unknown else ""
    share = UNKNOWN if used is None else f"{used * 100:.1f} %"
    return (
        ("realised (FIFO, before fees)", f"{money.realised:+.2f}{unknown}"),
        ("unrealised (bid or ask)", _amount(money.unrealised, sign="+")),
        ("fees", f"{money.fees:.2f}"),
        ("executions", str(money.fills)),
        ("daily loss", f"{_amount(daily.loss)} of {_amount(daily.limit)} allowed, {share} used"),
        ("equity at the roll", _amount(daily.baseline_equity)),
    )


def _switches(made: DayReport) -> tuple[tuple[str, str], ...]:
    return (
        ("armed", "yes" if made.armed else "no"),
        ("kills", "; ".join(made.kills) or "none"),
        ("breakers", "; ".join(made.breakers)),
        ("conditions", "; ".join(made.conditions) or "none"),
    )


def _passes(made: DayReport) -> str:
    at: datetime | None = made.reconciled_at
    return "no good reconcile pass yet" if at is None else f"last good pass {at:%H:%M:%S} UTC"


def _lines(texts: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((text,) for text in texts)


def _plain(number: Decimal | None) -> str:
    return UNKNOWN if number is None else f"{number:f}"


def _amount(number: Decimal | None, *, sign: str = "") -> str:
    return UNKNOWN if number is None else format(number, f"{sign}.2f")


def lines(made: DayReport) -> Sequence[str]:
    """Title, and what could not be read, for a terminal."""
    unread = [f"NOT READ: {', '.join(made.unread)}"] if made.unread else []
    return [title_of(made), *unread]
