"""Leaderboard and JSON Lines of the strategy contest: attribution to the cent, no doubled rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cli.contest_books import PortfolioBook
from cli.contest_files import Portfolio
from domain.instrument import Instrument
from domain.order import Fill, Side
from ledger.records import FeeRecord, FillRecord
from report.portfolio import (
    LEADERBOARD_COLUMNS,
    Cost,
    Mark,
    Standing,
    leaderboard_rows,
    max_drawdown,
    points,
    ranked,
    standing_of,
)
from report.streams import StreamFile, TickFile
from simulator.config import FeeSchedule
from simulator.orders import Kind, OrderRequest, TimeInForce
from simulator.orders import Side as SimSide
from tests.unit.simulator_rig import SYMBOL, equity
from tests.unit.simulator_rig import exchange as small_exchange

D = Decimal
BEGIN = datetime(2013, 9, 3, 13, 30, tzinfo=UTC)
ESX = {"ESX": Instrument(symbol="ESX", lot_size=D("0.001"), min_quantity=D("0.001"))}


def at(minute: int) -> datetime:
    return BEGIN + timedelta(minutes=minute)


def fill(minute: int, side: Side, quantity: str, price: str) -> Fill:
    return Fill(
        fill_key=f"f{minute}",
        broker_order_id=f"o{minute}",
        symbol="ESX",
        side=side,
        quantity=D(quantity),
        price=D(price),
        venue_time=at(minute),
    )


def mark(minute: int, price: str) -> Mark:
    return Mark(time=at(minute), symbol="ESX", price=D(price))


def test_equity_is_start_plus_realised_plus_unrealised_less_fees_at_every_point() -> None:
    fills = [fill(1, Side.BUY, "0.05", "1000"), fill(4, Side.SELL, "0.05", "1010")]
    fee = Cost(time=at(1), key="fee-1", amount=D("0.02"))
    line = points(D(100), ESX, fills, [fee], [mark(0, "1000"), mark(2, "980"), mark(5, "1")])
    told = [(p.cause, p.realised, p.unrealised, p.fees, p.equity) for p in line]
    assert told == [
        ("f1", 0, 0, 0, D(100)),
        ("fee-1", 0, 0, D("0.02"), D("99.98")),
        ("mark", 0, D("-1.00"), D("0.02"), D("98.98")),
        ("f4", D("0.50"), 0, D("0.02"), D("100.48")),
    ]
    assert max_drawdown(D(100), line) == D("1.02")


def test_leaderboard_ranks_by_return_not_by_money() -> None:
    small = Standing(account="small", strategy="a", start_cash=D(100), realised=D(1))
    large = Standing(account="large", strategy="b", start_cash=D(100_000), realised=D(500))
    calm = Standing(account="calm", strategy="c", start_cash=D(100), realised=D(1), fees=D(0))
    worse = calm.model_copy(update={"account": "worse", "max_drawdown": D(3)})
    order = [each.account for each in ranked([large, worse, small, calm])]
    assert order == ["calm", "small", "worse", "large"]
    (best, *_) = leaderboard_rows([large, small])
    assert dict(zip(LEADERBOARD_COLUMNS, best, strict=True))["return %"] == "+1.000"


def test_win_rate_counts_closed_trades_only() -> None:
    line = points(D(100), ESX, [fill(1, Side.BUY, "0.05", "1000")])
    standing = standing_of("a", "s", D(100), line, [D(1), D(-1), D(0), D(2), None])
    assert (standing.trades, standing.open_trades, standing.winners) == (5, 1, 2)
    assert standing.win_rate == D("0.5")
    assert standing_of("a", "s", D(100), ()).win_rate is None


def test_fee_that_is_booked_with_a_day_only_counts_from_its_orders_first_fill() -> None:
    """Brokers name the order of a fee in its text; midnight would rewrite the whole line."""
    record = FillRecord(
        fill=fill(7, Side.BUY, "0.05", "1000"),
        account="a",
        broker="alpaca",
        trade_id="t",
        booked_at=at(8),
    )
    fee = FeeRecord(
        activity_id="x",
        account="a",
        amount=D("0.01"),
        text="fee for order o7",
        venue_time=BEGIN.replace(hour=0, minute=0),
    )
    portfolio = Portfolio(account="a", strategy="s", session="a")
    book = PortfolioBook(portfolio, ESX, (), (), (record,), (fee,))
    assert [(point.time, point.cause) for point in book.line()] == [(at(7), "f7"), (at(7), "x")]


steps = st.lists(
    st.tuples(
        st.sampled_from(["buy", "sell"]),
        st.integers(1, 40),
        st.integers(380, 420),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_attribution_equals_the_exchanges_equity_to_the_cent(
    moves: list[tuple[str, int, int]],
) -> None:
    """Random trades with fees, long and short, whole and part: two books, one number."""
    fees = FeeSchedule(per_unit=D("0.01"), rate=D("0.0001"))
    venue = small_exchange(listings=(equity(fees=fees),), wash_trade_check=False, quoted=False)
    for side, quantity, quarter in moves:
        price = D(quarter) / 4
        venue.set_quote(SYMBOL, price, price, D(1000), D(1000), last=price)
        held = venue.state.account.quantity(SYMBOL)
        opposite = (side == "buy") == (held < 0) and held != 0
        wanted = min(D(quantity), abs(held)) if opposite else D(quantity)
        venue.submit(
            OrderRequest(
                symbol=SYMBOL,
                side=SimSide(side),
                quantity=wanted,
                kind=Kind.MARKET,
                time_in_force=TimeInForce.DAY,
            )
        )
        venue.advance_to(venue.now + timedelta(seconds=1))
    rows = venue.journal.of("fill", "fee")
    booked = [
        Fill(
            fill_key=row["execution_id"],
            broker_order_id=row["order_id"],
            symbol=SYMBOL,
            side=Side(row["side"]),
            quantity=D(row["quantity"]),
            price=D(row["price"]),
            venue_time=datetime.fromisoformat(row["time"]),
        )
        for row in rows
        if row["kind"] == "fill"
    ]
    costs = [
        Cost(
            time=datetime.fromisoformat(row["time"]),
            key=row["activity_id"],
            amount=D(row["amount"]),
        )
        for row in rows
        if row["kind"] == "fee"
    ]
    last = venue.book(SYMBOL).last
    assert last is not None
    marks = [Mark(time=venue.now, symbol=SYMBOL, price=last)]
    line = points(venue.config.cash, {SYMBOL: equity().instrument}, booked, costs, marks)
    standing = standing_of("a", "s", venue.config.cash, line)
    assert round(standing.equity, 2) == round(venue.margin.equity(), 2)


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_written_once_over_restarts_and_changes_get_a_revision(tmp_path: Path) -> None:
    path = tmp_path / "a" / "orders.jsonl"
    first, done = {"state": "sending", "price": D("1.50")}, {"state": "filled", "price": D("1.50")}
    assert StreamFile(path).put([("x", first), ("y", first)]) == 2
    again = StreamFile(path)
    assert again.put([("x", first), ("y", done)]) == 1
    assert again.put([("x", first), ("y", done)]) == 0
    assert StreamFile(path).put([("x", first), ("y", done)]) == 0
    told = [(row["key"], row["revision"], row["state"]) for row in rows_of(path)]
    assert told == [("x", 1, "sending"), ("y", 1, "sending"), ("y", 2, "filled")]


def test_half_line_of_a_killed_writer_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "fills.jsonl"
    StreamFile(path).put([("x", {"n": 1}), ("y", {"n": 2})])
    whole = path.read_text()
    path.write_text(whole[:-7])
    assert StreamFile(path).put([("x", {"n": 1}), ("y", {"n": 2})]) == 1
    assert path.read_text() == whole


def test_ticks_go_on_where_the_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "ticks.jsonl"
    TickFile(path).append([{"price": D(1)}, {"price": D(2)}])
    path.write_text(path.read_text()[:-3])
    file = TickFile(path)
    assert file.written == 1
    file.append([{"price": D(2)}])
    assert [(row["sequence"], row["price"]) for row in rows_of(path)] == [(1, "1"), (2, "2")]
