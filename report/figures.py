"""The charts of the session page, drawn with plotly.

Plotly is imported when a page is written and never before: it takes longer to load than most
commands take to run, and workers have no use for it. Numbers become binary floats here and
nowhere else, because pixels have no cents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from report.charts import EquityLine, FillMark, Level, StopPiece, SymbolChart, total_line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INK, GRID, PAPER = "#1f2933", "#e4e7eb", "#ffffff"
BLUE, GREEN, RED, AMBER, GREY = "#2563eb", "#15803d", "#c81e1e", "#b45309", "#7b8794"
LINE_COLOURS = (BLUE, "#0f766e", "#9333ea", AMBER, "#be185d", "#4d7c0f", "#0e7490", GREY)
EQUITY_HEIGHT, PRICE_HEIGHT, BAR_ROW_HEIGHT = 460, 430, 34
# Between the end of a tranche's stop and the next one, in market time; below it, it was moved. A
# replay is fast: the broker's answer takes as long as many of its seconds.
GAP_S = 30.0


def script() -> str:
    """plotly.js as text, about 4.8 MB: it stands in the page once, so that it works offline."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def fragment(figure: Figure, name: str) -> str:
    """The figure as an HTML piece; the script stands in the page already, so it is left out.

    A fixed `name` makes two pages of the same facts equal.
    """
    text = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displayModeBar": False, "responsive": True},
    )
    return str(text)


def equity_figure(lines: Sequence[EquityLine], currency: str) -> Figure:
    """All portfolios together in money, and each in per cent of what it began with.

    Portfolios of $100 and of $100,000 cannot share an axis of money.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    whole = total_line(lines)
    figure.add_scatter(
        **_times(whole.points),
        y=[_number(point.value - whole.start) for point in whole.points],
        name="all portfolios",
        mode="lines",
        line={"color": INK, "width": 2, "shape": "hv"},
        hovertemplate="%{y:+,.2f} " + currency,
        row=1,
        col=1,
    )
    for index, line in enumerate(lines):
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        figure.add_scatter(
            **_times(line.points),
            y=[_share(point, line) for point in line.points],
            name=line.account,
            mode="lines",
            line={"color": colour, "width": 1.5, "shape": "hv"},
            hovertemplate="%{y:+.3f} %",
            row=2,
            col=1,
            # Per cent of an unknown amount are unknown.
            visible=None if line.start else False,
        )
    figure.update_yaxes(title_text=f"P&L, {currency}", row=1, col=1)
    figure.update_yaxes(title_text="return, %", row=2, col=1)
    return _dressed(figure, EQUITY_HEIGHT)


def price_figure(chart: SymbolChart) -> Figure:
    """The price with what was bought and sold, and where the stops stood (steps)."""
    from plotly.graph_objects import Figure

    figure = Figure()
    figure.add_scatter(
        **_times(chart.prices),
        y=[_number(point.value) for point in chart.prices],
        name="price",
        mode="markers" if chart.sparse else None,
        line={"color": GREY, "width": 1},
        hovertemplate="%{y}",
    )
    figure.add_scatter(
        **_stop_steps(chart.stops),
        name="stop",
        mode="lines",
        line={"color": RED, "width": 1.5, "dash": "dot", "shape": "hv"},
        hovertemplate="stop %{y}<br>%{text}",
    )
    kinds = (
        ("entry, bought", True, "buy", "triangle-up", GREEN),
        ("entry, sold short", True, "sell", "triangle-down", AMBER),
        ("exit, sold", False, "sell", "x", BLUE),
        ("exit, bought back", False, "buy", "cross", BLUE),
    )
    for name, is_entry, side, symbol, colour in kinds:
        marks = [m for m in chart.fills if m.is_entry is is_entry and m.side == side]
        if marks:
            _add_marks(figure, marks, name, symbol, colour)
    figure.update_layout(hovermode="closest")
    return _dressed(figure, PRICE_HEIGHT)


def bar_figure(counts: Sequence[tuple[str, int]], colour: str) -> Figure:
    """Counts by name, the largest on top."""
    from plotly.graph_objects import Figure

    shown = list(reversed(counts))
    figure = Figure()
    figure.add_bar(
        x=[count for _, count in shown],
        y=[name for name, _ in shown],
        orientation="h",
        marker={"color": colour},
        text=[str(count) for _, count in shown],
        textposition="inside",
        insidetextanchor="end",
        hovertemplate="%{y}: %{x}<extra></extra>",
    )
    most = max((count for _, count in counts), default=1)
    figure.update_xaxes(dtick=max(1, most // 5), range=[0, most * 1.05])
    figure.update_yaxes(automargin=True)
    return _dressed(figure, 70 + BAR_ROW_HEIGHT * len(shown))


def _add_marks(
    figure: Figure, marks: Sequence[FillMark], name: str, symbol: str, colour: str
) -> None:
    figure.add_scatter(
        x=[_instant(mark.time) for mark in marks],
        y=[_number(mark.price) for mark in marks],
        text=[
            f"{mark.side} {mark.quantity:f} at {mark.price}<br>{mark.trade_id}" for mark in marks
        ],
        name=name,
        mode="markers",
        marker={
            "symbol": symbol,
            "size": 9,
            "color": colour,
            "line": {"color": PAPER, "width": 1},
        },
        hovertemplate="%{text}<extra>" + name + "</extra>",
    )


def _stop_steps(pieces: Iterable[StopPiece]) -> dict[str, list[Any]]:
    """Corners of the step line; an empty point parts trades, and times without a stop."""
    x: list[Any] = []
    y: list[Any] = []
    text: list[Any] = []
    before: StopPiece | None = None
    for piece in sorted(pieces, key=lambda each: (each.trade_id, each.stop_id, each.begin)):
        if before is not None and not _goes_on(before, piece):
            x.append(None)
            y.append(None)
            text.append(None)
        x += [_instant(piece.begin), _instant(piece.end)]
        y += [_number(piece.price)] * 2
        text += [piece.trade_id] * 2
        before = piece
    return {"x": x, "y": y, "text": text}


def _goes_on(before: StopPiece, piece: StopPiece) -> bool:
    """True where the stop was moved; False for another stop, and where none stood between."""
    waited_s = (piece.begin - before.end).total_seconds()
    is_same = (before.trade_id, before.stop_id) == (piece.trade_id, piece.stop_id)
    return is_same and 0 <= waited_s <= GAP_S


def _times(points: Sequence[Level]) -> dict[str, list[str]]:
    return {"x": [_instant(point.time) for point in points]}


def _instant(time: datetime) -> str:
    """UTC without its zone: plotly.js knows no zones and would show the reader's own."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")


def _number(amount: Any) -> float:
    return float(amount)


def _share(point: Level, line: EquityLine) -> float:
    return _number((point.value - line.start) / line.start * 100) if line.start else 0.0


def _dressed(figure: Figure, height: int) -> Figure:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 34, "b": 40},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        hoverlabel={"bgcolor": PAPER},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=GREY, zerolinewidth=1)
    return figure
