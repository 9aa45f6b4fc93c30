"""A paper portfolio over time: what it earned, where its equity stood, how it ranks.

Pure: fills, fees and marks in, rows out. Every amount follows from the ledger, so that the
attribution is exact: equity = start + realised + unrealised - fees, at each point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.instrument import Instrument
from domain.money import ZERO, Amount, Calculated, Price, SignedQuantity, divide, multiply, total
from domain.money_law import CostPosition, apply_fill, realised_pnl
from domain.order import Fill, Side


class Mark(Frozen):
    """A price that values what is held: the last trade at or before `time` (market time)."""

    time: AwareDatetime
    symbol: str
    price: Price


class Cost(Frozen):
    """A booked fee, cost > 0."""

    time: AwareDatetime
    key: str
    amount: Amount


class PortfolioPoint(Frozen):
    """The portfolio right after something: a fill, a fee, or a mark while something was held.

    `cause` names it: the fill key, the fee's key, or "mark". Money is account currency, exact.
    """

    time: AwareDatetime
    cause: str
    positions: dict[str, SignedQuantity]
    realised: Calculated
    unrealised: Calculated
    fees: Calculated
    equity: Calculated


class Standing(Frozen):
    """One line of the leaderboard. `realised` is gross of fees, `max_drawdown` >= 0.

    `return_fraction` and `drawdown_fraction` are of the start cash: portfolios of different size
    are ranked by what they made of what they had. `trades` are those that held something.
    """

    account: str
    strategy: str
    start_cash: Amount
    realised: Calculated = ZERO
    unrealised: Calculated = ZERO
    fees: Calculated = ZERO
    max_drawdown: Calculated = ZERO
    signals: int = 0
    trades: int = 0
    open_trades: int = 0
    winners: int = 0

    @property
    def equity(self) -> Decimal:
        return self.start_cash + self.realised + self.unrealised - self.fees

    @property
    def return_fraction(self) -> Decimal:
        return divide(self.equity - self.start_cash, self.start_cash)

    @property
    def drawdown_fraction(self) -> Decimal:
        return divide(self.max_drawdown, self.start_cash)

    @property
    def win_rate(self) -> Decimal | None:
        """Winners of the closed trades; None before the first one has closed."""
        closed = self.trades - self.open_trades
        return divide(Decimal(self.winners), Decimal(closed)) if closed else None


class _Holding:
    """The running state of one portfolio; positions by average cost, marks by symbol."""

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self._instruments = instruments
        self.positions: dict[str, CostPosition] = {}
        self.marks: dict[str, Decimal] = {}
        self.fees = ZERO

    def fill(self, fill: Fill) -> None:
        instrument = self._instruments.get(fill.symbol) or Instrument(symbol=fill.symbol)
        before = self.positions.get(fill.symbol, CostPosition())
        self.positions[fill.symbol] = apply_fill(before, instrument, fill)
        self.marks.setdefault(fill.symbol, fill.price)

    def point(self, start_cash: Decimal, time: AwareDatetime, cause: str) -> PortfolioPoint:
        realised = total(held.realised for held in self.positions.values())
        unrealised = total(self._open(symbol, held) for symbol, held in self.positions.items())
        return PortfolioPoint(
            time=time,
            cause=cause,
            positions={s: held.quantity for s, held in self.positions.items() if held.quantity},
            realised=realised,
            unrealised=unrealised,
            fees=self.fees,
            equity=start_cash + realised + unrealised - self.fees,
        )

    def _open(self, symbol: str, held: CostPosition) -> Decimal:
        if held.quantity == 0 or held.average_price is None:
            return ZERO
        instrument = self._instruments.get(symbol) or Instrument(symbol=symbol)
        side = Side.BUY if held.quantity > 0 else Side.SELL
        price = self.marks[symbol]
        return realised_pnl(instrument, side, abs(held.quantity), held.average_price, price)


def points(
    start_cash: Decimal,
    instruments: Mapping[str, Instrument],
    fills: Iterable[Fill],
    costs: Iterable[Cost] = (),
    marks: Iterable[Mark] = (),
) -> tuple[PortfolioPoint, ...]:
    """The portfolio's line: a point per fill and fee, and per mark of something that is held.

    At one instant fills come first, then fees, then marks.
    """
    holding = _Holding(instruments)
    found: list[PortfolioPoint] = []
    events: list[tuple[AwareDatetime, int, Fill | Cost | Mark]] = [
        *((fill.venue_time, 0, fill) for fill in fills),
        *((cost.time, 1, cost) for cost in costs),
        *((mark.time, 2, mark) for mark in marks),
    ]
    for time, _, event in sorted(events, key=lambda each: each[:2]):
        if isinstance(event, Fill):
            holding.fill(event)
            found.append(holding.point(start_cash, time, event.fill_key))
        elif isinstance(event, Cost):
            holding.fees += event.amount
            found.append(holding.point(start_cash, time, event.key))
        else:
            holding.marks[event.symbol] = event.price
            held = holding.positions.get(event.symbol)
            if held is not None and held.quantity:
                found.append(holding.point(start_cash, time, "mark"))
    return tuple(found)


def max_drawdown(start_cash: Decimal, line: Sequence[PortfolioPoint]) -> Decimal:
    """The largest fall of equity from an earlier high, >= 0, in account currency."""
    high, worst = start_cash, ZERO
    for point in line:
        high = max(high, point.equity)
        worst = max(worst, high - point.equity)
    return worst


def standing_of(
    account: str,
    strategy: str,
    start_cash: Decimal,
    line: Sequence[PortfolioPoint],
    results: Sequence[Decimal | None] = (),
    *,
    signals: int = 0,
) -> Standing:
    """The leaderboard line of a portfolio: its last point, its worst fall, its trades.

    `results` are the nets of the trades that held something, None while one is open.
    """
    closed = [net for net in results if net is not None]
    last = line[-1] if line else None
    return Standing(
        account=account,
        strategy=strategy,
        start_cash=start_cash,
        realised=last.realised if last is not None else ZERO,
        unrealised=last.unrealised if last is not None else ZERO,
        fees=last.fees if last is not None else ZERO,
        max_drawdown=max_drawdown(start_cash, line),
        signals=signals,
        trades=len(results),
        open_trades=len(results) - len(closed),
        winners=sum(1 for net in closed if net > 0),
    )


def ranked(standings: Iterable[Standing]) -> tuple[Standing, ...]:
    """Best return first; of equals the one that fell less, then by name."""
    return tuple(
        sorted(standings, key=lambda s: (-s.return_fraction, s.drawdown_fraction, s.account))
    )


LEADERBOARD_COLUMNS = (
    "rank",
    "portfolio",
    "strategy",
    "equity",
    "return %",
    "realised",
    "unrealised",
    "fees",
    "signals",
    "trades",
    "win %",
    "max drawdown %",
)


def leaderboard_rows(standings: Iterable[Standing]) -> tuple[tuple[str, ...], ...]:
    """The ranked standings as texts under `LEADERBOARD_COLUMNS`, for any kind of table."""
    rows = []
    for rank, each in enumerate(ranked(standings), start=1):
        wins = each.win_rate
        rows.append(
            (
                str(rank),
                each.account,
                each.strategy,
                f"{each.equity:.2f}",
                f"{multiply(each.return_fraction, Decimal(100)):+.3f}",
                f"{each.realised:+.2f}",
                f"{each.unrealised:+.2f}",
                f"{each.fees:.2f}",
                str(each.signals),
                str(each.trades),
                "-" if wins is None else f"{multiply(wins, Decimal(100)):.0f}",
                f"{multiply(each.drawdown_fraction, Decimal(100)):.3f}",
            )
        )
    return tuple(rows)
