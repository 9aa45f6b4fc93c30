"""Portfolios of a contest read from the ledger: standings, equity lines, JSON Lines rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cli.contest_files import Contest, ContestFiles, Portfolio
from cli.feed_report import TAKEN, counting_fills
from domain.bar import Bar
from domain.instrument import Instrument
from domain.money import ZERO
from ledger.records import (
    FeeRecord,
    FillRecord,
    IntentRecord,
    SignalRecord,
    TradeRecord,
)
from ledger.repository import Ledger
from marketdata.events import TapeEvent, read_tape
from report.portfolio import Cost, Mark, PortfolioPoint, Standing, points, standing_of
from report.streams import FILLS, ORDERS, PORTFOLIO, SIGNALS, TICKS, StreamFile, TickFile


@dataclass(frozen=True)
class PortfolioBook:
    """Everything the ledger holds about one portfolio, read once."""

    portfolio: Portfolio
    instruments: Mapping[str, Instrument]
    trades: tuple[TradeRecord, ...]
    orders: tuple[IntentRecord, ...]
    fills: tuple[FillRecord, ...]
    fees: tuple[FeeRecord, ...]
    signals_taken: int = 0

    def line(self, marks: Iterable[Mark] = ()) -> tuple[PortfolioPoint, ...]:
        """The portfolio's equity over time, in market time."""
        costs = [Cost(time=self._time_of(f), key=f.activity_id, amount=f.amount) for f in self.fees]
        costs += [
            Cost(time=r.fill.venue_time, key=f"fee/{r.fill.fill_key}", amount=r.fill.fee)
            for r in self.fills
            if r.fill.fee is not None
        ]
        fills = [record.fill for record in self.fills]
        return points(self.portfolio.cash, self.instruments, fills, costs, marks)

    def _time_of(self, fee: FeeRecord) -> datetime:
        """When the fee arose: at the first fill of its order. Brokers book fees with a day only."""
        mine = [
            record.fill.venue_time
            for record in self.fills
            if record.fill.broker_order_id == fee.broker_order_id
            or record.fill.broker_order_id in fee.text
        ]
        return min(mine, default=fee.venue_time)

    def standing(self, marks: Iterable[Mark] = ()) -> Standing:
        """Its line of the leaderboard."""
        held = {record.trade_id for record in self.fills}
        filled = [trade for trade in self.trades if trade.trade_id in held]
        return standing_of(
            self.portfolio.account,
            self.portfolio.strategy,
            self.portfolio.cash,
            self.line(marks),
            [None if t.closed_at is None else (t.realised or ZERO) for t in filled],
            signals=self.signals_taken,
        )


async def read_book(
    ledger: Ledger, portfolio: Portfolio, instruments: Iterable[Instrument], rounds: int = 1
) -> PortfolioBook:
    """The portfolio's rows of the ledger: all of its account, over all rounds.

    Raises:
        LedgerDown.
    """
    account = portfolio.account
    taken = [
        await ledger.count_signals(portfolio.session_of(number), TAKEN)
        for number in range(1, rounds + 1)
    ]
    return PortfolioBook(
        portfolio=portfolio,
        instruments={item.symbol: item for item in instruments},
        trades=await ledger.list_trades(account=account),
        fills=counting_fills(await ledger.fills_of_account(account)),
        orders=await ledger.orders_of_account(account),
        fees=await ledger.fees(account),
        signals_taken=sum(taken),
    )


async def read_signals(
    ledger: Ledger, portfolio: Portfolio, rounds: int = 1
) -> tuple[SignalRecord, ...]:
    """Every decision of the portfolio's sessions, "no signal" too."""
    found: list[SignalRecord] = []
    for number in range(1, rounds + 1):
        session = portfolio.session_of(number)
        found += await ledger.list_signals(session=session)
    return tuple(found)


def marks_of(bars: Iterable[Bar], until: datetime) -> tuple[Mark, ...]:
    """The last trade of every bar that is complete, as the price that values what is held."""
    return tuple(
        Mark(time=bar.end, symbol=bar.symbol, price=bar.close) for bar in bars if bar.end <= until
    )


# --- JSON Lines -------------------------------------------------------------------------------


class StreamWriter:
    """Keeps the files of all portfolios up to date; repeats and restarts double nothing."""

    def __init__(self, files: ContestFiles, contest: Contest) -> None:
        self._files = files
        self._open: dict[tuple[str, str], StreamFile] = {}
        self._ticks = TickFile(files.folder / "streams" / f"{TICKS}.jsonl")
        self._events = _after(read_tape(Path(contest.tape.path)), self._ticks.written)
        self._ahead: TapeEvent | None = None
        for portfolio in contest.portfolios:
            self._link_ticks(portfolio.account)

    def write(
        self,
        book: PortfolioBook,
        signals: Iterable[SignalRecord],
        marks: Sequence[Mark],
    ) -> None:
        """Appends what is new of one portfolio."""
        rows = {
            SIGNALS: _signal_rows(signals),
            ORDERS: _order_rows(book),
            FILLS: _fill_rows(book),
            PORTFOLIO: _point_rows(book, marks),
        }
        account = book.portfolio.account
        for stream, found in rows.items():
            key = (account, stream)
            if key not in self._open:
                path = self._files.streams_of(account) / f"{stream}.jsonl"
                self._open[key] = StreamFile(path)
            self._open[key].put(found)

    def write_ticks(self, until: datetime) -> None:
        """Appends the ticks of the shared feed up to this market time."""
        rows = []
        while True:
            event = self._ahead or next(self._events, None)
            if event is None or event.time > until:
                self._ahead = event
                break
            self._ahead = None
            known = {name: value for name, value in asdict(event).items() if value is not None}
            rows.append({"feed": "tape", **known})
        self._ticks.append(rows)

    def _link_ticks(self, account: str) -> None:
        """All portfolios see one feed: its file stands once, and under every portfolio's name."""
        link = self._files.streams_of(account) / f"{TICKS}.jsonl"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path("..") / f"{TICKS}.jsonl")


def _after(events: Iterable[TapeEvent], count: int) -> Iterator[TapeEvent]:
    for number, event in enumerate(events):
        if number >= count:
            yield event


def _ids(book: PortfolioBook, trade_id: str | None, time: datetime) -> dict[str, Any]:
    """What correlates the rows of all streams. A trade has the id of its signal."""
    trade = next((t for t in book.trades if t.trade_id == trade_id), None)
    return {
        "time": time,
        "session": book.portfolio.session if trade is None else trade.session,
        "account": book.portfolio.account,
        "strategy": book.portfolio.strategy if trade is None else trade.strategy,
        "trade_id": trade_id,
        "signal_id": None if trade is None else trade.plan.signal_id,
    }


def _signal_rows(signals: Iterable[SignalRecord]) -> Iterator[tuple[str, dict[str, Any]]]:
    for signal in signals:
        shown = signal.model_dump(exclude={"signal_time", "document"})
        yield signal.signal_id, {"time": signal.signal_time, **shown}


def _order_rows(book: PortfolioBook) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each state in which an order was seen."""
    for order in book.orders:
        intent, body = order.intent, order.intent.body
        yield (
            intent.client_id,
            {
                **_ids(book, order.owner.trade_id, _seen_at(order)),
                "recorded_at": order.answered_at or order.gate_at,
                "client_order_id": intent.client_id,
                "broker_order_id": order.broker_order_id,
                "purpose": intent.key.purpose.name.lower(),
                "symbol": body.symbol,
                "side": body.side,
                "quantity": body.quantity,
                "order_type": body.order_type,
                "limit_price": body.limit_price,
                "stop_price": body.stop_price or body.stop_loss_price,
                "state": order.state,
                "status": order.status,
                "filled": order.filled_quantity,
                "code": order.code,
            },
        )


def _seen_at(order: IntentRecord) -> datetime:
    """Market time of the order's last word; one that never answered has only our own clock."""
    snapshot = order.snapshot
    return order.gate_at if snapshot is None else snapshot.updated_at or order.gate_at


def _fill_rows(book: PortfolioBook) -> Iterator[tuple[str, dict[str, Any]]]:
    for record in book.fills:
        fill = record.fill
        yield (
            fill.fill_key,
            {
                **_ids(book, record.trade_id, fill.venue_time),
                "client_order_id": fill.client_id,
                "broker_order_id": fill.broker_order_id,
                "fill_key": fill.fill_key,
                "symbol": fill.symbol,
                "side": fill.side,
                "quantity": fill.quantity,
                "price": fill.price,
                "fee": fill.fee,
            },
        )


def _point_rows(book: PortfolioBook, marks: Sequence[Mark]) -> Iterator[tuple[str, dict[str, Any]]]:
    trades = {record.fill.fill_key: record.trade_id for record in book.fills}
    for point in book.line(marks):
        ids = _ids(book, trades.get(point.cause), point.time)
        shown = point.model_dump(exclude={"time"})
        cash = book.portfolio.cash
        yield f"{point.time.isoformat()} {point.cause}", {**ids, "start_cash": cash, **shown}
