"""What the charts of a report show: lines of equity, prices, fills and stops. Data, no drawing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.money import ZERO, Amount, Calculated, NetPrice, Quantity
from report.portfolio import PortfolioPoint

POINTS_MAX = 1200


class Level(Frozen):
    """An amount or a price at an instant of market time."""

    time: AwareDatetime
    value: Calculated


class EquityLine(Frozen):
    """The equity of one portfolio over time, in account currency; before the first point: start."""

    account: str
    strategy: str
    start: Amount
    points: tuple[Level, ...] = ()


class FillMark(Frozen):
    """One execution on the price chart. `is_entry`: it opened or added to its trade."""

    time: AwareDatetime
    trade_id: str
    side: str
    quantity: Quantity
    price: NetPrice
    is_entry: bool


class StopPiece(Frozen):
    """A stop that stood at one price from `begin` to `end`; a moved one is two pieces.

    `stop_id` names the stop through all of its replacements: pieces of one id are one line.
    """

    trade_id: str
    stop_id: str = ""
    begin: AwareDatetime
    end: AwareDatetime
    price: NetPrice


class SymbolChart(Frozen):
    """One instrument's session: its price, and what was done in it.

    `sparse`: prices are known at single instants only; nothing is drawn between them.
    """

    symbol: str
    sparse: bool = False
    prices: tuple[Level, ...] = ()
    fills: tuple[FillMark, ...] = ()
    stops: tuple[StopPiece, ...] = ()


def equity_line(
    account: str,
    strategy: str,
    start: Amount,
    points: Iterable[PortfolioPoint],
    until: datetime | None = None,
) -> EquityLine:
    """The portfolio's points as a line with few enough points to be drawn.

    It goes on to `until`: a portfolio that has nothing open is still worth what it is worth.
    """
    levels = [Level(time=point.time, value=point.equity) for point in points]
    if until is not None and (not levels or levels[-1].time < until):
        levels.append(Level(time=until, value=levels[-1].value if levels else start))
    return EquityLine(account=account, strategy=strategy, start=start, points=thinned(levels))


def total_line(lines: Sequence[EquityLine]) -> EquityLine:
    """All portfolios together: at each instant the sum of what each was worth then."""
    worth = {line.account: line.start for line in lines}
    moves = sorted(
        ((point.time, line.account, point.value) for line in lines for point in line.points),
        key=lambda move: move[0],
    )
    levels: list[Level] = []
    for time, account, value in moves:
        worth[account] = value
        level = Level(time=time, value=sum(worth.values(), ZERO))
        # What happens at one instant is one point: the sum between two portfolios is nobody's.
        if levels and levels[-1].time == time:
            levels[-1] = level
        else:
            levels.append(level)
    start = sum((line.start for line in lines), ZERO)
    return EquityLine(account="total", strategy="", start=start, points=thinned(levels))


def thinned(levels: Sequence[Level], most: int = POINTS_MAX) -> tuple[Level, ...]:
    """At most about `most` levels; first, last, lowest and highest of each piece stay.

    So the extremes that a drawdown is read from are never lost.
    """
    if len(levels) <= most:
        return tuple(levels)
    size = -(-len(levels) * 4 // most)
    kept: list[Level] = []
    for begin in range(0, len(levels), size):
        piece = levels[begin : begin + size]
        low = min(range(len(piece)), key=lambda i: piece[i].value)
        high = max(range(len(piece)), key=lambda i: piece[i].value)
        kept += [piece[i] for i in sorted({0, low, high, len(piece) - 1})]
    return tuple(kept)
