"""The session page: complete in itself, escaped, the same for the same facts, no false stops."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from report import figures
from report.charts import (
    EquityLine,
    FillMark,
    Level,
    StopPiece,
    SymbolChart,
    thinned,
    total_line,
)
from report.page import page_of, write_page
from report.records import Book, SessionFacts
from report.verify import compare
from tests.unit.test_report import BEGIN, EQUAL, LABEL, refused, session, trade

ROOT = Path(__file__).resolve().parents[2]


def at(minute: int) -> datetime:
    return BEGIN + timedelta(minutes=minute)


def line(account: str, start: str, *values: str) -> EquityLine:
    points = [Level(time=at(i), value=Decimal(value)) for i, value in enumerate(values)]
    return EquityLine(account=account, strategy="s", start=Decimal(start), points=tuple(points))


def stop(trade_id: str, begin: int, end: int, price: str) -> StopPiece:
    return StopPiece(trade_id=trade_id, begin=at(begin), end=at(end), price=Decimal(price))


def charted(**values: object) -> SessionFacts:
    chart = SymbolChart(
        symbol="ESX",
        prices=tuple(Level(time=at(i), value=Decimal(1640 + i)) for i in range(5)),
        fills=(
            FillMark(
                time=at(1),
                trade_id="t1",
                side="buy",
                quantity=Decimal(8),
                price=Decimal("1640.50"),
                is_entry=True,
            ),
        ),
        stops=(stop("t1", 1, 2, "1638"), stop("t1", 2, 4, "1640")),
    )
    fields: dict[str, Any] = {
        "equity": (line("demo", "100000", "100000", "100006"), line("trend", "100", "99")),
        "charts": (chart,),
        "commit": "abc123",
        "config_hash": "0123456789abcdef",
        **values,
    }
    return session(trade(1), refused(2), **fields)


def test_page_stands_alone_and_loads_nothing_from_the_network() -> None:
    page = page_of(charted(), EQUAL)
    own = page.replace(figures.script(), "")

    assert page.count(figures.script()) == 1, "plotly.js stands in the page once"
    assert not re.search(r"(?:src|href)\s*=\s*[\"']", own)
    for word in ("abc123", "0123456789abcdef", LABEL, "NOTIONAL_ABOVE_MAX", "contest-trend"):
        assert word in own, word
    assert EQUAL.line() in own
    assert len(page) < 6_000_000


def test_equal_facts_give_an_equal_page() -> None:
    assert page_of(charted(), EQUAL) == page_of(charted(), EQUAL)


def test_page_escapes_what_came_from_outside() -> None:
    page = page_of(session(trade(1, note="<script>alert(1)</script>")), EQUAL)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_difference_of_the_books_is_on_the_page() -> None:
    differences = compare(Book(cash={"USD": Decimal(1)}), Book(cash={"USD": Decimal(2)}))
    page = page_of(session(trade(1)), differences)
    assert "cash USD: ledger 1.00, journal 2.00" in page
    assert "DIFFERS" in page


def test_unknown_confirmation_is_not_shown_as_zero() -> None:
    page = page_of(session(trade(1, unconfirmed_s=None)), EQUAL)
    assert '<td class="number">unknown</td>' in page
    assert '<b class="">unknown</b><span>unconfirmed</span>' in page


def test_session_without_a_trade_has_a_page() -> None:
    assert "Trades (0)" in page_of(session(), EQUAL)


def test_page_can_be_made_again_from_the_data_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    write_page(charted(), EQUAL, path)
    told = json.loads(path.with_suffix(".json").read_text())
    assert page_of(SessionFacts.model_validate_json(json.dumps(told["facts"])), EQUAL) == (
        path.read_text()
    )


def test_total_is_the_sum_of_what_each_was_worth() -> None:
    whole = total_line([line("a", "100", "101", "103"), line("b", "10", "10", "9")])
    assert whole.start == 110
    assert [(p.time, p.value) for p in whole.points] == [
        (at(0), Decimal(111)),
        (at(1), Decimal(112)),
    ]


def test_moved_stop_is_a_step_and_another_trades_stop_is_apart() -> None:
    pieces = (stop("t1", 1, 2, "1638"), stop("t1", 2, 4, "1640"), stop("t2", 3, 5, "1700"))
    prices = list(figures.price_figure(SymbolChart(symbol="X", stops=pieces)).data[1].y)
    assert prices == [1638, 1638, 1640, 1640, None, 1700, 1700]


def test_time_without_a_stop_is_a_gap_in_the_line() -> None:
    pieces = (stop("t1", 1, 2, "1638"), stop("t1", 4, 5, "1638"))
    assert None in figures.price_figure(SymbolChart(symbol="X", stops=pieces)).data[1].y


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=300), st.integers(8, 60))
def test_thinned_line_keeps_its_ends_and_its_extremes(values: list[int], most: int) -> None:
    levels = [
        Level(time=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=i), value=Decimal(v))
        for i, v in enumerate(values)
    ]
    kept = thinned(levels, most)
    shown = [level.value for level in kept]
    assert (kept[0], kept[-1]) == (levels[0], levels[-1])
    assert (min(shown), max(shown)) == (Decimal(min(values)), Decimal(max(values)))
    assert len(kept) <= most + 4
    assert [k for k in levels if k in kept] == list(kept)


def test_plotly_is_not_loaded_at_the_start_of_a_command_or_a_worker() -> None:
    program = "import sys, starter, worker; sys.exit('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_page_says_that_nothing_was_compared_and_leaves_out_an_empty_price_chart() -> None:
    facts = charted(
        charts=(), not_compared="the broker was away", prices_from="No price chart: no bars."
    )
    page = page_of(facts, None)
    assert "ledger equals broker: unknown, the broker was away" in page
    assert "<h2>Price</h2><p>No price chart: no bars.</p>" in page
    assert 'id="price-0"' not in page


def test_prices_at_single_instants_are_points_and_no_line() -> None:
    (chart,) = charted().charts
    drawn = [
        figures.price_figure(chart.model_copy(update={"sparse": sparse})).data[0].mode
        for sparse in (False, True)
    ]
    assert drawn == [None, "markers"]


def test_return_of_an_unknown_equity_is_not_drawn() -> None:
    lines = [line("a", "0", "0", "5"), line("b", "100", "101")]
    returns = figures.equity_figure(lines, "USD").data[1:]
    assert [trace.visible for trace in returns] == [False, None]
