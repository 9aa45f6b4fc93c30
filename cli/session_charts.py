"""Lines and marks of the session page, read out of orders, fills and bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from cli.contest_books import PortfolioBook
from cli.feed_report import counting_fills
from domain.bar import Bar
from domain.clock import ClockMap
from domain.ids import Purpose
from ledger.records import FillRecord, IntentRecord, IntentState, TradeRecord
from report.charts import (
    EquityLine,
    FillMark,
    Level,
    StopPiece,
    SymbolChart,
    equity_line,
    thinned,
)
from report.portfolio import Mark

_STOPS = (Purpose.STOP, Purpose.OCO)


def equity_lines(books: Iterable[PortfolioBook], marks: Sequence[Mark]) -> tuple[EquityLine, ...]:
    """The equity of every portfolio, marked at the last trade of each minute, up to the last."""
    until = max((mark.time for mark in marks), default=None)
    return tuple(
        equity_line(
            book.portfolio.account,
            book.portfolio.strategy,
            book.portfolio.cash,
            book.line(marks),
            until,
        )
        for book in books
    )


def symbol_charts(
    bars: Iterable[Bar],
    trades: Sequence[TradeRecord],
    orders: Iterable[IntentRecord],
    fills: Sequence[FillRecord],
    clock: ClockMap,
    until: datetime,
) -> tuple[SymbolChart, ...]:
    """One chart for each symbol that has a price or a fill; market time throughout."""
    prices: dict[str, list[Level]] = {}
    for bar in bars:
        if bar.end <= until:
            prices.setdefault(bar.symbol, []).append(Level(time=bar.end, value=bar.close))
    marks: dict[str, list[FillMark]] = {}
    plans = {trade.trade_id: trade.plan for trade in trades}
    for record in counting_fills(fills):
        fill, plan = record.fill, plans.get(record.trade_id or "")
        if plan is None:
            continue
        # The order's purpose would be enough, were it not for children that the broker made.
        sides = {leg.instrument.symbol: leg.side for leg in plan.legs}
        mark = FillMark(
            time=fill.venue_time,
            trade_id=plan.trade_id,
            side=fill.side.value,
            quantity=fill.quantity,
            price=fill.price,
            is_entry=fill.side is sides.get(fill.symbol, plan.side),
        )
        marks.setdefault(fill.symbol, []).append(mark)
    stops = stop_pieces(orders, clock, until)
    return tuple(
        SymbolChart(
            symbol=symbol,
            prices=thinned(prices.get(symbol, [])),
            fills=tuple(marks.get(symbol, ())),
            stops=stops.get(symbol, ()),
        )
        for symbol in dict.fromkeys((*prices, *marks))
    )


def stop_pieces(
    orders: Iterable[IntentRecord], clock: ClockMap, until: datetime
) -> Mapping[str, tuple[StopPiece, ...]]:
    """By symbol: where each accepted stop stood, until it ended or another took its place.

    A tranche has one stop at a time, whatever orders carry it. The parent of an OCO lives on as a
    target when its stop is replaced; its stop ended all the same.
    """
    found: dict[str, list[StopPiece]] = {}
    last: dict[tuple[str, str], StopPiece] = {}
    for record in sorted(orders, key=lambda each: each.gate_at):
        price = _stop_price(record)
        if price is None or record.state is not IntentState.ACCEPTED:
            continue
        pieces = found.setdefault(record.intent.body.symbol, [])
        piece = _piece(record, price, clock, until)
        before = last.get((piece.trade_id, piece.stop_id))
        if before is not None and before.end > piece.begin:
            shorter = before.model_copy(update={"end": max(before.begin, piece.begin)})
            pieces[pieces.index(before)] = shorter
        pieces.append(piece)
        last[piece.trade_id, piece.stop_id] = piece
    return {symbol: tuple(pieces) for symbol, pieces in found.items()}


def _piece(record: IntentRecord, price: Decimal, clock: ClockMap, until: datetime) -> StopPiece:
    told, intent = record.snapshot, record.intent
    begin, end = clock.market(record.answered_at or record.gate_at), until
    if told is not None and told.submitted_at is not None:
        begin = told.submitted_at
    if told is not None and told.is_terminal and told.updated_at is not None:
        end = told.updated_at
    alone = intent.replaces or intent.client_id
    return StopPiece(
        trade_id=record.owner.trade_id,
        stop_id=alone if intent.tranche is None else f"{intent.key.leg}/{intent.tranche}",
        begin=begin,
        end=max(begin, end),
        price=price,
    )


def _stop_price(record: IntentRecord) -> Decimal | None:
    if record.intent.key.purpose not in _STOPS:
        return None
    body = record.intent.body
    return body.stop_price if body.stop_price is not None else body.stop_loss_price
