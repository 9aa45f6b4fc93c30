"""A session's facts for its report: the one gathering behind `demo`, the week and any session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from cli.contest_books import PortfolioBook, marks_of
from cli.contest_files import Portfolio
from cli.feed_report import counting_fills
from cli.session_charts import equity_lines, symbol_charts
from domain.bar import Bar
from domain.clock import ClockMap
from domain.instrument import Instrument
from ledger.records import FillRecord, IntentRecord
from ledger.repository import Ledger
from report.records import SessionFacts, TradeRow


@dataclass(frozen=True)
class SessionMarket:
    """The market of a session: its hours in market time, its clock, and the bars it saw."""

    begin: datetime
    end: datetime
    clock: ClockMap
    symbols: tuple[str, ...]
    bars: Sequence[Bar] = ()
    quotes_label: str = ""

    @property
    def wall_s(self) -> Decimal:
        """Wall seconds that the hours took."""
        market_s = (self.end - self.begin).total_seconds()
        return Decimal(str(round(self.clock.wall_duration_s(market_s), 1)))


async def read_session_book(
    ledger: Ledger,
    portfolio: Portfolio,
    instruments: Iterable[Instrument] | None = None,
    *,
    signals_taken: int,
) -> PortfolioBook:
    """What the ledger holds of this one session; other sessions of its account are left out.

    Without `instruments` those of the plans count.

    Raises:
        LedgerDown.
    """
    trades = await ledger.list_trades(session=portfolio.session)
    orders: list[IntentRecord] = []
    fills: list[FillRecord] = []
    for trade in trades:
        orders += await ledger.orders_of_trade(trade.trade_id)
        fills += counting_fills(await ledger.fills_of_trade(trade.trade_id))
    ids = {trade.trade_id for trade in trades}
    ours = {record.fill.broker_order_id for record in fills}
    fees = [
        fee
        for fee in await ledger.fees(portfolio.account)
        if fee.trade_id in ids
        or fee.broker_order_id in ours
        or not ours.isdisjoint(fee.text.split())
    ]
    if instruments is None:
        instruments = [leg.instrument for trade in trades for leg in trade.plan.legs]
    return PortfolioBook(
        portfolio=portfolio,
        instruments={item.symbol: item for item in instruments},
        trades=trades,
        orders=tuple(orders),
        fills=tuple(fills),
        fees=tuple(fees),
        signals_taken=signals_taken,
    )


def session_facts(
    book: PortfolioBook,
    market: SessionMarket,
    rows: tuple[TradeRow, ...],
    *,
    currency: str,
    beside: Iterable[PortfolioBook] | None = None,
) -> SessionFacts:
    """The facts of the session that `book` belongs to.

    `beside` are the portfolios whose equity is drawn; without them the session's own.
    """
    portfolio = book.portfolio
    return SessionFacts(
        session=portfolio.session,
        account=portfolio.account,
        currency=currency,
        tape=", ".join(market.symbols),
        quotes_label=market.quotes_label,
        market_begin=market.begin,
        market_end=market.end,
        speed=market.clock.speed,
        wall_s=market.wall_s,
        signals=book.signals_taken,
        trades=rows,
        equity=equity_lines(
            [book] if beside is None else beside, marks_of(market.bars, market.end)
        ),
        charts=symbol_charts(
            market.bars, book.trades, book.orders, book.fills, market.clock, market.end
        ),
    )
